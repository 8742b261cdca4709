"""Alpha-divergences against SciPy, identities, and the authors' code in float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxtrain.losses import (
    adaptive_alpha_distill_loss,
    alpha_divergence,
    alpha_divergence_surrogate,
    sandwich_subnet_sampler,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
T, S = 1.5 * RNG.standard_normal((2, 12, 5))
P, Q = scipy.special.softmax(T, axis=1), scipy.special.softmax(S, axis=1)
ALPHAS = (-1.0, 0.0, 0.5, 1.0, 2.0)


def released(alpha, clip):
    """Value and slopes q · rho of the authors' f_divergence, in NumPy."""
    ratio = P / Q
    if alpha == 0:
        ratio = np.minimum(ratio, clip)
        return (-Q * np.log(ratio)).sum(1), Q * (np.log(ratio) - 1)
    if alpha == 1:
        return (Q * ratio * np.log(ratio)).sum(1), Q * ratio
    power, base = np.minimum(ratio**alpha, clip), 1 / alpha / (alpha - 1)
    return (Q * (power * base - base)).sum(1), Q * (power / alpha + base)


def grad_of(loss):
    return jax.grad(lambda s: loss(s).sum())(jnp.asarray(S))


def test_equals_scipy_and_its_identities(x64):
    t, s = jnp.asarray(T), jnp.asarray(S)
    np.testing.assert_allclose(alpha_divergence(t, s, alpha=1), scipy.special.rel_entr(P, Q).sum(1), rtol=1e-12)
    np.testing.assert_allclose(alpha_divergence(t, s, alpha=0), scipy.special.rel_entr(Q, P).sum(1), rtol=1e-12)
    np.testing.assert_allclose(alpha_divergence(t, s, alpha=0.5), 4 * (1 - np.sqrt(P * Q).sum(1)), rtol=1e-12)
    np.testing.assert_allclose(alpha_divergence(t, s, alpha=-1), 0.5 * ((Q**2 / P).sum(1) - 1), rtol=1e-12)
    for alpha in (-1.3, 0.2, 0.0, 2.5):
        turned = alpha_divergence(s, t, alpha=1 - alpha)
        np.testing.assert_allclose(alpha_divergence(t, s, alpha=alpha), turned, rtol=1e-11)
        np.testing.assert_allclose(alpha_divergence(t, t + 3, alpha=alpha), 0, atol=1e-15)
    # continuous across the guard: the quotient has lost half the digits there
    for edge in (0.0, 1.0):
        near = alpha_divergence(t, s, alpha=edge + 2e-8)
        np.testing.assert_allclose(near, alpha_divergence(t, s, alpha=edge), rtol=1e-6)


@pytest.mark.parametrize("clip", [1.5, 5.0, 1e3])
def test_equals_the_released_code(clip, x64):
    surrogate = jax.jit(lambda s, alpha: alpha_divergence_surrogate(jnp.asarray(T), s, alpha=alpha, clip=clip))
    for alpha in ALPHAS:
        value, slope = released(alpha, clip)
        np.testing.assert_allclose(surrogate(jnp.asarray(S), alpha)[0], value, rtol=1e-11, atol=1e-14)
        # -sum_c slope_c grad log q_c, with grad log q_c = e_c - q
        wanted = Q * slope.sum(1, keepdims=True) - slope
        got = grad_of(lambda s, alpha=alpha: surrogate(s, alpha)[1])
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-13)


def test_without_clipping_the_gradient_is_exact(x64):
    t = jnp.asarray(T)
    for alpha in ALPHAS:
        exact = grad_of(functools.partial(alpha_divergence, t, alpha=alpha))
        got = grad_of(lambda s, alpha=alpha: alpha_divergence_surrogate(t, s, alpha=alpha, clip=1e30)[1])
        np.testing.assert_allclose(got, exact, rtol=1e-9, atol=1e-12)


def test_adaptive_takes_the_larger(x64):
    (low, low_slope), (high, high_slope) = released(-1.0, 5.0), released(1.0, 5.0)
    worse = low > high
    assert 0 < worse.sum() < len(worse)
    loss = functools.partial(adaptive_alpha_distill_loss, jnp.asarray(T))
    np.testing.assert_allclose(loss(jnp.asarray(S)), np.maximum(low, high), rtol=1e-12)
    slope = np.where(worse[:, None], low_slope, high_slope)
    np.testing.assert_allclose(grad_of(loss), Q * slope.sum(1, keepdims=True) - slope, rtol=1e-10, atol=1e-13)


def test_contract():
    turned = lambda fn, **hyper: lambda s, t: fn(t, s, **hyper)  # noqa: E731
    x, y = S[:6], T[:6]
    # without clipping: differences see the slope that a bound cuts off
    check_loss(
        turned(adaptive_alpha_distill_loss, clip=1e30), predictions=x, targets=y, class_symmetric=True, rtol=5e-5
    )
    laws = ["shape", "dtype", "finite", "finite_gradient"]
    check_loss(turned(adaptive_alpha_distill_loss), predictions=x, targets=y, laws=laws)
    check_loss(turned(alpha_divergence, alpha=-1.0), predictions=x, targets=y, laws=laws, may_be_infinite=True)


def test_sandwich():
    space = {"width": jnp.array([0.5, 0.25, 1.0]), "depth": jnp.array([1.0, 2.0])}
    draws = jax.vmap(lambda key: sandwich_subnet_sampler(key, space, num_random=3))(
        jax.random.split(jax.random.key(0), 300)
    )
    np.testing.assert_array_equal(draws["width"][:, :2], np.broadcast_to([1.0, 0.25], (300, 2)))
    np.testing.assert_array_equal(draws["depth"][:, :2], np.broadcast_to([2.0, 1.0], (300, 2)))
    # 900 draws: five standard deviations of a share of a third
    shares = [(draws["width"][:, 2:] == w).mean() for w in (0.25, 0.5, 1.0)]
    np.testing.assert_allclose(shares, 1 / 3, atol=5 * np.sqrt(2 / 9 / 900))


def test_bad_input():
    t, s = jnp.asarray(T, jnp.float32), jnp.asarray(S, jnp.float32)
    with pytest.raises(ValueError, match="disagree"):
        alpha_divergence(t, s[:3], alpha=0.5)
    with pytest.raises(ValueError, match="alpha must lie in"):
        alpha_divergence(t, s, alpha=np.inf)
    with pytest.raises(ValueError, match="clip must lie in"):
        adaptive_alpha_distill_loss(t, s, clip=0.0)
    with pytest.raises(ValueError, match="choices of 'width' must be a vector"):
        sandwich_subnet_sampler(jax.random.key(0), {"width": jnp.ones(())})
    with pytest.raises(ValueError, match="num_random must be at least 0"):
        sandwich_subnet_sampler(jax.random.key(0), {"width": jnp.ones(2)}, num_random=-1)
