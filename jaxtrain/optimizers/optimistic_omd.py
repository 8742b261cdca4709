"""Optimistic online mirror descent between stochastic and adversarial losses."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Params, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, in_place_of, zeros_accumulator

_HINTS = ("last_gradient", "zero")


class OptimisticOmdState(NamedTuple):
    """State of :func:`optimistic_omd`: completed rounds, :math:`\\hat x`, and where the rate follows the variation the last
    gradient and :math:`\\bar V`, else None. The trees are shaped like the parameters, in float32 at least."""

    count: Int[Array, ""]
    anchor: Params
    hint: Params | None
    variation: Float[Array, ""] | None


def _omd(
    where: str, rate: Callable, projection: Callable | None, hint: str, follows: bool
) -> optax.GradientTransformation:
    """``rate(rounds completed, variation so far)`` is the step of the next round; whether it ``follows`` the variation."""
    if hint not in _HINTS:
        raise ValueError(f"hint must be one of {', '.join(_HINTS)}, got {hint!r}")
    project = projection or (lambda tree: tree)

    def init(params):
        anchor = jax.tree.map(lambda p: jnp.array(p, accumulator_dtype(p)), params)
        seen = (zeros_accumulator(params), jnp.zeros((), jnp.float32)) if follows else (None, None)
        return OptimisticOmdState(jnp.zeros((), jnp.int32), anchor, *seen)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(f"{where} moves a point: call tx.update(updates, state, params) with the parameters")
        grads = jax.tree.map(lambda g, x: g.astype(x.dtype), updates, state.anchor)
        kept = variation = None
        if follows:
            change = jax.tree.map(lambda g, h: jnp.sum((g - h) ** 2), grads, state.hint)
            variation = state.variation + sum(jax.tree.leaves(change), start=jnp.zeros((), jnp.float32))
            variation = variation.astype(state.variation.dtype)
            kept = jax.tree.map(lambda h, g, c: in_place_of(h, g, state.count, c), state.hint, grads, change)
        now, then = rate(state.count, state.variation), rate(state.count + 1, variation)
        anchor = project(jax.tree.map(lambda x, g: (x - now * g).astype(x.dtype), state.anchor, grads))
        played = anchor
        if hint == "last_gradient":
            played = project(jax.tree.map(lambda x, g: (x - then * g).astype(x.dtype), anchor, grads))
        moves = jax.tree.map(lambda x, p, g: (x - p.astype(x.dtype)).astype(g.dtype), played, params, updates)
        return moves, OptimisticOmdState(optax.safe_increment(state.count), anchor, kept, variation)

    return optax.GradientTransformation(init, update)


def optimistic_omd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    projection: Callable[[Params], Params] | None = None,
    hint: str = "last_gradient",
) -> optax.GradientTransformation:
    r"""Optimistic mirror descent in the Euclidean geometry: two sequences, of which the parameters are the played one.

    With the gradient :math:`g_t` of this round's loss at the played :math:`x_t` and the projection :math:`\Pi`:

    .. math:: \hat x_{t+1} = \Pi(\hat x_t - \eta_t\,g_t), \qquad x_{t+1} = \Pi(\hat x_{t+1} - \eta_{t+1}\,M_{t+1}),
       \qquad M_{t+1} = g_t, \quad M_1 = 0.

    Without projection and with a constant rate :math:`x_{t+1} = x_t - 2\eta g_t + \eta g_{t-1}` with :math:`g_0 = 0`;
    ``optax.optimistic_gradient_descent`` has :math:`g_0 = g_1`, so that it stays :math:`\eta g_1` behind.
    For :math:`\lambda`-strongly convex losses the rate :math:`\eta_t = 2/(\lambda t)`, as a schedule
    ``lambda k: 2 / (lam * (k + 1))``, has a regret that grows like the logarithm of the rounds.

    The transformation sets the parameters: it comes last in a chain, and what moves them elsewhere is undone. Gradients
    that are not numbers spoil the state: put ``optax.apply_if_finite`` around it.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule; count 0 is the first round.
      projection: onto the feasible set, ``params -> params``, such as
        ``lambda x: optax.projections.projection_l2_ball(x, 1.0)``; the first parameters should lie in it. None: no limits.
      hint: what is expected of the next gradient: the last one, or ``zero``, which is projected gradient descent.

    Returns:
      A transformation with :class:`OptimisticOmdState`: a copy of the parameters.

    Raises:
      ValueError: an unknown hint, a number out of range; from its update: no parameters.

    Source: Chen, Zhang, Tu, Zhao, Zhang (2023), arXiv 2302.04552; Rakhlin, Sridharan (2013), arXiv 1208.3728.

    >>> tx, x = optimistic_omd(0.5), jnp.array(4.0)
    >>> state = tx.init(x)
    >>> for g in (2.0, 2.0):
    ...     move, state = tx.update(jnp.array(g), state, x)
    ...     x = x + move
    >>> float(x), float(state.anchor)  # 4 - 2 · 0.5 · 2, then - 0.5 · 2
    (1.0, 2.0)
    """
    if not callable(learning_rate):
        check_finite_number("learning_rate", learning_rate, low=0.0)

    def rate(count, variation):
        del variation
        return learning_rate(count) if callable(learning_rate) else learning_rate

    return _omd("optimistic_omd", rate, projection, hint, follows=False)


def optimistic_omd_sea(
    diameter: Number,
    *,
    grad_bound: Number,
    smoothness: Number,
    projection: Callable[[Params], Params] | None = None,
    scale: Number = 1.0,
) -> optax.GradientTransformation:
    r"""Optimistic mirror descent with a rate that follows the gradients' variation: for convex smooth losses.

    The steps of :func:`optimistic_omd` with

    .. math:: \eta_t = \frac{c\,D}{\sqrt{10\,D^2 L^2 + 4 G^2 + \bar V_{t-1}}}, \qquad
       \bar V_t = \sum_{s \le t} \|g_s - g_{s-1}\|^2, \quad g_0 = 0.

    For losses drawn in each round from a distribution that an adversary chooses, with variances :math:`\sigma_t^2` and
    changes :math:`\Sigma_t^2` of the expected gradients, the regret is
    :math:`O(\sqrt{\textstyle\sum \sigma_t^2} + \sqrt{\textstyle\sum \Sigma_t^2})`: as for stochastic losses where these
    do not change, and constant where they neither change nor are random.

    Args:
      diameter: :math:`D`, of the feasible set, > 0.
      grad_bound: :math:`G`, a bound of the gradients' norms, ≥ 0.
      smoothness: :math:`L`, of the expected losses, ≥ 0; not both of them 0, as the first step would be infinite.
      projection: onto the feasible set; None: no limits.
      scale: :math:`c`; 1 in theory.

    Returns:
      A transformation with :class:`OptimisticOmdState`: two copies of the parameters.

    Raises:
      ValueError: a number out of range; from its update: no parameters.

    Source: Chen, Zhang, Tu, Zhao, Zhang (2023), arXiv 2302.04552.

    >>> tx, x = optimistic_omd_sea(2.0, grad_bound=1.5, smoothness=0.0), jnp.array(4.0)
    >>> move, state = tx.update(jnp.array(4.0), tx.init(x), x)  # 2/√9 · 4 and then 2/√(9 + 16) · 4
    >>> round(float(x + move), 4), float(state.variation)
    (-0.2667, 16.0)
    """
    check_finite_number("diameter", diameter, low=0.0)
    check_finite_number("grad_bound", grad_bound, low=0.0)
    check_finite_number("smoothness", smoothness, low=0.0)
    check_finite_number("scale", scale, low=0.0)
    if not any(isinstance(x, jax.core.Tracer) for x in (grad_bound, smoothness)) and np.any(
        (np.asarray(grad_bound) == 0) & (np.asarray(smoothness) == 0)
    ):
        raise ValueError("grad_bound and smoothness are both 0, so that the first step would be infinite: give a bound")
    fixed = 10 * diameter**2 * smoothness**2 + 4 * grad_bound**2

    def rate(count, variation):
        del count
        return scale * diameter / jnp.sqrt(fixed + variation)

    return _omd("optimistic_omd_sea", rate, projection, "last_gradient", follows=True)
