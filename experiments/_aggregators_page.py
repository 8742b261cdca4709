"""The page and the figure of the comparison of aggregators, from its result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _stats

QUESTIONS = (
    ("mixing, trimmed mean", "trimmed mean", "different", None, "Mixing before the trimmed mean, at its worst attack"),
    ("mixing, Krum", "Krum", "different", None, "Mixing before Krum, at its worst attack"),
    ("mean", "Krum", "different", "none", "The mean above Krum when nobody attacks"),
    ("trimmed mean", "median", "different", None, "The trimmed mean above the median, at its worst attack"),
)


def _cells(result: Mapping[str, Any], rule: str) -> np.ndarray:
    """``(splits, attacks and the worst of them, seeds)``; worst: the attack with the lowest mean."""
    values = np.asarray(result["found"][rule]["test_accuracy"])
    worst = values.mean(axis=2).argmin(axis=1)
    return np.concatenate([values, values[np.arange(len(values)), worst][:, None]], axis=1)


def page(result: Mapping[str, Any]) -> str:
    """The documentation page of a result."""
    attacks = [*result["attacks"], "worst"]
    lines = [
        "# Aggregators against attacks",
        "",
        f"Made by `{result['command']}`. Do not edit.",
        "",
        result["says"],
        "",
    ]
    lines += ["| attack | what three of fifteen workers send |", "|---|---|"]
    lines += [f"| {name} | {says} |" for name, says in result["attacks"].items()]
    lines += ["", "![aggregators](../experiments/results/aggregators.png)"]
    for i, split in enumerate(result["splits"]):
        lines += ["", f"## Data {split}", "", "Test accuracy in per cent; in brackets the standard error.", ""]
        lines += ["| rule | " + " | ".join(attacks) + " |", "|---" * (len(attacks) + 1) + "|"]
        for rule in result["found"]:
            cells = 100 * _cells(result, rule)[i]
            errors = cells.std(axis=1, ddof=1) / np.sqrt(cells.shape[1])
            row = [f"{m:.1f} ({e:.1f})" for m, e in zip(cells.mean(axis=1), errors, strict=True)]
            lines.append(f"| {rule} | " + " | ".join(row) + " |")
    lines += [
        "",
        "## Paired differences over seeds",
        "",
        "In points, with 95 % t intervals, not corrected for their number.",
        "",
    ]
    lines += ["| question | difference |", "|---|---|"]
    for arm, baseline, split, attack, says in QUESTIONS:
        at = (result["splits"].index(split), attacks.index(attack) if attack else -1)
        d = _stats.paired(_cells(result, arm)[at], _cells(result, baseline)[at], better="higher", scale="difference")
        low, high = d.interval(0.05)
        lines.append(f"| {says}; data {split} | {100 * d.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] |")
    ends = {min(result["rates"]): 0, max(result["rates"]): 0}
    for values in result["found"].values():
        for rate in np.ravel(values["learning_rate"]):
            if rate in ends:
                ends[rate] += 1
    cells = len(result["found"]) * len(result["splits"]) * len(result["attacks"])
    lines += ["", f"Learning rates: {', '.join(f'{r:g}' for r in result['rates'])}. Of {cells} choices "]
    lines[-1] += " and ".join(f"{count} fell on {rate:g}" for rate, count in ends.items())
    lines[-1] += f". {result['seconds']:.0f} s."
    return "\n".join(lines) + "\n"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Accuracies as a heat map."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rules, attacks = list(result["found"]), [*result["attacks"], "worst"]
    figure, axes = plt.subplots(
        1, len(result["splits"]), figsize=(9.6, 0.3 * len(rules) + 1.4), layout="constrained", sharey=True
    )
    means = np.array([_cells(result, rule).mean(axis=2) for rule in rules])
    for i, (axis, split) in enumerate(zip(axes, result["splits"], strict=True)):
        image = axis.imshow(100 * means[:, i], vmin=10, vmax=100, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(means[:, i]):
            color = "black" if value > 0.6 else "white"
            axis.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=color)
        axis.set_xticks(range(len(attacks)), attacks, rotation=35, ha="right", fontsize=7)
        axis.set_yticks(range(len(rules)), rules, fontsize=7)
        axis.set_title(f"data {split}: test accuracy, %", fontsize=9, loc="left")
    figure.colorbar(image, ax=axes, shrink=0.8)
    figure.savefig(path, dpi=90)
    plt.close(figure)
