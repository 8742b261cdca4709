"""The cost of aggregators, side by side with peers: ``jaxtrain bench aggregators``.

Robust rules against byzfl on the same float32 stacks, byzfl on NumPy arrays and on PyTorch tensors, in turns. byzfl and PyTorch are
optional; without them only our times are shown. Before anything is timed, results are compared: rules that are defined alike must agree.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks._timing import machine, print_table, side_by_side
from jaxtrain import aggregation as ag

TITLE = "Aggregators against byzfl"


def _byzfl() -> Any:
    """The package without the imports that it does not need here; None where it is not installed."""
    missing = ("torchvision", "torchvision.transforms", "torchvision.models", "torchvision.datasets", "matplotlib")
    before = dict(sys.modules)
    for name in (*missing, "matplotlib.pyplot", "seaborn", "byzfl.benchmark"):
        sys.modules.setdefault(name, MagicMock())
    try:
        import byzfl
    except ImportError:
        return None
    finally:
        for name in (*missing, "matplotlib.pyplot", "seaborn"):
            if name not in before:
                sys.modules.pop(name, None)
    return byzfl


def _rules(f: int) -> dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], bool]]:
    """Name -> ours, how byzfl's is made, and whether the two are defined alike."""
    return {
        "median": (ag.coordinate_median, lambda b: b.Median(), True),
        "trimmed mean": (functools.partial(ag.trimmed_mean, num_byzantine=f), lambda b: b.TrMean(f), True),
        "mean around the median": (
            functools.partial(ag.mean_around_median, num_byzantine=f),
            lambda b: b.Meamed(f),
            True,
        ),
        # n − f − 1 neighbours there
        "Multi-Krum": (functools.partial(ag.multi_krum, num_byzantine=f), lambda b: b.MultiKrum(f), False),
        # three steps there, converged here
        "geometric median": (ag.geometric_median, lambda b: b.GeometricMedian(), False),
        "nearest-neighbour mixing": (
            functools.partial(ag.nearest_neighbor_mixing, num_byzantine=f),
            lambda b: b.NNM(f),
            True,
        ),
    }


def robust(workers: int, parameters: int, rounds: int) -> list[tuple[str, ...]]:
    """Rows of the table: milliseconds of ours and of byzfl's, and the ratio of the faster of its two to ours."""
    # an odd number: PyTorch's median of an even one is the lower of the two in the middle
    x = np.random.default_rng(0).normal(size=(workers, parameters)).astype(np.float32)
    ours, f, peer = jnp.asarray(x), max(1, workers // 5), _byzfl()
    rows = []
    for name, (rule, make, alike) in _rules(f).items():
        run = jax.jit(rule)
        result = np.asarray(run(ours))
        assert np.isfinite(result).all() and np.any(result != 0), f"{name} did nothing"
        candidates: dict[str, Callable[[], Any]] = {"jaxtrain": functools.partial(run, ours)}
        if peer is not None:
            import torch

            theirs, tensor = make(peer), torch.tensor(x)
            if alike:
                np.testing.assert_allclose(result, theirs(x.copy()), atol=1e-5)
            # neither of these changes its input
            candidates["byzfl, NumPy"] = functools.partial(theirs, x)
            candidates["byzfl, PyTorch"] = lambda r=theirs, t=tensor: r(t).numpy()
        times = side_by_side(candidates, rounds=rounds, settle=True)
        cells = [name, f"{workers} × {parameters:,}", f"{1e3 * times.median('jaxtrain'):.2f}"]
        if peer is not None:
            best = min(("byzfl, NumPy", "byzfl, PyTorch"), key=times.median)
            cells += [f"{1e3 * times.median(p):.2f}" for p in ("byzfl, NumPy", "byzfl, PyTorch")]
            cells += [
                f"{times.ratio(best, 'jaxtrain'):.2f}",
                "{:.2f} … {:.2f}".format(*times.ratio_range(best, "jaxtrain")),
            ]
        rows.append(tuple(cells))
    return rows


def main(argv: Sequence[str]) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench aggregators", description=TITLE)
    parser.add_argument("--rounds", type=int, default=11, help="default: 11")
    parser.add_argument("--quick", action="store_true", help="few rounds of a small size, to see that it works")
    args = parser.parse_args(list(argv))
    print(machine())
    sizes = [(15, 1_000)] if args.quick else [(15, 10_000), (15, 1_000_000), (51, 100_000)]
    rows = [row for n, d in sizes for row in robust(n, d, min(args.rounds, 5) if args.quick else args.rounds)]
    header = ("rule", "workers × parameters", "ms", "byzfl, NumPy", "byzfl, PyTorch", "× faster", "quartiles")
    print_table("Robust rules", header[: len(rows[0])], rows)
    return 0
