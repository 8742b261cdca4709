"""Stochastic weight averaging."""

import jax
import jax.numpy as jnp
import optax

from jaxtrain.averaging._base import SwaState, accumulator_like, params_after
from jaxtrain.core import Number, check_finite_number


def swa(start_step: Number, period: Number) -> optax.GradientTransformationExtraArgs:
    r"""Averages the parameters at every ``period``-th step from ``start_step`` on (SWA).

    With :math:`k` completed steps, where :math:`k \ge s` and :math:`(k - s) \bmod c = 0`,

    .. math:: \bar\theta \leftarrow \frac{n\,\bar\theta + \theta_k}{n + 1}, \qquad n \leftarrow n + 1.

    The first captured model starts the average; the initial parameters are never captured. The updates pass
    unchanged, so training goes on from the live parameters. It comes last in a chain, and
    :func:`averaged_params` reads it. The running statistics of BatchNorm are not averaged: recompute them with
    :func:`recompute_batch_stats`.

    Args:
      start_step: first captured step :math:`s`, ≥ 0.
      period: steps between captures :math:`c`, ≥ 1: an epoch, or the length of a learning-rate cycle.

    Returns:
      A transformation with :class:`SwaState`. Its update raises ``ValueError`` without ``params``.

    Raises:
      ValueError: ``start_step`` or ``period`` out of range.

    Source: Izmailov, Podoprikhin, Garipov, Vetrov, Wilson (2018), arXiv 1803.05407.

    >>> from jaxtrain.averaging import averaged_params
    >>> tx = optax.chain(optax.sgd(1.0), swa(start_step=2, period=2))
    >>> params = jnp.array(10.0)
    >>> state = tx.init(params)
    >>> for _ in range(4):
    ...     updates, state = tx.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> float(params), float(averaged_params(state, params))  # mean of 8 and 6
    (6.0, 7.0)
    """
    check_finite_number("start_step", start_step, low=0)
    check_finite_number("period", period, low=1)

    def init(params):
        return SwaState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), accumulator_like(params))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        new = params_after("swa", params, updates)
        step = optax.safe_increment(state.step)
        due = (step >= start_step) & ((step - start_step) % period == 0)
        # the first model replaces what init put there
        weight = jnp.where(due, 1.0 / (state.count + 1.0), 0.0)

        def mean(average, p):
            p = p.astype(average.dtype)
            moved = average + weight.astype(average.dtype) * (p - average)
            return jnp.where(due & (state.count == 0), p, moved)

        average = jax.tree.map(mean, state.average, new)
        return updates, SwaState(step, state.count + due.astype(jnp.int32), average)

    return optax.GradientTransformationExtraArgs(init, update)
