"""How closely every method agrees with its oracles: the tests that the registry names, run and measured.

``python -m experiments.agreement`` (``make agreement``) runs the oracles of all complete papers with ``--agreement`` of
``tests/_agreement.py`` and writes ``docs/agreement.md``, unless one fails. ``--stage NAME …`` runs those stages' alone and
leaves the rest of the page as it stands; ``--records FILE …`` reads what runs of ``pytest --agreement FILE`` found before.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.papers import Paper, load, status_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "agreement.md"
HEAD = """# How closely methods agree with their oracles

Made by `make agreement` (`python -m experiments.agreement`). Do not edit.

Every method is held against something that we did not write or that is known in closed form: its oracles, tests that the
registry names. A line is one of them, with all its cases, and shows that comparison of arrays which came nearest to its
tolerance, measured on a CPU:

- **error**: max |actual − desired| / max |desired| over the array; *absolute* where all of `desired` is zero.
- **tolerance**: what the test grants; *exact*: not one bit may differ.
- **used**: how much of it, max |actual − desired| / (atol + rtol |desired|); a test fails above 100 %.
- **dtype**: that of `actual`; a Python number counts as float64.

Tolerances of a part in a hundred or more belong to random samples or to approximations, and have their reason in the test.
Tests that compare no arrays hold inequalities, counts, statistics or single numbers.
"""


def oracles(papers: Sequence[Paper]) -> list[str]:
    """The ids of the tests, each once."""
    return list(dict.fromkeys(oracle for paper in papers for oracle in paper.oracles))


def run(tests: Sequence[str], processes: str, file: Path) -> bool:
    """Lets the recorder write what it finds in the tests; whether all passed."""
    options = ["-q", "-p", "no:cacheprovider", "-n", processes, "--dist", "worksteal", "--agreement", str(file)]
    return subprocess.run([sys.executable, "-m", "pytest", *options, *tests], cwd=ROOT).returncode == 0


def read(files: Sequence[Path]) -> tuple[str, dict[str, dict[str, Any]]]:
    """What records were made with, and what they say of every case of every test.

    Raises:
      ValueError: some were made with other versions.
    """
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if len(versions := {record["made with"] for record in records}) > 1:
        raise ValueError(f"the records were made with different versions: {', '.join(sorted(versions))}")
    return versions.pop(), {name: case for record in records for name, case in record["tests"].items()}


def joined(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One test from its cases: all comparisons, and the case that used most of its tolerance."""
    worst = max(cases, key=lambda case: case.get("used", -1.0))
    return {**worst, "comparisons": sum(case["comparisons"] for case in cases)}


def section(stage: str, papers: Sequence[Paper], versions: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The part of the page about a stage.

    Raises:
      ValueError: an oracle was not run.
    """
    cases: dict[str, list[Mapping[str, Any]]] = {}
    for name, case in found.items():
        cases.setdefault(name.partition("[")[0], []).append(case)
    named = oracles(papers)
    if missing := [oracle for oracle in named if oracle not in cases]:
        raise ValueError(f"oracles that were not run: {', '.join(missing)}")
    tests = {oracle: joined(cases[oracle]) for oracle in named}
    comparing = [test["comparisons"] for test in tests.values() if test["comparisons"]]
    lines = [
        f"## {stage}",
        "",
        f"Papers: {len(papers)}. Oracles: {len(tests)}, of which {len(comparing)} compare arrays, {sum(comparing):,} times. "
        f"Measured with {versions}.",
        "",
        "| method | oracle | comparisons | dtype | error | tolerance | used |",
        "|---|---|---|---|---|---|---|",
    ]
    for paper in papers:
        for number, oracle in enumerate(paper.oracles):
            cells = [_methods(paper) if number == 0 else "", _link(oracle), *_numbers(tests[oracle])]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _methods(paper: Paper) -> str:
    names = [symbol.removeprefix("jaxtrain.").removeprefix(f"{paper.stage}.") for symbol in paper.symbols]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"{paper.id}: " + ", ".join(f"`{name}`" for name in names[:2]) + more


def _link(oracle: str) -> str:
    file, _, name = oracle.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{file})"


def _numbers(test: Mapping[str, Any]) -> list[str]:
    if not test["comparisons"]:
        return ["0", "—", "—", "—", "—"]
    error = f"{test['error']:.1e}{' absolute' if test['absolute'] else ''}" if test["error"] else "0"
    tolerance = " + ".join(f"{name} {test[name]:.3g}" for name in ("rtol", "atol") if test[name])
    used = 100 * test["used"]
    return [
        str(test["comparisons"]),
        test["dtype"],
        error,
        tolerance or "exact",
        "0" if not used else f"{used:.2g} %" if used >= 0.01 else "< 0.01 %",
    ]


def page(old: str, new: Mapping[str, str], stages: Sequence[str]) -> str:
    """The whole page: the new sections, and those of the old page that there is no new one for."""
    kept = {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in re.split(r"^## ", old, flags=re.M)[1:]}
    sections = {**kept, **new}
    missing = ", ".join(stage for stage in stages if stage not in sections)
    note = [f"Not measured yet: {missing}.\n"] if missing else []
    return "\n".join([HEAD, *note, *(sections[stage] for stage in stages if stage in sections)])


def main(argv: list[str] | None = None) -> int:
    """Runs the oracles; returns the exit code."""
    papers: dict[str, list[Paper]] = {}
    for paper in load():
        if status_of(paper).label == "complete":
            papers.setdefault(paper.stage, []).append(paper)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stage", nargs="+", metavar="NAME", choices=sorted(papers), default=sorted(papers), help="default: all"
    )
    parser.add_argument("-n", "--processes", default="auto", help="as of pytest -n; default: auto")
    parser.add_argument("--records", nargs="+", type=Path, metavar="FILE", help="files to read instead of a run")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        files = arguments.records or [Path(folder) / "agreement.json"]
        tests = oracles([paper for stage in arguments.stage for paper in papers[stage]])
        if not arguments.records and not run(tests, arguments.processes, *files):
            print("agreement: an oracle failed; the page was not written", file=sys.stderr)
            return 1
        versions, found = read(files)
    old = PAGE.read_text(encoding="utf-8") if PAGE.is_file() and len(arguments.stage) < len(papers) else ""
    sections = {stage: section(stage, papers[stage], versions, found) for stage in arguments.stage}
    PAGE.write_text(page(old, sections, sorted(papers)), encoding="utf-8")
    print(f"agreement: wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
