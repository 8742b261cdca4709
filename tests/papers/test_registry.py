"""The registry is true: what a row names exists, and what is computed from it is what the README shows."""

import argparse
import dataclasses
import json
import re
from pathlib import Path

import pytest

from jaxtrain import papers
from jaxtrain.papers import command, registry

ROOT = Path(__file__).parents[2]
ROWS = [paper for paper in papers.load() if paper.symbols or paper.oracles or paper.claim]


def test_holds_every_paper_of_the_catalogue_once():
    ids = [paper.id for paper in papers.load()]
    assert ids == [f"P{n:03d}" for n in range(1, 399)]
    assert all(paper.title and paper.slug and paper.stage for paper in papers.load())
    assert all(re.fullmatch(r"(\d{4}\.\d{4,5}|[a-z-]+/\d{7})?", paper.arxiv) for paper in papers.load())


@pytest.mark.parametrize("paper", ROWS, ids=lambda paper: paper.id)
def test_everything_a_row_names_exists(paper):
    assert papers.status_of(paper).missing == ()


@pytest.mark.parametrize("paper", ROWS, ids=lambda paper: paper.id)
def test_public_symbols_are_documented_with_an_example(paper):
    for name in paper.symbols:
        if name.startswith("jaxtrain."):
            doc = papers.find_symbol(name).__doc__ or ""
            assert ">>>" in doc, f"{name} has no example in its docstring"


def test_a_row_that_promises_what_does_not_exist_is_caught():
    swa = next(paper for paper in papers.load() if paper.id == "P064")
    wrong = dataclasses.replace(
        swa,
        symbols=("jaxtrain.averaging.no_such_thing",),
        oracles=("tests/papers/test_registry.py::test_no_such_test", "tests/no_such_file.py::test_a"),
        claim="no_such_claim",
    )
    status = papers.status_of(wrong)
    assert status.label == "partial"
    assert status.missing == (
        "symbol jaxtrain.averaging.no_such_thing",
        "oracle tests/papers/test_registry.py::test_no_such_test",
        "oracle tests/no_such_file.py::test_a",
        "claim experiments/*/no_such_claim.py",
    )


def test_status_is_computed_from_what_exists(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("def test_oracle():\n    pass\n")
    (tmp_path / "experiments" / "averaging").mkdir(parents=True)
    (tmp_path / "experiments" / "results").mkdir()
    paper = papers.Paper("P001", "a", "A", "", "averaging", "CORE")
    assert papers.status_of(paper, tmp_path).label == "planned"
    paper = dataclasses.replace(paper, symbols=("optax.adamw",), oracles=("tests/test_a.py::test_oracle",), claim="a")
    assert papers.status_of(paper, tmp_path).missing == ("claim experiments/*/a.py",)
    (tmp_path / "experiments" / "averaging" / "a.py").write_text("")
    assert papers.status_of(paper, tmp_path).label == "partial"
    (tmp_path / "experiments" / "results" / "a.json").write_text(json.dumps({"verdict": "contradicted"}))
    assert papers.status_of(paper, tmp_path) == papers.Status("complete", "contradicted", ())


def _run(capsys, *words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    code = command.run(parser.parse_args(words))
    return code, capsys.readouterr()


def test_command_filters_and_formats(capsys):
    code, out = _run(capsys, "P064", "--format", "json")
    assert code == 0
    (row,) = json.loads(out.out)
    assert (row["slug"], row["arxiv"], row["stage"]) == ("swa", "1803.05407", "averaging")
    code, out = _run(capsys, "--stage", "aggregation")
    assert code == 0
    assert "P190" in out.out and "6 papers:" in out.out
    assert _run(capsys, "no such words anywhere")[0] == 1
    code, out = _run(capsys, "--stage", "avraging")
    assert code == 2
    assert "did you mean averaging" in out.err


def test_readme_carries_the_table_of_what_is_complete():
    everything = [(paper, papers.status_of(paper)) for paper in papers.load()]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- papers -->\n(.*)\n<!-- /papers -->", readme, re.S)
    assert found, "README.md needs the markers <!-- papers --> and <!-- /papers -->"
    assert found[1] == command.as_overview(everything), "run: make readme"
    complete = [paper for paper, status in everything if status.label == "complete"]
    assert sum(int(row.split("|")[2].split()[0]) for row in found[1].splitlines()[2:]) == len(complete)


def test_duplicate_and_unknown_rows_are_errors(tmp_path, monkeypatch):
    (tmp_path / "rows").mkdir()
    (tmp_path / "catalogue.jsonl").write_text((Path(registry.__file__).parent / "catalogue.jsonl").read_text())
    monkeypatch.setattr(registry, "_HERE", tmp_path)
    for text, message in (
        ("[P999]\nclaim='a'\n", "P999"),
        ("[P064]\nstatus='complete'\n", "unknown fields"),
    ):
        (tmp_path / "rows" / "averaging.toml").write_text(text)
        with pytest.raises(ValueError, match=message):
            registry.load.__wrapped__()
    (tmp_path / "rows" / "averaging.toml").write_text("[P064]\nclaim='a'\n")
    (tmp_path / "rows" / "losses.toml").write_text("[P064]\nclaim='a'\n")
    with pytest.raises(ValueError, match="twice"):
        registry.load.__wrapped__()
