"""Stochastic weight averaging."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.averaging._base import accumulator_like, params_after, toward
from jaxtrain.core import Number, Params, check_finite_number


class SwaState(NamedTuple):
    """State of :func:`swa`: completed steps, captured models, their mean (float32 at least, shaped like the params)."""

    step: Int[Array, ""]
    count: Int[Array, ""]
    average: Params
    observes = True

    @property
    def started(self):
        return self.count > 0

    def read(self):
        return (self.average,)


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
        # the first model has weight 1 and replaces what init put there; between captures no memory moves
        average = jax.lax.cond(
            due, lambda average: toward(average, new, 1.0 / (state.count + 1.0)), lambda average: average, state.average
        )
        return updates, SwaState(step, state.count + due.astype(jnp.int32), average)

    return optax.GradientTransformationExtraArgs(init, update)


def uniform_average(start_step: Number = 1) -> optax.GradientTransformationExtraArgs:
    r"""The mean of every iterate from ``start_step`` on: Polyak's average, or a tail of it (WAKD, SMA).

    .. math:: \bar\theta_k = \frac{1}{k - s + 1} \sum_{i=s}^{k} \theta_i

    It is :func:`swa` with a period of one step. WAKD (of the student of a distillation, see
    :func:`jaxtrain.losses.kd_loss`) starts after a short burn-in, a tenth of the run, and needs no validation data.

    Args:
      start_step: first averaged step :math:`s`, ≥ 0; the initial parameters are never averaged.

    Returns:
      A transformation with :class:`SwaState`. Its update raises ``ValueError`` without ``params``.

    Raises:
      ValueError: ``start_step`` out of range.

    Source: Polyak, Juditsky (1992); Arpit et al. (2021), arXiv 2110.10832; Vorobeev, Nedelko, Litvinenko (2023), arXiv
    2309.11446.

    >>> from jaxtrain.averaging import averaged_params
    >>> tx = optax.chain(optax.sgd(1.0), uniform_average(start_step=2))
    >>> params = jnp.array(10.0)
    >>> state = tx.init(params)
    >>> for _ in range(4):
    ...     updates, state = tx.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> float(averaged_params(state, params))  # mean of 8, 7 and 6
    7.0
    """
    return swa(start_step, 1)
