"""Lanczos against whole decompositions, and its quadrature against traces of powers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.core.lanczos import lanczos_tridiagonal, stochastic_lanczos_quadrature, top_eigenvalue

RNG = np.random.default_rng(0)
ORTHOGONAL = np.linalg.qr(RNG.normal(size=(60, 60)))[0]


def test_all_steps_give_all_eigenvalues_and_few_the_outer_ones(x64):
    eigs = np.concatenate([[-9.0, 20.0], RNG.uniform(-1, 1, 58)])
    a = jnp.asarray(ORTHOGONAL @ np.diag(eigs) @ ORTHOGONAL.T)
    start = {"u": jnp.asarray(RNG.normal(size=(5, 10))), "w": jnp.asarray(RNG.normal(size=10))}

    def matvec(v):
        image = a @ jnp.concatenate([v["u"].ravel(), v["w"]])
        return {"u": image[:50].reshape(5, 10), "w": image[50:]}

    def found(steps):
        alpha, beta = jax.jit(lambda s: lanczos_tridiagonal(matvec, s, num_steps=steps))(start)
        return np.linalg.eigvalsh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))

    # 100 steps are cut to 60; re-orthogonalised to rounding
    np.testing.assert_allclose(found(100), np.sort(eigs), atol=1e-11)
    # outliers at distances of 8 and 19 from a bulk of width 2
    np.testing.assert_allclose(found(12)[[0, -1]], [-9, 20], rtol=1e-9)
    top = jax.jit(lambda k: top_eigenvalue(k, matvec, start, num_steps=12))(jax.random.key(0))
    np.testing.assert_allclose(top, 20, rtol=1e-9)


def test_a_krylov_space_that_ends(x64):
    """Two distinct eigenvalues, both negative: nothing above them appears."""
    diagonal = jnp.array([-3.0, -3.0, -1.0, -1.0, -1.0])
    alpha, beta = jax.jit(lambda s: lanczos_tridiagonal(lambda v: diagonal * v, s, num_steps=5))(jnp.ones(5))
    np.testing.assert_allclose(beta[1], 0, atol=1e-14)
    ritz = np.linalg.eigvalsh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    assert ritz.min() >= -3 - 1e-12 and ritz.max() <= -1 + 1e-12
    # an identity: the space ends at once, and exactly
    alpha, beta = lanczos_tridiagonal(lambda v: -2.0 * v, jnp.array([1.0, 0.0, 0.0]), num_steps=3)
    np.testing.assert_array_equal(alpha, [-2, -2, -2])
    np.testing.assert_array_equal(beta, [0, 0])


def test_quadrature_has_the_moments_of_its_probes(x64):
    a = jnp.asarray(ORTHOGONAL @ np.diag(np.linspace(-1, 2, 60)) @ ORTHOGONAL.T)
    density = jax.jit(
        lambda k: stochastic_lanczos_quadrature(k, lambda v: a @ v, jnp.zeros(60), num_steps=8, num_probes=40)
    )(jax.random.key(1))
    assert density.nodes.shape == (40, 8)
    np.testing.assert_allclose(density.weights.sum(), 1, rtol=1e-12)
    power = np.eye(60)
    for k in range(1, 5):
        power = power @ a
        moment = jnp.sum(density.weights * density.nodes**k)
        # 40 probes of signs: standard error √(2 (‖Aᵏ‖² - Σ diag²) / 40) / 60, four of them
        error = np.sqrt(2 * (np.sum(power**2) - np.sum(np.diag(power) ** 2)) / 40) / 60
        assert abs(moment - np.trace(power) / 60) < 4 * error
    # for one probe of a diagonal matrix every moment is exact: signs square to one
    diagonal = jnp.linspace(-1, 2, 60)
    one = stochastic_lanczos_quadrature(jax.random.key(2), lambda v: diagonal * v, jnp.zeros(60), num_steps=4)
    for k in range(8):
        np.testing.assert_allclose(jnp.sum(one.weights * one.nodes**k), jnp.mean(diagonal**k), rtol=1e-10)


def test_clear_errors():
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        lanczos_tridiagonal(lambda v: v, jnp.ones(2), num_steps=0)
    with pytest.raises(ValueError, match="num_probes must be at least 1, got 0"):
        stochastic_lanczos_quadrature(jax.random.key(0), lambda v: v, jnp.ones(2), num_probes=0)
