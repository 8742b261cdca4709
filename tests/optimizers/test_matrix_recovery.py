"""The subgradient method by hand, against jax.grad, and the geometry of signs by Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import l1_matrix_recovery_loss, sign_rip_deviation, sign_spectral_init, subgm


def problem(seed, d, rank, m, outliers=0.0):
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(d, rank))
    x = u @ u.T
    x = x / np.linalg.norm(x)
    a = rng.normal(size=(m, d, d))
    y = np.einsum("mij,ij->m", a, x)
    wrong = rng.random(m) < outliers
    y = np.where(wrong, 10 * rng.normal(size=m), y)
    return jnp.asarray(a), jnp.asarray(y), x, wrong


def test_scalar_case_by_hand(x64):
    """u² = 4 measured by 1 and by 3: the subgradient is ±(1 + 3)/2 · 2u, until it jumps around 2."""
    A, y = jnp.array([[[1.0]], [[3.0]]]), jnp.array([4.0, 12.0])
    found = subgm(A, y, jnp.array([[1.0]]), learning_rate=0.1, num_steps=3)
    # factors 1 + 0.4 as long as u² < 4, 1 - 0.4 above
    np.testing.assert_allclose(found.factor, [[1.4**3]], rtol=1e-12)
    np.testing.assert_allclose(found.losses, [2 * 3, 2 * (4 - 1.96), 2 * (4 - 1.4**4)], rtol=1e-12)
    down = subgm(A, y, jnp.array([[3.0]]), learning_rate=0.1, num_steps=1)
    np.testing.assert_allclose(down.factor, [[1.8]], rtol=1e-12)
    polyak = subgm(A, y, jnp.array([[1.0]]), learning_rate=0.01, num_steps=1, loss_proportional=True)
    np.testing.assert_allclose(polyak.factor, [[1 + 0.01 * 6 * 4]], rtol=1e-12)


def test_a_step_is_a_gradient_step_where_there_is_one(x64):
    A, y, _, _ = problem(0, 5, 2, 40, outliers=0.2)
    u = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)))
    schedule = optax.exponential_decay(0.3, 1, 0.5)
    found = jax.jit(lambda u: subgm(A, y, u, learning_rate=schedule, num_steps=2))(u)
    for eta in (0.3, 0.15):
        u = u - eta * jax.grad(l1_matrix_recovery_loss)(u, A, y)
    np.testing.assert_allclose(found.factor, u, rtol=1e-12)


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_signs_point_along_the_matrix(x64, fraction):
    """E D = √(2/π) (1 - p + p E exp(-s²/2‖X‖²)) X/‖X‖ for a fraction p of errors s."""
    A, y, x, _ = problem(2, 6, 1, 20_000)
    rng = np.random.default_rng(3)
    noise = np.where(rng.random(20_000) < fraction, 2.0 * rng.normal(size=20_000), 0.0)
    signs = np.sign(np.asarray(y) - noise)
    psi = np.mean(signs * np.asarray(y))  # ⟨D, X⟩ for ‖X‖ = 1
    # E exp(-s²/2) = 1/√(1 + 4) for s of variance 4
    want = np.sqrt(2 / np.pi) * (1 - fraction + fraction / np.sqrt(5))
    np.testing.assert_allclose(psi, want, atol=4 / np.sqrt(20_000))  # |sign · y| has a standard deviation below 1
    got = jax.jit(sign_rip_deviation)(A, jnp.asarray(x), jnp.asarray(noise))
    # a random symmetric matrix of size 6 with entries of √(1/2m): norm about 2 √(6/2m) = 0.025
    assert 0.005 < float(got) < 0.06 / want


def test_deviation_against_numpy(x64):
    """Few matrices, none of them symmetric, noise that is not symmetric either."""
    rng = np.random.default_rng(8)
    a, x, noise = rng.normal(size=(15, 4, 4)), np.diag([2.0, 1.0, 0.0, 0.0]), rng.exponential(size=15)
    d = np.einsum("m,mij->ij", np.sign(np.einsum("mij,ij->m", a, x) - noise), a) / 15
    d = (d + d.T) / 2
    psi = np.sum(d * x) / np.sqrt(5)
    want = np.linalg.norm(d - psi * x / np.sqrt(5), 2) / psi
    got = jax.jit(sign_rip_deviation)(*map(jnp.asarray, (a, x, noise)))
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_spectral_start_against_numpy(x64):
    A, y, x, _ = problem(4, 6, 2, 3000)
    u = sign_spectral_init(A, y, rank=4, scale=0.1)
    c = np.einsum("m,mij->ij", np.sign(y), A) / 3000
    c = (c + c.T) / 2
    eigs, vectors = np.linalg.eigh(c)
    kept = np.maximum(eigs[-4:], 0)
    np.testing.assert_allclose(
        u @ u.T, 0.01 * (vectors[:, -4:] * kept) @ vectors[:, -4:].T / np.linalg.norm(c), atol=1e-14
    )
    # of each column the largest entry is positive
    np.testing.assert_array_equal(np.max(u, axis=0), np.max(np.abs(u), axis=0))
    # 0.01 X / ‖X‖ but for the noise of 3,000 measurements
    np.testing.assert_allclose(u @ u.T, 0.01 * x, atol=0.01 * 0.1)


def test_recovers_with_more_columns_than_needed_and_wrong_measurements(x64):
    exact = problem(5, 8, 1, 200)
    start = sign_spectral_init(*exact[:2], rank=8, scale=1e-5)
    found = jax.jit(lambda u: subgm(*exact[:2], u, learning_rate=0.4, num_steps=600, loss_proportional=True))(start)
    # linear convergence down to what the seven other columns hold: of the order of the start, squared and grown a little
    assert np.linalg.norm(found.factor @ found.factor.T - exact[2]) < 1e-6
    wrong = problem(6, 8, 1, 200, outliers=0.2)
    start = sign_spectral_init(*wrong[:2], rank=8, scale=1e-5)
    rate = optax.exponential_decay(0.3, 1, 0.98)
    found = jax.jit(lambda u: subgm(*wrong[:2], u, learning_rate=rate, num_steps=600))(start)
    assert np.linalg.norm(found.factor @ found.factor.T - wrong[2]) < 1e-3


def test_clear_errors():
    with pytest.raises(ValueError, match=r"needs measurement matrices \(m, d, d\) and m measurements, got"):
        l1_matrix_recovery_loss(jnp.ones((2, 1)), jnp.ones((3, 2, 2)), jnp.ones(2))
    with pytest.raises(ValueError, match="rank must be at most the dimension 2, got 3"):
        sign_spectral_init(jnp.ones((3, 2, 2)), jnp.ones(3), rank=3, scale=1.0)
    with pytest.raises(ValueError, match=r"subgm needs a factor \(2, rank\), got shape \(3, 1\)"):
        subgm(jnp.ones((3, 2, 2)), jnp.ones(3), jnp.ones((3, 1)), learning_rate=0.1, num_steps=1)
    with pytest.raises(TypeError, match="the factor moves and must be floating, got int32|parameter 'start'"):
        subgm(jnp.ones((3, 2, 2)), jnp.ones(3), jnp.ones((2, 1), jnp.int32), learning_rate=0.1, num_steps=1)
    with pytest.raises((ValueError, TypeError), match=r"needs a matrix \(2, 2\), got shape \(3, 3\)"):
        sign_rip_deviation(jnp.ones((3, 2, 2)), jnp.ones((3, 3)))
    # measurements that say nothing: no start instead of NaN
    assert sign_spectral_init(jnp.ones((3, 2, 2)), jnp.zeros(3), rank=1, scale=1.0).tolist() == [[0.0], [0.0]]
