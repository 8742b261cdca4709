"""Calibration error by bins, the area under the curve against scikit-learn's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxtrain.evaluation import confidence_auroc, expected_calibration_error


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_calibration_error_bin_by_bin(num_bins, x64):
    rng = np.random.default_rng(0)
    conf = np.concatenate([rng.random(200), [0.0, 1.0, 0.5]])
    correct = rng.random(203) < conf**2
    wanted, edges = 0.0, np.linspace(0, 1, num_bins + 1)
    for low, high in itertools.pairwise(edges):
        inside = ((conf > low) | (low == 0)) & (conf <= high)
        if inside.any():
            wanted += inside.mean() * abs(correct[inside].mean() - conf[inside].mean())
    got = expected_calibration_error(jnp.asarray(conf), jnp.asarray(correct), num_bins=num_bins)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)  # float64


def test_an_edge_belongs_to_the_bin_below():
    conf, correct = jnp.array([0.5, 0.625]), jnp.array([True, False])
    # gaps of 0.5 and -0.625 in two bins; together they would nearly cancel
    assert float(expected_calibration_error(conf, correct, num_bins=2)) == (0.5 + 0.625) / 2


def test_area_is_scikit_learns():
    rng = np.random.default_rng(1)
    conf = np.round(rng.random((3, 300)), 2).astype(np.float32)  # with ties
    correct = rng.random((3, 300)) < conf
    got = jax.jit(jax.vmap(confidence_auroc))(conf, correct)
    np.testing.assert_allclose(got, [roc_auc_score(c, p) for c, p in zip(correct, conf, strict=True)], rtol=1e-6)
    assert bool(jnp.isnan(confidence_auroc(jnp.array([0.1, 0.2]), jnp.array([True, True]))))
    assert bool(jnp.isnan(confidence_auroc(jnp.array([0.1, jnp.nan, 0.3]), jnp.array([True, False, True]))))
    np.testing.assert_array_equal(confidence_auroc(jnp.full(4, 0.3), jnp.array([1, 0, 0, 1])), 0.5)


def test_bad_input():
    conf = jnp.ones(3)
    for fn in (expected_calibration_error, confidence_auroc):
        with pytest.raises(ValueError, match=rf"{fn.__name__}: one confidence and one answer .* got \(3,\) and \(2,\)"):
            fn(conf, jnp.ones(2))
    with pytest.raises(ValueError, match="num_bins must be at least 1"):
        expected_calibration_error(conf, conf, num_bins=0)
