"""The data sets and what is done to them, counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data


def test_mnist_5k():
    x, y = data.mnist_5k()
    assert x.shape == (5000, 784) and x.dtype == np.float32 and (x.min(), x.max()) == (0.0, 1.0)
    assert np.bincount(y).tolist() == [500] * 10


def test_long_tail_shrinks_geometrically_and_repeats():
    labels = np.tile(np.arange(4), 200)
    kept = data.long_tail(labels, imbalance=8.0, seed=1)
    assert np.bincount(labels[kept]).tolist() == [200, 100, 50, 25]
    assert len(set(kept)) == len(kept)
    np.testing.assert_array_equal(kept, data.long_tail(labels, imbalance=8.0, seed=1))
    assert (kept[:20] != data.long_tail(labels, imbalance=8.0, seed=2)[:20]).any()
    with pytest.raises(ValueError, match="got 0.5"):
        data.long_tail(labels, imbalance=0.5, seed=0)


def test_wrong_labels_are_wrong_and_even():
    labels = jnp.tile(jnp.arange(5), 400)
    noisy, wrong = jax.jit(lambda k: data.with_wrong_labels(k, labels, fraction=0.4, num_classes=5))(jax.random.key(0))
    assert int(wrong.sum()) == 800
    np.testing.assert_array_equal(noisy != labels, wrong)
    shifts = np.bincount(np.asarray((noisy - labels) % 5)[np.asarray(wrong)], minlength=5)[1:]
    # binomial: 200 ± 12.2; five standard deviations
    assert np.abs(shifts - 200).max() < 62
    with pytest.raises(ValueError, match="got 2 and 5"):
        data.with_wrong_labels(jax.random.key(0), labels, fraction=2, num_classes=5)
