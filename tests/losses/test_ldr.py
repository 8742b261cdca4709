"""LDR-KL and ALDR-KL against optax, limits, a search over lam, and the authors' code in float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import aldr_kl_loss, l1_normalize_logits, ldr_kl_loss, ldr_weights
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
N, K = 16, 5
F = 2 * RNG.standard_normal((N, K))
Y = RNG.integers(0, K, N)
LOGITS, LABELS = jnp.asarray(F, jnp.float32), jnp.asarray(Y)


def deltas(f, y, margin):
    delta = f - f[np.arange(len(y)), y][:, None] + margin
    delta[np.arange(len(y)), y] = 0.0
    return delta


def released(f, y, lam, lam0, alpha, margin):
    """One visit of the authors' ALDRLoss_V1, without its normalisation of the logits."""
    p = np.exp(f / lam[:, None])
    p = p / p.sum(1, keepdims=True) + 1e-5
    p = p / p.sum(1, keepdims=True)
    kl, log_k = (p * np.log(K * p)).sum(1), np.log(K)
    new = lam0 - lam0 * kl / (alpha * log_k)
    loss = new * np.log(np.exp(deltas(f, y, margin) / new[:, None]).mean(1))
    return loss - 0.5 * alpha * log_k / lam0 * (new - lam0) ** 2, new


def test_equals_cross_entropy_less_log_k():
    wanted = optax.losses.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS) - np.log(K)
    # single precision, of differences of numbers of size 5
    np.testing.assert_allclose(ldr_kl_loss(LOGITS, LABELS), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lam, margin", [(1.0, 1.0), (0.1, 0.3), (5.0, 0.0)])
def test_equals_the_worst_weighting(lam, margin, x64):
    f, delta = jnp.asarray(F), deltas(F, Y, margin)
    p = np.asarray(ldr_weights(f, LABELS, lam=lam, margin=margin))
    attained = (p * delta).sum(1) - lam * (p * np.log(K * np.maximum(p, 1e-300))).sum(1)
    got = ldr_kl_loss(f, LABELS, lam=lam, margin=margin)
    np.testing.assert_allclose(got, attained, rtol=1e-12, atol=1e-13)  # float64
    # and no other weighting does better
    for other in RNG.dirichlet(np.ones(K), 200):
        worse = delta @ other - lam * (other * np.log(K * other)).sum()
        assert np.all(worse <= attained + 1e-12)
    grad = jax.grad(lambda f: ldr_kl_loss(f, LABELS, lam=lam, margin=margin).sum())(f)
    np.testing.assert_allclose(grad, p - np.eye(K)[Y], atol=1e-13)


def test_limits_in_lam(x64):
    f, delta = jnp.asarray(F), deltas(F, Y, 1.0)
    # off by at most lam log K, and by the variance over 2 lam
    np.testing.assert_allclose(ldr_kl_loss(f, LABELS, lam=1e-8, margin=1.0), delta.max(1), atol=2e-8)
    np.testing.assert_allclose(ldr_kl_loss(f, LABELS, lam=1e8, margin=1.0), delta.mean(1), atol=2e-7)
    assert np.isfinite(ldr_kl_loss(LOGITS * 1e3, LABELS, lam=1e-30)).all()


def test_equals_the_released_code(x64):
    lam, ours = np.full(N, 1.5), jnp.full(N, 1.5)
    for visit in range(30):
        f = F * (1 + 0.1 * visit)
        wanted, lam = released(f, Y, lam, 1.5, 2.5, 0.7)
        loss, ours = aldr_kl_loss(jnp.asarray(f), LABELS, ours, lam0=1.5, alpha=2.5, margin=0.7)
        np.testing.assert_allclose(loss, wanted, rtol=1e-11, atol=1e-12)  # float64 over 30 visits
        np.testing.assert_allclose(ours, lam, rtol=1e-12)


def test_fixed_point_maximises_over_lam(x64):
    f, lam, alpha = 0.5 * F, jnp.full(N, 1.0), 3.0
    visit = jax.jit(lambda lam: aldr_kl_loss(jnp.asarray(f), LABELS, lam, alpha=alpha, margin=0.0))
    for _ in range(60):
        loss, lam = visit(lam)
    grid = np.linspace(0.3, 1.2, 9001)
    delta = deltas(f, Y, 0.0)[:, None, :] / grid[:, None]
    value = grid * np.log(np.exp(delta).mean(-1)) - 0.5 * alpha * np.log(K) * (grid - 1.0) ** 2
    # spacing 1e-4, and the 1e-5 that is added to each class moves lam by less than 5e-4
    np.testing.assert_allclose(lam, grid[value.argmax(1)], atol=6e-4)
    np.testing.assert_allclose(loss, value.max(1), atol=1e-6)


def test_sure_and_unsure_examples():
    f = jnp.array([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0], [0.0, 100.0, 0.0]])
    _, lam = aldr_kl_loss(f, jnp.array([0, 0, 0]), jnp.ones(3), lam0=2.0, alpha=4.0)
    # 1 - 1/4 of lam0 where sure, rightly or wrongly; 3e-4 for the 1e-5 added
    np.testing.assert_allclose(lam, [2.0, 1.5, 1.5], atol=3e-4)


def test_gradient_takes_lam_as_a_constant(x64):
    f, lam = jnp.asarray(F), jnp.full(N, 0.8)
    _, new = aldr_kl_loss(f, LABELS, lam)
    grad = jax.grad(lambda f: aldr_kl_loss(f, LABELS, lam)[0].sum())(f)
    np.testing.assert_array_equal(jax.grad(lambda lam: aldr_kl_loss(f, LABELS, lam)[0].sum())(lam), 0.0)
    wanted = ldr_weights(f, LABELS, lam=new, margin=1.0) - np.eye(K)[Y]
    np.testing.assert_allclose(grad, wanted, atol=1e-13)


def test_normalised_logits():
    np.testing.assert_allclose(jnp.abs(l1_normalize_logits(LOGITS)).mean(1), np.ones(N), rtol=1e-6)
    np.testing.assert_allclose(l1_normalize_logits(LOGITS), F * K / np.abs(F).sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(l1_normalize_logits(jnp.zeros((1, 3))), 0)
    grad = jax.grad(lambda f: l1_normalize_logits(f)[0, 0])(jnp.array([[1e38, -3e38, 2e38]]))
    assert np.isfinite(grad).all()


def test_contract():
    check_loss(functools.partial(ldr_kl_loss, lam=0.5, margin=1.0), class_symmetric=True)
    # its gradient holds lam fixed on purpose, which differences do not; tested above
    aldr = lambda x, y: aldr_kl_loss(x, y, jnp.full(y.shape, 1.2))[0]  # noqa: E731
    check_loss(aldr, laws=["shape", "dtype", "batch", "finite", "finite_gradient", "bfloat16"])


def test_bad_input():
    with pytest.raises(ValueError, match="lam must lie in"):
        ldr_kl_loss(LOGITS, LABELS, lam=0.0)
    with pytest.raises(ValueError, match="margin must lie in"):
        ldr_kl_loss(LOGITS, LABELS, margin=-1.0)
    with pytest.raises(ValueError, match="label 5 is none of the 5 classes"):
        ldr_weights(LOGITS, LABELS.at[0].set(5))
    with pytest.raises(ValueError, match="alpha must be greater than 1"):
        aldr_kl_loss(LOGITS, LABELS, jnp.ones(N), alpha=1.0)
    with pytest.raises(ValueError, match=r"lam of shape \(\)"):
        aldr_kl_loss(LOGITS, LABELS, jnp.ones(()))
