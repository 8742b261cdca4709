"""``--agreement FILE``: how closely the arrays agreed that passing tests compared, as JSON. Without it nothing happens.

FILE holds for every test how many comparisons it made by ``numpy.testing.assert_allclose`` and ``assert_array_equal``
(which chex's comparisons of trees call) and by :class:`Difference`, and the one that came nearest to its tolerance.
"""

import functools
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def measure(actual: Any, desired: Any, rtol: float, atol: float) -> dict[str, Any]:
    """What of its tolerance a comparison used, ``max |a-d| / (atol + rtol |d|)``, and the error ``max |a-d| / max |d|``.

    Where all of ``desired`` is zero the error is absolute. Equal infinities, and NaNs on both sides, differ by nothing.
    """
    wide = np.complex128 if np.iscomplexobj(actual) or np.iscomplexobj(desired) else np.float64
    a, d = np.broadcast_arrays(np.asarray(actual).astype(wide), np.asarray(desired).astype(wide))
    apart = ~((a == d) | (np.isnan(a) & np.isnan(d)))  # of a comparison that passed: finite here
    gap, size = np.abs(a[apart] - d[apart]), np.abs(d)
    error = float(np.max(gap, initial=0.0))
    scale = float(np.max(size, where=np.isfinite(size), initial=0.0))
    return _record(
        actual,
        error=error / (scale or 1.0),
        absolute=not scale,
        rtol=float(rtol),
        atol=float(atol),
        used=float(np.max(gap / (atol + rtol * size[apart]), initial=0.0)),
    )


def _record(actual: Any, error=0.0, absolute=False, rtol=0.0, atol=0.0, used=0.0) -> dict[str, Any]:
    dtype = str(np.asarray(actual).dtype)
    return {"dtype": dtype, "error": error, "absolute": absolute, "rtol": rtol, "atol": atol, "used": used}


class Difference(float):
    """A relative error that helpers of tests return: ``difference < bound`` is a comparison too.

    Where a test wants a difference, ``0.1 < difference < 0.5``, it asks for no agreement, and nothing is counted.
    """

    seen: list[dict[str, Any]] | None = None  # the recorder's, while there is one

    def __new__(cls, error: float, actual: Any):
        self = super().__new__(cls, error)
        self.actual = actual
        return self

    def __gt__(self, bound):
        self.seen = None
        return float(self) > bound

    def __lt__(self, bound):
        below = float(self) < bound
        if below and self.seen is not None:
            self.seen.append(_record(self.actual, error=float(self), rtol=float(bound), used=float(self / bound)))
        return below


class Recorder:
    """Stands between the tests and numpy's comparisons; one that fails, as some tests expect, is not counted."""

    def __init__(self, path: Path):
        self.path = path
        self.seen: list[dict[str, Any]] = []
        self.found: dict[str, dict[str, Any]] = {}
        self.patch = pytest.MonkeyPatch()
        close, equal = np.testing.assert_allclose, np.testing.assert_array_equal

        @functools.wraps(close)
        def assert_allclose(actual, desired, rtol=1e-7, atol=0, *args, **kwargs):
            __tracebackhide__ = True
            close(actual, desired, rtol, atol, *args, **kwargs)
            self.seen.append(measure(actual, desired, rtol, atol))

        @functools.wraps(equal)
        def assert_array_equal(actual, desired, *args, **kwargs):
            __tracebackhide__ = True
            equal(actual, desired, *args, **kwargs)
            self.seen.append(_record(actual))

        self.patch.setattr(np.testing, "assert_allclose", assert_allclose)
        self.patch.setattr(np.testing, "assert_array_equal", assert_array_equal)
        self.patch.setattr(Difference, "seen", self.seen)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self.seen.clear()
        result = yield
        # among comparisons that used nothing, one with a tolerance says more than an exact one
        worst = max(self.seen, key=lambda one: (one["used"], one["rtol"] + one["atol"] > 0), default={})
        # properties travel with the report, from xdist's workers too
        item.user_properties.append(("agreement", {"comparisons": len(self.seen)} | worst))
        return result

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.found[report.nodeid] = dict(report.user_properties)["agreement"]

    def pytest_sessionfinish(self, session):
        if not hasattr(session.config, "workerinput"):  # the reports of workers have come to the session above them
            versions = f"jax {metadata.version('jax')} and Python {platform.python_version()}"
            told = {"made with": versions, "tests": dict(sorted(self.found.items()))}
            self.path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def pytest_unconfigure(self):
        self.patch.undo()


def pytest_addoption(parser):
    parser.addoption("--agreement", metavar="FILE", help="write how closely compared arrays agreed to FILE, as JSON")


def pytest_configure(config):
    if path := config.getoption("--agreement"):
        config.pluginmanager.register(Recorder(Path(path)), "agreement")
