"""``jaxtrain papers``: lists and filters the registry."""

import argparse
import collections
import difflib
import json
import sys

from jaxtrain.papers.registry import STATUSES, Paper, Status, clone_root, load, status_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``jaxtrain papers``."""
    parser.add_argument("search", nargs="?", default="", help="an id (P064), or words that stand in title or slug")
    parser.add_argument("--stage", help="only papers of this stage: averaging, optimizers, losses …")
    parser.add_argument("--status", choices=STATUSES, help="only papers of this status")
    parser.add_argument("--format", choices=("table", "json", "markdown"), default="table", help="default: table")


def run(args: argparse.Namespace) -> int:
    """Prints the papers that pass the filters; 1 where none does, 2 for an unknown stage."""
    papers = load()
    stages = sorted({paper.stage for paper in papers})
    if args.stage and args.stage not in stages:
        near = difflib.get_close_matches(args.stage, stages, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"the stages are {', '.join(stages)}"
        print(f"jaxtrain papers: there is no stage '{args.stage}'; {hint}", file=sys.stderr)
        return 2
    words = args.search.lower().split()
    chosen: list[tuple[Paper, Status]] = []
    for paper in papers:
        text = f"{paper.id} {paper.slug} {paper.title} {paper.arxiv}".lower()
        if (args.stage and paper.stage != args.stage) or not all(word in text for word in words):
            continue
        status = status_of(paper)
        if not args.status or status.label == args.status:
            chosen.append((paper, status))
    print(_FORMATS[args.format](chosen))
    return 0 if chosen else 1


def as_json(chosen: list[tuple[Paper, Status]]) -> str:
    """The rows with everything known of them, for programs."""
    rows = [
        {
            "id": paper.id,
            "slug": paper.slug,
            "title": paper.title,
            "arxiv": paper.arxiv,
            "stage": paper.stage,
            "tier": paper.tier,
            "status": status.label,
            "verdict": status.verdict,
            "symbols": list(paper.symbols),
            "oracles": list(paper.oracles),
            "claim": paper.claim,
            "notes": paper.notes,
            "missing": list(status.missing),
        }
        for paper, status in chosen
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False)


def as_overview(chosen: list[tuple[Paper, Status]]) -> str:
    """The table that the README carries: of every stage its complete papers, by their first symbol, and the verdicts."""
    lines = ["| stage | papers | in the library, among others | claims measured |", "|---|---|---|---|"]
    stages: dict[str, list[tuple[Paper, Status]]] = {}
    for paper, status in chosen:
        stages.setdefault(paper.stage, []).append((paper, status))
    for stage, papers in sorted(stages.items()):
        complete = [(paper, status) for paper, status in papers if status.label == "complete"]
        if not complete:
            continue
        names = sorted({paper.symbols[0].removeprefix("jaxtrain.").removeprefix(f"{stage}.") for paper, _ in complete})
        counts = collections.Counter(status.verdict for _, status in complete)
        verdicts = ", ".join(f"{counts[v]} {v}" for v in ("confirmed", "inconclusive", "contradicted") if counts[v])
        lines.append(
            f"| {stage} | {len(complete)} of {len(papers)} | {', '.join(f'`{n}`' for n in names)} | {verdicts} |"
        )
    return "\n".join(lines)


def as_markdown(chosen: list[tuple[Paper, Status]]) -> str:
    """One line a paper, as a table of Markdown."""
    lines = ["| paper | stage | in the library | its claim, measured |", "|---|---|---|---|"]
    for paper, status in chosen:
        link = f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else paper.title
        short = [symbol.removeprefix("jaxtrain.") for symbol in paper.symbols]
        names = ", ".join(f"`{name}`" for name in short[:2]) + (f" and {len(short) - 2} more" if len(short) > 2 else "")
        lines.append(f"| {link} | {paper.stage} | {names} | {status.verdict or '—'} |")
    return "\n".join(lines)


def as_table(chosen: list[tuple[Paper, Status]]) -> str:
    """One line a paper, for a terminal."""
    lines = [f"{'id':<5} {'stage':<13} {'status':<9} {'verdict':<13} title"]
    for paper, status in chosen:
        title = paper.title if len(paper.title) <= 90 else paper.title[:89] + "…"
        lines.append(f"{paper.id:<5} {paper.stage:<13} {status.label:<9} {status.verdict or '-':<13} {title}")
        lines += [f"      missing: {item}" for item in status.missing]
    counts = {label: sum(status.label == label for _, status in chosen) for label in STATUSES}
    lines.append(f"{len(chosen)} papers: " + ", ".join(f"{n} {label}" for label, n in counts.items()))
    if clone_root() is None:
        lines.append("(tests and results lie in the repository: an installed package alone cannot show 'complete')")
    return "\n".join(lines)


_FORMATS = {"table": as_table, "json": as_json, "markdown": as_markdown}
