"""Side-by-side timing: one round runs every candidate once, so that a slow moment of the machine meets all of them.

Ratios are medians over rounds of the ratio inside a round, not ratios of medians: what drifts between rounds cancels.
"""

import dataclasses
import gc
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Timings:
    """Seconds of every candidate in every round.

    Attributes:
      seconds: name -> ``(rounds,)``, for one unit of work.
    """

    seconds: Mapping[str, np.ndarray]

    def median(self, name: str) -> float:
        """The median of the rounds, in seconds."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, baseline: str) -> float:
        """The median over rounds of the ratio in a round."""
        return float(np.median(self.seconds[name] / self.seconds[baseline]))

    def ratio_range(self, name: str, baseline: str) -> tuple[float, float]:
        """First and third quartile of the ratio in a round: how far to trust the median."""
        low, high = np.quantile(self.seconds[name] / self.seconds[baseline], [0.25, 0.75])
        return float(low), float(high)

    def rows(self, baseline: str, *, unit: float = 1e-3) -> list[tuple[str, ...]]:
        """Rows for :func:`print_table`: name, median in ``unit``, ratio to the baseline, quartiles of the ratio."""
        return [
            (
                name,
                f"{self.median(name) / unit:.3f}",
                f"{self.ratio(name, baseline):.3f}",
                "{:.3f} … {:.3f}".format(*self.ratio_range(name, baseline)),
            )
            for name in self.seconds
        ]


class Carried:
    """A jitted step as something to time: every call does ``steps`` steps from where the last call stopped.

    Donation stays possible, since each state is used once. Blocks until the device is done.

    Attributes:
      state: the current state.
      metrics: of the last step.
    """

    def __init__(self, step: Callable[..., tuple[Any, Any]], state: Any, *args: Any, steps: int = 1):
        self._step, self._args, self._steps = step, args, steps
        self.state, self.metrics = state, None

    def __call__(self) -> None:
        for _ in range(self._steps):
            self.state, self.metrics = self._step(self.state, *self._args)
        jax.block_until_ready((self.state, self.metrics))


def side_by_side(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 21,
    warmup: int = 2,
    per_call: int = 1,
    settle: bool = False,
) -> Timings:
    """Times the candidates in turns; the order moves on by one every round, so that nobody always goes first.

    Args:
      candidates: name -> a call that does the work; what it returns is waited for.
      rounds: how often each runs.
      warmup: rounds before, not counted (compilation, caches).
      per_call: units of work in a call; the seconds are divided by it.
      settle: every timed call comes after a pause and one that is not timed. PyTorch's threads spin on for some milliseconds after
        their work, on the cores that the next candidate wants: what takes 60 µs alone took 3,000 µs in its turn.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(warmup):
        for name in names:
            jax.block_until_ready(candidates[name]())
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection in the middle of one candidate is not its cost
    try:
        for i in range(rounds):
            turn = i % len(names)
            for name in names[turn:] + names[:turn]:
                if settle:
                    time.sleep(0.02)
                    jax.block_until_ready(candidates[name]())
                start = time.perf_counter()
                jax.block_until_ready(candidates[name]())
                seconds[name].append((time.perf_counter() - start) / per_call)
    finally:
        if collecting:
            gc.enable()
    return Timings({name: np.asarray(values) for name, values in seconds.items()})


def machine() -> str:
    """One line that says where the figures are from."""
    device = jax.devices()[0]
    return (
        f"{len(jax.devices())} × {device.device_kind} ({device.platform}), jax {jax.__version__}, "
        f"Python {platform.python_version()}"
    )


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints an aligned table: first column to the left, the others to the right."""
    cells = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))))
        if number == 0:
            print("  ".join("-" * w for w in widths))
