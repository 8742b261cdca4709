"""Reads the registry and computes what the library has of each paper.

``catalogue.jsonl`` names the papers. ``rows/<stage>.toml`` says where the work on a paper lies: its public symbols, the
tests that hold its independent oracle, and the slug of its claim. Whether it is complete is never written down: it is
computed from what exists.
"""

import ast
import dataclasses
import functools
import importlib
import json
import tomllib
from pathlib import Path

_HERE = Path(__file__).parent
STATUSES = ("planned", "partial", "complete")
"""What a paper can be: without a row, with a row that something is missing of, or with everything."""

_ROW_FIELDS = {"symbols", "oracles", "claim", "notes"}


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper of the catalogue and where the work on it lies."""

    id: str
    slug: str
    title: str
    arxiv: str
    stage: str
    tier: str
    symbols: tuple[str, ...] = ()
    oracles: tuple[str, ...] = ()
    claim: str = ""
    notes: str = ""


@dataclasses.dataclass(frozen=True)
class Status:
    """What exists of a paper. ``missing`` names what its row promises and does not exist."""

    label: str
    verdict: str
    missing: tuple[str, ...]


def clone_root() -> Path | None:
    """The clone that holds the tests and results, or None in an installed package."""
    root = _HERE.parent.parent
    return root if (root / "experiments").is_dir() and (root / "tests").is_dir() else None


@functools.cache
def load() -> tuple[Paper, ...]:
    """All papers, in the order of their ids.

    Raises:
      ValueError: a row names an unknown paper, stands twice, or has an unknown field.

    >>> papers = load()
    >>> len(papers), papers[63].slug
    (398, 'swa')
    """
    rows: dict[str, dict] = {}
    for path in sorted((_HERE / "rows").glob("*.toml")):
        for paper_id, row in tomllib.loads(path.read_text(encoding="utf-8")).items():
            if paper_id in rows:
                raise ValueError(f"{path.name}: {paper_id} stands in the registry twice")
            if unknown := set(row) - _ROW_FIELDS:
                raise ValueError(f"{path.name}: {paper_id} has unknown fields {sorted(unknown)}")
            rows[paper_id] = {key: tuple(x) if isinstance(x, list) else x for key, x in row.items()}
    lines = (_HERE / "catalogue.jsonl").read_text(encoding="utf-8").splitlines()
    papers = tuple(Paper(**(entry := json.loads(line)), **rows.pop(entry["id"], {})) for line in lines)
    if rows:
        raise ValueError(f"the registry names papers that the catalogue does not have: {sorted(rows)}")
    return papers


def find_symbol(name: str) -> object:
    """The object behind a dotted name such as ``jaxtrain.averaging.swa`` or ``optax.adamw``.

    Raises:
      LookupError: there is no such object.
    """
    module, _, attributes = name.partition(":") if ":" in name else (name, "", "")
    parts = module.split(".")
    # the whole name as a module comes last: swa is a function of jaxtrain.averaging and also the file that holds it
    for cut in [*range(len(parts) - 1, 0, -1), len(parts)]:
        try:
            found = importlib.import_module(".".join(parts[:cut]))
            for attribute in [*parts[cut:], *filter(None, attributes.split("."))]:
                found = getattr(found, attribute)
        except (ModuleNotFoundError, AttributeError):
            continue
        return found
    raise LookupError(f"there is no {name}")


@functools.cache
def _functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
    )


def _oracle_exists(oracle: str, root: Path) -> bool:
    file, *names = oracle.split("::")
    path = root / file
    # a row may point at one case of a parametrised test: test_x[case]
    return path.is_file() and bool(names) and all(name.partition("[")[0] in _functions(path) for name in names)


def verdict_of(paper: Paper, root: Path | None = None) -> str:
    """The verdict in the paper's result file, or an empty string."""
    root = root or clone_root()
    if root is None or not paper.claim:
        return ""
    path = root / "experiments" / "results" / f"{paper.claim}.json"
    if not path.is_file():
        return ""
    return json.loads(path.read_text(encoding="utf-8")).get("verdict", "")


def status_of(paper: Paper, root: Path | None = None) -> Status:
    """What exists of a paper: symbols, oracle tests, result.

    ``planned``: the registry has no row. ``complete``: every symbol and oracle of the row exists, and so does a result
    file with a verdict. ``partial``: anything between. An installed package without its clone has neither tests nor
    results, so that nothing is complete there.

    >>> status_of(load()[63]).label in STATUSES
    True
    """
    root = root or clone_root()
    if not (paper.symbols or paper.oracles or paper.claim):
        return Status("planned", "", ())
    missing = []
    for symbol in paper.symbols:
        try:
            find_symbol(symbol)
        except LookupError:
            missing.append(f"symbol {symbol}")
    if root is not None:
        missing += [f"oracle {oracle}" for oracle in paper.oracles if not _oracle_exists(oracle, root)]
        if paper.claim and not any((root / "experiments").glob(f"*/{paper.claim}.py")):
            missing.append(f"claim experiments/*/{paper.claim}.py")
    verdict = verdict_of(paper, root)
    whole = bool(paper.symbols and paper.oracles and verdict and not missing)
    return Status("complete" if whole else "partial", verdict, tuple(missing))
