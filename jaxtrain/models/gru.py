"""A recurrent classifier of sequences."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class GRUClassifier(nn.Module):
    r"""A gated recurrent unit that reads a sequence, and a linear head on its last state.

    .. math:: z = \sigma(W_z x + U_z h), \quad r = \sigma(W_r x + U_r h), \quad
       n = \tanh(W_n x + r \odot (U_n h)), \quad h \leftarrow (1 - z) \odot n + z \odot h

    with biases, as in ``flax.linen.GRUCell``. What the head learns by decides what it is: the cross-entropy makes it a
    softmax, :func:`jaxtrain.losses.svm_head_objective` on ``params["head"]`` a support vector machine.

    Attributes:
      units: size of the state.
      num_classes: of logits.

    Calling it takes ``(batch, time, features)`` and, for sequences of unequal length, ``lengths`` ``(batch,)``; it
    gives ``(batch, num_classes)``. Parameters are made in the dtype of the input, in float32 at least.

    Source: Cho et al. (2014), arXiv 1406.1078; Agarap (2017), arXiv 1709.03082.

    >>> import jax
    >>> model, x = GRUClassifier(units=4, num_classes=2), jnp.ones((3, 5, 1))
    >>> model.apply(model.init(jax.random.key(0), x), x).shape
    (3, 2)
    """

    units: int
    num_classes: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time features"], lengths: Int[Array, " batch"] | None = None
    ) -> Float[Array, "batch classes"]:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        # the state starts in the dtype of the parameters
        cell = nn.GRUCell(self.units, param_dtype=dtype, name="cell")
        state, _ = nn.RNN(cell, return_carry=True)(x, seq_lengths=lengths)
        return nn.Dense(self.num_classes, param_dtype=dtype, name="head")(state)
