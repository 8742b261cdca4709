"""The best setting of a grid by other seeds, with the one compiled program that is measured afterwards."""

import jax
import jax.numpy as jnp
import numpy as np


def tuned(run, keys, grid):
    """What ``run`` gives for the keys at the best setting, and that setting.

    ``run(keys, values) -> (score to be low, metrics)`` is vectorised over pairs of a key and a setting. As many pairs as
    there are keys are tried, so that it is compiled once: every setting with ``len(keys) // len(grid)`` seeds of its own.
    """
    grid = jnp.asarray(grid, jnp.float32)
    seeds, rest = divmod(len(keys), len(grid))
    if rest:
        raise ValueError(f"{len(keys)} seeds are no multiple of {len(grid)} settings")
    others = jax.random.split(jax.random.key(20_000), seeds)
    run = jax.jit(run)
    scores, _ = run(jnp.tile(others, len(grid)), jnp.repeat(grid, seeds, axis=0))
    means = np.asarray(scores).reshape(len(grid), seeds).mean(axis=1)
    # a diverged run is the worst
    value = grid[int(np.argmin(np.where(np.isfinite(means), means, np.inf)))]
    _, metrics = run(keys, jnp.tile(value, (len(keys), 1)))
    return metrics, value
