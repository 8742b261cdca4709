"""The benchmark of losses compares what gives the same results."""

import jax
import jax.numpy as jnp

from experiments.benchmarks import losses


def test_a_quick_run_prints_every_table(capsys):
    assert losses.main(["--quick"]) == 0
    out = capsys.readouterr().out
    for name in (*losses.of_logits(), *losses.of_layer(8), *losses.softmaxes()):
        assert name in out
    assert "nan" not in out


def test_the_layers_and_the_softmaxes_agree():
    x, y = 30 * jax.random.normal(jax.random.key(0), (8, 40)), jnp.arange(8)
    finite = {name: fn for name, fn in losses.softmaxes().items() if "overflows" not in name}
    rows = losses.measure(finite, (x,), rounds=1)
    assert len(rows) == 3 and all(row["difference"] < 1e-5 for row in rows)  # rounding of float32 at 2^k, k up to 130
    layers = {name: jax.value_and_grad(fn, (0, 1)) for name, fn in losses.of_layer(4).items()}
    rows = losses.measure(layers, (x[:, :6] / 30, x[:6] / 30, y), rounds=1)
    assert len(rows) == 4 and all(row["difference"] < 1e-5 and row["ms"] > 0 for row in rows)
