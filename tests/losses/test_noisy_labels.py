"""Generalized and symmetric cross-entropy against their definitions by probabilities, and their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import generalized_cross_entropy_loss, symmetric_cross_entropy_loss
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
Z, Y = 2 * RNG.standard_normal((12, 5)), RNG.integers(0, 5, 12)
P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
OWN, ONE_HOT = P[np.arange(12), Y], np.eye(5)[Y]
CROSS_ENTROPY = optax.losses.softmax_cross_entropy_with_integer_labels


def test_generalized_is_its_definition_with_both_limits(x64):
    z, y = jnp.asarray(Z), jnp.asarray(Y)
    for q in (0.1, 0.7, 1.0):
        # float64; 1 - p^q loses digits where p is close to 1
        np.testing.assert_allclose(generalized_cross_entropy_loss(z, y, q=q), (1 - OWN**q) / q, rtol=1e-11)
    # half of the absolute error of the whole distribution
    half = np.abs(P - ONE_HOT).sum(axis=1) / 2
    np.testing.assert_allclose(generalized_cross_entropy_loss(z, y, q=1.0), half, rtol=1e-12)
    np.testing.assert_allclose(generalized_cross_entropy_loss(z, y, q=0.0), CROSS_ENTROPY(z, y), rtol=1e-12)
    # the next term of the series is -q (log p)² / 2
    small = generalized_cross_entropy_loss(z, y, q=1e-6)
    np.testing.assert_allclose(small, -np.log(OWN) - 0.5e-6 * np.log(OWN) ** 2, rtol=1e-10)


def test_generalized_gradient_is_that_of_cross_entropy_times_p_to_the_q(x64):
    got = jax.grad(lambda z: generalized_cross_entropy_loss(z, jnp.asarray(Y), q=0.7).sum())(jnp.asarray(Z))
    np.testing.assert_allclose(got, OWN[:, None] ** 0.7 * (P - ONE_HOT), rtol=1e-10, atol=1e-14)  # float64


def test_sum_over_all_labels_is_constant_at_q_1_and_bounded_below(x64):
    """Theorem 1 of Zhang and Sabuncu: (n - n^(1-q)) / q ≤ sum over labels ≤ (n - 1) / q."""
    z = jnp.asarray(Z)
    for q in (0.3, 0.7, 1.0):
        each = jnp.stack([generalized_cross_entropy_loss(z, jnp.full(12, k), q=q) for k in range(5)])
        total = np.asarray(each.sum(axis=0))
        assert np.all(total >= (5 - 5 ** (1 - q)) / q - 1e-12) and np.all(total <= 4 / q + 1e-12)  # rounding
    np.testing.assert_allclose(total, 4.0, rtol=1e-13)


def test_symmetric_is_both_cross_entropies(x64):
    z, y = jnp.asarray(Z), jnp.asarray(Y)
    # as the release has it, by labels clipped at e^A (1e-4 there, A = -9.2)
    forward, reverse = -np.log(OWN), -np.sum(P * np.log(np.clip(ONE_HOT, np.exp(-4.0), 1.0)), axis=1)
    got = symmetric_cross_entropy_loss(z, y, alpha=0.1, beta=1.0)
    np.testing.assert_allclose(got, 0.1 * forward + reverse, rtol=1e-12)
    np.testing.assert_allclose(symmetric_cross_entropy_loss(z, y, alpha=1.0, beta=0.0), CROSS_ENTROPY(z, y), rtol=1e-12)
    for log_zero in (-4.0, -9.0):
        alone = symmetric_cross_entropy_loss(z, y, alpha=0.0, beta=2.0, log_zero=log_zero)
        absolute = generalized_cross_entropy_loss(z, y, q=1.0)
        np.testing.assert_allclose(alone, -2 * log_zero * absolute, rtol=1e-12)


@pytest.mark.parametrize(
    "fn", [generalized_cross_entropy_loss, functools.partial(symmetric_cross_entropy_loss, alpha=0.1, beta=1.0)]
)
def test_a_class_that_is_masked_out_is_not_there(fn, x64):
    there, y = np.array([0, 1, 3, 4]), jnp.array([0, 1, 2, 3, 0])
    value, pull = jax.value_and_grad(lambda z: fn(z, jnp.asarray(there)[y]).sum())(
        jnp.asarray(Z[:5]).at[:, 2].set(-jnp.inf)
    )
    wanted, slope = jax.value_and_grad(lambda z: fn(z, y).sum())(jnp.asarray(Z[:5, there]))
    np.testing.assert_allclose(value, wanted, rtol=1e-12)  # float64
    np.testing.assert_allclose(pull[:, there], slope, rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(pull[:, 2], 0.0)


def test_numbers_may_be_traced():
    z, y = jnp.asarray(Z, jnp.float32), jnp.asarray(Y)
    got = jax.jit(jax.vmap(lambda q: generalized_cross_entropy_loss(z, y, q=q)))(jnp.array([0.0, 0.7]))
    np.testing.assert_allclose(got[1], (1 - OWN**0.7) / 0.7, rtol=2e-6)  # single precision
    np.testing.assert_allclose(got[0], -np.log(OWN), rtol=2e-6)
    both = jax.jit(lambda a, b, c: symmetric_cross_entropy_loss(z, y, alpha=a, beta=b, log_zero=c))(0.1, 1.0, -4.0)
    np.testing.assert_allclose(both, -0.1 * np.log(OWN) + 4 * (1 - OWN), rtol=2e-6)


@pytest.mark.parametrize(
    "fn",
    [generalized_cross_entropy_loss, functools.partial(symmetric_cross_entropy_loss, alpha=0.1, beta=1.0)],
    ids=["generalized", "symmetric"],
)
def test_contract(fn):
    check_loss(fn, class_symmetric=True)


def test_bad_input():
    z, y = jnp.asarray(Z), jnp.asarray(Y)
    for q in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"q must lie in \[0.0, 1.0\]"):
            generalized_cross_entropy_loss(z, y, q=q)
    with pytest.raises(ValueError, match="generalized_cross_entropy_loss: label 5 is none of the 5 classes"):
        generalized_cross_entropy_loss(z, y.at[0].set(5))
    with pytest.raises(ValueError, match="alpha must lie in"):
        symmetric_cross_entropy_loss(z, y, alpha=-1.0, beta=1.0)
    with pytest.raises(ValueError, match="log_zero must lie in"):
        symmetric_cross_entropy_loss(z, y, alpha=1.0, beta=1.0, log_zero=0.0)
    with pytest.raises(ValueError, match="symmetric_cross_entropy_loss: labels of shape"):
        symmetric_cross_entropy_loss(z, y[:3], alpha=1.0, beta=1.0)
