"""Means over batches of different sizes are the means over the examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.training import evaluate_batches

DATA = np.random.default_rng(0).normal(1e4, 1.0, 1003).astype(np.float32)


def test_uneven_batches_weigh_every_example_the_same():
    calls = []

    @jax.jit
    def measure(x):
        calls.append(1)
        return {"value": x, "members": jnp.stack([x, -x]), "hit": x > 1e4}

    batches = [DATA[i : i + 100] for i in range(0, 1003, 100)]
    *between, (split, means) = evaluate_batches("test", measure, iter(batches))
    assert between == [("", {})] * 10 and split == "test"
    exact = DATA.astype(np.float64).mean()
    # float64 sums of a thousand numbers; in float32 the mean of means would be off by 1e-2
    np.testing.assert_allclose(means["value"], exact, rtol=1e-13)
    np.testing.assert_allclose(means["members"], [exact, -exact], rtol=1e-13)
    assert means["hit"] == np.mean(DATA > 1e4)
    assert len(calls) == 2  # one compilation for each of the two sizes
    assert abs(np.mean([b.mean() for b in batches]) - exact) > 1e-3


def test_errors():
    def run(measure, batches):
        return list(evaluate_batches("test", measure, batches))

    with pytest.raises(ValueError, match="evaluation of 'test': there is no batch"):
        run(lambda x: {"a": x}, [])
    with pytest.raises(ValueError, match="no examples for a"):
        run(lambda x: {"a": x}, [np.zeros(0)])
    with pytest.raises(ValueError, match="'a' is one number for a batch"):
        run(lambda x: {"a": x.mean()}, [np.ones(3)])
    names = iter("ab")
    with pytest.raises(ValueError, match=r"metrics were \['a'\], a later batch gave \['b'\]"):
        run(lambda x: {next(names): x}, [np.ones(3)] * 2)
