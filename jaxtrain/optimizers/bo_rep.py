"""Bilevel optimisation with normalised momentum for upper problems of unbounded smoothness (BO-REP)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Batch, Number, Params, Scalar, check_finite_number, check_leading_axes
from jaxtrain.core.numerics import run_if, static_int, zeros_accumulator
from jaxtrain.core.tree import safe_norm

Loss = Callable[[Params, Params, Batch], Scalar]
"""``(x, y, batch) -> loss`` of the upper variables x and the lower variables y."""


class BilevelBatch(NamedTuple):
    """Independent batches of one step: of the upper problem; of the lower one for its steps, stacked along a leading axis;
    and of the lower one for the linear system and for the hypergradient."""

    upper: Batch
    lower: Batch
    system: Batch
    cross: Batch


class BilevelState(NamedTuple):
    """State of :func:`bo_rep`: completed steps, upper and lower variables, the solution of the linear system (like y),
    and the state of the optimizer of x."""

    count: Int[Array, ""]
    x: Params
    y: Params
    z: Params
    opt_state: optax.OptState


def linear_system_step(
    upper_loss: Loss,
    lower_loss: Loss,
    x: Params,
    y: Params,
    z: Params,
    *,
    upper_batch: Batch,
    lower_batch: Batch,
    rate: Number,
) -> Params:
    r"""One step towards the solution of the linear system of implicit differentiation.

    .. math:: z \leftarrow z - \nu\,\big( \nabla^2_{yy} g(x, y)\,z - \nabla_y f(x, y) \big)

    Its fixed point is :math:`(\nabla^2_{yy} g)^{-1} \nabla_y f`. Costs a Hessian-vector product and a gradient.

    Args:
      upper_loss, lower_loss: :math:`f` and :math:`g`, ``(x, y, batch) -> loss``.
      x, y, z: trees; z like y.
      upper_batch, lower_batch: what :math:`f` and :math:`g` are taken of.
      rate: :math:`\nu`, below twice the inverse of the curvature of g.

    Source: Hao, Gong, Liu (2024), arXiv 2401.09587.

    >>> f, g = lambda x, y, b: 3 * y, lambda x, y, b: y**2
    >>> x = y = z = jnp.array(0.0)
    >>> float(linear_system_step(f, g, x, y, z, upper_batch=None, lower_batch=None, rate=0.5))  # at the solution 3/2
    1.5
    """
    check_finite_number("rate", rate, low=0.0)
    lower_gradient = jax.grad(lambda y: lower_loss(x, y, lower_batch))
    product = jax.jvp(lower_gradient, (y,), (z,))[1]
    wanted = jax.grad(upper_loss, argnums=1)(x, y, upper_batch)
    return jax.tree.map(lambda z, p, w: (z - rate * (p - w)).astype(z.dtype), z, product, wanted)


def hypergradient(
    upper_loss: Loss,
    lower_loss: Loss,
    x: Params,
    y: Params,
    z: Params,
    *,
    upper_batch: Batch,
    lower_batch: Batch,
) -> Params:
    r"""The gradient of the upper loss through the solution of the lower problem, given the linear system's.

    .. math:: h = \nabla_x f(x, y) - \nabla^2_{xy} g(x, y)\,z

    It is :math:`\nabla_x f(x, y^*(x))` where :math:`y = y^*(x)` and
    :math:`z = (\nabla^2_{yy} g)^{-1} \nabla_y f`.

    Args:
      upper_loss, lower_loss: :math:`f` and :math:`g`, ``(x, y, batch) -> loss``.
      x, y, z: trees; z like y.
      upper_batch, lower_batch: what :math:`f` and :math:`g` are taken of.

    Returns:
      A tree like x.

    Source: Hao, Gong, Liu (2024), arXiv 2401.09587.

    >>> f, g = lambda x, y, b: 3 * y, lambda x, y, b: (y - x**2) ** 2  # f of y*(x) = x² is 3 x²
    >>> x, y, z = jnp.array(2.0), jnp.array(4.0), jnp.array(1.5)
    >>> float(hypergradient(f, g, x, y, z, upper_batch=None, lower_batch=None))
    12.0
    """

    def crossed(x):
        return optax.tree.vdot(jax.grad(lower_loss, argnums=1)(x, y, lower_batch), z)

    direct = jax.grad(upper_loss)(x, y, upper_batch)
    return jax.tree.map(lambda d, c: d - c, direct, jax.grad(crossed)(x))


class NormalizedMomentumState(NamedTuple):
    """State of :func:`normalized_momentum`: the mean of the gradients, in float32 at least."""

    momentum: Params


def normalized_momentum(learning_rate: optax.ScalarOrSchedule, beta: Number = 0.9) -> optax.GradientTransformation:
    r"""Steps of a given length along the exponential mean of the gradients.

    .. math:: m \leftarrow \beta m + (1 - \beta)\,g, \qquad \theta \leftarrow \theta - \eta\,\frac{m}{\|m\| + 10^{-10}}

    with the norm over all parameters together, which is right for gradients of any size.

    Args:
      learning_rate: :math:`\eta`, the length of a step, a number or a schedule.
      beta: :math:`\beta` in [0, 1).

    Returns:
      A transformation with :class:`NormalizedMomentumState` and that of the rate.

    Raises:
      ValueError: a number out of range.

    Source: Cutkosky, Mehta (2020), arXiv 2002.03305; the 1e-10: the released code of Hao, Gong, Liu (2024).

    >>> tx = normalized_momentum(0.5)
    >>> updates, _ = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 3) for u in updates]
    [-0.3, -0.4]
    """
    if not callable(learning_rate):
        check_finite_number("learning_rate", learning_rate, low=0.0)
    # with 1 the mean would stay at zero
    check_finite_number("beta", beta, low=0.0, high=float(np.nextafter(1, 0)))

    def init(params):
        return NormalizedMomentumState(zeros_accumulator(params))

    def update(updates, state, params=None):
        del params
        momentum = jax.tree.map(
            lambda m, g: (beta * m + (1 - beta) * g.astype(m.dtype)).astype(m.dtype), state.momentum, updates
        )
        length = safe_norm(momentum) + 1e-10
        updates = jax.tree.map(lambda m, g: (m / length).astype(g.dtype), momentum, updates)
        return updates, NormalizedMomentumState(momentum)

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.scale_by_learning_rate(learning_rate),
    )


def bo_rep(
    upper_loss: Loss,
    lower_loss: Loss,
    *,
    eta: optax.ScalarOrSchedule = 1e-2,
    beta: Number = 0.9,
    nu: Number = 1e-2,
    lower_lr: Number = 1e-3,
    period: Number = 2,
    optimizer: optax.GradientTransformation | None = None,
    refinement_stages: int = 4,
) -> tuple[Callable[..., BilevelState], Callable[[BilevelState, BilevelBatch], BilevelState]]:
    r"""Bilevel optimisation with refined start, periodic lower steps and normalised momentum.

    For :math:`\min_x f(x, y^*(x))`, :math:`y^*(x) = \arg\min_y g(x, y)`, where the hypergradient may grow with its own
    norm (:math:`(L_0, L_1)`-smoothness), as with recurrent networks. ``init(x, y, lower_batches)`` first brings y near
    :math:`y^*(x)`: SGD over a stack of batches, at rates that are halved after each of ``refinement_stages`` parts (without
    batches y stays). Then ``step(state, batch)`` with a :class:`BilevelBatch`:

    * every ``period``-th time, from the first on: SGD on :math:`g(x, \cdot)` over the stack ``batch.lower``;
    * one :func:`linear_system_step` for z, at the rate :math:`\nu`;
    * :func:`hypergradient`, and a step of x by :func:`normalized_momentum`.

    The projections and averages of the theory are left out, as in the released code, whose lower loop also adds up the
    gradients of its steps: here each step has its own.

    Args:
      upper_loss, lower_loss: :math:`f` and :math:`g`, ``(x, y, batch) -> loss``; g strongly convex in y.
      eta: length of a step of x, or a schedule of it.
      beta: decay of the momentum.
      nu: rate for z.
      lower_lr: rate for y.
      period: steps of x between those of y, a whole number ≥ 1.
      optimizer: of x, instead of normalised momentum; ``eta`` and ``beta`` are then not used.
      refinement_stages: parts of the refinement, ≥ 1.

    Returns:
      ``(init, step)``; the state holds x, twice y, and the momentum.

    Raises:
      ValueError: a number out of range; from init: fewer batches than stages.

    Source: Hao, Gong, Liu (2024), arXiv 2401.09587.

    >>> f, g = lambda x, y, b: 0.5 * (y - 1.0) ** 2, lambda x, y, b: 0.5 * (y - x) ** 2
    >>> init, step = bo_rep(f, g, eta=0.1, beta=0.0, nu=1.0, lower_lr=1.0, period=1)
    >>> state = init(jnp.array(3.0), jnp.array(0.0), jnp.zeros(4))
    >>> float(state.y)
    3.0
    >>> for _ in range(20):
    ...     state = step(state, BilevelBatch(None, jnp.zeros(1), None, None))
    >>> round(float(state.x), 3)  # 20 steps of 0.1 towards the solution
    1.0
    """
    check_finite_number("nu", nu, low=0.0)
    check_finite_number("lower_lr", lower_lr, low=0.0)
    check_finite_number("period", period, low=1)
    if not isinstance(period, jax.core.Tracer) and np.any(np.asarray(period) % 1):
        raise ValueError(f"bo_rep: period counts steps and must be whole, got {period}")
    stages = static_int("refinement_stages", refinement_stages, low=1)
    tx = normalized_momentum(eta, beta) if optimizer is None else optimizer

    def descend(x, y, batches, rates):
        def one(y, inputs):
            batch, rate = inputs
            gradient = jax.grad(lower_loss, argnums=1)(x, y, batch)
            return jax.tree.map(lambda y, g: (y - rate * g).astype(y.dtype), y, gradient), None

        return jax.lax.scan(one, y, (batches, rates))[0]

    def init(x: Params, y: Params, lower_batches: Batch | None = None) -> BilevelState:
        if lower_batches is not None:
            count = check_leading_axes(lower_batches, where="bo_rep", axis_name="stack of lower batches")
            if count < stages:
                raise ValueError(f"bo_rep: {count} batches are fewer than the {stages} stages of the refinement")
            y = descend(x, y, lower_batches, lower_lr * 0.5 ** (jnp.arange(count) * stages // count))
        return BilevelState(jnp.zeros((), jnp.int32), x, y, jax.tree.map(jnp.zeros_like, y), tx.init(x))

    def step(state: BilevelState, batch: BilevelBatch) -> BilevelState:
        x = state.x
        count = check_leading_axes(batch.lower, where="bo_rep", axis_name="stack of lower batches")
        rates = jnp.broadcast_to(jnp.asarray(lower_lr, jnp.result_type(float)), (count,))
        y = run_if(state.count % period == 0, lambda y: descend(x, y, batch.lower, rates), state.y)
        z = linear_system_step(
            upper_loss, lower_loss, x, y, state.z, upper_batch=batch.upper, lower_batch=batch.system, rate=nu
        )
        h = hypergradient(upper_loss, lower_loss, x, y, z, upper_batch=batch.upper, lower_batch=batch.cross)
        updates, opt_state = tx.update(h, state.opt_state, x)
        return BilevelState(optax.safe_increment(state.count), optax.apply_updates(x, updates), y, z, opt_state)

    return init, step
