"""The golden steps of tests/golden/make_adaptive.py, and a scanned run over given gradients."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from tests._agreement import Difference
from tests.optimizers.golden_runs import run as follow

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "adaptive.npz")
LEAVES = ("matrix", "vector", "scalar")
CHANGE = 20


def falling(learning_rate):
    """The golden runs' learning rate: 0.3 of itself after step 20."""
    return lambda count: learning_rate * jnp.where(count < CHANGE, 1.0, 0.3)


def start(dtype=None):
    """Parameters and gradients of the golden runs."""
    return tuple({name: jnp.asarray(GOLDEN[f"{part}/{name}"], dtype) for name in LEAVES} for part in ("first", "grads"))


def largest_difference(iterates, other):
    """The largest absolute difference over all leaves and steps, relative to the largest entry of the second."""
    pairs = [(np.asarray(iterates[name]), np.asarray(other[name])) for name in LEAVES]
    return Difference(max(np.abs(a - b).max() for a, b in pairs) / max(np.abs(b).max() for _, b in pairs), pairs[0][0])


def difference_to_golden(tx, case):
    """How far a transformation is from a golden run."""
    iterates, _ = follow(tx, *start())
    return largest_difference(iterates, {name: GOLDEN[f"{case}/{name}"] for name in LEAVES})
