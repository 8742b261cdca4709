"""The learning rates that stochastic weight averaging was proposed with."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number


def cyclical_lr(alpha_1: Number, alpha_2: Number, cycle_length: Number) -> optax.Schedule:
    r"""A rate that falls linearly within each cycle and jumps back.

    At count :math:`k` (0 at the first step), with :math:`t = \frac{(k \bmod c) + 1}{c}`:
    :math:`\alpha = (1 - t)\,\alpha_1 + t\,\alpha_2`. The last step of each cycle has the lowest rate; the model
    after it is the one to average: ``swa(start_step=c, period=c)``.

    Args:
      alpha_1: where a cycle comes from (the rate before its first step), ≥ 0.
      alpha_2: the rate of its last step, in [0, alpha_1].
      cycle_length: :math:`c` in steps, ≥ 1.

    Returns:
      A schedule, count -> rate.

    Raises:
      ValueError: a number out of range.

    Source: Izmailov et al. (2018), arXiv 1803.05407, section 3.1.

    >>> schedule = cyclical_lr(1.0, 0.0, 4)
    >>> [float(schedule(k)) for k in range(6)]
    [0.75, 0.5, 0.25, 0.0, 0.75, 0.5]
    """
    check_finite_number("alpha_1", alpha_1, low=0.0)
    high = float("inf") if isinstance(alpha_1, jax.core.Tracer) else alpha_1
    check_finite_number("alpha_2", alpha_2, low=0.0, high=high)
    check_finite_number("cycle_length", cycle_length, low=1)

    def schedule(count: Number) -> Float[Array, "..."]:
        t = (jnp.asarray(count) % cycle_length + 1) / cycle_length
        return (1 - t) * alpha_1 + t * alpha_2

    return schedule


def swa_constant_schedule(*, lr_init: Number, lr_swa: Number, swa_start: Number) -> optax.Schedule:
    r"""High rate, linear descent, then the constant rate at which models are averaged.

    ``lr_init`` for the first half of the ``swa_start`` steps before averaging, linear descent until nine tenths of
    them, ``lr_swa`` from there on, however long the run goes on.

    Args:
      lr_init: the rate of the beginning, ≥ 0.
      lr_swa: the rate while averaging, ≥ 0; for SGD some 0.01 to 0.05, high enough to move around.
      swa_start: the step at which averaging starts, ≥ 1; as a rule three quarters of the run.

    Returns:
      A schedule, count -> rate.

    Raises:
      ValueError: a number out of range.

    Source: Izmailov et al. (2018), arXiv 1803.05407, and its released code.

    >>> schedule = swa_constant_schedule(lr_init=0.1, lr_swa=0.02, swa_start=10)
    >>> [round(float(schedule(k)), 3) for k in (0, 5, 7, 9, 30)]
    [0.1, 0.1, 0.06, 0.02, 0.02]
    """
    check_finite_number("lr_init", lr_init, low=0.0)
    check_finite_number("lr_swa", lr_swa, low=0.0)
    check_finite_number("swa_start", swa_start, low=1)

    def schedule(count: Number) -> Float[Array, "..."]:
        passed = jnp.clip((jnp.asarray(count) / swa_start - 0.5) / 0.4, 0.0, 1.0)
        return lr_init + (lr_swa - lr_init) * passed

    return schedule
