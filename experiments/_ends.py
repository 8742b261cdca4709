"""What tuning chose and whether the grid ended there. It goes into the result, next to the values; nothing is judged by it."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_open: list[list[dict[str, Any]]] = []


@contextlib.contextmanager
def recorded() -> Iterator[list[dict[str, Any]]]:
    """The choices that are noted inside."""
    choices: list[dict[str, Any]] = []
    _open.append(choices)
    try:
        yield choices
    finally:
        _open.remove(choices)


def note(chosen: Any, grid: Sequence[Any]) -> None:
    """Records a choice from a grid of numbers, or of tuples of numbers of one length.

    A number is at an end if none of the grid is smaller, or none is larger. Zero is no end, as nothing lies beyond it,
    and neither is one of fewer than three values, which are a choice and no range.
    """
    if not _open:
        return
    chosen = np.asarray(chosen, np.float64).reshape(-1)
    grid = np.asarray(grid, np.float32).astype(np.float64).reshape(-1, len(chosen))
    low, high = grid.min(axis=0), grid.max(axis=0)
    ranges = np.array([len(set(column)) > 2 for column in grid.T])
    # the grids are in float32
    at_end = ranges & (chosen != 0) & (np.isclose(chosen, low, atol=0) | np.isclose(chosen, high, atol=0))
    # the digits that float32 has
    chosen, low, high = ([float(f"{x:.6g}") for x in part] for part in (chosen, low, high))
    _open[-1].append({"chosen": chosen, "low": low, "high": high, "at_end": at_end.tolist()})


def lowest(scores: Any, grid: Sequence[Any]) -> int:
    """The place of the lowest score, noted as a choice from the grid. What is not finite, a diverged run, is the worst."""
    place = int(np.argmin(np.where(np.isfinite(scores), scores, np.inf)))
    note(grid[place], grid)
    return place


def warnings(arm: str, choices: Sequence[dict[str, Any]]) -> list[str]:
    """A line for every choice at an end."""
    return [
        f"{arm}: the grid from {low:g} to {high:g} ends at what was chosen, {value:g}"
        for choice in choices
        for value, low, high, at_end in zip(*choice.values(), strict=True)
        if at_end
    ]
