"""``python -m experiments.readme``: writes ``experiments/README.md`` from the result files."""

import json
from pathlib import Path

from experiments import harness


def text() -> str:
    """The page: every claim with its verdict and its numbers."""
    lines = [
        "# Claims, measured",
        "",
        "Written by `python -m experiments.readme` from `results/`; repeat one with `jaxtrain claim SLUG`.",
        "",
        (harness.__doc__ or "").partition("\n\n")[2].partition("The rule. ")[2].strip(),
        "",
        "| claim | verdict | comparison | difference [95 % interval, Holm] | margin |",
        "|---|---|---|---|---|",
    ]
    details = []
    for slug, path in harness.discover().items():
        file = harness.RESULTS / f"{slug}.json"
        if not file.is_file():
            lines.append(f"| [{slug}]({path.parent.name}/{path.name}) | not measured yet | | | |")
            continue
        result = json.loads(file.read_text(encoding="utf-8"))
        for i, c in enumerate(result["comparisons"]):
            first = f"[{slug}](#{slug}) | **{result['verdict']}**" if i == 0 else " | "
            numbers = (
                f"{c['difference']:+.3g} [{c['low']:+.3g}, {c['high']:+.3g}]" if "difference" in c else c["reason"]
            )
            scale = " (log ratio)" if c["scale"] == "log_ratio" else ""
            lines.append(f"| {first} | {c['name']}: {c['verdict']} | {numbers}{scale} | {c['margin']:g} |")
        details += ["", f"## {slug}", "", f"{result['paper']}. {result['says']}", "", f"*Setup.* {result['setup']}"]
        details += [
            f"*Tuning.* {result['tuning']}",
            f"*Claimed by* {result['claimed_by']}." if result["claimed_by"] else "",
        ]
        details += [
            f"{result['seeds']} seeds, {result['seconds']['total']:.0f} s.",
            "",
            f"![{slug}](results/{slug}.png)",
        ]
    return "\n".join([*lines, *details]) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "README.md").write_text(text(), encoding="utf-8")
