"""The benchmark of convergence counts what it says, on a problem with a closed form."""

import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import _table, convergence


def test_gradient_descent_on_a_parabola_takes_the_steps_that_it_must():
    # w ← (1 - η) w on w²/2 from 1: w²/2 ≤ 1e-3 after the first multiple of 10 with (1 - η)^2k ≤ 2e-3
    problem = convergence.Problem(
        init=lambda key: jnp.ones(()),
        loss=lambda w, batch: jnp.mean(batch) * w**2 / 2,
        data=np.ones(4, np.float32),
        measured=np.ones(1, np.float32),
        batch_size=2,
        target=1e-3,
        what="a parabola",
    )
    entry = _table.Entry(optax.sgd, "optax.sgd", rate=3.5e-3, scheduled=False)
    found = convergence.measure_one(entry, problem, steps=60)
    rates = 3.5e-3 * np.array(convergence.FACTORS)
    steps = 10 * np.ceil(np.log(2e-3) / (2 * np.log(1 - rates)) / 10)
    assert found["at_edge"] and np.isclose(found["rate"], rates[-1])  # the largest rate is the best
    assert found["steps"] == [steps[-1]] * convergence.SEEDS == [30.0] * convergence.SEEDS
    np.testing.assert_allclose(found["final"], (1 - rates[-1]) ** 120 / 2, rtol=1e-4)  # float32 powers


def test_the_table_of_results():
    def one(steps, cost):
        return {"rate": 0.1, "at_edge": False, "steps": [steps] * 3, "final": [0.0] * 3, "us_per_step": cost}

    found = {
        "p": {"optax.adamw": one(100.0, 10.0), "x": one(50.0, 30.0)},
        "q": {"optax.adamw": one(60.0, 10.0), "x": one(np.inf, 30.0)},
    }
    assert convergence.rows_of(found) == [
        ("optax.adamw", "100", "60", "1.0", "0.50", "0.50", "1.00"),
        ("x", "50", "—", "3.0", "0.50", "0.50", "0.50"),
    ]
