"""Linear decay, and its refinement by the gradient norms of an earlier run."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, OptState, Scalar, check_finite_number
from jaxtrain.core.numerics import as_floating, static_int

_ALGORITHMS = ("sgd", "adam")
_NORMS = ("l2", "l1")


def _float(x: Any) -> Array:
    return jnp.asarray(x, jnp.promote_types(jnp.float32, jnp.result_type(float)))


def linear_decay_schedule(peak: Number, total_steps: Number, *, warmup_steps: Number = 0) -> optax.Schedule:
    r"""Linear warm-up from 0 to a peak, then linear decay to 0, the worst-case optimal schedule.

    At count :math:`k` (0 at the first step), with :math:`N` steps of which :math:`w` are warm-up,

    .. math:: \eta_k = \text{peak}\cdot\frac kw \;\; (k < w), \qquad
       \eta_k = \text{peak}\cdot\frac{N - k}{N - w} \;\; (w \le k \le N), \qquad 0 \text{ afterwards}.

    For a convex loss with gradients of norm at most :math:`G`, started at distance :math:`D` from the optimum, the last
    of :math:`T` iterates of subgradient descent with :math:`\eta_t = \frac{D}{G\sqrt T}(1 - t/T)` is at most
    :math:`DG/\sqrt T` worse than the optimum. Without warm-up this is that schedule for the :math:`N = T - 1` steps
    that lead to it, with peak :math:`\frac{D}{G\sqrt T}\frac{T-1}{T}`.

    Args:
      peak: the largest rate.
      total_steps: :math:`N`, ≥ 1.
      warmup_steps: :math:`w`, ≥ 0 and below ``total_steps``.

    Returns:
      A schedule, count -> rate.

    Raises:
      ValueError: a number out of range.

    Source: Defazio, Cutkosky, Mehta, Mishchenko (2023), arXiv 2310.07831.

    >>> schedule = linear_decay_schedule(1.0, 6, warmup_steps=2)
    >>> [float(schedule(k)) for k in range(8)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    check_finite_number("peak", peak)
    check_finite_number("total_steps", total_steps, low=1)
    check_finite_number("warmup_steps", warmup_steps, low=0)
    traced = isinstance(total_steps, jax.core.Tracer) or isinstance(warmup_steps, jax.core.Tracer)
    if not traced and np.any(np.asarray(warmup_steps) >= np.asarray(total_steps)):
        raise ValueError(f"warmup_steps must be less than total_steps, got {warmup_steps} of {total_steps}")

    def schedule(count: Number) -> Float[Array, "..."]:
        k = jnp.asarray(count)
        # differences first: counts are exact as integers and may be large
        up = _float(k) / jnp.maximum(_float(warmup_steps), 1)
        down = _float(total_steps - k) / _float(total_steps - warmup_steps)
        return peak * jnp.where(k < warmup_steps, up, jnp.maximum(down, 0))

    return schedule


def _median_filter(x: Float[Array, " T"], width: int) -> Float[Array, " T"]:
    """Medians of windows of odd width: the left edge repeated, the right edge reflected."""
    if width == 1:
        return x
    steps = x.shape[0]
    padded = jnp.pad(jnp.pad(x, (0, width // 2), mode="reflect"), (width // 2, 0), mode="edge")

    def median(start: Int[Array, ""]) -> Float[Array, ""]:
        return jnp.sort(jax.lax.dynamic_slice(padded, (start,), (width,)))[width // 2]

    # some hundred windows at once: all of them would take width times the memory
    return jax.lax.map(median, jnp.arange(steps), batch_size=256)


def refine_schedule(
    grad_norms: Float[Array | np.ndarray, " T"], *, algo: str = "sgd", smoothing: float = 0.1
) -> Float[Array, " T"]:
    r"""The schedule that the gradient norms of an earlier run ask for, with largest value 1.

    With norms :math:`G_t`, smoothed by a median filter over ``smoothing`` of the run, and weights
    :math:`w_t = G_t^{-2}` (SGD, :math:`\ell_2` norms) or :math:`w_t = G_t^{-1}` (Adam and its like, :math:`\ell_1`
    norms),

    .. math:: \eta_t \propto w_t \sum_{p = t+1}^T w_p .

    Constant norms give linear decay; norms that fall at first give a warm-up; norms that rise in the end give a faster
    annealing. The last of the T values is 0: the theorem is about the iterate before it.

    Args:
      grad_norms: norms of the gradients of all parameters together, one for each step; positive and finite. Record
        them with :func:`record_grad_norm`.
      algo: ``sgd`` or ``adam``.
      smoothing: width of the filter as a fraction of the run, in [0, 1]; a Python number. The work grows with its
        product with T²: of a history longer than some 10,000 steps pass every n-th norm and stretch the result with
        :func:`schedule_from_array`.

    Returns:
      Relative rates for :func:`schedule_from_array`.

    Raises:
      ValueError: fewer than 2 norms, a norm that is not positive and finite, or an unknown ``algo``.
      TypeError: ``smoothing`` is traced.

    Source: Defazio, Cutkosky, Mehta, Mishchenko (2023), arXiv 2310.07831.

    >>> refine_schedule(jnp.full(5, 3.0)).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    >>> [round(x, 2) for x in refine_schedule(jnp.array([4.0, 2.0, 1.0, 1.0, 1.0]), smoothing=0.0).tolist()]
    [0.1, 0.38, 1.0, 0.5, 0.0]
    """
    if algo not in _ALGORITHMS:
        raise ValueError(f"algo must be 'sgd' or 'adam', got {algo!r}")
    if isinstance(smoothing, jax.core.Tracer):
        raise TypeError("smoothing decides the width of a filter and must be a Python number, got a traced one")
    check_finite_number("smoothing", smoothing, low=0.0, high=1.0)
    norms = jnp.asarray(grad_norms)
    if norms.ndim != 1 or len(norms) < 2:
        raise ValueError(f"a schedule needs the gradient norms of at least 2 steps, got shape {norms.shape}")
    steps = len(norms)
    if not isinstance(norms, jax.core.Tracer):
        wrong = np.flatnonzero(~((np.asarray(norms) > 0) & np.isfinite(np.asarray(norms))))
        if wrong.size:
            raise ValueError(
                f"gradient norms must be positive and finite, got {float(norms[wrong[0]])} at step {wrong[0]}; cut a "
                "history at its count, and drop the steps of a diverged or finished run"
            )
    norms = _median_filter(norms, 2 * (int(smoothing * steps) // 2) + 1)
    # relative to the smallest norm: the powers of small norms would overflow
    weights = (jnp.min(norms) / norms) ** (2 if algo == "sgd" else 1)
    following = jnp.concatenate([jnp.cumsum(weights[:0:-1])[::-1], jnp.zeros(1, weights.dtype)])
    rates = weights * following
    return rates / jnp.max(rates)


def schedule_from_array(
    values: Float[Array | np.ndarray, " T"] | Int[Array | np.ndarray, " T"],
    *,
    peak: Number = 1.0,
    total_steps: Number | None = None,
) -> optax.Schedule:
    """A schedule that reads ``peak`` times an array, holding its last value; stretched to ``total_steps`` if given.

    Args:
      values: relative rates, one for each step, such as :func:`refine_schedule` gives.
      peak: what they are multiplied by.
      total_steps: steps over which the array is spread, with linear interpolation; None: its own length.

    Returns:
      A schedule, count -> rate.

    Raises:
      ValueError: an empty array, more than one axis, or a number out of range.

    >>> schedule = schedule_from_array(jnp.array([0.5, 1.0, 0.0]), peak=2.0)
    >>> [float(schedule(k)) for k in range(4)]
    [1.0, 2.0, 0.0, 0.0]
    >>> stretched = schedule_from_array(jnp.array([0.5, 1.0, 0.0]), total_steps=5)
    >>> [float(stretched(k)) for k in range(5)]
    [0.5, 0.75, 1.0, 0.5, 0.0]
    """
    values = jnp.asarray(values)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"schedule_from_array needs an array of rates (T,), got shape {values.shape}")
    # whole numbers too stand for rates
    values = as_floating(values)
    last = len(values) - 1
    check_finite_number("peak", peak)
    if total_steps is not None:
        check_finite_number("total_steps", total_steps, low=2)

    def schedule(count: Number) -> Float[Array, "..."]:
        if total_steps is None:
            return peak * values[jnp.minimum(count, last)]
        place = _float(jnp.minimum(count, total_steps - 1)) * (last / _float(total_steps - 1))
        low = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, last)
        part = (place - low).astype(values.dtype)
        return peak * (values[low] * (1 - part) + values[jnp.minimum(low + 1, last)] * part)

    return schedule


class GradNormState(NamedTuple):
    """State of :func:`record_grad_norm`: recorded steps, and their norms followed by zeros."""

    count: Int[Array, ""]
    history: Float[Array, " steps"]


def record_grad_norm(num_steps: int, norm: str = "l2") -> optax.GradientTransformation:
    r"""Writes down the norm of what passes, of all parameters together, and passes it on.

    It comes first in a chain, where gradients pass: ``l2`` for :func:`refine_schedule`'s ``sgd``, ``l1``
    (:math:`\sum|g|`) for its ``adam``. :func:`grad_norm_history` reads it. Steps after the last are not recorded.

    Args:
      num_steps: places of the history, ≥ 1; it decides a shape: a Python integer.
      norm: ``l2`` or ``l1``.

    Returns:
      A transformation with :class:`GradNormState`.

    Raises:
      ValueError: an unknown norm, or no places.
      TypeError: ``num_steps`` is not a Python integer.

    >>> tx = record_grad_norm(3)
    >>> _, state = tx.update({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, tx.init({}))
    >>> grad_norm_history(state).tolist()
    [5.0, 0.0, 0.0]
    """
    if norm not in _NORMS:
        raise ValueError(f"norm must be 'l2' or 'l1', got {norm!r}")
    places = static_int("num_steps", num_steps, low=1)

    def init(params):
        del params
        return GradNormState(jnp.zeros((), jnp.int32), jnp.zeros(places, jnp.float32))

    def update(updates, state, params=None):
        del params
        wide = [g.astype(jnp.promote_types(g.dtype, jnp.float32)) for g in jax.tree.leaves(updates)]
        zero = jnp.zeros((), jnp.float32)
        total = sum((jnp.sum(g * g if norm == "l2" else jnp.abs(g)) for g in wide), start=zero)
        value = jnp.sqrt(total) if norm == "l2" else total
        history = state.history.at[state.count].set(value.astype(jnp.float32), mode="drop")
        return updates, GradNormState(optax.safe_increment(state.count), history)

    return optax.GradientTransformation(init, update)


def grad_norm_history(opt_state: OptState) -> Float[Array, " steps"]:
    """The history that :func:`record_grad_norm` keeps somewhere in a chain.

    Raises:
      ValueError: the chain keeps none, or several.

    >>> state = optax.chain(record_grad_norm(4), optax.adam(0.1)).init(jnp.ones(2))
    >>> grad_norm_history(state).shape
    (4,)
    """
    found = [
        leaf
        for leaf in jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, GradNormState))
        if isinstance(leaf, GradNormState)
    ]
    if len(found) != 1:
        raise ValueError(f"the optimizer state holds {len(found)} histories of gradient norms, expected 1")
    return found[0].history


def last_iterate_bound(
    etas: Float[Array | np.ndarray, " T"], grad_norms: Float[Array | np.ndarray, " T"], dist: Number
) -> Scalar:
    r"""An upper bound of :math:`f(x_T) - f^*` for subgradient descent on a convex function.

    With :math:`S_k = \sum_{t \ge k} \eta_t`,

    .. math:: \frac{D^2}{2 S_1} + \frac{1}{2 S_1} \sum_{t=1}^T \eta_t^2 G_t^2
       + \frac12 \sum_{k=1}^{T-1} \frac{\eta_k}{S_{k+1}\,S_k} \sum_{t=k}^T \eta_t^2 G_t^2 .

    It is what the numerical refinement of the source minimises, and is looser than its theorem where the theorem
    applies: for linear decay it tends to :math:`2DG/\sqrt T`, the theorem gives :math:`DG/\sqrt T`.

    Args:
      etas: positive rates; the last one stands in the bound only, since :math:`x_T` precedes its step.
      grad_norms: :math:`\ell_2` norms of the subgradients.
      dist: :math:`D`, the distance of the start from a minimiser.

    Returns:
      The bound.

    Raises:
      ValueError: a rate that is not positive, shapes that differ.

    Source: Defazio, Cutkosky, Mehta, Mishchenko (2023), arXiv 2310.07831.

    >>> float(last_iterate_bound(jnp.array([0.5]), jnp.array([2.0]), 1.0))  # D²/2η + ηG²/2
    2.0
    """
    if not isinstance(etas, jax.core.Tracer) and not bool(np.all(np.asarray(etas) > 0)):
        raise ValueError("the bound needs positive rates: leave out the zero at the end of a refined schedule")
    etas, grad_norms = jnp.asarray(etas), jnp.asarray(grad_norms)
    if etas.ndim != 1 or etas.shape != grad_norms.shape:
        raise ValueError(f"the bound needs a norm for each rate, got shapes {etas.shape} and {grad_norms.shape}")
    tail = jnp.cumsum(etas[::-1])[::-1]
    weighted = jnp.cumsum((etas**2 * grad_norms**2)[::-1])[::-1]
    later = jnp.sum(etas[:-1] * weighted[:-1] / (tail[1:] * tail[:-1]))
    return 0.5 * (dist**2 / tail[0] + weighted[0] / tail[0] + later)
