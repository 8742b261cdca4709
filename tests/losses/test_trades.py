"""TRADES against the formula in NumPy; the authors' training steps hold it too (tests/gradients/test_official_sharpness.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import trades_loss
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
CLEAN, ADV, LABELS = 3 * RNG.standard_normal((6, 5)), 3 * RNG.standard_normal((6, 5)), RNG.integers(0, 5, 6)


def test_equals_the_formula(x64):
    p, q = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (CLEAN, ADV))
    want = -np.log(p[np.arange(6), LABELS]) + 6.0 * np.sum(p * np.log(p / q), axis=1)
    got = trades_loss(jnp.asarray(CLEAN), jnp.asarray(ADV), jnp.asarray(LABELS))
    np.testing.assert_allclose(got, want, rtol=1e-12)  # float64


def test_limits():
    clean, labels = jnp.asarray(CLEAN, jnp.float32), jnp.asarray(LABELS)
    want = optax.losses.softmax_cross_entropy_with_integer_labels(clean, labels)
    np.testing.assert_array_equal(trades_loss(clean, clean, labels), want)  # an adversary that does nothing
    np.testing.assert_array_equal(trades_loss(clean, jnp.asarray(ADV, jnp.float32), labels, beta=0.0), want)


def test_both_predictions_are_differentiated(x64):
    """By hand: to the adversarial logits q - p, to the clean ones p (log p/q - KL) besides cross-entropy."""
    p, q = jax.nn.softmax(jnp.asarray(CLEAN)), jax.nn.softmax(jnp.asarray(ADV))
    logs = jnp.log(p / q)
    loss = lambda a, b: trades_loss(a, b, jnp.asarray(LABELS), beta=2.0).sum()  # noqa: E731
    to_clean, to_adv = jax.grad(loss, argnums=(0, 1))(jnp.asarray(CLEAN), jnp.asarray(ADV))
    np.testing.assert_allclose(to_adv, 2 * (q - p), atol=1e-14)
    by_hand = p - jax.nn.one_hot(LABELS, 5) + 2 * p * (logs - (p * logs).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(to_clean, by_hand, atol=1e-14)


def test_contract():
    check_loss(lambda z, y: trades_loss(z, 0.5 * z, y), class_symmetric=True)


def test_bad_input():
    z = jnp.zeros((3, 4))
    with pytest.raises(ValueError, match=r"logits \(3, 4\) and logits_adv \(2, 4\) disagree"):
        trades_loss(z, z[:2], jnp.zeros(3, int))
    with pytest.raises(ValueError, match="beta must lie in"):
        trades_loss(z, z, jnp.zeros(3, int), beta=-1.0)
    with pytest.raises(ValueError, match=r"labels of shape \(2,\)"):
        trades_loss(z, z, jnp.zeros(2, int))
