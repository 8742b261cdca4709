"""The benchmark of optimizers runs, and its books balance."""

from experiments.benchmarks import optimizers


def test_a_small_run():
    found = optimizers.measure(["adamw + swa", "optax.sgd", "adahessian"], scale=0.02, rounds=2)
    count = sum(a * (b[0] if b else 1) for a, *b in optimizers.shapes(0.02).values())
    # parameters read and written, gradients read, 4 bytes each
    assert abs(found["optax.sgd"]["MB"] - 12 * count / 1e6) < 1e-6
    # and two moments and a count besides, read and written
    assert abs(found["optax.adamw"]["MB"] - (28 * count + 8) / 1e6) < 1e-5
    assert found["optax.sgd"]["× nearest"] == 1.0
    for name in ("adamw + swa", "adahessian"):
        assert found[name]["ms"] > 0 and found[name]["× floor"] > 0


def test_the_model_is_that_of_the_measured_figures():
    tree = optimizers.shapes(1.0)
    count = sum(a * (b[0] if b else 1) for a, *b in tree.values())
    assert len(tree) == 76 and 23e6 < count < 24e6
