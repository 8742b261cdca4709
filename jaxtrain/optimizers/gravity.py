"""Gravity: an average of gradients in which those near the largest of their tensor are damped."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Key, Number, Params, check_decays, check_finite_number, check_key
from jaxtrain.core.numerics import accumulator_dtype
from jaxtrain.optimizers._fused import map_leaves


class GravityState(NamedTuple):
    """State of :func:`scale_by_gravity`: the velocity is shaped like the parameters, in float32 at least."""

    count: Int[Array, ""]
    velocity: Params


def scale_by_gravity(
    alpha: Number = 0.01, beta: Number = 0.9, *, learning_rate: Number = 0.1, key: Key
) -> optax.GradientTransformation:
    r"""An average of gradients damped near the largest of each tensor, which starts as noise.

    For each tensor, with :math:`t = 1, 2, \dots` and :math:`M_t = \max_i |g_{t,i}|`,

    .. math::
       \zeta_t = \frac{g_t}{1 + (M_t\, g_t)^2}, \qquad \hat\beta_t = \frac{\beta t + 1}{t + 2}, \qquad
       V_t = \hat\beta_t V_{t-1} + (1 - \hat\beta_t)\,\zeta_t, \qquad V_0 \sim \mathcal{N}(0, (\alpha/\eta)^2),

    so that the first step has a spread of about :math:`\alpha` whatever the learning rate. :math:`\zeta` is largest
    where :math:`|g| = 1/M`: only gradients above 1 are damped beyond that. The rule has no scale: it depends on the unit
    of the loss. A gradient that is not a number spoils its whole tensor for good.

    Args:
      alpha: spread of the first displacement, ≥ 0; in units of the parameters.
      beta: what the decay :math:`\hat\beta_t` grows to (from (β + 1)/3), in [0, 1).
      learning_rate: :math:`\eta` at the start, > 0, which is applied by a later part of the chain.
      key: a typed key for :math:`V_0`.

    Returns:
      A transformation with :class:`GravityState`, one number for each parameter.

    Raises:
      ValueError: a number out of range; a learning rate of 0, unless ``alpha`` is 0.
      TypeError: not a typed key.

    Source: Bahrami, Pouriyan Zadeh (2021), arXiv 2101.09192.

    >>> tx = scale_by_gravity(alpha=0.0, key=jax.random.key(0))
    >>> g = jnp.array([1.0, -0.5])
    >>> print(tx.update(g, tx.init(g))[0] * 3 / 1.1)  # V = (1 - 1.9/3) [0.5, -0.4]
    [ 0.5 -0.4]
    """
    check_finite_number("alpha", alpha, low=0.0)
    check_decays(beta=beta)
    check_finite_number("learning_rate", learning_rate, low=0.0)
    check_key(key, where="scale_by_gravity")
    traced = isinstance(alpha, jax.core.Tracer) or isinstance(learning_rate, jax.core.Tracer)
    if not traced and np.any((np.asarray(learning_rate) == 0) & (np.asarray(alpha) != 0)):
        raise ValueError(
            "scale_by_gravity starts with a spread of alpha / learning_rate, and the learning rate is 0 at the start; "
            "give scale_by_gravity the peak of the schedule as learning_rate, or alpha=0"
        )

    def init(params):
        leaves, structure = jax.tree.flatten(params)
        deviation = jnp.where(
            jnp.asarray(learning_rate) == 0, 0.0, alpha / jnp.where(learning_rate == 0, 1, learning_rate)
        )

        def start(i, p):
            dtype = accumulator_dtype(p)
            return deviation.astype(dtype) * jax.random.normal(jax.random.fold_in(key, i), p.shape, dtype)

        return GravityState(jnp.zeros((), jnp.int32), structure.unflatten([start(i, p) for i, p in enumerate(leaves)]))

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        decay = (beta * count + 1) / (count + 2)

        def step(g, v):
            g32 = g.astype(v.dtype)
            # initial: a tensor of size zero has no largest entry
            zeta = g32 / (1 + (g32 * jnp.max(jnp.abs(g32), initial=0)) ** 2)
            v = (decay * v + (1 - decay) * zeta).astype(v.dtype)
            return v.astype(g.dtype), v

        updates, velocity = map_leaves(step, 2, updates, state.velocity)
        return updates, GravityState(count, velocity)

    return optax.GradientTransformation(init, update)


def gravity(
    learning_rate: optax.ScalarOrSchedule = 0.1, alpha: Number = 0.01, beta: Number = 0.9, seed: Number | Key = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Gravity: :math:`\theta \leftarrow \theta - \eta\,V_t`, see :func:`scale_by_gravity`.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule, whose first value sets the spread of :math:`V_0`.
      alpha, beta: see :func:`scale_by_gravity`.
      seed: an integer or a typed key for :math:`V_0`.

    Returns:
      A transformation with :class:`GravityState`.

    Raises:
      ValueError, TypeError: as :func:`scale_by_gravity`.

    Source: Bahrami, Pouriyan Zadeh (2021), arXiv 2101.09192.

    >>> w = jnp.zeros(10_000)
    >>> tx = gravity(learning_rate=1e-3)
    >>> first, _ = tx.update(w, tx.init(w))  # no gradient: V_0 alone, times 1.9/3
    >>> print(round(float(first.std()), 3))
    0.006
    """
    key = seed if jnp.issubdtype(jnp.result_type(seed), jax.dtypes.prng_key) else jax.random.key(seed)
    start = learning_rate(0) if callable(learning_rate) else learning_rate
    return optax.chain(
        scale_by_gravity(alpha, beta, learning_rate=start, key=key), optax.scale_by_learning_rate(learning_rate)
    )
