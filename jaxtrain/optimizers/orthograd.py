"""⊥Grad: gradients without their part along the parameters, which only scales the logits."""

import jax
import jax.numpy as jnp
import optax

from jaxtrain.core import Number, Params, Scalar, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, entry_scale
from jaxtrain.core.tree import cosine


def orthogonalize_gradients(*, eps: Number = 1e-30, rescale: bool = True) -> optax.GradientTransformation:
    r"""Takes out of each leaf's gradient what points along the parameters, and keeps its length (⊥Grad, OrthoGrad).

    For a leaf :math:`w` with gradient :math:`g`, both as vectors:

    .. math:: g_\perp = g - \frac{\langle w, g\rangle}{\langle w, w\rangle + \epsilon}\, w, \qquad
       u = \frac{\|g\|}{\|g_\perp\| + \epsilon}\, g_\perp .

    In a homogeneous network a step along :math:`w` only scales the logits: once all examples are classified rightly it
    lowers cross-entropy for ever and changes no prediction. Put it before the optimizer, so that momentum sees
    :math:`u`; weight decay comes after it and is not touched.

    A leaf of one element passes unchanged, as nothing is orthogonal to it. Where what is left of a gradient is rounding
    (it is parallel to the parameters) it is not rescaled: only noise would grow. Not-a-number gradients give
    not-a-number updates.

    Args:
      eps: keeps the divisions finite for parameters or gradients of zero, > 0.
      rescale: whether :math:`u` has the length of :math:`g`; otherwise :math:`u = g_\perp`.

    Returns:
      A transformation without state, whose update needs ``params``.

    Raises:
      ValueError: ``eps`` out of range; from the update: without ``params``.

    Source: Prieto, Barsbey, Mediano, Birdal (2025), arXiv 2501.04697.

    >>> tx = orthogonalize_gradients()
    >>> w = jnp.array([2.0, 0.0])
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(w), w)[0].tolist()
    [0.0, 5.0]
    """
    check_finite_number("eps", eps, low=1e-38)

    def orthogonal(g, w):
        if g.size < 2:
            return g
        dtype = accumulator_dtype(g)
        scale = entry_scale(g.astype(dtype), tuple(range(g.ndim)))

        def rest_of(g, w, along=None):
            g32, w32 = g.astype(dtype) / scale, w.astype(dtype)
            if along is None:
                along = jnp.sum(w32 * g32) / (jnp.sum(w32 * w32) + eps)
            return g32 - along * w32, along, g32

        rest, along, g32 = rest_of(g, w)
        if rescale:
            before, after = jnp.sqrt(jnp.sum(g32 * g32)), jnp.sqrt(jnp.sum(rest * rest))
            # a subtraction leaves some roundings of g; NaN is not below, and stays NaN
            noise = after < 16 * jnp.finfo(dtype).eps * before
            # computed again after its norm and not stored between
            rest, _, _ = rest_of(*jax.lax.optimization_barrier((g, w, along)))
            rest = jnp.where(noise, 1.0, before / (after + eps / scale)) * rest
        return (scale * rest).astype(g.dtype)

    def update(updates, params=None):
        if params is None:
            raise ValueError(
                "orthogonalize_gradients needs the parameters: call tx.update(updates, state, params) with them"
            )
        return jax.tree.map(orthogonal, updates, params)

    return optax.stateless(update)


def nlm_cosine(grads: Params, params: Params) -> Scalar:
    r"""How far a gradient step is a step along the parameters: :math:`\cos(-g, w)` over all leaves together.

    Near 1 training only scales the parameters up (naive loss minimisation); 0 where either of them is zero.

    Args:
      grads: a tree of gradients.
      params: a tree like it.

    Returns:
      A number in [-1, 1], in float32 at least.

    Source: Prieto, Barsbey, Mediano, Birdal (2025), arXiv 2501.04697.

    >>> round(float(nlm_cosine({"w": jnp.array([-1.0, 0.0])}, {"w": jnp.array([3.0, 4.0])})), 6)
    0.6
    """
    return -cosine(grads, params)
