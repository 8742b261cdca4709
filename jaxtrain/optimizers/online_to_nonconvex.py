"""Online-to-non-convex conversion: an online learner chooses the steps, and gradients are taken at random points on them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Key, Number, Params, Scalar, check_finite_number, check_key, check_leading_axes
from jaxtrain.core.numerics import accumulator_dtype, anew, zeros_accumulator
from jaxtrain.optimizers._inner import check_cap, common_dtype, share_within, squared_norm


class O2ncState(NamedTuple):
    """State of :func:`o2nc`: completed updates, where on the current step the parameters lie (from 0 to 1), and that step,
    shaped like the parameters, in float32 at least."""

    count: Int[Array, ""]
    position: Float[Array, ""]
    delta: Params


class Goldstein(NamedTuple):
    """What :func:`goldstein_stationarity` finds: the length of the mean gradient, and how far the points reach."""

    norm: Scalar
    radius: Scalar


def _learned(delta: Params, grad: Params, eta: Number, radius: Number) -> Params:
    """Projected online gradient descent: Δ - η g, no longer than the radius."""

    def moved(delta: Params, grad: Params, eta: Array) -> Params:
        return jax.tree.map(lambda d, g: (d - eta * g.astype(d.dtype)).astype(d.dtype), delta, grad)

    start = (delta, grad, jnp.asarray(eta))
    factor = share_within(radius, squared_norm(moved(*start)))
    # computed again after its norm and not stored between
    again = moved(*anew(start))
    return jax.tree.map(lambda d: (factor * d).astype(d.dtype), again)


def o2nc_step(
    key: Key, grad_fn: Callable[[Params], Params], x: Params, delta: Params, *, eta: Number, radius: Number
) -> tuple[Params, Params, Params, Params]:
    r"""One round of the conversion with projected online gradient descent as the learner.

    .. math:: x' = x + \Delta, \quad w = x + s\,\Delta,\ s \sim U[0, 1], \quad g = \nabla f(w), \quad
       \Delta' = \operatorname{clip}_D(\Delta - \eta\,g).

    In the mean over s, :math:`\langle g, \Delta\rangle` is exactly :math:`F(x') - F(x)`, smooth or not.

    Args:
      key: one typed key, for s.
      grad_fn: ``params -> gradients``, possibly of a minibatch.
      x: the parameters :math:`x_{n-1}`.
      delta: the learner's step :math:`\Delta_n`, zero in the first round.
      eta: :math:`\eta` ≥ 0.
      radius: D > 0, may be infinite.

    Returns:
      :math:`x_n`, :math:`\Delta_{n+1}`, w and g.

    Raises:
      TypeError: the key is not a typed key.
      ValueError: a number out of range.

    Source: Cutkosky, Mehta, Orabona (2023), arXiv 2302.03775, algorithm 1.

    >>> x, delta, w, g = o2nc_step(
    ...     jax.random.key(0), jnp.sign, jnp.array([2.0]), jnp.array([0.25]), eta=0.5, radius=0.125
    ... )
    >>> x.tolist(), delta.tolist(), g.tolist(), 2.0 <= float(w[0]) <= 2.25
    ([2.25], [-0.125], [1.0], True)
    """
    check_key(key, where="o2nc_step")
    check_finite_number("eta", eta, low=0.0)
    check_cap("radius", radius)
    s = jax.random.uniform(key, dtype=common_dtype(x))

    def along(share: Array | float) -> Params:
        return jax.tree.map(lambda p, d: (p + share * d).astype(p.dtype), x, delta)

    w = along(s)
    g = grad_fn(w)
    return along(1.0), _learned(delta, g, eta, radius), w, g


def o2nc(
    learning_rate: optax.ScalarOrSchedule,
    radius: Number,
    *,
    reset_interval: Number | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Online-to-non-convex conversion: clipped momentum whose gradients are taken at random points of its steps.

    The parameters that it keeps are the points :math:`w_n = x_{n-1} + s_n \Delta_n`, at which gradients are wanted; with

    .. math:: \Delta_{n+1} = \operatorname{clip}_D(\Delta_n - \eta\,g_n), \qquad
       w_{n+1} = w_n + (1 - s_n)\,\Delta_n + s_{n+1} \Delta_{n+1}, \qquad s_n \sim U[0, 1], \quad \Delta_1 = 0.

    Every ``reset_interval`` = T rounds the step is zero again. With :math:`D = \delta / T` the points of such an epoch lie
    within :math:`\delta` of their mean, and the mean of their gradients becomes small, in the mean over epochs
    at most :math:`(F(x_0) - F^*) / (D N) + O(G/\sqrt T)` after N rounds; the result is the mean of the points of
    an epoch chosen at random. See :func:`o2nc_radius` for what the theory chooses.

    It takes the whole step: put it last in a chain. The update wants ``key=``, which
    :func:`jaxtrain.training.make_step` gives. Averages of parameters average the :math:`w_n`. A step whose square overflows
    becomes zero. Gradients that are not finite spoil the state: put ``optax.apply_if_finite`` around it.

    Args:
      learning_rate: :math:`\eta` of the learner, a number or a schedule; theory: :math:`D / (G \sqrt T)`.
      radius: D > 0, the longest step, in the parameters' unit, may be infinite.
      reset_interval: T ≥ 1; None: never.

    Returns:
      A transformation with :class:`O2ncState`, as large as the parameters.

    Raises:
      TypeError: from its update: the key is not a typed key.
      ValueError: a number out of range; from its update: no ``key``.

    Source: Cutkosky, Mehta, Orabona (2023), "Optimal Stochastic Non-smooth Non-convex Optimization through
    Online-to-Non-convex Conversion", arXiv 2302.03775.

    >>> tx = o2nc(0.5, radius=0.125)
    >>> w, state = jnp.array([2.0]), o2nc(0.5, radius=0.125).init(jnp.array([2.0]))
    >>> for n in range(2):
    ...     u, state = tx.update(jnp.sign(w), state, w, key=jax.random.key(n))
    ...     w = w + u
    >>> round(float(w[0] - state.position * state.delta[0]), 6)  # x after rounds of step 0 and -0.125
    1.875
    """
    if not callable(learning_rate):
        check_finite_number("learning_rate", learning_rate, low=0.0)
    check_cap("radius", radius)
    if reset_interval is not None:
        check_finite_number("reset_interval", reset_interval, low=1)

    def init(params):
        return O2ncState(jnp.zeros((), jnp.int32), jnp.zeros((), common_dtype(params)), zeros_accumulator(params))

    def update(updates, state, params=None, *, key=None, **extra_args):
        del params, extra_args
        if key is None:
            raise ValueError(
                "o2nc draws points: call tx.update(grads, state, params, key=jax.random.key(…)), a new one each"
            )
        check_key(key, where="o2nc")
        count = optax.safe_increment(state.count)
        eta = learning_rate(state.count) if callable(learning_rate) else learning_rate
        delta = _learned(state.delta, updates, eta, radius)
        if reset_interval is not None:
            new_epoch = count % reset_interval == 0
            delta = jax.tree.map(lambda d: jnp.where(new_epoch, jnp.zeros_like(d), d), delta)
        s = jax.random.uniform(key, dtype=state.position.dtype)

        def move(g: Array, old: Array, new: Array) -> Array:
            return ((1 - state.position) * old + s * new).astype(g.dtype)

        return jax.tree.map(move, updates, state.delta, delta), O2ncState(count, s, delta)

    return optax.GradientTransformationExtraArgs(init, update)


def o2nc_radius(
    rounds: int, delta: float, *, lipschitz: float, noise: float = 0.0, gap: float = 1.0
) -> tuple[float, float, int]:
    r"""What the theory chooses for N rounds: learning rate, radius and epoch length of :func:`o2nc`.

    .. math:: T = \min\big(\lceil ((G + \sigma) N \delta / (F_0 - F^*))^{2/3} \rceil,\ \lfloor N/2 \rfloor\big), \quad
       D = \delta / T, \quad \eta = \frac{D}{(G + \sigma) \sqrt T},

    for a :math:`(\delta, O(N^{-1/3}))`-stationary point.

    Args:
      rounds: N ≥ 2.
      delta: :math:`\delta` > 0, how far from a point gradients may lie that count as its own.
      lipschitz: G > 0, the bound on gradients' lengths.
      noise: :math:`\sigma` ≥ 0, the noise's root mean square length.
      gap: :math:`F_0 - F^*` > 0.

    Returns:
      :math:`\eta`, D and T.

    Raises:
      ValueError: a number out of range.

    Source: Cutkosky, Mehta, Orabona (2023), arXiv 2302.03775, theorem 8 and its corollaries.

    >>> eta, radius, interval = o2nc_radius(1000, 0.1, lipschitz=1.0)
    >>> interval, round(radius, 6), round(eta, 6)
    (22, 0.004545, 0.000969)
    """
    check_finite_number("rounds", rounds, low=2)
    for name, value in {"delta": delta, "lipschitz": lipschitz, "gap": gap}.items():
        check_finite_number(name, value)
        check_cap(name, value)
    check_finite_number("noise", noise, low=0.0)
    scale = lipschitz + noise
    # 27^(2/3) is 8.999999999999998 or 9.000000000000002 in binary, and must be 9
    interval = int(min(-(-((scale * rounds * delta / gap) ** (2 / 3) - 1e-9) // 1), rounds // 2))
    interval = max(interval, 1)
    return delta / interval / (scale * interval**0.5), delta / interval, interval


def goldstein_stationarity(grad_fn: Callable[[Params], Params], points: Params) -> Goldstein:
    r"""How near the mean of some points is to being stationary in Goldstein's sense, as those points show it.

    .. math:: \Big\|\frac1m \sum_i \nabla F(w_i)\Big\|, \qquad \max_i \|w_i - \bar w\|.

    Where the second number is at most :math:`\delta`, the first bounds the stationarity
    :math:`\|\nabla F(\bar w)\|_\delta` from above.

    Args:
      grad_fn: ``params -> gradients``, of all data.
      points: a tree like the parameters whose leaves stack the points on a leading axis.

    Returns:
      :class:`Goldstein`. Gradients are computed one after the other.

    Raises:
      ValueError: leading axes that disagree or are empty.

    Source: Goldstein (1977), "Optimization of Lipschitz continuous functions"; Cutkosky et al. (2023), arXiv 2302.03775.

    >>> found = goldstein_stationarity(jnp.sign, jnp.array([[-0.25], [0.75]]))  # of |x|
    >>> float(found.norm), float(found.radius)
    (0.0, 0.5)
    """
    check_leading_axes(points, where="goldstein_stationarity", axis_name="points")

    def mean(stack):
        return jax.tree.map(lambda x: jnp.mean(x.astype(accumulator_dtype(x)), axis=0), stack)

    center = mean(points)

    def visit(point):
        return grad_fn(point), jnp.sqrt(squared_norm(jax.tree.map(jnp.subtract, point, center)))

    grads, distances = jax.lax.map(visit, points)
    return Goldstein(jnp.sqrt(squared_norm(mean(grads))), jnp.max(distances))
