"""The page and the figure of the study of classification losses, from its result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _stats

BASELINE = "cross-entropy"
COLOURS = {
    "cross-entropy": "black",
    "mean absolute error": "C1",
    "generalized CE": "C0",
    "symmetric CE": "C9",
    "ALDR-KL": "C2",
    "ELR": "C3",
    "logit adjustment": "C4",
    "LDAM": "C5",
}
"""The losses that the figure names; the others are grey."""


def verdicts(result: Mapping[str, Any], problem: int) -> dict[str, tuple[float, str]]:
    """Loss -> mean difference to cross-entropy, and "+", "−" or "" for what Holm's correction leaves of it."""
    values = {name: np.asarray(found["accuracy"][problem]) for name, found in result["found"].items()}
    others = [name for name in values if name != BASELINE]
    differences = [
        _stats.paired(values[name], values[BASELINE], better="higher", scale="difference") for name in others
    ]
    p_values = [1.0 if d is None else d.p_value(0.0) for d in differences]
    levels = _stats.holm_levels(p_values)
    return {
        name: (d.mean, ("+" if d.mean > 0 else "−") if p < level else "")
        for name, d, p, level in zip(others, differences, p_values, levels, strict=True)
    }


def page(result: Mapping[str, Any]) -> str:
    """The documentation page of a result."""
    problems, found = result["problems"], result["found"]
    marks = [verdicts(result, i) for i in range(len(problems))]
    lines = [
        "# Classification losses under wrong labels and long tails",
        "",
        f"Made by `{result['command']}`. Do not edit.",
        "",
        result["says"],
        "",
        "![losses](../experiments/results/classification_losses.png)",
        "",
        "## Accuracy",
        "",
        "Mean over classes of the share of right answers on the test part, in per cent; in brackets the standard error. "
        "**+** and **−**: better or worse than cross-entropy at a level of 5 % after Holm's correction for the fourteen "
        "comparisons of a column (paired t tests over the seeds). Bold: the best of a column.",
        "",
        "| loss | " + " | ".join(problems) + " |",
        "|---" * (len(problems) + 1) + "|",
    ]
    table = {name: 100 * np.asarray(f["accuracy"]) for name, f in found.items()}
    best = [max(table, key=lambda name, i=i: table[name][i].mean()) for i in range(len(problems))]
    for name, values in table.items():
        errors = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
        cells = []
        for i, (mean, error) in enumerate(zip(values.mean(axis=1), errors, strict=True)):
            text = f"**{mean:.1f}**" if best[i] == name else f"{mean:.1f}"
            mark = marks[i][name][1] if name in marks[i] else ""
            cells.append(f"{text} ({error:.1f}){' ' + mark if mark else ''}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "## Which are better or worse than cross-entropy", ""]
    lines += ["| problem | significantly better, by points | significantly worse |", "|---|---|---|"]
    for problem, mark in zip(problems, marks, strict=True):
        ranked = sorted(mark.items(), key=lambda item: -item[1][0])
        better = ", ".join(f"{name} {100 * d:+.1f}" for name, (d, m) in ranked if m == "+")
        worse = ", ".join(f"{name} {100 * d:+.1f}" for name, (d, m) in ranked[::-1] if m == "−")
        lines.append(f"| {problem} | {better or 'none'} | {worse or 'none'} |")
    lines += [
        "",
        "## What tuning chose",
        "",
        "Learning rate, and the loss's own number; a star where the rate is an end of its grid.",
        "",
        "| loss | number | " + " | ".join(problems) + " |",
        "|---" * (len(problems) + 2) + "|",
    ]
    for name, f in found.items():
        says = result["numbers"][name]
        cells = [
            f"{rate:.1e}{', ' + format(number, 'g') if says else ''}{'*' if edge else ''}"
            for (rate, number), edge in zip(f["settings"], f["at_the_edge"], strict=True)
        ]
        lines.append(f"| {name} | {says or '-'} | " + " | ".join(cells) + " |")
    versions = ", ".join(f"{name} {v}" for name, v in result["versions"].items())
    lines += ["", f"{result['seconds']:.0f} s; {versions}, Python {result['python']}.", ""]
    return "\n".join(lines)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Three panels: symmetric noise, pair noise, tails; means with bands of 95 % t intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from scipy import stats

    panels = {
        "symmetric": ("share of wrong labels, any other class", [0, 20, 40, 60]),
        "pair": ("share of wrong labels, the next class", [0, 20, 40, 60]),
        "tail": ("largest class over smallest", [1, 10, 50, 100]),
    }
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.2), layout="constrained")
    for axis, (kind, (says, at)) in zip(axes, panels.items(), strict=True):
        rows = [0, *(i for i, p in enumerate(result["problems"]) if p.startswith(kind))]
        x = np.arange(len(rows))
        for name in sorted(result["found"], key=lambda name: name in COLOURS):
            values = 100 * np.asarray(result["found"][name]["accuracy"])[rows]
            mean, n = values.mean(axis=1), values.shape[1]
            half = stats.t.ppf(0.975, n - 1) * values.std(axis=1, ddof=1) / np.sqrt(n)
            colour = COLOURS.get(name, "0.75")
            axis.plot(x, mean, color=colour, lw=1.6 if name in COLOURS else 0.9, label=name)
            axis.fill_between(x, mean - half, mean + half, color=colour, alpha=0.2 if name in COLOURS else 0.08, lw=0)
        axis.set_xticks(x, [f"{a} %" if kind != "tail" else f"{a}" for a in at])
        axis.set_xlabel(says)
        axis.set_ylabel("balanced test accuracy, %")
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    named = [(h, label) for h, label in zip(handles, labels, strict=True) if label in COLOURS]
    grey = next(h for h, label in zip(handles, labels, strict=True) if label not in COLOURS)
    named.append((grey, "the other losses"))
    figure.legend(*zip(*named, strict=True), loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
