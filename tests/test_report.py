"""The report from numbers made by hand: what it says, and that it stands on its own."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxtrain import report
from jaxtrain._charts import chart, limits_of, looks_of


def _folder(path, *, name="<b>mine</b>", finished=True, rate=0.1):
    path.mkdir()
    rows = ["step,split,metric,member,value"]
    for step in (1, 10, 20):
        for member in (0, 1):
            rows.append(f"{step},train,loss,{member},{1.0 / step + member / 100}")
            for view in ("live", "swa"):
                rows.append(f"{step},test,{view}/accuracy,{member},{0.9 + member / 10 if view == 'swa' else 0.8}")
    (path / "metrics.csv").write_text("\n".join(rows) + "\n")
    (path / "config.json").write_text(json.dumps({"experiment": name, "config": {"rate": rate, "seeds": [0, 1]}}))
    (path / "environment.json").write_text(json.dumps({"python": "3", "versions": {"jax": "9"}, "devices": {"cpu": 2}}))
    if finished:
        live = {"split": "test", "view": "live", "metric": "accuracy", "mean": 0.8, "ci": 0.0, "values": [0.8, 0.8]}
        swa = live | {"view": "swa", "mean": 0.95, "ci": 0.635, "values": [0.9, 1.0], "difference": 0.15}
        costs = {"compile_seconds": 1.0, "train_seconds": 9.5, "evaluate_seconds": 1.0, "seconds": 12.0}
        summary = {
            "experiment": name, "steps": 20, "stopped_early": False, "mode": "map", "parameters": 1234, "members": 2,
            "costs": costs, "results": [live, swa | {"difference_ci": 0.635}], "headline": ["accuracy"],
            "higher_is_better": ["accuracy"], "baseline": "live", "digests": {"live": ["aa", "bb"]}, "state_digest": "cc",
            "state_bytes_per_device": {"cpu:0": 1_500_000, "cpu:1": 500_000},
        }  # fmt: skip
        (path / "summary.json").write_text(json.dumps(summary))
    return path


class _Page(HTMLParser):
    """Texts, resources that it would load, and whether its tags are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.loads, self.open, self.wrong = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.loads += [value for key, value in attrs if key in ("src", "href", "xlink:href") and value[0] != "#"]
        if tag not in ("meta", "!doctype", "br", "path", "use", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.loads += [value for key, value in attrs if key in ("src", "href", "xlink:href") and value[0] != "#"]

    def handle_endtag(self, tag):
        if tag in ("path", "use", "line"):
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def page(tmp_path):
    folder = _folder(tmp_path / "run")
    report.write_report([folder], folder / "report.html")
    return (folder / "report.html").read_text()


def test_a_page_loads_nothing_and_escapes_names(page):
    found = _Page(page)
    assert not found.loads and not found.wrong and not found.open
    assert "<script" not in page and "url(http" not in page and "@import" not in page
    assert "<b>mine</b>" in found.texts  # as text, not as a tag


def test_a_page_holds_the_numbers(page):
    text = re.sub(r"\s+", " ", " ".join(_Page(page).texts))
    for part in (
        "2 members, map · 1,234 parameters each · 20 steps · 12 s in all · 2.0 steps a second",
        "0.8000 ± 0.0000 test accuracy, live",
        "+0.15 ± 0.64",
        "0.95 ± 0.64",
        "member live swa 0 0.8000 0.9000 1 0.8000 1.0000",
        "devices 2 × cpu",
        "rate 0.1",
        "in all 12.0 s",
        "live 0 aa live 1 bb",
    ):
        assert part in text, part
    assert page.count("<svg") == 2


def test_the_text_table():
    summary = {
        "results": [
            {"split": "test", "view": "live", "metric": "loss", "mean": -1.0, "ci": 0.25},
            {"split": "test", "view": "ema", "metric": "loss", "mean": -1.5, "ci": None, "difference": -0.5}
            | {"difference_ci": 0.003},
        ],
        "headline": [], "members": 2, "baseline": "live",
    }  # fmt: skip
    assert [line.split() for line in report.table(summary).splitlines()[2:5]] == [
        ["test", "live", "-1.00", "±", "0.25"],
        ["test", "ema", "-1.5000"],
        ["−", "live", "-0.5000", "±", "0.0030"],
    ]
    assert report.table({"results": []}) == "(nothing was evaluated)"


def test_unfinished_runs_and_comparisons(tmp_path):
    done, half = _folder(tmp_path / "done"), _folder(tmp_path / "half", finished=False, rate=0.2)
    assert report.compare([half]) == "(the run is not finished)"
    assert "(not finished)" in report.compare([done, half])
    report.write_report([half], tmp_path / "half.html")
    assert "not finished" in (tmp_path / "half.html").read_text()
    report.write_report([done, half], tmp_path / "both.html")
    found = _Page((tmp_path / "both.html").read_text())
    text = re.sub(r"\s+", " ", " ".join(found.texts))
    assert "Settings that differ done half rate 0.1 0.2" in text and "half: test swa" in text
    assert not found.loads and not found.wrong
    report.write_report([done, done], tmp_path / "same.html")
    assert "All runs have the same configuration" in (tmp_path / "same.html").read_text()


def test_charts_show_what_matters_and_bear_what_is_broken():
    steps = np.arange(1, 101)
    climb = (steps, np.where(steps < 5, 0.0, 0.99), np.zeros(100))
    low, high = limits_of([climb], log=False)
    assert 0.5 < low < 0.99 < high  # the climb is left out
    broken = np.full(100, np.nan)
    assert limits_of([(steps, broken, broken)], log=True) is None
    looks = looks_of(1, [(0, "train"), (0, "test live"), (0, "test swa")])
    assert len({look.colour for look in looks.values()}) == 3
    two = looks_of(2, [(0, "test live"), (1, "test live"), (1, "test swa")])
    assert two[0, "test live"].colour != two[1, "test live"].colour == two[1, "test swa"].colour
    for mean in (broken, np.where(steps > 50, np.nan, 1.0 / steps), np.full(100, np.inf), np.ones(100)):
        assert chart("loss", {"a": (steps, mean, 0 * steps)}, {"a": looks[0, "train"]}).startswith("<svg")
    once = chart("loss", {"a": climb}, {"a": looks[0, "train"]})
    assert once == chart("loss", {"a": climb}, {"a": looks[0, "train"]})  # the same run, the same bytes
