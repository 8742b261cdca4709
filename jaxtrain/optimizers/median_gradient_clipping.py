"""Momentum that tracks the median of the gradients instead of their mean, and why clipping does so."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxtrain.core import Number, Params, check_finite_number
from jaxtrain.core.numerics import zeros_accumulator
from jaxtrain.optimizers._inner import check_cap, share_within, squared_norm

KINDS = ("l2", "l1", "huber", "huber_element", "l2sq")


class MedianMomentumState(NamedTuple):
    """State of :func:`scale_by_median_momentum`: the estimate of the median, shaped like the parameters, in float32 at
    least."""

    median: Params


def _check(tau: Number, kind: str, mu: Number | None) -> None:
    check_cap("tau", tau)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind.startswith("huber"):
        if mu is None:
            raise ValueError(f"kind {kind!r} needs mu, the radius inside which it is quadratic")
        check_finite_number("mu", mu, low=0.0)


def spp_median_update(
    m: Params,
    g: Params,
    *,
    tau: Number,
    kind: str = "l2",
    mu: Number | None = None,
    per_leaf: bool = False,
) -> Params:
    r"""One step of the stochastic proximal point method towards a median of the gradients' distribution.

    .. math:: m \leftarrow \operatorname*{argmin}_{m'}\ \rho(m' - g) + \frac{1}{2\tau} \|m' - m\|^2

    With :math:`d = g - m`:

    ==================  =================================  ==========================================================
    kind                :math:`\rho`                       step :math:`m' - m`
    ==================  =================================  ==========================================================
    ``l2``              :math:`\|\cdot\|_2`                :math:`\min(1, \tau / \|d\|)\, d`: geometric median
    ``l1``              :math:`\|\cdot\|_1`                :math:`\operatorname{clip}(d, -\tau, \tau)`: of each entry
    ``huber``           Huber's, of the norm               :math:`\min(\tau/(\tau + \mu),\ \tau/\|d\|)\, d`
    ``huber_element``   Huber's, of each entry             the same with :math:`|d_i|`
    ``l2sq``            :math:`\frac12 \|\cdot\|_2^2`      :math:`\tau/(1 + \tau)\, d`: the moving average, the mean
    ==================  =================================  ==========================================================

    Huber's function is :math:`r^2 / (2\mu)` inside :math:`\mu` and :math:`r - \mu/2` outside. From :math:`m = 0` the
    first two are gradient clipping, by the norm and by the value: clipping is one step towards the median.
    ``l2`` is :func:`~jaxtrain.aggregation.centered_clip` with one worker.

    Args:
      m: the estimate, a tree.
      g: a gradient like it.
      tau: :math:`\tau` > 0, may be infinite: then every kind gives g itself.
      kind: see there.
      mu: :math:`\mu` ≥ 0, of the Huber kinds.
      per_leaf: norms of each leaf instead of the whole tree.

    Returns:
      The new estimate, in the dtypes of ``m``.

    Raises:
      ValueError: a number out of range, an unknown kind, a Huber kind without ``mu``.

    Source: Schaipp, Garrigos, Simsekli, Gower (2024), "SGD with Clipping is Secretly Estimating the Median Gradient",
    arXiv 2402.12828.

    >>> spp_median_update(jnp.zeros(2), jnp.array([30.0, 40.0]), tau=5.0).tolist()
    [3.0, 4.0]
    >>> spp_median_update(jnp.zeros(2), jnp.array([30.0, -0.5]), tau=5.0, kind="l1").tolist()
    [5.0, -0.5]
    """
    _check(tau, kind, mu)
    d = jax.tree.map(lambda g, m: g.astype(m.dtype) - m, g, m)
    if kind == "l1":
        return jax.tree.map(lambda m, d: (m + jnp.clip(d, -tau, tau)).astype(m.dtype), m, d)
    inside = 1.0 if kind == "l2" else 1 / (1 + 1 / jnp.asarray(tau, float) * (1 if kind == "l2sq" else mu))
    if kind == "l2sq":
        return jax.tree.map(lambda m, d: (m + inside * d).astype(m.dtype), m, d)

    if kind == "huber_element":
        return jax.tree.map(lambda m, d: (m + jnp.clip(inside * d, -tau, tau)).astype(m.dtype), m, d)
    if per_leaf:
        shares = jax.tree.map(lambda d: share_within(tau, squared_norm(d), most=inside), d)
        return jax.tree.map(lambda m, d, share: (m + share * d).astype(m.dtype), m, d, shares)
    # the difference is computed again after its norm: storing it between would cost more than the subtraction
    share, (m, g) = jax.lax.optimization_barrier((share_within(tau, squared_norm(d), most=inside), (m, g)))
    return jax.tree.map(lambda m, g: (m + share * (g.astype(m.dtype) - m)).astype(m.dtype), m, g)


def scale_by_median_momentum(
    tau: Number, *, kind: str = "l2", mu: Number | None = None, per_leaf: bool = False
) -> optax.GradientTransformation:
    r"""Replaces the gradient by a running estimate of the gradients' median: VClip, CClip, Huber or momentum.

    .. math:: m_{t+1} = \operatorname*{argmin}_{m}\ \rho(m - g_t) + \frac{1}{2\tau} \|m - m_t\|^2, \qquad m_0 = 0,

    see :func:`spp_median_update` for the kinds. ``l2`` is VClip, ``l1`` CClip; ``l2sq`` is momentum with decay
    :math:`1/(1 + \tau)`. A single gradient moves the estimate by at most :math:`\tau` (not with ``l2sq``), so that it
    converges where the noise is symmetric and has not even a mean. Where the noise is not symmetric, the median is not the
    gradient.

    A gradient whose square overflows moves nothing where the norm counts. Gradients that are not finite spoil the state
    (infinite entries not with ``l1`` and ``huber_element``): put ``optax.apply_if_finite`` around it.

    Args:
      tau: :math:`\tau` > 0, in the gradient's unit (without unit for ``l2sq``): small is robust and slow.
      kind, mu, per_leaf: see :func:`spp_median_update`.

    Returns:
      A transformation with :class:`MedianMomentumState`, as large as the parameters.

    Raises:
      ValueError: as :func:`spp_median_update`.

    Source: Schaipp, Garrigos, Simsekli, Gower (2024), arXiv 2402.12828.

    >>> tx = optax.chain(scale_by_median_momentum(1.0), optax.sgd(0.1))
    >>> state = tx.init(jnp.zeros(2))
    >>> for g in ([3.0, 4.0], [3e6, 4e6]):
    ...     u, state = tx.update(jnp.array(g), state)
    >>> [round(v, 4) for v in u.tolist()]  # the outlier has counted as 1
    [-0.12, -0.16]
    """
    _check(tau, kind, mu)

    def init(params):
        return MedianMomentumState(zeros_accumulator(params))

    def update(updates, state, params=None):
        del params
        median = spp_median_update(state.median, updates, tau=tau, kind=kind, mu=mu, per_leaf=per_leaf)
        return jax.tree.map(lambda m, g: m.astype(g.dtype), median, updates), MedianMomentumState(median)

    return optax.GradientTransformation(init, update)
