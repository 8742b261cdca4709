"""SGD-SaI: momentum whose learning rate is scaled for each tensor by what the first gradient says."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, Params, Scalar, check_decays, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, run_if, zeros_accumulator
from jaxtrain.optimizers._fused import map_leaves


class GsnrState(NamedTuple):
    """State of :func:`scale_by_gsnr_at_init`, in float32 at least.

    ``momentum`` is shaped like the parameters; ``gsnr`` has one number for each tensor, 0 until it is measured.
    """

    momentum: Params
    gsnr: Params


def gradient_snr(grad: Float[Array, "..."], *, eps: Number = 1e-8) -> Scalar:
    r"""The signal-to-noise ratio of one gradient: its length over the spread of its entries.

    .. math:: \frac{\|g\|_2}{\sigma(g) + \epsilon}, \qquad \sigma(g)^2 = \frac{1}{n - 1} \sum_i (g_i - \bar g)^2,

    which is :math:`\sqrt n` up to a factor that grows with the mean of the entries. For a single entry, which has no
    spread, it is set to 1; for equal entries it is :math:`\|g\|/\epsilon`.

    Args:
      grad: a gradient of one tensor.
      eps: ε ≥ 0, in units of the gradient.

    Returns:
      A number, in float32 at least; 0 for a gradient of zero.

    Source: Xu, Wu, Liu, Wang, Jin, Lyu, Ke, Wang, Zhang, Wen (2024), arXiv 2412.11768.

    >>> print(gradient_snr(jnp.array([3.0, -1.0, 1.0, -3.0]), eps=0.0))  # √20 / √(20/3)
    1.7320508
    """
    g = grad.astype(accumulator_dtype(grad))
    if g.size <= 1:
        return jnp.where(jnp.any(g != 0), jnp.ones((), g.dtype), 0)
    # in units of the largest entry, so that no square leaves the range of floats
    largest = jnp.max(jnp.abs(g))
    scaled = g / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.sum(scaled**2))
    ratio = length / (jnp.std(scaled, ddof=1) + eps / jnp.where(largest > 0, largest, 1))
    return jnp.where(largest == 0, 0, ratio).astype(g.dtype)


def scale_by_gsnr_at_init(
    momentum: Number = 0.9, eps: Number = 1e-8, *, max_gsnr: Number = float("inf")
) -> optax.GradientTransformation:
    r"""Momentum, scaled for each tensor by the :func:`gradient_snr` of its first gradient, once and for all.

    .. math:: r = \operatorname{gsnr}(g_1), \qquad m_1 = g_1, \quad m_t = \mu\,m_{t-1} + (1 - \mu)\,g_t, \qquad
       u_t = r\,m_t.

    A tensor's first gradient is the first that is finite and not zero everywhere: a tensor that nothing reaches at
    the start (behind a layer of zeros, say) would otherwise stand still for ever. Later gradients that are not numbers
    spoil the momentum. The ratios are measured in a loop that runs while one is missing, so that later steps pay
    nothing for it, under ``vmap`` too; therefore there is no reverse-mode derivative through this transformation.

    Args:
      momentum: :math:`\mu`, in [0, 1).
      eps: see :func:`gradient_snr`, ≥ 0.
      max_gsnr: the ratios are clipped to this: equal entries in a first gradient give huge ones.

    Returns:
      A transformation with :class:`GsnrState`: one number for each parameter and one for each tensor.

    Raises:
      ValueError: a number out of range.

    Source: Xu, Wu, Liu, Wang, Jin, Lyu, Ke, Wang, Zhang, Wen (2024), arXiv 2412.11768.

    >>> tx = scale_by_gsnr_at_init(momentum=0.5)
    >>> first, state = tx.update(jnp.array([1.0, -1.0]), tx.init(jnp.zeros(2)))
    >>> print(first, tx.update(jnp.zeros(2), state)[0])  # the ratio √2 / √2 stays, the momentum halves
    [ 1. -1.] [ 0.5 -0.5]
    """
    check_decays(momentum=momentum)
    check_finite_number("eps", eps, low=0.0)
    if not isinstance(max_gsnr, jax.core.Tracer) and not np.all(np.asarray(max_gsnr) > 0):
        raise ValueError(f"max_gsnr must be greater than 0, got {max_gsnr}")

    def init(params):
        # an empty tensor has nothing to wait for
        gsnr = jax.tree.map(lambda p: jnp.full((), 0 if p.size else 1, accumulator_dtype(p)), params)
        return GsnrState(zeros_accumulator(params), gsnr)

    def update(updates, state, params=None):
        del params
        old = state.gsnr

        def measure(gsnr):
            def one(g, r):
                return jnp.where(r > 0, r, jnp.minimum(gradient_snr(g, eps=eps), max_gsnr)).astype(r.dtype)

            return jax.tree.map(one, updates, gsnr)

        missing = [~(r > 0) for r in jax.tree.leaves(old)]
        gsnr = run_if(jnp.any(jnp.stack(missing)), measure, old) if missing else old

        def step(g, m, r, before):
            g32 = g.astype(m.dtype)
            m = jnp.where(before > 0, momentum * m + (1 - momentum) * g32, g32).astype(m.dtype)
            return (r * m).astype(g.dtype), m

        updates, velocity = map_leaves(step, 2, updates, state.momentum, gsnr, old)
        return updates, GsnrState(velocity, gsnr)

    return optax.GradientTransformation(init, update)


def sgd_sai(
    learning_rate: optax.ScalarOrSchedule = 1e-2,
    momentum: Number = 0.9,
    weight_decay: Number = 0.01,
    eps: Number = 1e-8,
    *,
    mask: Any = None,
    max_gsnr: Number = float("inf"),
) -> optax.GradientTransformationExtraArgs:
    r"""SGD-SaI: :math:`\theta \leftarrow \theta - \eta\,(u_t + \lambda\,\theta)`, see :func:`scale_by_gsnr_at_init`.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      momentum, eps, max_gsnr: see :func:`scale_by_gsnr_at_init`.
      weight_decay: :math:`\lambda` ≥ 0, decoupled; it is not scaled by the ratios.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation whose update needs ``params``; half of AdamW's state.

    Raises:
      ValueError: as :func:`scale_by_gsnr_at_init`.

    Source: Xu, Wu, Liu, Wang, Jin, Lyu, Ke, Wang, Zhang, Wen (2024), arXiv 2412.11768.

    >>> w = jnp.array([1.0, -1.0])
    >>> tx = sgd_sai(learning_rate=0.5, weight_decay=0.0)
    >>> print(tx.update(w, tx.init(w), w)[0])  # the gradient of |w|²/2
    [-0.5  0.5]
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    return optax.chain(
        scale_by_gsnr_at_init(momentum, eps, max_gsnr=max_gsnr),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
