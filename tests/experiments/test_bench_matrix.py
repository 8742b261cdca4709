"""The benchmark of matrix optimizers times every step of whole periods."""

from experiments.benchmarks import matrix
from jaxtrain.workloads.bytes import Config


def test_a_small_run():
    config = Config(width=8, layers=1, heads=2, length=8, batch_size=2, steps=100)
    found = matrix.measure(config, periods=1, optimizers=("adamw",))
    assert all(len(values) == matrix.PERIOD and (values > 0).all() for values in found.values())
