"""Golden trajectories of optimizers, and the same runs with ours."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

CHANGE, RATES = 20, (0.03, 0.003)  # of tests/golden/torch_runs.py


def golden(name):
    """The arrays that tests/golden/make_NAME.py wrote."""
    return np.load(Path(__file__).parents[1] / "golden" / f"{name}.npz")


def part(arrays, case):
    """The leaves of a case."""
    return {key.partition("/")[2]: jnp.asarray(arrays[key]) for key in arrays.files if key.startswith(case + "/")}


def rate(count):
    """The learning rate of the golden runs."""
    return jnp.where(count < CHANGE, *RATES)


def run(tx, params, grads, **extra_args):
    """Iterates and last state of a scanned run; extra arguments have a leading axis of steps."""

    def step(carry, inputs):
        params, state = carry
        g, extras = inputs
        updates, state = tx.update(g, state, params, **extras)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    tx = optax.with_extra_args_support(tx)
    go = jax.jit(lambda p, inputs: jax.lax.scan(step, (p, tx.init(p)), inputs))
    (_, state), iterates = go(params, (grads, extra_args))
    return iterates, state


def assert_equal_to_golden(tx, name, case, **tolerance):
    """The scanned run of ``tx`` has the iterates of a golden case."""
    arrays = golden(name)
    iterates, _ = run(tx, part(arrays, "first"), part(arrays, "grads"))
    for leaf, expected in part(arrays, case).items():
        np.testing.assert_allclose(iterates[leaf], expected, err_msg=leaf, **tolerance)
