"""Stochastic weight averaging densely: where to start and to stop averaging, found from validation losses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxtrain.averaging._base import accumulator_like, averages_in, params_after, toward
from jaxtrain.core import Number, OptState, Params, check_finite_number


class SwadState(NamedTuple):
    """State of :func:`swad`; all models are shaped like the params and float32 at least.

    Attributes:
      iterates: of the open segment so far.
      segment: their mean.
      segments: in the average since its (possible) start.
      average: mean of the segments from the start on.
      losses: validation losses of the first ``n_converge`` segments from the start on.
      prefixes: the average as it was after each of these; once the start is fixed, the first holds the average up to
        the last segment whose loss was tolerable.
      above: segments in a row whose loss was above the threshold.
      converged: the start is fixed.
      stopped: the end too.
      threshold: above it a loss is not tolerated.
    """

    iterates: Int[Array, ""]
    segment: Params
    segments: Int[Array, ""]
    average: Params
    losses: Float[Array, " n_converge"]
    prefixes: tuple[Params, ...]
    above: Int[Array, ""]
    converged: Bool[Array, ""]
    stopped: Bool[Array, ""]
    threshold: Float[Array, ""]
    observes = True

    @property
    def started(self):
        return self.segments > 0

    def read(self):
        return (jax.tree.map(lambda end, now: jnp.where(self.stopped, end, now), self.prefixes[0], self.average),)


def swad(n_converge: int = 3) -> optax.GradientTransformationExtraArgs:
    r"""The mean of all iterates in a valley of the validation loss (SWAD).

    A run is cut into segments: :func:`swad_update` closes one with a validation loss :math:`l_i`, and says which are
    averaged. The updates pass unchanged. :func:`averaged_params` reads the average of the segments from the start
    :math:`t_s` to the end :math:`t_e`, or, while these are open, from the segment with the lowest loss so far on.

    Cost: a step reads the parameters and moves one model, the mean of the open segment. Memory: ``n_converge + 2``
    models; the released code stores ``n_converge + n_tolerance`` and more.

    Args:
      n_converge: segments :math:`N_s` of the window that finds the start, ≥ 1.

    Returns:
      A transformation with :class:`SwadState`. Its update raises ``ValueError`` without ``params``.

    Raises:
      ValueError: ``n_converge`` out of range.

    Source: Cha, Chun, Lee, Cho, Park, Lee, Park (2021), arXiv 2102.08604, algorithm 1. The released ``LossValley`` counts
    some segments several times and looks back before the start; here each counts once.

    >>> from jaxtrain.averaging import averaged_params
    >>> tx = optax.chain(optax.sgd(1.0), swad(n_converge=2))
    >>> params = jnp.array(10.0)
    >>> state = tx.init(params)
    >>> for loss in (5.0, 1.0, 1.1, 9.0):
    ...     updates, state = tx.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    ...     state = swad_update(state, loss, n_tolerance=1)
    >>> float(averaged_params(state, params))  # mean of 8 and 7
    7.5
    """
    if not isinstance(n_converge, int) or n_converge < 1:
        raise ValueError(f"n_converge is a number of segments, an int of at least 1, got {n_converge!r}")

    def init(params):
        zero = lambda dtype: jnp.zeros((), dtype)  # noqa: E731
        return SwadState(
            iterates=zero(jnp.int32),
            segment=accumulator_like(params),
            segments=zero(jnp.int32),
            average=accumulator_like(params),
            losses=jnp.zeros(n_converge, jnp.float32),
            prefixes=tuple(accumulator_like(params) for _ in range(n_converge)),
            above=zero(jnp.int32),
            converged=zero(bool),
            stopped=zero(bool),
            threshold=zero(jnp.float32),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        new = params_after("swad", params, updates)
        iterates = state.iterates + 1
        return updates, state._replace(iterates=iterates, segment=toward(state.segment, new, 1.0 / iterates))

    return optax.GradientTransformationExtraArgs(init, update)


def swad_update(
    opt_state: OptState, val_loss: Number, *, n_tolerance: Number = 6, tolerance_ratio: Number = 1.3
) -> OptState:
    r"""Closes a segment of :func:`swad` with the validation loss of the live model.

    The start :math:`t_s` is the first segment whose loss is the lowest of :math:`l_{t_s}, \dots, l_{t_s + N_s - 1}`; the
    threshold is :math:`r` times the mean of these. The end :math:`t_e` is the segment before the first :math:`N_e` losses
    in a row, all after :math:`t_s`, that lie above the threshold; the last segment, if there are none. The average is the
    mean of the segments :math:`t_s, \dots, t_e`, each once. What is after the end is ignored.

    Args:
      opt_state: the state of a chain with :func:`swad`.
      val_loss: validation loss of the parameters as they are now; NaN counts as infinite.
      n_tolerance: :math:`N_e` ≥ 1.
      tolerance_ratio: :math:`r` ≥ 1.

    Returns:
      The state with the segment closed; the structure and dtypes are kept. Works under ``jit`` and ``scan``.

    Raises:
      ValueError: no :func:`swad` in the chain, or a number out of range.

    Source: Cha et al. (2021), arXiv 2102.08604, algorithm 1.

    >>> tx = swad()
    >>> state = tx.init(jnp.array(1.0))
    >>> _, state = tx.update(jnp.array(1.0), state, jnp.array(1.0))
    >>> int(swad_update(state, 0.5).segments)
    1
    """
    check_finite_number("n_tolerance", n_tolerance, low=1)
    check_finite_number("tolerance_ratio", tolerance_ratio, low=1.0)
    if not any(isinstance(s, SwadState) for s in averages_in(opt_state)):
        names = ", ".join(type(s).__name__ for s in averages_in(opt_state)) or "no average"
        raise ValueError(f"swad_update needs a state with swad in its chain; it holds {names}")

    def close(s):
        return _close(s, val_loss, n_tolerance, tolerance_ratio) if isinstance(s, SwadState) else s

    return jax.tree.map(close, opt_state, is_leaf=lambda s: isinstance(s, SwadState))


def _close(state: SwadState, val_loss: Number, n_tolerance: Number, tolerance_ratio: Number) -> SwadState:
    window = len(state.losses)
    loss = jnp.nan_to_num(jnp.asarray(val_loss, state.losses.dtype), nan=jnp.inf, posinf=jnp.inf)
    # a lower loss makes every earlier start impossible: all losses since the possible start were at least its own
    restart = ~state.converged & ((state.segments == 0) | (loss < state.losses[0]))
    before = jnp.where(restart, 0, state.segments)
    segments = before + 1
    average = toward(state.average, state.segment, 1.0 / segments)
    place = jnp.minimum(before, window - 1)
    losses = jnp.where(~state.converged & (jnp.arange(window) == place), loss, state.losses)
    prefixes = tuple(
        jax.tree.map(lambda old, new, i=i: jnp.where(~state.converged & (place == i), new, old), prefix, average)
        for i, prefix in enumerate(state.prefixes)
    )
    fixed = ~state.converged & (segments == window)  # the start is fixed now
    threshold = jnp.where(fixed, tolerance_ratio * losses.mean(), state.threshold)
    # at that moment the window is judged by the threshold it gave: how many at its end are not tolerable. The end is
    # looked for later only, so that they count for one less than would be it
    high = losses > threshold
    trailing = jnp.where(high.all(), window, jnp.argmin(high[::-1]))
    trailing = jnp.minimum(trailing, n_tolerance - 1)
    high_now = loss > threshold
    above = jnp.where(fixed, trailing, jnp.where(state.converged & high_now, state.above + 1, 0))
    last = jnp.where(fixed, jnp.maximum(window - 1 - trailing, 0), -1)
    keep = jax.tree.map(
        lambda now, *parts: jnp.where(
            state.converged & ~high_now, now, sum(jnp.where(last == i, p, 0) for i, p in enumerate(parts))
        ),
        average,
        *prefixes,
    )
    replace = fixed | (state.converged & ~high_now)
    first = jax.tree.map(lambda old, new: jnp.where(replace, new, old), prefixes[0], keep)
    after = SwadState(
        iterates=jnp.zeros_like(state.iterates),
        segment=state.segment,
        segments=segments,
        average=average,
        losses=losses,
        prefixes=(first, *prefixes[1:]),
        above=above.astype(state.above.dtype),
        converged=state.converged | fixed,
        stopped=state.converged & (above >= n_tolerance),
        threshold=threshold.astype(state.threshold.dtype),
    )
    idle = state.stopped | (state.iterates == 0)
    reset = state._replace(iterates=jnp.zeros_like(state.iterates))
    return jax.tree.map(lambda old, new: jnp.where(idle, old, new), reset, after)
