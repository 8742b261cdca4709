"""One small picture for a claim: seeds as points or bands, arm by arm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def draw(claim: Any, result: Mapping[str, Any], path: Path) -> None:
    """Draws every metric of the comparisons: points for numbers, bands for curves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metrics = list(dict.fromkeys(c.metric for c in claim.comparisons))
    curves = [m for arm in result["values"].values() for m, v in arm.items() if np.ndim(v) == 2]
    metrics += [m for m in dict.fromkeys(curves) if m not in metrics]
    metrics = metrics[:4]
    figure, axes = plt.subplots(1, len(metrics), figsize=(3.6 * len(metrics), 3.0), squeeze=False, layout="constrained")
    for axis, metric in zip(axes[0], metrics, strict=True):
        arms = {name: np.asarray(found[metric]) for name, found in result["values"].items() if metric in found}
        everything = np.concatenate([np.ravel(v) for v in arms.values()])
        finite = everything[np.isfinite(everything)]
        for i, (name, values) in enumerate(arms.items()):
            if values.ndim == 2:
                x = np.arange(values.shape[1])
                middle, (low, high) = np.median(values, 0), np.quantile(values, [0.1, 0.9], axis=0)
                axis.plot(x, middle, label=name, lw=1.4, color=f"C{i}")
                axis.fill_between(x, low, high, alpha=0.18, lw=0, color=f"C{i}")
            else:
                axis.plot(np.full(len(values), i) + np.linspace(-0.12, 0.12, len(values)), values, "o", ms=3, alpha=0.7)
                axis.plot([i - 0.22, i + 0.22], [values.mean()] * 2, "k-", lw=1.2)
        if next(iter(arms.values())).ndim == 2:
            axis.legend(frameon=False, fontsize=7)
        else:
            axis.set_xticks(range(len(arms)), list(arms), rotation=25, ha="right", fontsize=7)
        if len(finite) and finite.min() > 0 and finite.max() > 50 * finite.min():
            axis.set_yscale("log")
        axis.set_title(metric.replace("_", " "), fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{claim.slug}: {result['verdict']}", fontsize=9)
    figure.savefig(path, dpi=90)
    plt.close(figure)
