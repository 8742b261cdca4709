"""The best setting of a grid by other seeds, with the one compiled program that is measured afterwards."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _ends


def tuned(run, keys, grid, *, seeds=3):
    """What ``run`` gives for the keys at the best setting, and that setting.

    ``run(keys, values) -> (score to be low, metrics)`` is vectorised over pairs of a key and a setting. Every setting is
    tried with ``seeds`` seeds of its own, as many pairs at a time as there are keys, so that it is compiled once.
    """
    grid = jnp.asarray(grid, jnp.float32)
    run, count = jax.jit(run), len(keys)
    # the last part is filled up with pairs that are not looked at
    pairs = np.arange(-(-len(grid) * seeds // count) * count) % (len(grid) * seeds)
    others = jnp.tile(jax.random.split(jax.random.key(20_000), seeds), len(grid))
    settings = jnp.repeat(grid, seeds, axis=0)
    parts = [run(others[part], settings[part])[0] for part in pairs.reshape(-1, count)]
    means = np.concatenate(parts)[: len(grid) * seeds].reshape(len(grid), seeds).mean(axis=1)
    value = grid[_ends.lowest(means, grid)]
    _, metrics = run(keys, jnp.tile(value, (count, 1)))
    return metrics, value


def tuned_arm(run, keys, smoke, *, rates, others, name):
    """:func:`tuned` of ``run(key, (rate, other))`` over all pairs of both, as an arm of a claim; the choice is in the metrics."""
    grid = list(itertools.product(rates, others))
    metrics, (rate, other) = tuned(jax.vmap(run), keys, grid[:2] if smoke else grid)
    return metrics | {"learning_rate": jnp.full(len(keys), rate), name: jnp.full(len(keys), other)}
