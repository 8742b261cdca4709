"""The charts of a report: one metric each, as SVG that stands inside a page."""

import dataclasses
import io
import re
from collections.abc import Mapping, Sequence

import numpy as np

_COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#66528c", "#4a4a4a")


@dataclasses.dataclass(frozen=True)
class Look:
    """How a curve looks: the same in every chart of a page."""

    colour: str
    dashes: str
    width: float


def looks_of(runs: int, labels: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Look]:
    """One look for each (run, label): in a report of one run the colour tells views apart, in a comparison the runs."""
    evaluated = [label for label in dict.fromkeys(label for _, label in labels) if label != "train"]
    found = {}
    for run, label in labels:
        place = evaluated.index(label) if label != "train" else 0
        colour = _COLOURS[(place if runs == 1 else run) % len(_COLOURS)]
        dashes = "-" if runs == 1 else ("-", "--", "-.", ":")[place % 4]
        if label == "train":
            found[run, label] = Look("#9aa5ae" if runs == 1 else colour, "-" if runs == 1 else ":", 1.0)
        else:
            found[run, label] = Look(colour, dashes, 1.7)
    return found


def limits_of(curves: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], *, log: bool) -> tuple[float, float] | None:
    """The range worth seeing: a linear axis leaves out the climb of the first tenth of the steps."""
    last = max((steps[-1] for steps, _, _ in curves), default=0)
    low, high = [], []
    for steps, mean, half in curves:
        seen = np.isfinite(mean) & (log | (steps >= 0.1 * last))
        # a band of a positive quantity may reach below zero, which a logarithmic axis cannot show
        low.append((mean * 0.7 if log else mean - half)[seen])
        high.append((mean + half)[seen])
    low, high = np.concatenate(low), np.concatenate(high)
    if not len(low) or not np.isfinite(high).all():
        return None
    low, high = low.min(), high.max()
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (low, high * 1.2) if log else (low - room, high + room)


def chart(
    metric: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], looks: Mapping[str, Look]
) -> str:
    """One chart as inline SVG."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    grey = "#5d6975"
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": metric,  # the same bytes for the same run
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.edgecolor": "#c3cbd1",
        "xtick.color": grey,
        "ytick.color": grey,
        "axes.labelcolor": grey,
        "text.color": "#1d2329",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        figure.patch.set_alpha(0)
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for label, (steps, mean, half) in curves.items():
            look = looks[label]
            marker = "o" if len(steps) < 15 else None
            axes.plot(
                steps, mean, color=look.colour, ls=look.dashes, lw=look.width, label=label, marker=marker, ms=3.2,
                markeredgewidth=0, zorder=2 if look.width < 1.5 else 3,
            )  # fmt: skip
            axes.fill_between(steps, mean - half, mean + half, color=look.colour, alpha=0.15, lw=0)
        everything = np.concatenate([mean for _, mean, _ in curves.values()])
        finite = everything[np.isfinite(everything)]
        log = bool(len(finite) and finite.min() > 0 and finite.max() > 30 * finite.min())
        if log:
            axes.set_yscale("log")
        limits = limits_of(list(curves.values()), log=log)
        if limits is not None:
            axes.set_ylim(*limits)
        axes.set_title(metric.replace("_", " "), loc="left", fontsize=10.5, fontweight="bold", pad=9)
        axes.set_xlabel("step")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.grid(axis="y", color="#e9edf0", lw=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=8, handlelength=1.8)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
