"""NPO against its definition, its gradient in closed form, and the losses it lies between."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.losses import (
    dpo_loss,
    gradient_ascent_loss,
    npo_gradient_weight,
    npo_loss,
    npo_unlearning_objective,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
LOGP, REF = -RNG.gamma(2.0, 5.0, 30), -RNG.gamma(2.0, 5.0, 30)


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0, 5.0])
def test_equals_the_ratio_of_probabilities(beta, x64):
    ratio = np.exp(LOGP) / np.exp(REF)
    got = npo_loss(jnp.asarray(LOGP), jnp.asarray(REF), beta=beta)
    # float64 rounding of the exponents (up to 40) and of 1 + a small ratio
    np.testing.assert_allclose(got, 2 / beta * np.log(1 + ratio**beta), rtol=1e-12, atol=1e-15)
    weight = npo_gradient_weight(jnp.asarray(LOGP), jnp.asarray(REF), beta=beta)
    pi, ref = np.exp(LOGP) ** beta, np.exp(REF) ** beta
    np.testing.assert_allclose(weight, 2 * pi / (pi + ref), rtol=1e-12)


def test_the_gradient_is_the_weight_times_that_of_logp(x64):
    x, y = jnp.asarray(RNG.normal(size=(8, 5))), jnp.asarray(RNG.integers(0, 3, 8))
    w, ref = jnp.asarray(RNG.normal(size=(5, 3))), jnp.asarray(-RNG.gamma(2.0, 1.0, 8))

    def logp(w):
        return jnp.take_along_axis(jax.nn.log_softmax(x @ w), y[:, None], 1)[:, 0]

    weight = npo_gradient_weight(logp(w), ref, beta=0.7)
    # d log p / d w by hand: x (1[y] - p)
    pull = np.asarray(jax.nn.one_hot(y, 3) - jax.nn.softmax(x @ w)) * np.asarray(weight)[:, None]
    got, to_ref = jax.grad(lambda w, r: npo_loss(logp(w), r, beta=0.7).sum(), argnums=(0, 1))(w, ref)
    np.testing.assert_allclose(got, np.asarray(x).T @ pull, rtol=1e-12)
    np.testing.assert_array_equal(to_ref, 0.0)


def test_is_dpo_with_nothing_preferred_and_gradient_ascent_in_the_limit(x64):
    logp, ref, zero = jnp.asarray(LOGP), jnp.asarray(REF), jnp.zeros(30)
    for beta in (0.1, 2.0):
        wanted = 2 / beta * dpo_loss(zero, logp, zero, ref, beta=beta)
        np.testing.assert_allclose(npo_loss(logp, ref, beta=beta), wanted, rtol=1e-13)
    # 2/beta log(1 + e^(beta d)) = 2/beta log 2 + d + beta d^2/4 + …, with d up to 30 and beta = 1e-6
    small = npo_loss(logp, ref, beta=1e-6) - 2e6 * np.log(2)
    np.testing.assert_allclose(small, gradient_ascent_loss(logp) - ref, atol=3e-4)
    g = jax.grad(lambda x: npo_loss(x, ref, beta=1e-6).sum())(logp)
    np.testing.assert_allclose(g, jax.grad(lambda x: gradient_ascent_loss(x).sum())(logp), atol=2e-5)


def test_starts_with_a_pull_of_exactly_one():
    at = jnp.asarray(LOGP, jnp.float32)
    for beta in (0.1, 1.0):
        g = jax.grad(lambda x, beta=beta: npo_loss(x, at, beta=beta).sum())(at)
        np.testing.assert_allclose(g, 1.0, rtol=1e-6)  # 2/beta · beta · 1/2: rounding of single precision
        np.testing.assert_array_equal(npo_gradient_weight(at, at, beta=beta), 1.0)


def test_objective():
    logp, ref, retain = jnp.array([-3.0, -9.0]), jnp.array([-2.0, -1.0]), jnp.array([[0.5], [2.5]])
    wanted = (2 / 0.5) * np.log(1 + np.exp(0.5 * np.array([-1.0, -8.0]))).mean() + 3 * 1.5
    got = npo_unlearning_objective(logp, ref, retain, beta=0.5, retain_coef=3.0)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)  # single precision


def test_beta_may_be_traced():
    betas = jnp.array([0.1, 1.0, 3.0])
    got = jax.jit(jax.vmap(lambda b: npo_loss(jnp.array([-3.0]), jnp.array([-2.0]), beta=b)[0]))(betas)
    np.testing.assert_allclose(got, 2 / np.asarray(betas) * np.log1p(np.exp(-np.asarray(betas))), rtol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_contract(beta):
    check_loss(functools.partial(npo_loss, beta=beta), predictions=LOGP[:6], targets=REF[:6])


def test_bad_input():
    logp = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"logp \(3,\) and ref_logp \(2,\) disagree"):
        npo_loss(logp, logp[:2])
    with pytest.raises(ValueError, match="beta must lie in"):
        npo_loss(logp, logp, beta=0.0)
    with pytest.raises(ValueError, match="beta must lie in"):
        npo_gradient_weight(logp, logp, beta=-1.0)
    with pytest.raises(ValueError, match="retain_coef must lie in"):
        npo_unlearning_objective(logp, logp, logp, retain_coef=-1.0)
    with pytest.raises(ValueError, match=r"ref_logp_l \(2,\) disagree"):
        dpo_loss(logp, logp, logp, logp[:2])
