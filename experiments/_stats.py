"""The statistics of a claim: paired differences, t intervals, Holm's correction, and the rule of the verdict."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

VERDICTS = ("confirmed", "contradicted", "inconclusive")
LEVEL = 0.05


class Difference(NamedTuple):
    """Mean of paired differences (in the direction that is better), its standard error, and how many there are."""

    mean: float
    error: float
    count: int

    def interval(self, alpha: float) -> tuple[float, float]:
        """The two-sided t interval at level ``1 - alpha``; a point where all differences are the same."""
        if self.error == 0.0:
            return self.mean, self.mean
        half = float(stats.t.ppf(1 - alpha / 2, self.count - 1)) * self.error
        return self.mean - half, self.mean + half

    def p_value(self, margin: float) -> float:
        """Two-sided p value against a mean of ``margin``."""
        if self.error == 0.0:
            return 1.0 if self.mean == margin else 0.0
        return float(2 * stats.t.sf(abs(self.mean - margin) / self.error, self.count - 1))


def paired(arm: np.ndarray, baseline: np.ndarray | None, *, better: str, scale: str) -> Difference | None:
    """The paired difference, positive where the arm is better; None where values are missing or not finite.

    ``scale="log_ratio"`` compares logarithms: 0.69 is twice as good. Without a baseline it is the arm itself.
    """
    values = np.asarray(arm, np.float64)
    other = np.zeros_like(values) if baseline is None else np.asarray(baseline, np.float64)
    if scale == "log_ratio":
        with np.errstate(divide="ignore", invalid="ignore"):
            values, other = np.log(values), (np.zeros_like(values) if baseline is None else np.log(other))
    difference = (values - other) * (1.0 if better == "higher" else -1.0)
    if len(difference) < 2 or not np.isfinite(difference).all():
        return None
    error = float(difference.std(ddof=1) / math.sqrt(len(difference)))
    # differences that agree to rounding are the same: their spread says nothing
    if error <= 1e-14 * max(abs(float(difference.mean())), 1e-300):
        error = 0.0
    return Difference(float(difference.mean()), error, len(difference))


def holm_levels(p_values: Sequence[float], level: float = LEVEL) -> list[float]:
    """The level at which each comparison is tested: ``level / (m - rank)`` in the order of the p values (Holm 1979).

    A comparison after the first that is not significant keeps the level of that one.

    >>> holm_levels([0.01, 0.04, 0.03])
    [0.016666666666666666, 0.025, 0.025]
    """
    m = len(p_values)
    levels = [level] * m
    failed: float | None = None
    for rank, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        levels[i] = failed if failed is not None else level / (m - rank)
        if failed is None and p_values[i] > levels[i]:
            failed = levels[i]
    return levels


def verdict_of_interval(low: float, high: float, margin: float) -> str:
    """``confirmed`` above the margin, ``contradicted`` below it, else ``inconclusive``."""
    if low > margin:
        return "confirmed"
    return "contradicted" if high < margin else "inconclusive"


def combine(verdicts: Sequence[str]) -> str:
    """Of a claim: contradicted if any comparison is, confirmed if all are, else inconclusive."""
    if "contradicted" in verdicts:
        return "contradicted"
    return "confirmed" if verdicts and all(v == "confirmed" for v in verdicts) else "inconclusive"
