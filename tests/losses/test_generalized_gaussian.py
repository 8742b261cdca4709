"""Generalized normal errors against SciPy's distribution and statistics, and limits by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from jaxtrain.losses import (
    biev_weights,
    gg_td_loss,
    ggd_excess_kurtosis,
    ggd_nll,
    ggd_variance,
    mbbe_variance,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
E = RNG.normal(size=40) * 2
SHAPES = np.array([0.3, 0.7, 1.0, 1.5, 2.0, 4.9])


def test_equals_scipys_density(x64):
    for alpha in (1.0, 0.4):
        wanted = -scipy.stats.gennorm.logpdf(E[:, None], SHAPES, scale=alpha)
        got = ggd_nll(jnp.asarray(np.tile(E[:, None], 6)), jnp.asarray(SHAPES), alpha=alpha)
        np.testing.assert_allclose(got, wanted, rtol=1e-12)  # float64 through lgamma


def test_is_the_normal_and_laplaces_density(x64):
    e = jnp.asarray(E)
    np.testing.assert_allclose(ggd_nll(e, 2.0), e**2 + 0.5 * np.log(np.pi), rtol=1e-13)  # variance 1/2
    np.testing.assert_allclose(ggd_nll(e, 1.0), jnp.abs(e) + np.log(2), rtol=1e-13)


def test_moments_are_scipys(x64):
    variance, kurtosis = scipy.stats.gennorm.stats(SHAPES, scale=1.7, moments="vk")
    np.testing.assert_allclose(ggd_variance(1.7, jnp.asarray(SHAPES)), variance, rtol=1e-11)  # exp of lgamma up to 30
    np.testing.assert_allclose(ggd_excess_kurtosis(jnp.asarray(SHAPES)), kurtosis, rtol=1e-10, atol=1e-13)


def test_gradient_at_zero_is_finite_for_every_shape():
    for beta in (0.1, 1.0, 2.0):
        slopes = jax.grad(lambda e, b: ggd_nll(e, b).sum(), argnums=(0, 1))(jnp.zeros(2), jnp.full(2, beta))
        np.testing.assert_array_equal(slopes[0], 0.0)
        assert np.all(np.isfinite(slopes[1]))


def test_variance_by_scipys_statistics(x64):
    x = RNG.standard_t(5, size=(30, 8))
    wanted = np.var(x, axis=-1, ddof=1) / (9 / 7 + scipy.stats.kurtosis(x, axis=-1, bias=False).clip(-2) / 8)
    np.testing.assert_allclose(mbbe_variance(jnp.asarray(x)), wanted, rtol=1e-12)
    np.testing.assert_allclose(mbbe_variance(jnp.asarray(x.T), axis=0), wanted, rtol=1e-12)
    normal = mbbe_variance(jnp.asarray(x), kurtosis=0.0)
    np.testing.assert_allclose(normal, ((x - x.mean(-1, keepdims=True)) ** 2).sum(-1) / 9, rtol=1e-13)
    np.testing.assert_array_equal(mbbe_variance(jnp.ones((2, 5))), 0.0)


def test_variance_with_the_known_kurtosis_has_the_least_error(x64):
    x = jnp.asarray(RNG.laplace(size=(200_000, 5)))  # variance 2, excess kurtosis 3
    best, unbiased = mbbe_variance(x, kurtosis=3.0), jnp.var(x, axis=-1, ddof=1)
    error = lambda v: float(jnp.mean((v - 2) ** 2))  # noqa: E731
    # sigma^4 (2/4 + 3/5) = 4.4, and V / (1 + V/sigma^4) = 4.4/2.1 after the shrinkage; sampled to some per cent
    assert abs(error(unbiased) - 4.4) < 0.25 and abs(error(best) - 4.4 / 2.1) < 0.05
    for factor in (0.9, 1.1):
        assert error(factor * best) > error(best)


def test_weights_reach_the_effective_batch(x64):
    v = RNG.gamma(0.3, 1.0, 50)
    effective = lambda w: w.sum() ** 2 / (w**2).sum() / 50  # noqa: E731
    plain = 1 / np.maximum(v, 1e-6 * v.max())
    assert effective(plain) < 0.1
    xi = scipy.optimize.brentq(lambda xi: effective(1 / (v + xi)) - 0.5, 0, 100, xtol=1e-14)
    got = np.asarray(biev_weights(jnp.asarray(v)))
    wanted = 1 / (v + xi)
    # variances below 1e-6 of the largest count as that
    np.testing.assert_allclose(got, wanted / wanted.mean(), rtol=2e-5)
    small = np.asarray(biev_weights(jnp.asarray(v), min_batch_fraction=0.0))
    np.testing.assert_allclose(small, plain / plain.mean(), rtol=1e-12)  # no xi
    np.testing.assert_allclose(biev_weights(jnp.full(4, 3.0)), 1.0, rtol=1e-12)
    np.testing.assert_allclose(biev_weights(jnp.zeros(4)), 1.0, rtol=1e-12)


def test_loss_is_its_parts(x64):
    e, h = RNG.normal(size=(12, 5)) * 2, RNG.normal(size=(12, 5)) * 2
    beta = np.log1p(np.exp(h)).clip(0.1, 5)
    share = beta / beta.sum(-1, keepdims=True)
    weight = np.asarray(biev_weights(mbbe_variance(jnp.asarray(e))))
    wanted = (share * -scipy.stats.gennorm.logpdf(e, beta)).sum(-1) + 0.3 * weight * np.abs(e).sum(-1)
    np.testing.assert_allclose(gg_td_loss(jnp.asarray(e), jnp.asarray(h), lam=0.3), wanted, rtol=1e-12)
    slope = jax.grad(lambda e: gg_td_loss(e, jnp.asarray(h), lam=0.3).sum())(jnp.asarray(e))
    by_hand = share * beta * np.abs(e) ** (beta - 1) * np.sign(e) + 0.3 * weight[:, None] * np.sign(e)
    np.testing.assert_allclose(slope, by_hand, rtol=1e-11)


def test_contract():
    # a shape of 1.3: its power of 1e4 is far from overflow
    check_loss(functools.partial(ggd_nll), predictions=E[:6], targets=np.full(6, 1.3))


def test_the_batch_is_coupled_but_the_rest_of_the_contract_holds():
    # the weights look at the whole batch; they and the order of the shares are constants to the gradient
    check_loss(
        gg_td_loss,
        predictions=E[:24].reshape(6, 4),
        targets=RNG.normal(size=(6, 4)),
        laws=["shape", "dtype", "jit", "vmap", "permutation", "finite", "finite_gradient"],
        extreme=1e3,
        may_be_infinite=True,
    )


def test_bad_input():
    with pytest.raises(ValueError, match="beta must lie in"):
        ggd_nll(jnp.ones(2), -1.0)
    with pytest.raises(ValueError, match="alpha must lie in"):
        ggd_variance(0.0, 1.0)
    with pytest.raises(ValueError, match="3 samples along axis -1"):
        mbbe_variance(jnp.ones((5, 3)))
    with pytest.raises(ValueError, match="min_batch_fraction must lie in"):
        biev_weights(jnp.ones(3), min_batch_fraction=1.0)
    with pytest.raises(ValueError, match="lam must lie in"):
        gg_td_loss(jnp.ones((3, 4)), jnp.ones((3, 4)), lam=-1.0)
