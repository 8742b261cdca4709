"""Means, intervals and paired differences over the members of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half-width of the 95 % t interval; the half-width of fewer than two values is NaN.

    >>> mean, half = interval(np.array([1.0, 2.0, 3.0]))
    >>> round(mean, 3), round(half, 3)  # 4.303 · 1 / √3
    (2.0, 2.484)
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    n = len(values)
    if n < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))


def summarise(evaluated: Mapping[tuple[str, str], np.ndarray], *, baseline: str) -> list[dict[str, Any]]:
    """One entry for every split, view and metric of the last evaluation.

    Each has the values of the members, their mean with the half-width of its 95 % interval, and, where the same metric
    of the baseline view is there, the paired difference to it with its own half-width.

    >>> live, ema = np.array([1.0, 3.0]), np.array([0.5, 2.5])
    >>> rows = summarise({("test", "live/loss"): live, ("test", "ema/loss"): ema}, baseline="live")
    >>> rows[1]["view"], rows[1]["difference"], rows[1]["difference_ci"]
    ('ema', -0.5, 0.0)
    """
    rows = []
    for (split, name), values in evaluated.items():
        view, _, metric = name.rpartition("/")
        mean, half = interval(values)
        row = {
            "split": split,
            "view": view,
            "metric": metric,
            "mean": mean,
            "ci": half,
            "values": [float(v) for v in values],
        }
        against = evaluated.get((split, f"{baseline}/{metric}"))
        if view and view != baseline and against is not None:
            row["difference"], row["difference_ci"] = interval(
                np.asarray(values, np.float64) - np.asarray(against, np.float64)
            )
        rows.append(row)
    return [{k: (None if isinstance(v, float) and np.isnan(v) else v) for k, v in row.items()} for row in rows]
