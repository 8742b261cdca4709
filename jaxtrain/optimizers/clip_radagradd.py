"""AdaGrad and Adam of clipped gradients, for noise with heavy tails: with the step size delayed, Clip-RAdaGradD."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype
from jaxtrain.optimizers._fused import map_leaves
from jaxtrain.optimizers._inner import check_cap, common_dtype, decayed, ratio, scaled, share_within, squared_norm

CLIP_MODES = ("global", "leaf", "element")


class ClippedAdaGradState(NamedTuple):
    """State of :func:`scale_by_clipped_adagrad`, in float32 at least: the weighted sum of squares, one number for all
    parameters or, coordinatewise, a tree like them."""

    sum_of_squares: Float[Array, ""] | Params


class ClippedAdamState(NamedTuple):
    """State of :func:`scale_by_clipped_adam`, in float32 at least: completed updates, and the means of clipped
    gradients and of their squares, both shaped like the parameters."""

    count: Int[Array, ""]
    mu: Params
    nu: Params


def _check(clip: Number, clip_mode: str, **not_negative: Number) -> None:
    for name, value in not_negative.items():
        check_finite_number(name, value, low=0.0)
    check_cap("clip", clip)
    if clip_mode not in CLIP_MODES:
        raise ValueError(f"clip_mode must be one of {', '.join(CLIP_MODES)}, got {clip_mode!r}")


def _clipped(updates: Params, clip: Number, mode: str) -> Params:
    """The gradients, clipped, in the dtypes of their accumulators."""
    wide = jax.tree.map(lambda g: g.astype(accumulator_dtype(g)), updates)
    if mode == "element":
        return jax.tree.map(lambda g: jnp.clip(g, -clip, clip).astype(g.dtype), wide)
    if mode == "leaf":
        return jax.tree.map(lambda g: scaled(share_within(clip, squared_norm(g)), g), wide)
    return scaled(share_within(clip, squared_norm(wide)), wide)


def scale_by_clipped_adagrad(
    clip: Number = 1.0,
    *,
    eta: Number = 1.0,
    b0: Number = 1e-2,
    eps: Number = 1e-10,
    delayed: bool = True,
    coordinatewise: bool = False,
    clip_mode: str = "global",
) -> optax.GradientTransformation:
    r"""Divides clipped gradients by the root of a weighted sum of the squares of those before.

    With :math:`\hat g_t = \min(1, \lambda / \|g_t\|)\, g_t`,

    .. math:: u_t = \hat g_t / b_t, \qquad b_{t+1}^2 = b_t^2 + \eta\,\|\hat g_t\|^2.

    The step size is delayed: given the past it does not depend on the gradient that it multiplies. Without
    ``delayed`` the divisor is :math:`b_{t+1}`; unclipped, with :math:`\eta = 1`, that is
    :func:`~jaxtrain.optimizers.scale_by_adagrad_norm`. With ``coordinatewise`` every coordinate has a sum
    :math:`v_{t+1} = v_t + \eta\,\hat g_t^2` of its own, from :math:`b_0^2`, and the divisor is
    :math:`\sqrt v + \epsilon`.

    A gradient whose square overflows is clipped to zero, whatever the limit. Gradients that are not finite spoil updates
    or state: put ``optax.apply_if_finite`` around it.

    Args:
      clip: :math:`\lambda`, in the gradient's unit, > 0; infinity: no clipping.
      eta: weight of new squares, ≥ 0, with the paper in (0, 1]; the smaller, the slower the step size falls.
      b0: divisor of the first delayed step, in the gradient's unit, ≥ 0. Without any, that step is zero.
      eps: added to the divisor where it is coordinatewise, ≥ 0.
      delayed: whether the divisor comes from the past alone.
      coordinatewise: one divisor for every coordinate instead of one for all.
      clip_mode: ``"global"``: the norm of the whole tree; ``"leaf"``: of each leaf; ``"element"``: each entry is cut
        to :math:`[-\lambda, \lambda]`.

    Returns:
      A transformation with :class:`ClippedAdaGradState`: one number, or as many as there are parameters.

    Raises:
      ValueError: a number out of range, an unknown clip mode.

    Source: Chezhegov, Klyukin, Semenov, Beznosikov, Gasnikov, Horváth, Takáč, Gorbunov (2024), arXiv 2406.04443.

    >>> tx = scale_by_clipped_adagrad(clip=5.0, b0=12.0)
    >>> g = jnp.array([30.0, 40.0])
    >>> first, state = tx.update(g, tx.init(g))
    >>> second, _ = tx.update(g, state)  # 5² + 12² = 13²
    >>> [round(v, 4) for v in (12 * first).tolist()], [round(v, 4) for v in (13 * second).tolist()]
    ([3.0, 4.0], [3.0, 4.0])
    """
    _check(clip, clip_mode, eta=eta, b0=b0, eps=eps)

    def init(params):
        def start(kind, shape=()):
            return jnp.full(shape, jnp.square(jnp.asarray(b0, kind)), kind)

        if coordinatewise:
            return ClippedAdaGradState(jax.tree.map(lambda p: start(accumulator_dtype(p), p.shape), params))
        return ClippedAdaGradState(start(common_dtype(params)))

    def update(updates, state, params=None):
        del params
        before = state.sum_of_squares
        if not coordinatewise and clip_mode == "global":
            # two passes over the gradients, for their norm and their scale, and nothing stored between
            square = squared_norm(updates)
            of_clipped = jnp.where(jnp.isinf(square), 0, jnp.minimum(square, jnp.square(clip)))
            after = (before + eta * of_clipped).astype(before.dtype)
            share = ratio(share_within(clip, square), jnp.sqrt(before if delayed else after))
            return scaled(share, updates), ClippedAdaGradState(after)
        clipped = _clipped(updates, clip, clip_mode)
        if coordinatewise:
            after = jax.tree.map(lambda v, g: (v + eta * g**2).astype(v.dtype), before, clipped)
            chosen = before if delayed else after
            scale = jax.tree.map(lambda v: jnp.sqrt(v) + eps, chosen)
        else:
            after = (before + eta * squared_norm(clipped)).astype(before.dtype)
            root = jnp.sqrt(before if delayed else after)
            scale = jax.tree.map(lambda _: root, clipped)
        updates = jax.tree.map(lambda u, g, b: ratio(g, b).astype(u.dtype), updates, clipped, scale)
        return updates, ClippedAdaGradState(after)

    return optax.GradientTransformation(init, update)


def scale_by_clipped_adam(
    clip: Number = 1.0,
    *,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eta: Number = 1.0,
    v0: Number = 1e-5,
    delayed: bool = False,
    clip_mode: str = "global",
) -> optax.GradientTransformation:
    r"""Rescales clipped gradients by Adam's rule, with the second moment delayed where that is wanted.

    With :math:`m_t = \beta_1 m_{t-1} + (1 - \beta_1)\,\hat g_t`: Adam of the clipped gradients, bias correction
    included, or, delayed and without bias correction,

    .. math:: v_t = \beta_2 v_{t-1} + (1 - \beta_2)\,\eta\,\hat g_{t-1}^2, \qquad u_t = m_t / (\sqrt{v_t} + \epsilon),
       \qquad \hat g_0 = 0.

    Args:
      clip, clip_mode: see :func:`scale_by_clipped_adagrad`.
      b1, b2: decays of the two moments, in [0, 1).
      eps: added to the root, ≥ 0.
      eta, v0: weight of new squares and :math:`v_0` ≥ 0, both used where ``delayed``.
      delayed: whether the second moment comes from the past alone.

    Returns:
      A transformation with :class:`ClippedAdamState`, as large as Adam's.

    Raises:
      ValueError: a number out of range, an unknown clip mode.

    Source: Chezhegov et al. (2024), arXiv 2406.04443, and the code released with it.

    >>> tx = scale_by_clipped_adam(clip=2.0, b1=0.5, b2=0.75, eps=0.0, v0=1 / 3, delayed=True)
    >>> g = jnp.array(7.0)
    >>> first, state = tx.update(g, tx.init(g))  # m = 1, v = 1/4
    >>> second, _ = tx.update(g, state)  # m = 1.5, v = 3/16 + 1
    >>> round(float(first), 4), round(float(second) ** 2, 4)
    (2.0, 1.8947)
    """
    _check(clip, clip_mode, eps=eps, eta=eta, v0=v0)
    check_decays(b1=b1, b2=b2)

    def init(params):
        def start(p):
            # the decay of the first delayed step stands in it already, so that no old gradient need be kept
            first = b2 * v0 if delayed else 0.0
            return jnp.full(p.shape, first, accumulator_dtype(p))

        mu = jax.tree.map(lambda p: jnp.zeros(p.shape, accumulator_dtype(p)), params)
        return ClippedAdamState(jnp.zeros((), jnp.int32), mu, jax.tree.map(start, params))

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)

        def step(u, m, v, g):
            m = (b1 * m + (1 - b1) * g).astype(m.dtype)
            if delayed:
                return ratio(m, jnp.sqrt(v) + eps).astype(u.dtype), m, (b2 * v + (1 - b2) * eta * g**2).astype(v.dtype)
            v = (b2 * v + (1 - b2) * g**2).astype(v.dtype)
            return ratio(m / (1 - b1**count), jnp.sqrt(v / (1 - b2**count)) + eps).astype(u.dtype), m, v

        clipped = _clipped(updates, clip, clip_mode)
        updates, mu, nu = map_leaves(step, 3, updates, state.mu, state.nu, clipped)
        return updates, ClippedAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def clip_radagradd(
    learning_rate: optax.ScalarOrSchedule = 1e-2,
    clip: Number = 1.0,
    *,
    eta: Number = 1.0,
    b0: Number = 1e-2,
    eps: Number = 1e-10,
    coordinatewise: bool = False,
    clip_mode: str = "global",
    weight_decay: Number = 0.0,
    mask: Any = None,
) -> optax.GradientTransformation:
    r"""Clip-RAdaGradD: clipped, reweighted AdaGrad with a delayed step size, see :func:`scale_by_clipped_adagrad`.

    .. math:: \theta_{t+1} = \theta_t - \frac{\gamma}{b_t}\,\hat g_t, \qquad
       b_{t+1}^2 = b_t^2 + \eta\,\|\hat g_t\|^2.

    Args:
      learning_rate: :math:`\gamma`, a number or a schedule.
      clip, eta, b0, eps, coordinatewise, clip_mode: see :func:`scale_by_clipped_adagrad`.
      weight_decay: decoupled.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation; with a weight decay its update needs ``params``.

    Raises:
      ValueError: as :func:`scale_by_clipped_adagrad`.

    Source: Chezhegov, Klyukin, Semenov, Beznosikov, Gasnikov, Horváth, Takáč, Gorbunov (2024), arXiv 2406.04443.

    >>> tx = clip_radagradd(0.5, clip=1.0, b0=2.0)
    >>> x = jnp.array([1e6])
    >>> u, _ = tx.update(x, tx.init(x))  # an outlier moves by γ λ / b0
    >>> u.tolist()
    [-0.25]
    """
    return optax.chain(
        scale_by_clipped_adagrad(
            clip, eta=eta, b0=b0, eps=eps, delayed=True, coordinatewise=coordinatewise, clip_mode=clip_mode
        ),
        decayed(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def clip_adagrad(
    learning_rate: optax.ScalarOrSchedule = 1e-2,
    clip: Number = 1.0,
    *,
    delayed: bool = False,
    b0: Number = 1e-2,
    eps: Number = 1e-10,
    coordinatewise: bool = True,
    clip_mode: str = "global",
    weight_decay: Number = 0.0,
    mask: Any = None,
) -> optax.GradientTransformation:
    r"""AdaGrad of clipped gradients, see :func:`scale_by_clipped_adagrad`; coordinatewise unless said otherwise.

    Args:
      learning_rate: a number or a schedule.
      clip, delayed, b0, eps, coordinatewise, clip_mode: see :func:`scale_by_clipped_adagrad`.
      weight_decay: decoupled.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation; with a weight decay its update needs ``params``.

    Raises:
      ValueError: as :func:`scale_by_clipped_adagrad`.

    Source: Chezhegov et al. (2024), arXiv 2406.04443.

    >>> tx = clip_adagrad(0.5, clip=1.0, b0=0.0, clip_mode="element")
    >>> x = jnp.array([-3.0, 0.5])
    >>> u, _ = tx.update(x, tx.init(x))  # as AdaGrad without clipping: the first step has the length γ
    >>> u.tolist()
    [0.5, -0.5]
    """
    return optax.chain(
        scale_by_clipped_adagrad(
            clip, b0=b0, eps=eps, delayed=delayed, coordinatewise=coordinatewise, clip_mode=clip_mode
        ),
        decayed(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def clip_adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    clip: Number = 1.0,
    *,
    delayed: bool = False,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eta: Number = 1.0,
    v0: Number = 1e-5,
    clip_mode: str = "global",
    weight_decay: Number = 0.0,
    mask: Any = None,
) -> optax.GradientTransformation:
    r"""Adam of clipped gradients, see :func:`scale_by_clipped_adam`.

    Args:
      learning_rate: a number or a schedule.
      clip, delayed, b1, b2, eps, eta, v0, clip_mode: see :func:`scale_by_clipped_adam`.
      weight_decay: decoupled.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation; with a weight decay its update needs ``params``.

    Raises:
      ValueError: as :func:`scale_by_clipped_adam`.

    Source: Chezhegov et al. (2024), arXiv 2406.04443.

    >>> tx = clip_adam(0.5, clip=1.0)
    >>> x = jnp.array([3.0])
    >>> u, _ = tx.update(x, tx.init(x))
    >>> round(float(u[0]), 4)
    -0.5
    """
    return optax.chain(
        scale_by_clipped_adam(clip, b1=b1, b2=b2, eps=eps, eta=eta, v0=v0, delayed=delayed, clip_mode=clip_mode),
        decayed(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
