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
    with pytest.raises(ValueError, match="kind must be 'symmetric' or 'pair', got 'odd'"):
        data.with_wrong_labels(jax.random.key(0), labels, fraction=0.1, num_classes=5, kind="odd")


def test_pair_noise_moves_to_the_next_class():
    labels = jnp.tile(jnp.arange(5), 20)
    noisy, wrong = data.with_wrong_labels(jax.random.key(1), labels, fraction=0.3, num_classes=5, kind="pair")
    assert int(wrong.sum()) == 30
    np.testing.assert_array_equal(noisy, np.where(wrong, (labels + 1) % 5, labels))


def _images():
    return jax.random.uniform(jax.random.key(3), (40, 8, 8), minval=-1.0)


@pytest.mark.parametrize("kind", data.CORRUPTIONS)
def test_corruption_of_no_severity_changes_nothing_and_none_leaves_the_range(kind):
    spoil = jax.jit(lambda x, severity: data.corrupted(jax.random.key(0), x, kind=kind, severity=severity))
    x = _images()
    # rounding of (1 - 0)·(x - mean) + mean, and of interpolation weights
    np.testing.assert_allclose(spoil(x, 0.0), x, atol=1e-6)
    found = spoil(x, 0.5)
    assert float(found.min()) >= float(x.min()) - 1e-6 and float(found.max()) <= float(x.max()) + 1e-6
    # moved by less than half a pixel both ways, one image in 64 stays as it is
    assert (np.abs(found - x).max(axis=(1, 2)) > 0.05).sum() >= 38


def test_corruptions_do_what_they_say():
    x, key = _images(), jax.random.key(0)
    np.testing.assert_allclose(
        data.corrupted(key, x, kind="contrast", severity=0.25) - x.mean(axis=(1, 2), keepdims=True),
        0.75 * (x - x.mean(axis=(1, 2), keepdims=True)),
        atol=1e-6,  # rounding
    )
    covered = np.asarray(data.corrupted(key, x, kind="occlude", severity=0.5)) == float(x.min())
    assert set(covered.sum(axis=(1, 2)).tolist()) <= {16, 17} and len(np.unique(covered, axis=0)) > 10
    one = jnp.zeros((30, 9, 9)).at[:, 4, 4].set(1.0)
    moved = np.asarray(data.corrupted(key, one, kind="translate", severity=0.25))
    where = np.argwhere(moved == 1.0)
    assert len(where) == 30 and np.abs(where[:, 1:] - 4).max() == 2
    turned = np.asarray(data.corrupted(key, jnp.zeros((30, 9, 9)).at[:, 4, 6].set(1.0), kind="rotate", severity=0.5))
    at = (turned[..., None] * np.argwhere(np.ones((9, 9))).reshape(9, 9, 2)).sum(axis=(1, 2)) / turned.sum(axis=(1, 2))[
        :, None
    ]
    # two pixels from the centre; linear interpolation moves a single pixel's centre of mass by up to a third of a pixel
    np.testing.assert_allclose(np.linalg.norm(at - 4, axis=1), 2.0, atol=0.35)
    assert (at[:, 1] > 3.6).all() and at[:, 0].min() < 3 and at[:, 0].max() > 5
    with pytest.raises(ValueError, match="kind must be one of noise, .* got 'fog'"):
        data.corrupted(key, x, kind="fog", severity=0.5)


def test_bags_are_disjoint():
    found = np.asarray(data.bags(jax.random.key(0), 100, size=8))
    assert found.shape == (12, 8) and len(np.unique(found)) == 96
    assert (found != np.asarray(data.bags(jax.random.key(1), 100, size=8))).any()
    with pytest.raises(ValueError, match="bags of 101 from 100"):
        data.bags(jax.random.key(0), 100, size=101)
