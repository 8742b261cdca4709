"""AdaGrad-Norm: one adaptive step size for all parameters, the inverse root of the sum of squared gradient norms."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.optimizers._inner import common_dtype, decayed, ratio, scaled, squared_norm


class AdaGradNormState(NamedTuple):
    """State of :func:`scale_by_adagrad_norm`: the sum of squared gradient norms, one number in float32 at least."""

    sum_of_squares: Float[Array, ""]


def scale_by_adagrad_norm(b0: Number = 1e-8, *, include_current: bool = True) -> optax.GradientTransformation:
    r"""Divides all updates by the root of the sum of the squared norms of the gradients so far.

    .. math:: G_t = b_0^2 + \sum_{s \le t} \|g_s\|^2, \qquad u_t = g_t / \sqrt{G_t},

    with the Euclidean norm of the whole tree. With ``include_current=False`` the sum ends at :math:`t - 1`, so that
    step size and gradient are independent given the past; then :math:`b_0` alone scales the first step.

    With :math:`b_0 = 0` the updates do not change when the loss is multiplied by a constant, and gradients of zero give
    zero until there is another. The sum overflows float32 at gradient norms of 1e19; updates are zero from then on.
    Not-a-number gradients spoil the state: put ``optax.apply_if_finite`` around it.

    Args:
      b0: root of the sum before the first gradient, in the gradient's unit, ≥ 0. It may be tiny.
      include_current: whether the newest gradient counts.

    Returns:
      A transformation with :class:`AdaGradNormState`: a single number.

    Raises:
      ValueError: ``b0`` is negative or not finite.

    Source: Streeter & McMahan (2010), arXiv 1002.4862; Ward, Wu, Bottou (2019), arXiv 1806.01811; the rates under
    affine variance: Attia & Koren (2023), arXiv 2302.08783.

    >>> tx = scale_by_adagrad_norm(0.0)
    >>> g = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    >>> u, state = tx.update(g, tx.init(g))
    >>> round(float(u["a"][0]), 6), float(state.sum_of_squares)
    (0.6, 25.0)
    """
    check_finite_number("b0", b0, low=0.0)

    def init(params):
        kind = common_dtype(params)
        return AdaGradNormState(jnp.square(jnp.asarray(b0, kind)))

    def update(updates, state, params=None):
        del params
        before = state.sum_of_squares
        after = (before + squared_norm(updates)).astype(before.dtype)
        scale = ratio(jnp.ones_like(after), jnp.sqrt(after if include_current else before))
        return scaled(scale, updates), AdaGradNormState(after)

    return optax.GradientTransformation(init, update)


def adagrad_norm(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    b0: Number = 1e-8,
    weight_decay: Number = 0.0,
    *,
    mask: Any = None,
) -> optax.GradientTransformation:
    r"""AdaGrad-Norm: :math:`\theta \leftarrow \theta - \eta\,(g_t / \sqrt{G_t} + \lambda\,\theta)`.

    See :func:`scale_by_adagrad_norm`. For any fixed :math:`\eta`, without knowing the smoothness or the noise,
    the mean squared gradient norm of T steps is :math:`\tilde O(1/T + \sigma_0/\sqrt T)` on smooth functions, also where
    the noise grows with the gradient, :math:`\sigma_0^2 + \sigma_1^2 \|\nabla f\|^2`.

    Args:
      learning_rate: :math:`\eta`, in the parameters' unit (about the distance to go), a number or a schedule.
      b0: see :func:`scale_by_adagrad_norm`.
      weight_decay: :math:`\lambda`, decoupled.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation; with a weight decay its update needs ``params``.

    Raises:
      ValueError: as :func:`scale_by_adagrad_norm`.

    Source: Attia & Koren (2023), "SGD with AdaGrad Stepsizes", arXiv 2302.08783.

    >>> tx = adagrad_norm(1.0)
    >>> x = jnp.array([3.0, 4.0])
    >>> u, _ = tx.update(x, tx.init(x))  # whatever the gradient's length, the first step has length η
    >>> [round(v, 5) for v in u.tolist()]
    [-0.6, -0.8]
    """
    return optax.chain(
        scale_by_adagrad_norm(b0), decayed(weight_decay, mask), optax.scale_by_learning_rate(learning_rate)
    )
