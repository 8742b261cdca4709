"""The page and the figure of the comparison of averages, from its result."""

from pathlib import Path
from typing import Any

import numpy as np


def page(result: dict[str, Any]) -> str:
    """The documentation page of a result."""
    lines = ["# Averages side by side", "", f"Made by `{result['command']}`. Do not edit.", ""]
    lines += [result["says"], "", "![averages](../experiments/results/averages.png)", ""]
    lines += ["Mean over seeds ± standard deviation over seeds.", ""]
    for name, found in result["problems"].items():
        lines += [f"## {name}", "", f"{found['says']}; {found['seeds']} seeds.", ""]
        lines += [f"| average | {found['metric']} | training loss | largest Hessian eigenvalue |", "|---|---|---|---|"]
        for average, values in found["found"].items():
            cells = []
            for key, form in (
                ("final", "{:.4f} ± {:.4f}"),
                ("training_loss", "{:.4f} ± {:.4f}"),
                ("sharpness", "{:.3g} ± {:.2g}"),
            ):
                cells.append(form.format(np.mean(values[key]), np.std(values[key], ddof=1)))
            lines.append(f"| {average} | {' | '.join(cells)} |")
        lines.append("")
    cost = result["cost"]
    lines += [
        "## Cost of a step",
        "",
        f"{cost['machine']}. {cost['parameters']:,} parameters; SGD alone takes {cost['plain ms']:.2f} ms. What an average "
        "adds, against the memory that it must move at the bandwidth of an in-place copy (`jaxtrain bench averaging`).",
        "",
        "| average | added ms | floor ms | × floor | models kept |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in cost["rows"]]
    return "\n".join(lines) + "\n"


def draw(result: dict[str, Any], path: Path) -> None:
    """Curves over the run, and the final value against flatness."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problems = result["problems"]
    figure, axes = plt.subplots(
        2, len(problems), figsize=(4.2 * len(problems), 6.4), layout="constrained", squeeze=False
    )
    for (name, found), above, below in zip(problems.items(), *axes, strict=True):
        last = np.array([np.mean(v["curve"], 0)[len(v["curve"][0]) // 4 :] for v in found["found"].values()])
        for i, (average, values) in enumerate(found["found"].items()):
            style = {"color": plt.get_cmap("tab20")(i % 20), "lw": 1.1, "label": average}
            curve = np.mean(values["curve"], 0)
            above.plot(np.linspace(0, 1, len(curve) + 1)[1:], curve, **style)
            below.plot(np.mean(values["sharpness"]), np.mean(values["final"]), "o", ms=5, color=style["color"])
        pad = 0.05 * (last.max() - last.min())
        above.set_ylim(last.min() - pad, last.max() + pad)
        above.set_title(f"{name}: {found['metric']}", fontsize=9, loc="left")
        above.set_xlabel("share of the run", fontsize=8)
        below.set_xscale("log")
        below.set_xlabel("largest Hessian eigenvalue of the training loss", fontsize=8)
        below.set_ylabel(found["metric"], fontsize=8)
        for axis in (above, below):
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=7)
    figure.savefig(path, dpi=80)
    plt.close(figure)
