"""How the noise of training grows when a model is fed its own outputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import Params

Policy = Callable[[Params, Array], Array]
"""``(params, state) -> action``."""


def behavior_cloning_loss(
    policy: Policy, params: Params, states: Float[Array, "batch n"], actions: Float[Array, "batch m"]
) -> Float[Array, " batch"]:
    r"""The squared distance of a policy's action from the expert's, per example: :math:`\|\pi_\theta(x) - u\|^2`.

    Args:
      policy: ``(params, state) -> action`` of one state.
      params: its parameters.
      states: ``(batch, n)``.
      actions: the expert's, ``(batch, m)``.

    Source: Block et al. (2023), arXiv 2310.11428.

    >>> behavior_cloning_loss(lambda k, x: k @ x, jnp.array([[1.0, 1.0]]), jnp.eye(2), jnp.array([[0.0], [3.0]]))
    Array([1., 4.], dtype=float32)
    """
    return jnp.sum((jax.vmap(lambda x: policy(params, x))(states) - actions) ** 2, axis=-1)


def rollout_states(
    policy: Policy,
    params: Params,
    dynamics: Callable[[Array, Array], Array],
    starts: Float[Array, "starts n"],
    *,
    horizon: int,
) -> Float[Array, "starts horizon_and_start n"]:
    r"""The states of a closed loop, :math:`x_{t+1} = f(x_t, \pi_\theta(x_t))`.

    Args:
      policy: ``(params, state) -> action``.
      params: its parameters.
      dynamics: :math:`f`, ``(state, action) -> state``.
      starts: first states ``(starts, n)``.
      horizon: steps.

    Returns:
      ``(starts, horizon + 1, n)``, the first state included.

    Raises:
      ValueError: a horizon below 1.

    Source: Block et al. (2023), arXiv 2310.11428.

    >>> x = rollout_states(lambda k, x: -k * x, 0.5, lambda x, u: x + u, jnp.ones((1, 1)), horizon=3)
    >>> x[0, :, 0]
    Array([1.   , 0.5  , 0.25 , 0.125], dtype=float32)
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")

    def one(start):
        def step(x, _):
            x = dynamics(x, policy(params, x))
            return x, x

        return jnp.concatenate([start[None], jax.lax.scan(step, start, None, length=horizon)[1]])

    return jax.vmap(one)(starts)


def rollout_return(
    policy: Policy,
    params: Params,
    dynamics: Callable[[Array, Array], Array],
    reward: Callable[[Array], Array],
    starts: Float[Array, "starts n"],
    *,
    horizon: int,
) -> Float[Array, ""]:
    r"""The mean reward of a closed loop: :math:`J(\theta) = \frac1{nH}\sum_i\sum_{t=1}^{H} r(x^{(i)}_t)`.

    Args:
      policy: ``(params, state) -> action``.
      params: its parameters.
      dynamics: ``(state, action) -> state``.
      reward: ``state -> scalar``; bounded, where the loop may be unstable.
      starts: first states ``(starts, n)``; they give no reward.
      horizon: steps :math:`H`.

    Source: Block et al. (2023), arXiv 2310.11428.

    >>> loop = (lambda k, x: -k * x, 0.5, lambda x, u: x + u, lambda x: x[0])
    >>> float(rollout_return(*loop, jnp.ones((1, 1)), horizon=2))  # the mean of 0.5 and 0.25
    0.375
    """
    states = rollout_states(policy, params, dynamics, starts, horizon=horizon)
    return jnp.mean(jax.vmap(jax.vmap(reward))(states[:, 1:]))


def oscillation_score(returns: Float[Array, "... checkpoints"]) -> Float[Array, "..."]:
    r"""How much a curve jumps: the mean absolute difference of neighbours, over the range of the curve.

    1 for a curve that jumps from end to end, :math:`1/(n-1)` for one that only rises, 0 for a constant.

    Args:
      returns: at consecutive checkpoints, on the last axis.

    Raises:
      ValueError: fewer than two checkpoints.

    Source: Block et al. (2023), arXiv 2310.11428 (the quantity that its figures show).

    >>> oscillation_score(jnp.array([[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 2.0, 3.0], [2.0, 2.0, 2.0, 2.0]])).round(3)
    Array([1.   , 0.333, 0.   ], dtype=float32)
    """
    if returns.shape[-1] < 2:
        raise ValueError(f"oscillations need at least 2 checkpoints on the last axis, got {returns.shape[-1]}")
    width = returns.max(-1) - returns.min(-1)
    jumps = jnp.mean(jnp.abs(jnp.diff(returns, axis=-1)), axis=-1)
    return jnp.where(width > 0, jumps / jnp.where(width > 0, width, 1), 0)


def error_amplification(jacobians: Float[Array, "horizon n n"]) -> Float[Array, " horizon"]:
    r"""How far an error of the first state can grow: the spectral norms of :math:`J_t \cdots J_1` for every :math:`t`.

    Args:
      jacobians: :math:`J_t = \partial x_t / \partial x_{t-1}` of the closed loop, ``(horizon, n, n)``.

    Returns:
      ``(horizon,)``. The products are scaled as they grow, so that logarithms of the norms up to the largest number of
      the dtype are right.

    Source: Block et al. (2023), arXiv 2310.11428, on the propagation of errors in a closed loop.

    >>> error_amplification(jnp.stack([2.0 * jnp.eye(2)] * 3))
    Array([2., 4., 8.], dtype=float32)
    """

    def step(carry, jacobian):
        product, log = carry
        product = jacobian @ product
        size = jnp.linalg.norm(product, ord=2)
        safe = jnp.where(size > 0, size, 1)
        log = log + jnp.log(safe)
        return (product / safe, log), jnp.where(size > 0, jnp.exp(log), 0)

    start = (jnp.eye(jacobians.shape[-1], dtype=jacobians.dtype), jnp.zeros((), jacobians.dtype))
    return jax.lax.scan(step, start, jacobians)[1]
