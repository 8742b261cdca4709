"""Means of the windows of a run, one window after the other."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.averaging._base import accumulator_like, params_after, toward
from jaxtrain.core import Number, Params, check_finite_number


class WindowState(NamedTuple):
    """State of :func:`window_average`: completed steps, captured models of the open window, its mean, and the mean of
    the last complete window; both in float32 at least, shaped like the parameters."""

    step: Int[Array, ""]
    count: Int[Array, ""]
    windows: Int[Array, ""]
    open: Params
    average: Params
    observes = True

    @property
    def started(self):
        return self.windows > 0

    def read(self):
        return (self.average,)


def window_average(window: Number, period: Number = 1) -> optax.GradientTransformationExtraArgs:
    r"""The mean of the last complete window of a run, for models along a constant rate.

    The run is cut into windows of ``window`` steps. After steps :math:`1, 1 + c, 1 + 2c, \dots` of each the parameters
    are captured; the average is their mean, and is read from the end of that window to the end of the next. The updates
    pass unchanged. :func:`averaged_params` reads it.

    At the end of a window this is ``lawa(window / c, c, start_step=1)``, which moves with every capture but keeps all
    captured models; here two copies of the parameters are kept, whatever the window.

    Args:
      window: steps of a window, ≥ 1; a multiple of ``period``.
      period: steps between captures :math:`c`, ≥ 1.

    Returns:
      A transformation with :class:`WindowState`. Its update raises ``ValueError`` without ``params``.

    Raises:
      ValueError: a number out of range, or a window that is no multiple of the period.

    Source: Hägele, Bakouch, Kosson, Ben Allal, Von Werra, Jaggi (2024), arXiv 2405.18392, section on weight averaging.

    >>> from jaxtrain.averaging import averaged_params
    >>> tx = optax.chain(optax.sgd(1.0), window_average(2))
    >>> params = jnp.array(10.0)
    >>> state = tx.init(params)
    >>> for _ in range(5):
    ...     updates, state = tx.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> float(params), float(averaged_params(state, params))  # mean of 7 and 6
    (5.0, 6.5)
    """
    check_finite_number("window", window, low=1)
    check_finite_number("period", period, low=1)
    if isinstance(window, int) and isinstance(period, int) and window % period:
        raise ValueError(f"window must be a multiple of period, got {window} and {period}")

    def init(params):
        numbers = (jnp.zeros((), jnp.int32) for _ in range(3))
        return WindowState(*numbers, accumulator_like(params), accumulator_like(params))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        new = params_after("window_average", params, updates)
        place = state.step % window  # of this step in its window
        due = place % period == 0
        step = optax.safe_increment(state.step)
        count = jnp.where(place == 0, 0, state.count) + due
        weight = jnp.where(due, 1 / jnp.asarray(jnp.maximum(count, 1), jnp.result_type(float)), 0)
        mean = toward(state.open, new, weight)
        done = step % window == 0
        # a weight of 1 lands on the mean, one of 0 leaves what was there
        average = toward(state.average, mean, done.astype(weight.dtype))
        return updates, WindowState(step, count.astype(jnp.int32), state.windows + done, mean, average)

    return optax.GradientTransformationExtraArgs(init, update)
