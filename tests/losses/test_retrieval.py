"""Uncertainty-regularised retrieval against the release's formulas in float64, optax and moments of the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import (
    batch_classification_loss,
    feature_jitter,
    recall_at_k,
    uncertainty_regularized_retrieval_loss,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
Q, F, NOISY = RNG.standard_normal((3, 6, 5))


def cross_entropies(q, f):
    scores = q @ f.T
    return np.log(np.exp(scores).sum(1)) - np.diag(scores)


@pytest.mark.parametrize("progress, gamma_scale", [(0.0, 1.0), (0.4, 1.0), (1.0, 2.5), (0.7, 0.0)])
def test_equals_the_formula(progress, gamma_scale, x64):
    s, gamma = NOISY.ravel().std(ddof=1), np.exp(-gamma_scale * progress)
    coarse = 0.5 * (np.exp(-s) * cross_entropies(Q, NOISY) + s)
    wanted = gamma * coarse + (1 - gamma) * cross_entropies(Q, F)
    got = uncertainty_regularized_retrieval_loss(
        *map(jnp.asarray, (Q, F, NOISY)), progress=progress, gamma_scale=gamma_scale
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-12)  # float64


def test_equals_optax(x64):
    scores = 3.0 * jnp.asarray(Q) @ jnp.asarray(F).T
    wanted = optax.losses.softmax_cross_entropy_with_integer_labels(scores, jnp.arange(6))
    np.testing.assert_allclose(batch_classification_loss(jnp.asarray(Q), jnp.asarray(F), scale=3.0), wanted, rtol=1e-12)


def test_jitter_has_the_moments_of_its_formula(x64):
    keys, n, a, b = jax.random.split(jax.random.key(0), 20_000), 20_000, 0.7, 1.3
    found = jax.vmap(lambda key: feature_jitter(key, jnp.asarray(F[:2]), alpha_scale=a, beta_scale=b))(keys)
    mu, sigma = F[:2].mean(1, keepdims=True), F[:2].std(1, ddof=1, keepdims=True)
    normed = (F[:2] - mu) / np.sqrt(F[:2].var(1, keepdims=True) + 1e-5)
    variance = sigma**2 * ((a * normed) ** 2 + b**2)
    # five standard errors of a mean, and of the variance of a normal variable (2 / n)
    np.testing.assert_array_less(np.abs(found.mean(0) - a * normed - b * mu), 5 * np.sqrt(variance / n))
    np.testing.assert_allclose(found.var(0), variance, rtol=5 * np.sqrt(2 / n))
    # entries are independent
    np.testing.assert_allclose(np.corrcoef(found[:, 0].T) - np.eye(5), 0, atol=5 / np.sqrt(n))


def test_the_noise_of_the_jitter_is_a_constant(x64):
    key, f = jax.random.key(3), jnp.asarray(F[:1])
    jacobian = jax.jacobian(lambda f: feature_jitter(key, f)[0])(f)[:, 0]
    # alpha from the output by the formula for beta = 0; then the derivative of the normalised features alone
    normed = jax.jacobian(lambda f: ((f - f.mean()) / jnp.sqrt(f.var() + 1e-5))[0])(f)[:, 0]
    without = feature_jitter(key, f, beta_scale=0.0)[0] / ((F[0] - F[0].mean()) / np.sqrt(F[0].var() + 1e-5))
    np.testing.assert_allclose(jacobian, without[:, None] * normed, rtol=1e-9, atol=1e-12)  # float64


def test_the_least_loss_over_the_spread_is_the_logarithm_of_the_error():
    # exp(-s) c + s has its minimum at s = log c: larger errors ask for more spread
    s = np.linspace(0.01, 4, 4000)
    for c in (2.0, 9.0):
        assert abs(s[np.argmin(np.exp(-s) * c + s)] - np.log(c)) < 1e-3


def test_contract():
    loss = jax.jit(lambda q, f: uncertainty_regularized_retrieval_loss(q, f, 0.5 * f[:, ::-1] + 1, progress=0.5))
    # each is a wrong answer to the others, so that an example depends on its batch
    check_loss(loss, predictions=Q, targets=F, except_=["batch"])


def test_no_spread_gives_no_nan():
    grad = jax.grad(lambda x: uncertainty_regularized_retrieval_loss(x, x, x, progress=0.3).sum())(jnp.ones((3, 2)))
    assert np.all(np.isfinite(grad))


def test_recall_by_sorting():
    scores, targets = RNG.standard_normal((40, 15)), RNG.integers(0, 15, 40)
    order = np.argsort(-scores, axis=1)
    for k in (1, 4, 15):
        wanted = np.mean([t in row[:k] for t, row in zip(targets, order, strict=True)])
        np.testing.assert_allclose(recall_at_k(jnp.asarray(scores), jnp.asarray(targets), k=k), wanted, rtol=1e-6)
    # one answer for all is no answer
    assert float(recall_at_k(jnp.zeros((3, 5)), jnp.zeros(3, int), k=4)) == 0.0


def test_bad_input():
    x, key = jnp.zeros((3, 2)), jax.random.key(0)
    with pytest.raises(ValueError, match=r"queries \(3, 2\) and targets \(2, 2\) disagree"):
        batch_classification_loss(x, x[:2])
    with pytest.raises(ValueError, match=r"and jittered \(3, 1\) disagree"):
        uncertainty_regularized_retrieval_loss(x, x, x[:, :1], progress=0.5)
    with pytest.raises(ValueError, match="progress must lie in"):
        uncertainty_regularized_retrieval_loss(x, x, x, progress=3)
    with pytest.raises(ValueError, match="scale must lie in"):
        batch_classification_loss(x, x, scale=0.0)
    with pytest.raises(ValueError, match="2 at least"):
        feature_jitter(key, x[:, :1])
    with pytest.raises(ValueError, match=r"queries of shape \(3,\)"):
        batch_classification_loss(x[:, 0], x[:, 0])
    with pytest.raises(ValueError, match="k must be at least 1"):
        recall_at_k(x, jnp.zeros(3, int), k=0)
    with pytest.raises(ValueError, match=r"targets of shape \(2,\)"):
        recall_at_k(x, jnp.zeros(2, int), k=1)
