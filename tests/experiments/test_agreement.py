"""The recorder of how closely arrays agree, on tests whose differences are known, and the page made of its records."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import agreement
from jaxtrain.papers import Paper
from tests._agreement import Difference, Recorder, measure

ROOT = Path(__file__).parents[2]
PROGRAM = """
import numpy as np, pytest
from tests._agreement import Difference

def test_several():
    np.testing.assert_array_equal([1, 2], [1, 2])
    np.testing.assert_allclose(np.float32([1, 2]), np.float32([1, 2]))
    np.testing.assert_allclose([1.0, 4.004], [1.0, 4.0], rtol=0.01)  # a tenth of the tolerance
    np.testing.assert_allclose(np.array([0.5, 2.0]), [0.501, 2.0], 0, 0.002)  # half of it

@pytest.mark.parametrize("x", [0.0, 0.25])
def test_zero(x):
    np.testing.assert_allclose(np.full(3, x), 0.0, atol=1.0)

def test_differences():
    assert Difference(1e-3, np.ones(2, np.float16)) < 1e-2
    assert 0.1 < Difference(0.2, np.ones(2)) < 0.3

def test_none():
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(1.0, 2.0)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(1.0, 2.0)
    assert not Difference(2.0, np.ones(2)) < 1.0

def test_fails():
    np.testing.assert_allclose(1.0, 1.0)
    assert False
"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_records_of_a_run(processes, tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_a.py").write_text(PROGRAM)
    plugins = ["-p", "xdist", "-p", "tests._agreement", "-p", "no:cacheprovider", "-n", processes]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "--agreement", "found.json", str(tmp_path)]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "1 failed, 5 passed" in done.stdout, done.stdout + done.stderr
    versions, found = agreement.read([tmp_path / "found.json"])
    assert versions == f"jax {jax.__version__} and Python {platform.python_version()}"
    # the rounding of 4.004 - 4 is a part in 1e13
    exact = {"dtype": "float64", "error": 0.0, "absolute": False, "rtol": 0.0, "atol": 0.0, "used": 0.0}
    several = {"comparisons": 4, "error": pytest.approx(5e-4), "atol": 0.002, "used": pytest.approx(0.5)}
    assert found == {
        "test_a.py::test_several": exact | several,
        "test_a.py::test_zero[0.0]": exact | {"comparisons": 1, "absolute": True, "rtol": 1e-7, "atol": 1.0},
        "test_a.py::test_zero[0.25]": exact
        | {"comparisons": 1, "error": 0.25, "absolute": True, "rtol": 1e-7, "atol": 1.0, "used": 0.25},
        "test_a.py::test_differences": exact
        | {"comparisons": 1, "dtype": "float16", "error": 1e-3, "rtol": 1e-2, "used": pytest.approx(0.1)},
        "test_a.py::test_none": {"comparisons": 0},
    }


def test_comparisons_of_trees_are_seen_leaf_by_leaf(tmp_path):
    recorder = Recorder(tmp_path / "found.json")
    try:
        chex.assert_trees_all_close({"a": jnp.ones(2), "b": jnp.zeros(1)}, {"a": jnp.ones(2), "b": jnp.zeros(1)})
        chex.assert_trees_all_equal({"a": jnp.ones(2, int)}, {"a": jnp.ones(2, int)})
    finally:
        recorder.pytest_unconfigure()
    assert [(one["dtype"], one["rtol"]) for one in recorder.seen] == [
        ("float32", 1e-6),
        ("float32", 1e-6),
        ("int32", 0.0),
    ]
    np.testing.assert_array_equal(1, 1)
    assert len(recorder.seen) == 3


def test_measures():
    found = measure(jnp.asarray([2.0, -4.0], jnp.bfloat16), np.array([2.0, -5.0]), 0.5, 0.0)
    assert found == {"dtype": "bfloat16", "error": 0.2, "absolute": False, "rtol": 0.5, "atol": 0.0, "used": 0.4}
    # an entry that is small may use more of its tolerance than the largest one
    found = measure(np.array([1.0, 101.0]), np.array([2.0, 100.0]), 1.0, 0.0)
    assert found["error"] == 0.01 and found["used"] == 0.5
    found = measure([np.nan, np.inf, 3.0], [np.nan, np.inf, 4.0], 0.0, 2.0)
    assert found["error"] == 0.25 and found["used"] == 0.5
    found = measure(np.array([1j, 1.0]), np.array([0.0, 1.0]), 0.0, 4.0)
    assert found["dtype"] == "complex128" and found["error"] == 1.0 and found["used"] == 0.25
    assert measure(np.zeros((0, 2)), np.zeros((0, 2)), 1e-7, 0.0)["used"] == 0.0
    assert measure(np.ones(2), 1.0, 0.0, 0.0) == measure(np.ones(2), np.ones(2), 0.0, 0.0)


def test_a_difference_is_a_number_where_nobody_records():
    assert Difference(0.25, np.ones(2)) < 0.5 and 0.1 < Difference(0.25, None) < 0.5 and Difference(0.25, None) == 0.25


PAPERS = [
    Paper("P001", "a", "A", "", "losses", "CORE", ("jaxtrain.losses.a", "optax.b", "jaxtrain.losses.c"), ("t/x.py::test_one", "t/x.py::test_no_array")),
    Paper("P002", "b", "B", "", "losses", "CORE", ("jaxtrain.core.d",), ("t/y.py::test_zero", "t/x.py::test_one")),
]  # fmt: skip
CASE = {"comparisons": 2, "dtype": "float32", "error": 1e-3, "absolute": False, "rtol": 0.1, "atol": 0.0, "used": 0.01}
FOUND = {
    "t/x.py::test_one[a]": CASE,
    "t/x.py::test_one[b-c]": CASE | {"comparisons": 3, "error": 2e-9, "atol": 1e-8, "used": 0.75},
    "t/x.py::test_no_array": {"comparisons": 0},
    "t/y.py::test_zero": CASE | {"error": 0.0, "absolute": True, "rtol": 0.0, "used": 0.0},
}


def test_a_section_of_the_page():
    text = agreement.section("losses", PAPERS, "jax 1 and Python 2", FOUND)
    assert "Papers: 2. Oracles: 3, of which 2 compare arrays, 7 times. Measured with jax 1 and Python 2.\n" in text
    assert text.partition("|---|---|---|---|---|---|---|\n")[2].splitlines() == [
        "| P001: `a`, `optax.b` and 1 more | [one](../t/x.py) | 5 | float32 | 2.0e-09 | rtol 0.1 + atol 1e-08 | 75 % |",
        "|  | [no array](../t/x.py) | 0 | — | — | — | — |",
        "| P002: `core.d` | [zero](../t/y.py) | 2 | float32 | 0 | exact | 0 |",
        "|  | [one](../t/x.py) | 5 | float32 | 2.0e-09 | rtol 0.1 + atol 1e-08 | 75 % |",
    ]
    far = {"t/y.py::test_zero": CASE | {"error": 0.25, "absolute": True, "rtol": 0.0, "atol": 1e4, "used": 2.5e-5}}
    assert "| float32 | 2.5e-01 absolute | atol 1e+04 | < 0.01 % |" in agreement.section(
        "losses", PAPERS, "jax 1 and Python 2", FOUND | far
    )
    with pytest.raises(ValueError, match=r"oracles that were not run: t/y\.py::test_zero$"):
        agreement.section("losses", PAPERS, "", {name: case for name, case in FOUND.items() if "zero" not in name})


def test_records_of_several_runs(tmp_path):
    files = [tmp_path / name for name in "abc"]
    for file, versions in zip(files, ("jax 1", "jax 1", "jax 2"), strict=True):
        file.write_text(json.dumps({"made with": versions, "tests": {f"t/{file.name}.py::test_x": CASE}}))
    assert agreement.read(files[:2]) == ("jax 1", {"t/a.py::test_x": CASE, "t/b.py::test_x": CASE})
    with pytest.raises(ValueError, match="made with different versions: jax 1, jax 2"):
        agreement.read(files)


def test_other_stages_stay_on_the_page():
    old = {"losses": "## losses\n\nold\n", "averaging": "## averaging\n\nkept\n"}
    stages = ["averaging", "losses", "optimizers"]
    first = agreement.page("", old, stages)
    assert first.endswith("Not measured yet: optimizers.\n\n## averaging\n\nkept\n\n## losses\n\nold\n")
    second = agreement.page(first, {"losses": "## losses\n\nnew\n"}, stages)
    assert second == first.replace("\nold\n", "\nnew\n")
    assert agreement.page(second, {}, ["losses"]).endswith("numbers.\n\n## losses\n\nnew\n")  # averaging is no more
