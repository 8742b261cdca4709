"""What the tests of optimizers share: a problem with a matrix, a vector and a scalar, and scanned runs."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.optimizers import golden_runs

SHAPES = {"matrix": (4, 3), "vector": (5,), "scalar": ()}


def random_tree(seed, lead=()):
    """Normal entries in float64, leaves of different scale."""
    rng = np.random.default_rng(seed)
    return {name: 3.0**i * rng.normal(size=(*lead, *shape)) for i, (name, shape) in enumerate(SHAPES.items())}


def flat(tree, lead=0):
    """The leaves of a tree as one NumPy vector, behind ``lead`` common axes."""
    return np.concatenate(
        [np.asarray(x).reshape(*np.shape(x)[:lead], -1) for x in jax.tree.leaves(tree)],
        axis=-1,
    )


def run(tx, params, grads, extras=None):
    """The iterates (flat) of a scanned run over given gradients, with extra arguments of each step, and the state."""
    params, grads, extras = jax.tree.map(jnp.asarray, (params, grads, extras or {}))
    iterates, state = golden_runs.run(tx, params, grads, **extras)
    return flat(iterates, 1), state
