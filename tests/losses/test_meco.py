"""MECO against gradients in closed form, and the limits of its average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import logsumexp

from jaxtrain.losses import (
    MecoState,
    importance_log_partition,
    meco_gradient_momentum,
    meco_loss_and_state,
    nce_loss,
)

RNG = np.random.default_rng(0)
X, Z = RNG.normal(size=30) + 1, RNG.normal(size=(6, 50)) * 2
A = jnp.asarray  # inside the tests: in float64 where they enable it


def f(theta, x):
    return -0.5 * (x - theta) ** 2


def log_q(z):
    return -0.125 * z**2 - 0.5 * jnp.log(8 * jnp.pi)


def q_of(z):
    return scipy.stats.norm.logpdf(z, 0, 2)


def test_follows_the_recursion(x64):
    theta, gamma, state, u = 0.7, 0.3, None, None
    step = jax.jit(
        lambda theta, z, state: jax.value_and_grad(meco_loss_and_state, has_aux=True)(
            theta, f, A(X), z, log_q, state, gamma=gamma
        )
    )
    for z in Z:
        weights = np.exp(f(theta, z) - q_of(z))
        u = weights.mean() if u is None else (1 - gamma) * u + gamma * weights.mean()
        slope = -(X - theta).mean() + (weights * (z - theta)).mean() / u
        (value, state), got = step(theta, A(z), state)
        np.testing.assert_allclose(state.log_u, np.log(u), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(value, -f(theta, X).mean() + np.log(u), rtol=1e-12)
        np.testing.assert_allclose(got, slope, rtol=1e-10)
        theta -= 0.5 * slope
    assert int(state.count) == 6


def test_with_the_exact_factor_it_is_the_likelihoods_gradient(x64):
    # a grid for noise: sums are integrals, Z = sqrt(2 pi) and d log Z / d theta = 0
    z = A(np.linspace(-12, 12, 4001))
    even = lambda z: jnp.full(z.shape, -jnp.log(24.006))  # noqa: E731
    (value, _), slope = jax.value_and_grad(meco_loss_and_state, has_aux=True)(0.4, f, A(X), z, even, None)
    np.testing.assert_allclose(slope, 0.4 - X.mean(), rtol=1e-10)
    np.testing.assert_allclose(value, -scipy.stats.norm.logpdf(X, 0.4).mean(), rtol=1e-7)  # 24.006 is 4001 steps


def test_all_of_this_step_is_the_gradient_of_the_plain_estimate(x64):
    def plain(theta):
        return -f(theta, A(X)).mean() + importance_log_partition(f(theta, A(Z[1])), log_q(A(Z[1])))

    state = MecoState(A(5.0), A(3, jnp.int32))
    got = jax.grad(lambda t: meco_loss_and_state(t, f, A(X), A(Z[1]), log_q, state, gamma=1.0)[0])(0.3)
    np.testing.assert_allclose(got, jax.grad(plain)(0.3), rtol=1e-12)


def test_noise_from_the_model_gives_contrastive_divergence(x64):
    of_model = lambda z: f(0.3, z) - 0.5 * jnp.log(2 * jnp.pi)  # noqa: E731
    z = RNG.normal(size=40) + 0.3
    got = jax.grad(lambda t: meco_loss_and_state(t, f, A(X), A(z), of_model, None)[0])(0.3)
    np.testing.assert_allclose(got, -(X - 0.3).mean() + (z - 0.3).mean(), rtol=1e-10)


def test_partition_and_nce_by_definition(x64):
    got = importance_log_partition(A(f(0.5, Z[0])), A(q_of(Z[0])))
    np.testing.assert_allclose(got, logsumexp(f(0.5, Z[0]) - q_of(Z[0])) - np.log(50), rtol=1e-13)
    for ratio in (1.0, 3.0):
        p = lambda x: np.exp(f(0.5, x) - 0.9)  # noqa: E731
        noise = lambda x, ratio=ratio: ratio * np.exp(q_of(x))  # noqa: E731
        wanted = -np.log(p(X) / (p(X) + noise(X))).mean()
        wanted -= ratio * np.log(noise(Z[0]) / (p(Z[0]) + noise(Z[0]))).mean()
        got = nce_loss(0.5, f, A(X), A(Z[0]), log_q, log_z=0.9, ratio=ratio)
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_far_apart_nothing_overflows():
    for theta in (0.0, 1e4):
        state = MecoState(jnp.float32(-1e6), jnp.int32(1))  # an average that is far too small
        x, z = A(X, jnp.float32), A(Z[0], jnp.float32)
        (value, new), slope = jax.value_and_grad(meco_loss_and_state, has_aux=True)(theta, f, x, z, log_q, state)
        assert np.isfinite(value) and np.isfinite(slope) and np.isfinite(new.log_u)


def test_momentum():
    tx = meco_gradient_momentum(0.25)
    state, mean, weight = tx.init(jnp.zeros(2)), 0.0, 0.0
    for g in (1.0, -2.0, 4.0):
        updates, state = tx.update(jnp.full(2, g), state)
        mean, weight = 0.75 * mean + 0.25 * g, 0.75 * weight + 0.25
        np.testing.assert_allclose(updates, mean / weight, rtol=1e-6)  # single precision


def test_bad_input():
    x = jnp.ones(3)
    with pytest.raises(ValueError, match="gamma must lie in"):
        meco_loss_and_state(0.0, f, x, x, log_q, None, gamma=0.0)
    with pytest.raises(ValueError, match="ratio must lie in"):
        nce_loss(0.0, f, x, x, log_q, log_z=0.0, ratio=0.0)
    with pytest.raises(ValueError, match="beta must lie in"):
        meco_gradient_momentum(1.5)
    with pytest.raises(ValueError, match="disagree"):
        importance_log_partition(x, x[:2])
