"""Cosine annealing with warm restarts, each period a given factor longer than the one before."""

import jax.numpy as jnp
import optax

from jaxtrain.core import Number, check_finite_number


def cosine_restarts(period: Number, *, mult: Number = 2.0, peak: Number = 1.0) -> optax.Schedule:
    r"""Cosine annealing with warm restarts, without end.

    .. math:: \eta_t = \tfrac12\,\Big(1 + \cos\frac{\pi\,T_\text{cur}}{T_i}\Big), \qquad T_i = T_0\,m^i,

    with :math:`T_\text{cur}` the steps since the last restart. ``optax.sgdr_schedule`` joins a finite list of such
    periods; this one is a closed form and goes on. The AdamW of the paper with it is AdamWR.

    Args:
      period: :math:`T_0`, steps of the first period, ≥ 1.
      mult: m, ≥ 1.
      peak: the value at a restart.

    Returns:
      A schedule: step -> value.

    Raises:
      ValueError: a number out of range.

    Source: Loshchilov, Hutter (2017, 2019), arXiv 1608.03983 and 1711.05101.

    >>> eta = cosine_restarts(2, mult=2.0)
    >>> [round(float(eta(t)), 3) for t in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """
    check_finite_number("period", period, low=1)
    check_finite_number("mult", mult, low=1.0)
    check_finite_number("peak", peak)

    def start(i):
        """Steps before period i: T₀ (mⁱ - 1)/(m - 1), and T₀ i for m = 1."""
        grows = mult > 1.0
        safe = jnp.where(grows, mult, 2.0)
        return period * jnp.where(grows, (safe**i - 1) / (safe - 1), i)

    def schedule(count):
        t = jnp.asarray(count, jnp.result_type(float))
        safe = jnp.where(mult > 1.0, mult, 2.0)
        i = jnp.floor(jnp.where(mult > 1.0, jnp.log1p(t * (safe - 1) / period) / jnp.log(safe), t / period))
        # logarithms round: at a restart the number of the period may be off by one
        i = jnp.where(start(i + 1) <= t, i + 1, jnp.where(start(i) > t, i - 1, i))
        length = start(i + 1) - start(i)
        return peak * 0.5 * (1 + jnp.cos(jnp.pi * (t - start(i)) / length))

    return schedule
