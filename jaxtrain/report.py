"""The report of a run: one self-contained page, and the same numbers as text."""

import html
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain._charts import chart, looks_of
from jaxtrain.training.progress import duration
from jaxtrain.training.summary import interval
from jaxtrain.training.writers import Row, read_rows


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
    return _text_table(*_comparison(runs))


def _comparison(runs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table: one for each run, split and view."""
    body = []
    finished = [row for run in runs if run["summary"] for row in _ordered(run["summary"])]
    metrics = list(dict.fromkeys(row["metric"] for row in finished))
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
    return ["run", "split", "weights", *[metric.replace("_", " ") for metric in metrics]], body


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


_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}body{font:15px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif;
color:#1d2329;background:#fff;max-width:1120px;margin:0 auto;padding:48px 32px 96px}
h1{font-size:34px;font-weight:650;letter-spacing:-.02em;line-height:1.15;margin:0 0 6px}
h2{font-size:18px;font-weight:650;letter-spacing:-.005em;margin:52px 0 14px}
p.sub{color:#5d6975;margin:0 0 8px}p.note{color:#5d6975;font-size:13px;margin:10px 0 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
th{text-align:left;color:#5d6975;font-weight:600;border-bottom:1px solid #cfd6db;padding:6px 26px 6px 0;white-space:nowrap}
td{padding:5px 26px 5px 0;white-space:pre;border-bottom:1px solid #eef1f3}tr.d td{color:#6b7680;font-size:13px}
tr:has(+tr.d) td{border-bottom:0}.wrap{overflow-x:auto}.pairs td:first-child{color:#5d6975}.pairs td{white-space:normal}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:22px 30px}.plots svg{width:100%;height:auto}
.plots svg text{font-family:system-ui,-apple-system,'Segoe UI',sans-serif!important}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:14px;margin:26px 0 0}
.card{background:#f6f8f9;border-radius:10px;padding:16px 20px}.card b{display:block;font-size:27px;font-weight:650;
letter-spacing:-.015em;font-variant-numeric:tabular-nums}.card b i{font-style:normal;font-size:15px;font-weight:400;
color:#5d6975;letter-spacing:0}.card span{display:block;color:#5d6975;font-size:13px}
code{font:12.5px ui-monospace,Menlo,monospace;color:#39434c}summary{cursor:pointer;color:#39434c}
.cols{display:grid;grid-template-columns:1fr 1fr;gap:10px 48px;align-items:start}
@media(max-width:800px){.cols{grid-template-columns:1fr}.plots{grid-template-columns:1fr}}
"""


def _html(text: Any) -> str:
    """Escaped, with real minus signs before numbers."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\u2212", html.escape(str(text)))


def _html_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    rows = "".join(
        f"<tr{' class=d' if not row[0] else ''}>" + "".join(f"<td>{_html(c)}</td>" for c in row) + "</tr>"
        for row in body
    )
    return f"<div class=wrap><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>"


def _pairs(values: Mapping[str, Any]) -> str:
    shown = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in values.items()}
    rows = "".join(f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>" for k, v in shown.items())
    return f"<table class=pairs><tbody>{rows}</tbody></table>"


def _members(summary: Mapping[str, Any]) -> str:
    """The last values of every member, metrics over the columns of their views."""
    rows = _ordered(summary)
    groups: dict[str, int] = defaultdict(int)
    for row in rows:
        groups[f"{row['split']} {row['metric']}".replace("_", " ")] += 1
    top = "".join(f"<th colspan={count}>{html.escape(name)}</th>" for name, count in groups.items())
    below = "".join(f"<th>{html.escape(row['view'] or '–')}</th>" for row in rows)
    body = "".join(
        f"<tr><td>{i}</td>" + "".join(f"<td>{_html(format(row['values'][i], '.4f'))}</td>" for row in rows) + "</tr>"
        for i in range(summary["members"])
    )
    return (
        f"<div class=wrap><table><thead><tr><th></th>{top}</tr><tr><th>member</th>{below}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _costs(summary: Mapping[str, Any]) -> dict[str, str]:
    costs = summary["costs"]
    shown = {
        "in all" if name == "seconds" else name.removesuffix("_seconds").replace("_", " "): f"{value:.1f} s"
        for name, value in costs.items()
    }
    return shown | {
        "steps a second": f"{_speed(summary):.1f}, of all members",
        "parameters": f"{summary['parameters']:,} of each member",
        "state": _state_size(summary["state_bytes_per_device"]),
    }


def _state_size(held: Mapping[str, int]) -> str:
    """What the state of all members takes: parameters, optimizer, averages, running statistics."""
    each = f", at most {max(held.values()) / 1e6:.2f} MB on each of {len(held)} devices" if len(held) > 1 else ""
    return f"{sum(held.values()) / 1e6:.2f} MB in all{each}"


def _speed(summary: Mapping[str, Any]) -> float:
    return max(summary["steps"] - 1, 1) / max(summary["costs"]["train_seconds"], 1e-9)


def _sections(run: Mapping[str, Any]) -> list[str]:
    summary = run["summary"]
    if not summary:
        return ['<p class="sub">The run is not finished; this is what there is.</p>']
    members, head = summary["members"], (summary["headline"] or [""])[0]
    facts = [
        f"{members} members, {summary['mode']}" if members > 1 else "one member",
        f"{summary['parameters']:,} parameters" + (" each" if members > 1 else ""),
        f"{summary['steps']:,} steps" + (", stopped early" if summary["stopped_early"] else ""),
        f"{duration(summary['costs']['seconds'])} in all",
        f"{_speed(summary):.1f} steps a second",
    ]
    parts = [f'<p class="sub">{" · ".join(html.escape(fact) for fact in facts)}</p>']
    cards = []
    for row in summary["results"]:
        if row["metric"] == head:
            value, _, half = _number(row["mean"], row["ci"]).partition(" ± ")
            half = f" <i>± {half}</i>" if half else ""
            label = f"{row['split']} {head}, {row['view']}".replace("_", " ").rstrip(", ")
            cards.append(f'<div class="card"><b>{_html(value)}{half}</b><span>{html.escape(label)}</span></div>')
    parts.append(f'<div class="cards">{"".join(cards)}</div>' if cards else "")
    if summary["results"]:
        parts.append("<h2>Results</h2>" + _html_table(*_rows_by_view(summary)))
        if members > 1:
            parts.append(
                '<p class="note">Mean ± half-width of the 95 % t interval over members; '
                f"grey lines: paired difference to {html.escape(summary['baseline'])}.</p>"
            )
    return parts


def _differences(runs: Sequence[Mapping[str, Any]]) -> str:
    """The settings in which the runs differ."""
    configs = [{k: str(v) for k, v in run["config"]["config"].items()} for run in runs]
    names = [n for n in dict.fromkeys(n for c in configs for n in c) if len({c.get(n, "–") for c in configs}) > 1]
    if not names:
        return '<p class="note">All runs have the same configuration.</p>'
    body = [[name, *[config.get(name, "–") for config in configs]] for name in names]
    return "<h2>Settings that differ</h2>" + _html_table(["", *[run["name"] for run in runs]], body)


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
        parts += _sections(runs[0])
    else:
        parts.append("<h2>Results</h2>" + _html_table(*_comparison(runs)))
        parts.append('<p class="note">Mean ± half-width of the 95 % t interval over members.</p>')
        parts.append(_differences(runs))
    merged: dict[str, dict[str, Any]] = defaultdict(dict)
    keys: dict[tuple[int, str], str] = {}
    for i, run in enumerate(runs):
        for metric, curves in _curves(run["rows"]).items():
            for label, curve in curves.items():
                keys[i, label] = label if single else f"{run['name']}: {label}"
                merged[metric][keys[i, label]] = curve
    looks = {keys[key]: look for key, look in looks_of(len(runs), list(keys)).items()}
    figures = "".join(f"<div>{chart(metric, curves, looks)}</div>" for metric, curves in merged.items())
    parts.append(f'<h2>Curves</h2><div class="plots">{figures}</div>')
    parts.append('<p class="note">Mean over members, with the band of its 95 % interval.</p>')
    for run in runs:
        name = "" if single else f" of {html.escape(run['name'])}"
        summary = run["summary"]
        if summary and summary["members"] > 1:
            parts.append(f"<h2>Members{name}</h2>" + _members(summary))
        parts.append(f'<h2>Configuration and environment{name}</h2><div class="cols">')
        parts.append(f"<div>{_pairs(run['config']['config'])}</div>")
        environment = {k: v for k, v in run["environment"].items() if not isinstance(v, dict)}
        devices = run["environment"].get("devices") or {}
        environment |= {"devices": ", ".join(f"{count} × {kind}" for kind, count in devices.items())}
        environment |= run["environment"].get("versions", {})
        if run["environment"].get("git"):
            environment["git"] = run["environment"]["git"]["commit"][:12] + (
                " (changed)" if run["environment"]["git"]["changed"] else ""
            )
        parts.append(f"<div>{_pairs(environment)}</div></div>")
        if summary:
            parts.append(f"<h2>Costs{name}</h2>" + _pairs(_costs(summary)))
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
