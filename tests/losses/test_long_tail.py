"""Losses for a long tail against their definitions and pytorch_optimizer."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import ldam_loss, logit_adjusted_loss
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "wcdas.npz")
Z, LABELS = np.random.default_rng(0).standard_normal((6, 5)), np.arange(6) % 5
COUNTS = np.array([500, 100, 30, 8, 2])


def test_logit_adjustment(x64):
    z, y = jnp.asarray(Z), jnp.asarray(LABELS)
    e = COUNTS**0.7 * np.exp(Z)
    # the definition, in float64
    want = -np.log(e[np.arange(6), LABELS] / e.sum(axis=1))
    np.testing.assert_allclose(logit_adjusted_loss(z, y, COUNTS, tau=0.7), want, rtol=1e-12)
    np.testing.assert_allclose(logit_adjusted_loss(z, y, COUNTS / COUNTS.sum(), tau=0.7), want, rtol=1e-12)
    plain = optax.losses.softmax_cross_entropy_with_integer_labels(z, y)
    np.testing.assert_allclose(logit_adjusted_loss(z, y, COUNTS, tau=0.0), plain, rtol=1e-12)
    np.testing.assert_allclose(logit_adjusted_loss(z, y, np.full(5, 7), tau=-2.0), plain, rtol=1e-12)


def test_ldam_equals_pytorch_optimizer(x64):
    z, y = jnp.asarray(GOLDEN["cosines"]), jnp.asarray(GOLDEN["labels"])
    value, gradient = jax.value_and_grad(lambda z: ldam_loss(z, y, GOLDEN["counts"]).mean())(z)
    # theirs keeps the margins in float32, times a scale of 30
    np.testing.assert_allclose(value, GOLDEN["ldam_loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient, GOLDEN["ldam_grad"], atol=1e-5)


def test_contract():
    check_loss(lambda z, y: logit_adjusted_loss(z, y, COUNTS), predictions=Z, targets=LABELS)
    check_loss(
        lambda z, y: ldam_loss(z, y, COUNTS), predictions=Z / 3, targets=LABELS, laws=("shape", "dtype", "finite")
    )


def test_bad_input():
    z, y = jnp.asarray(Z), jnp.asarray(LABELS)
    with pytest.raises(ValueError, match=r"class_counts of shape \(4,\) for 5 classes"):
        logit_adjusted_loss(z, y, COUNTS[:4])
    with pytest.raises(ValueError, match="class_counts must lie in"):
        ldam_loss(z, y, np.array([3, 2, 1, 1, 0]))
    with pytest.raises(ValueError, match="max_margin must lie in"):
        ldam_loss(z, y, COUNTS, max_margin=-1.0)
    with pytest.raises(ValueError, match="scale must lie in"):
        ldam_loss(z, y, COUNTS, scale=0.0)
    with pytest.raises(ValueError, match="label 7 is none of the 5 classes"):
        logit_adjusted_loss(z, y.at[0].set(7), COUNTS)
