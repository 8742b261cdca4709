"""A constant rate with a cooldown at the end (warm-up, stable, decay), and what a branching run saves."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number

# the part of the way down, tau in [0, 1], to the part of the height that is left
_SHAPES = {
    "one_minus_sqrt": lambda tau: 1 - jnp.sqrt(tau),
    "linear": lambda tau: 1 - tau,
    "cosine": lambda tau: 0.5 * (1 + jnp.cos(jnp.pi * tau)),
    "mirror_cosine": lambda tau: 2 * (1 - tau) - 0.5 * (1 + jnp.cos(jnp.pi * tau)),
    "square": lambda tau: 1 - tau**2,
}


def cooldown_from_step(
    peak: Number,
    start_step: Number,
    cooldown_steps: Number,
    *,
    shape: str = "one_minus_sqrt",
    final_factor: Number = 0.0,
) -> optax.Schedule:
    r"""A constant rate up to a step, and a cooldown from there: a branch off a run that goes on without it.

    At count :math:`k` (0 at the first step), with :math:`\tau = (k - s)/c` clipped to [0, 1],

    .. math:: \eta_k = \text{peak}\,\big(q + (1 - q)\,f(\tau)\big), \qquad f(\tau) = \begin{cases}
       1 - \sqrt\tau & \texttt{one\_minus\_sqrt}, \\ 1 - \tau & \texttt{linear}, \\
       \tfrac12 (1 + \cos \pi\tau) & \texttt{cosine}, \\
       2(1 - \tau) - \tfrac12 (1 + \cos \pi\tau) & \texttt{mirror\_cosine}, \\ 1 - \tau^2 & \texttt{square}, \end{cases}

    and :math:`\eta_k = \text{peak}\cdot q^\tau` for ``exp``. Training that is resumed from the checkpoint of step
    :math:`s` with this schedule ends as a run that had planned its cooldown from the start.

    Args:
      peak: the constant rate.
      start_step: :math:`s` ≥ 0, the first count of the cooldown, where the rate is still the peak.
      cooldown_steps: :math:`c` ≥ 1, steps from there to the final rate.
      shape: the name of :math:`f`.
      final_factor: :math:`q` in [0, 1], the final rate over the peak; above 0 for ``exp``.

    Returns:
      A schedule, count -> rate.

    Raises:
      ValueError: a number out of range or an unknown shape.

    Source: Hägele, Bakouch, Kosson, Ben Allal, Von Werra, Jaggi (2024), arXiv 2405.18392.

    >>> schedule = cooldown_from_step(2.0, 10, 4, shape="linear")
    >>> [float(schedule(k)) for k in (0, 10, 11, 13, 14, 15)]
    [2.0, 2.0, 1.5, 0.5, 0.0, 0.0]
    """
    check_finite_number("peak", peak)
    check_finite_number("start_step", start_step, low=0)
    check_finite_number("cooldown_steps", cooldown_steps, low=1)
    check_finite_number("final_factor", final_factor, low=0.0, high=1.0)
    if shape != "exp" and shape not in _SHAPES:
        raise ValueError(f"shape must be one of {', '.join([*_SHAPES, 'exp'])}, got {shape!r}")
    traced = isinstance(final_factor, jax.core.Tracer)
    if shape == "exp" and not traced and np.any(np.asarray(final_factor) == 0):
        raise ValueError("an exponential cooldown never ends at 0: give final_factor, for example 0.01")

    def schedule(count: Number) -> Float[Array, "..."]:
        dtype = jnp.result_type(float)
        # the difference first: counts are exact as integers and may be large
        tau = jnp.clip(jnp.asarray(jnp.asarray(count) - start_step, dtype) / cooldown_steps, 0, 1)
        if shape == "exp":
            return peak * jnp.asarray(final_factor, dtype) ** tau
        return peak * (final_factor + (1 - final_factor) * _SHAPES[shape](tau))

    return schedule


def wsd_schedule(
    peak: Number,
    total_steps: Number,
    *,
    warmup_steps: Number = 0,
    cooldown_fraction: Number = 0.2,
    shape: str = "one_minus_sqrt",
    final_factor: Number = 0.0,
    init_factor: Number = 0.0,
) -> optax.Schedule:
    r"""Linear warm-up, a constant rate, and a cooldown over the last part of the run.

    With :math:`N` steps, of which :math:`w` are warm-up and :math:`c = \operatorname{round}(\text{fraction}\cdot N)`
    cooldown: from ``init_factor`` times the peak to the peak over the counts :math:`0, \dots, w`, constant up to
    :math:`N - c`, then :func:`cooldown_from_step`; at :math:`N` and later the final rate.

    A cooldown of 10 to 20 % matches a cosine of the same length; as the constant part does not know the length, one run
    with several short cooldowns gives the models of several lengths (:func:`branching_steps`). The peak is best at
    about half of a cosine's.

    Args:
      peak: the largest rate.
      total_steps: :math:`N` ≥ 1.
      warmup_steps: :math:`w` ≥ 0; with the cooldown not more than ``total_steps``.
      cooldown_fraction: in [0, 1].
      shape, final_factor: of the cooldown, see :func:`cooldown_from_step`.
      init_factor: the first rate of the warm-up over the peak, ≥ 0.

    Returns:
      A schedule, count -> rate.

    Raises:
      ValueError: a number out of range, an unknown shape, or warm-up and cooldown that overlap.

    Source: Hägele, Bakouch, Kosson, Ben Allal, Von Werra, Jaggi (2024), arXiv 2405.18392; the name: Hu et al. (2024),
    arXiv 2404.06395.

    >>> schedule = wsd_schedule(1.0, 10, warmup_steps=2, cooldown_fraction=0.4)
    >>> [round(float(schedule(k)), 3) for k in (0, 1, 2, 6, 7, 9, 10)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.134, 0.0]
    """
    check_finite_number("total_steps", total_steps, low=1)
    check_finite_number("warmup_steps", warmup_steps, low=0)
    check_finite_number("cooldown_fraction", cooldown_fraction, low=0.0, high=1.0)
    check_finite_number("init_factor", init_factor, low=0.0)
    # without a cooldown the last step of the peak is one: the rate is final from N on all the same
    if any(isinstance(x, jax.core.Tracer) for x in (total_steps, warmup_steps, cooldown_fraction)):
        cooldown = jnp.maximum(jnp.round(cooldown_fraction * jnp.asarray(total_steps)), 1).astype(jnp.int32)
    else:
        cooldown = np.maximum(np.round(cooldown_fraction * np.asarray(total_steps)), 1).astype(int)
        if np.any(np.asarray(warmup_steps) + cooldown > np.asarray(total_steps)):
            raise ValueError(
                f"warm-up ({warmup_steps}) and cooldown ({cooldown}) are longer than the run ({total_steps}): "
                "shorten warmup_steps or cooldown_fraction"
            )

    def warm_up(count: Number) -> Float[Array, "..."]:
        # optax.linear_schedule decides in Python whether there is a warm-up: its length cannot be traced
        part = jnp.asarray(count, jnp.result_type(float)) / jnp.maximum(warmup_steps, 1)
        return peak * (init_factor + (1 - init_factor) * part)

    start = total_steps - cooldown - warmup_steps
    down = cooldown_from_step(peak, start, cooldown, shape=shape, final_factor=final_factor)
    return optax.join_schedules([warm_up, down], [warmup_steps])


def branching_steps(lengths: Sequence[Number], *, cooldown_fraction: Number = 0.2) -> dict[str, Float[Array, ""]]:
    r"""Steps that models of several lengths cost, each trained on its own, and branched off one constant run.

    .. math:: \text{apart} = \sum_i n_i, \qquad \text{branched} = \max_i\,(n_i - c_i) + \sum_i c_i, \qquad
       c_i = \operatorname{round}(\text{fraction} \cdot n_i).

    Args:
      lengths: :math:`n_i`, the lengths of the runs in steps, each ≥ 1.
      cooldown_fraction: in [0, 1].

    Returns:
      ``apart``, ``branched`` and ``saved``, the part of the steps that is saved.

    Raises:
      ValueError: no lengths, or a number out of range.

    Source: Hägele et al. (2024), arXiv 2405.18392.

    >>> {name: round(float(x), 3) for name, x in branching_steps([100, 200, 300], cooldown_fraction=0.1).items()}
    {'apart': 600.0, 'branched': 330.0, 'saved': 0.45}
    """
    if len(lengths) == 0:
        raise ValueError("branching_steps: give the lengths of the runs, got none")
    for length in lengths:
        check_finite_number("lengths", length, low=1)
    check_finite_number("cooldown_fraction", cooldown_fraction, low=0.0, high=1.0)
    n = jnp.asarray(lengths, jnp.result_type(float))
    cooldown = jnp.round(cooldown_fraction * n)
    apart, branched = jnp.sum(n), jnp.max(n - cooldown) + jnp.sum(cooldown)
    return {"apart": apart, "branched": branched, "saved": 1 - branched / apart}
