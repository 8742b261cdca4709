"""The benchmark of optimizers runs, and its books balance."""

import numpy as np
import pytest

from experiments.benchmarks import _table, optimizers


def _count(leaves):
    return sum(int(np.prod(shape)) for shape in leaves.values())


def test_a_small_run():
    found = optimizers.measure(["optax.sgd", "optax.adamw", "adahessian"], scale=0.01, rounds=3, fused=True)
    count = _count(optimizers.shapes(0.01))
    # parameters read and written, gradients read, 4 bytes each
    assert found["optax.sgd"]["MB"] == pytest.approx(12 * count / 1e6, rel=1e-12)
    assert found["optax.sgd"]["state B"] == 0
    # and two moments and a count besides, read and written
    assert found["optax.adamw"]["MB"] == pytest.approx((28 * count + 8) / 1e6, rel=1e-12)
    assert found["optax.adamw"]["× nearest"] == 1.0
    assert all(found["adahessian"][column] > 0 for column in ("ms", "× floor", "fused × floor"))
    page = optimizers.page({"gpt2": found}, 0.01, "a GPU", "a command")
    assert page.count("| optimizer |") == 1 and "PyTorch's |" not in page  # a column that was not measured


@pytest.mark.parametrize(("tree", "leaves", "millions"), [("gpt2", 148, 124.4), ("resnet", 161, 25.6)])
def test_the_models_are_those_of_the_papers(tree, leaves, millions):
    found = optimizers.shapes(1.0, tree)
    assert len(found) == leaves and round(_count(found) / 1e6, 1) == millions


def test_every_nearest_is_in_the_table():
    table = _table.table()
    for name, entry in table.items():
        assert table[entry.nearest].nearest == entry.nearest, name
