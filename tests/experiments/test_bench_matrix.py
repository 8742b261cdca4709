"""The benchmark of matrix optimizers times every step of whole periods."""

import numpy as np

from experiments.benchmarks import matrix
from jaxtrain.workloads.bytes import Config


def test_a_small_run():
    config = Config(width=8, layers=1, heads=2, length=8, batch_size=2, steps=100)
    found = matrix.measure(config, periods=1, optimizers=("adamw",))
    assert all(len(values) == matrix.PERIOD and (values > 0).all() for values in found.values())


def test_the_page_names_the_steps_that_carry_the_refresh():
    soap = np.tile([2.0] + 9 * [1.0], 3)
    text = matrix.page({"adamw": np.ones(30), "soap": soap}, "small", "1 × cpu (cpu), jax", "jaxtrain bench matrix")
    assert "| `soap` | 1.00 | 1.10 | 2.00 | 1.10 | 1.00 |" in text
    assert "| 0: 2.00 × the others |" in text and text.count("| none stands out |") == 1
