"""The laws of schedules."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.testing._violations import Violation, chosen, demand, describe, run_checks

SCHEDULE_LAWS: Mapping[str, str] = {
    "scalar": "one floating number for a step",
    "finite": "finite at every step",
    "integers": "a Python int and an int32 array give the same",
    "jit": "a traced step gives the same",
    "vmap": "vmap over steps gives what the loop gives",
    "scan": "it runs inside lax.scan with the same values",
    "no_retrace": "one trace serves every step",
}
"""The laws that :func:`check_schedule` checks, and what each says."""


def find_schedule_violations(
    schedule: Callable[[Any], Any],
    *,
    steps: Sequence[int] = (0, 1, 2, 3, 10, 99, 100, 101, 1000, 2**31 - 1),
    rtol: float = 1e-5,
    laws: Iterable[str] | None = None,
    except_: Iterable[str] = (),
) -> list[Violation]:
    """The laws that a schedule breaks; arguments as in :func:`check_schedule`.

    >>> [v.law for v in find_schedule_violations(lambda step: 1.0 if step < 10 else 0.1)]
    ['jit', 'vmap', 'scan', 'no_retrace']
    """
    traces = []

    def traced(step):
        traces.append(step)
        return schedule(step)

    arrays = jnp.asarray(steps, jnp.int32)
    expected = functools.cache(lambda: np.stack([np.asarray(schedule(s), np.float64) for s in arrays]))

    def compare(law, got, right):
        for s, a, b in zip(steps, expected(), np.asarray(got, np.float64), strict=True):
            if not np.isclose(b, a, rtol=rtol, atol=1e-12, equal_nan=True):
                return [Violation(law, "", f"step {s}: eager {a:.9g}, {right} {b:.9g}")]
        return []

    def scalar():
        for s in steps:
            value = schedule(jnp.int32(s))
            floating = jnp.issubdtype(jnp.result_type(value), jnp.floating)
            if np.shape(value) != () or not floating:
                return [Violation("scalar", "", f"step {s} gives {describe(value)}")]
        return []

    def finite():
        bad = [s for s, v in zip(steps, expected(), strict=True) if not np.isfinite(v)]
        return [Violation("finite", "", f"step {bad[0]} gives {schedule(jnp.int32(bad[0]))}")] if bad else []

    def no_retrace():
        traces.clear()
        jitted = jax.jit(traced)
        for s in arrays[:4]:
            jitted(s)
        return [] if len(traces) == 1 else [Violation("no_retrace", "", f"4 steps were traced {len(traces)} times")]

    jitted = jax.jit(schedule)
    checks = {
        "scalar": scalar,
        "finite": finite,
        "integers": lambda: compare("integers", [schedule(int(s)) for s in steps], "with a Python int"),
        "jit": lambda: compare("jit", [jitted(s) for s in arrays], "jit"),
        "vmap": lambda: compare("vmap", jax.vmap(schedule)(arrays), "vmap"),
        "scan": lambda: compare("scan", jax.lax.scan(lambda c, s: (c, schedule(s)), 0, arrays)[1], "lax.scan"),
        "no_retrace": no_retrace,
    }
    return run_checks(checks, chosen(SCHEDULE_LAWS, laws, except_))


def check_schedule(schedule: Callable[[Any], Any], **options: Any) -> None:
    """Raises :class:`ContractError` unless a schedule keeps all of :data:`SCHEDULE_LAWS`.

    Args:
      schedule: ``step -> number``.
      **options: ``steps``, ``rtol``, ``laws``, ``except_``.

    >>> import optax
    >>> check_schedule(optax.cosine_decay_schedule(0.1, 100))
    """
    demand("the schedule", find_schedule_violations(schedule, **options))
