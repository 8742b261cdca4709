"""The report of a run: one self-contained page, and the same numbers as text."""

import html
import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.training.progress import duration
from jaxtrain.training.summary import interval
from jaxtrain.training.writers import Row, read_rows

_COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#66528c", "#4a4a4a")


def _number(value: float | None, ci: float | None = None, *, sign: bool = False) -> str:
    """A mean with its half-width, to the digits that the half-width leaves."""
    if value is None:
        return "–"
    if ci is None or not math.isfinite(ci):
        return f"{value:{'+' if sign else ''}.4f}"
    digits = 4 if ci == 0 else min(6, max(2, 1 - math.floor(math.log10(ci))))
    return f"{value:{'+' if sign else ''}.{digits}f} ± {ci:.{digits}f}"


def _ordered(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Results with the headline metrics first."""
    head = {metric: i for i, metric in enumerate(summary["headline"])}
    return sorted(summary["results"], key=lambda row: (row["split"], head.get(row["metric"], len(head))))


def _rows_by_view(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table: a line for each split and view, a column for each metric, and the paired differences."""
    results = _ordered(summary)
    metrics = list(dict.fromkeys(row["metric"] for row in results))
    lines: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in results:
        lines[row["split"], row["view"]][row["metric"]] = row
    views = list(dict.fromkeys(row["view"] for row in summary["results"]))
    ordered = sorted(lines, key=lambda key: (key[0], views.index(key[1])))
    body = []
    for split, view in ordered:
        cells = [split, view or "–"]
        for metric in metrics:
            row = lines[split, view].get(metric)
            cells.append(_number(row["mean"], row["ci"]) if row else "–")
        body.append(cells)
        if any("difference" in row for row in lines[split, view].values()):
            cells = ["", f"  − {summary['baseline']}"]
            for metric in metrics:
                row = lines[split, view].get(metric, {})
                cells.append(_number(row.get("difference"), row.get("difference_ci"), sign=True))
            body.append(cells)
    return ["split", "weights", *[m.replace("_", " ") for m in metrics]], body


def _text_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *body]
    ]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]])


def table(summary: Mapping[str, Any]) -> str:
    """The final table as text: mean ± 95 % interval over members, paired differences to the baseline view."""
    if not summary["results"]:
        return "(nothing was evaluated)"
    members = summary["members"]
    note = f"mean ± 95 % t interval over {members} members; lines with − are paired differences" if members > 1 else ""
    return _text_table(*_rows_by_view(summary)) + (f"\n{note}" if note else "")


def _load(folder: Path) -> dict[str, Any]:
    def read(name: str) -> Any:
        path = folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    return {
        "name": folder.name,
        "rows": read_rows(folder / "metrics.csv"),
        "summary": read("summary.json"),
        "config": read("config.json") or {"experiment": folder.name, "config": {}},
        "environment": read("environment.json") or {},
    }


def compare(folders: Sequence[Path]) -> str:
    """The results of several runs side by side, as text; of one run, its table."""
    runs = [_load(Path(folder)) for folder in folders]
    if len(runs) == 1:
        summary = runs[0]["summary"]
        return table(summary) if summary else "(the run is not finished)"
    body = []
    metrics: list[str] = []
    for run in runs:
        for row in _ordered(run["summary"]) if run["summary"] else []:
            if row["metric"] not in metrics:
                metrics.append(row["metric"])
    for run in runs:
        if not run["summary"]:
            body.append([run["name"], "(not finished)", "", *[""] * len(metrics)])
            continue
        groups: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
        for row in run["summary"]["results"]:
            groups[row["split"], row["view"]][row["metric"]] = row
        for (split, view), found in groups.items():
            cells = [_number(found[m]["mean"], found[m]["ci"]) if m in found else "–" for m in metrics]
            body.append([run["name"], split, view, *cells])
    return _text_table(["run", "split", "weights", *metrics], body)


def _curves(rows: Sequence[Row]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """metric -> label -> (steps, mean, half-width of the 95 % interval over members)."""
    values: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        view, _, metric = row.metric.rpartition("/")
        values[metric, f"{row.split} {view}".strip()][row.step].append(row.value)
    curves: dict[str, dict[str, Any]] = defaultdict(dict)
    for (metric, label), by_step in values.items():
        steps = np.array(sorted(by_step))
        pairs = [interval(np.array(by_step[step])) for step in steps]
        means, halves = np.array([p[0] for p in pairs]), np.nan_to_num(np.array([p[1] for p in pairs]))
        curves[metric][label] = (steps, means, halves)
    return curves


def _figure(metric: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> str:
    """One chart as inline SVG."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        everything = np.concatenate([mean for _, mean, _ in curves.values()])
        for i, (label, (steps, mean, half)) in enumerate(curves.items()):
            colour = _COLOURS[i % len(_COLOURS)]
            marker = "o" if len(steps) < 15 else None
            axes.plot(steps, mean, color=colour, lw=1.6, label=label, marker=marker, ms=3)
            axes.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.16, lw=0)
        finite = everything[np.isfinite(everything)]
        if len(finite) and finite.min() > 0 and finite.max() > 30 * finite.min():
            axes.set_yscale("log")
        axes.set_title(metric.replace("_", " "), loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, lw=0.5)
        axes.legend(frameon=False, fontsize=8)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)


_STYLE = """
:root{color-scheme:light}body{font:15px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif;color:#1d2329;background:#fff;
max-width:1080px;margin:0 auto;padding:40px 28px 80px}h1{font-size:27px;margin:0 0 2px;letter-spacing:-.01em}
h2{font-size:17px;margin:38px 0 10px;border-bottom:1px solid #e3e7ea;padding-bottom:5px}p.sub{color:#5d6975;margin:0 0 8px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}th{text-align:left;color:#5d6975;
font-weight:600;border-bottom:1px solid #cfd6db;padding:5px 22px 5px 0}td{padding:4px 22px 4px 0;white-space:pre;
border-bottom:1px solid #f0f2f4}tr.d td{color:#5d6975;font-size:13px}.plots{display:grid;
grid-template-columns:repeat(auto-fit,minmax(460px,1fr));gap:14px 22px}.plots svg{width:100%;height:auto}
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}.card{border:1px solid #e3e7ea;border-radius:8px;padding:10px 18px}
.card b{display:block;font-size:21px;font-weight:600}.card span{color:#5d6975;font-size:13px}
code{font:12.5px ui-monospace,Menlo,monospace;color:#39434c}details{margin:6px 0}summary{cursor:pointer;color:#39434c}
.cols{display:grid;grid-template-columns:1fr 1fr;gap:10px 40px}@media(max-width:800px){.cols{grid-template-columns:1fr}}
"""


def _html_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    rows = "".join(
        f"<tr{' class=d' if not row[0] else ''}>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>"
        for row in body
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"


def _pairs(values: Mapping[str, Any]) -> str:
    return _html_table(
        ["", ""], [[str(k), " ".join(map(str, v)) if isinstance(v, list) else str(v)] for k, v in values.items()]
    )


def _sections(run: Mapping[str, Any]) -> list[str]:
    summary, parts = run["summary"], []
    if summary:
        costs = summary["costs"]
        trained = max(summary["steps"] - 1, 1) / max(costs["train_seconds"], 1e-9)
        cards = [
            (f"{summary['members']}", f"members, {summary['mode']}"),
            (f"{summary['parameters']:,}", "parameters each"),
            (f"{summary['steps']}", "steps" + (", stopped early" if summary["stopped_early"] else "")),
            (duration(costs["seconds"]), "in all"),
            (f"{trained:.1f}", "steps a second"),
        ]
        for row in _ordered(summary):
            if row["metric"] == (summary["headline"] or [""])[0] and row["view"] != summary["baseline"]:
                cards.insert(0, (_number(row["mean"], row["ci"]), f"{row['split']} {row['metric']}, {row['view']}"))
        parts.append(
            '<div class="cards">'
            + "".join(
                f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'
                for value, label in cards
            )
            + "</div>"
        )
        parts.append("<h2>Results</h2>" + _html_table(*_rows_by_view(summary)))
        if summary["members"] > 1:
            parts.append(
                '<p class="sub">Mean ± half-width of the 95 % t interval over members; '
                f"grey lines: paired difference to {html.escape(summary['baseline'])}.</p>"
            )
    else:
        parts.append('<p class="sub">The run is not finished; this is what there is.</p>')
    return parts


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Writes a page that needs nothing besides itself: results, curves, members, configuration, environment, costs.

    Args:
      folders: run folders; with several the curves are laid over each other.
      out: the file to write.
    """
    runs = [_load(Path(folder)) for folder in folders]
    single = len(runs) == 1
    title = runs[0]["config"]["experiment"] if single else "Comparison of " + ", ".join(run["name"] for run in runs)
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if single:
        parts.append(f'<p class="sub">run folder {html.escape(runs[0]["name"])}</p>')
        parts += _sections(runs[0])
    else:
        text = compare(folders).splitlines()
        parts.append(f"<h2>Results</h2><pre><code>{html.escape(chr(10).join(text))}</code></pre>")
    merged: dict[str, dict[str, Any]] = defaultdict(dict)
    for run in runs:
        for metric, curves in _curves(run["rows"]).items():
            for label, curve in curves.items():
                merged[metric][label if single else f"{run['name']}: {label}"] = curve
    figures = "".join(f"<div>{_figure(metric, curves)}</div>" for metric, curves in merged.items())
    parts.append(
        f'<h2>Curves</h2><p class="sub">Bands: 95 % interval over members.</p><div class="plots">{figures}</div>'
    )
    for run in runs:
        name = "" if single else f" of {html.escape(run['name'])}"
        summary = run["summary"]
        if summary and summary["members"] > 1:
            rows = _ordered(summary)
            head = ["member", *[f"{r['split']} {r['view']} {r['metric']}".replace("_", " ") for r in rows]]
            body = [[str(i), *[f"{r['values'][i]:.4f}" for r in rows]] for i in range(summary["members"])]
            parts.append(f"<h2>Members{name}</h2><div style='overflow-x:auto'>{_html_table(head, body)}</div>")
        parts.append(f'<h2>Configuration and environment{name}</h2><div class="cols">')
        parts.append(f"<div>{_pairs(run['config']['config'])}</div>")
        environment = {k: v for k, v in run["environment"].items() if not isinstance(v, dict)}
        environment |= run["environment"].get("versions", {}) | {"devices": run["environment"].get("devices", "")}
        if run["environment"].get("git"):
            environment["git"] = run["environment"]["git"]["commit"][:12] + (
                " (changed)" if run["environment"]["git"]["changed"] else ""
            )
        parts.append(f"<div>{_pairs(environment)}</div></div>")
        if summary:
            parts.append(f"<h2>Costs{name}</h2>" + _pairs(summary["costs"]))
            digests = [[view, str(i), d] for view, ds in summary["digests"].items() for i, d in enumerate(ds)]
            parts.append(
                f"<h2>Digests{name}</h2><details><summary>SHA-256 of the final parameters</summary>"
                + _html_table(["weights", "member", "SHA-256"], digests)
                + "</details>"
            )
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    Path(out).write_text(page + "\n".join(parts) + "</html>\n", encoding="utf-8")
