"""Histograms of numbers against SciPy's truncated normal and loops written from the papers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxtrain.losses import (
    c51_project,
    categorical_value,
    hl_gauss_loss,
    hl_gauss_probs,
    td_classification_loss,
    two_hot_probs,
)
from jaxtrain.testing import check_loss

EDGES = np.linspace(-2.0, 3.0, 26)
CENTERS = (EDGES[1:] + EDGES[:-1]) / 2
WIDTH = 0.2
RNG = np.random.default_rng(0)
Y = RNG.uniform(-2.0, 3.0, 40)
A = jnp.asarray  # inside the tests: in float64 where they enable it


@pytest.mark.parametrize("ratio", [0.2, 0.75, 2.0, 50.0])
def test_equals_scipys_truncated_normal(ratio, x64):
    y, sigma = np.concatenate([Y, [-2.0, 3.0]]), ratio * WIDTH
    wanted = [np.diff(scipy.stats.truncnorm.cdf(EDGES, (-2 - v) / sigma, (3 - v) / sigma, v, sigma)) for v in y]
    got = hl_gauss_probs(A(y), A(EDGES), sigma_ratio=ratio)
    # SciPy subtracts two probabilities near 1
    np.testing.assert_allclose(got, wanted, atol=1e-14)
    np.testing.assert_allclose(got, hl_gauss_probs(A(y), A(EDGES), sigma=sigma), rtol=1e-10)  # 0.2 is no binary number
    np.testing.assert_allclose(got.sum(-1), 1.0, rtol=1e-14)


def test_small_probabilities_keep_their_digits_on_both_sides():
    edges, sigma = jnp.linspace(-1.0, 1.0, 11), 0.1
    got = np.asarray(hl_gauss_probs(jnp.zeros(()), edges, sigma=sigma))
    tail = scipy.stats.norm.cdf(-8.0) - scipy.stats.norm.cdf(-10.0)  # 6e-16: by erf in float32 it would be 0
    # the edge ±0.8 has lost 1e-7 of 8 standard deviations, which count eightfold
    np.testing.assert_allclose(got[[0, -1]], tail, rtol=2e-5)
    np.testing.assert_allclose(got, got[::-1], rtol=2e-5)


def test_value_comes_back(x64):
    inner = Y[(Y > -1.0) & (Y < 2.0)]
    back = categorical_value(hl_gauss_probs(A(inner), A(EDGES)), A(CENTERS))
    # the error of sampling a normal of sigma = 0.75 bins: 2 exp(-2 (0.75 pi)^2) / (2 pi) = 4.8e-6 bins, 5e-6 measured
    np.testing.assert_allclose(back, inner, atol=1e-5 * WIDTH)
    np.testing.assert_allclose(
        categorical_value(two_hot_probs(A(Y), A(EDGES)), A(EDGES)), Y, atol=1e-14
    )  # exact: float64's rounding


def test_no_smoothing_is_one_hot():
    got = hl_gauss_probs(jnp.array([-1.9, 0.31, 2.95]), A(EDGES), sigma=1e-4)
    np.testing.assert_array_equal(got, np.eye(25)[[0, 11, 24]])
    got = hl_gauss_probs(jnp.array([-7.0, 1e9]), A(EDGES), sigma=1e-4)  # clipped: no 0/0
    np.testing.assert_array_equal(got, np.eye(25)[[0, 24]])


def test_two_hot_by_a_loop(x64):
    centers = np.cumsum(RNG.uniform(0.1, 1.0, 9)) - 2
    wanted = np.zeros((40, 9))
    for row, y in zip(wanted, np.clip(Y, centers[0], centers[-1]), strict=True):
        k = min(int(np.searchsorted(centers, y, side="right")) - 1, 7)
        share = (y - centers[k]) / (centers[k + 1] - centers[k])
        row[k], row[k + 1] = 1 - share, share
    np.testing.assert_allclose(two_hot_probs(A(Y), A(centers)), wanted, atol=1e-15)


def test_c51_by_algorithm_1(x64):
    v_min, v_max, n = -2.0, 3.0, 11
    z = np.linspace(v_min, v_max, n)
    delta = z[1] - z[0]
    p, r = RNG.dirichlet(np.ones(n), 20), RNG.normal(size=20) * 2
    gamma = np.where(RNG.random(20) < 0.3, 0.0, 0.95)
    wanted = np.zeros((20, n))
    for i in range(20):
        for j in range(n):
            b = (np.clip(r[i] + gamma[i] * z[j], v_min, v_max) - v_min) / delta
            low, up = int(np.floor(b)), int(np.ceil(b))
            # the paper's pseudocode loses the mass where low = up
            wanted[i, low] += p[i, j] * (up - b if up > low else 1.0)
            wanted[i, up] += p[i, j] * (b - low)
    got = c51_project(A(p), A(r), A(gamma), A(z))
    np.testing.assert_allclose(got, wanted, atol=1e-13)
    np.testing.assert_allclose(got.sum(-1), 1.0, rtol=1e-13)


def test_loss_and_its_gradient(x64):
    h, y, edges = RNG.normal(size=(40, 25)) * 3, A(Y), A(EDGES)
    p = np.asarray(hl_gauss_probs(y, edges))
    q = np.exp(h) / np.exp(h).sum(-1, keepdims=True)
    np.testing.assert_allclose(hl_gauss_loss(A(h), y, edges), -(p * np.log(q)).sum(-1), rtol=1e-12)
    grad, to_targets = jax.grad(lambda h, y: hl_gauss_loss(h, y, edges).sum(), argnums=(0, 1))(A(h), y)
    np.testing.assert_allclose(grad, q - p, atol=1e-14)
    np.testing.assert_array_equal(to_targets, 0.0)
    next_q, r, gamma = RNG.normal(size=(40, 3)), RNG.normal(size=40), np.full(40, 0.9)
    np.testing.assert_allclose(
        td_classification_loss(A(h), A(next_q), A(r), A(gamma), edges, sigma=0.3),
        hl_gauss_loss(A(h), A(r + 0.9 * next_q.max(1)), edges, sigma=0.3),
        rtol=1e-12,
    )


def test_contract():
    check_loss(
        functools.partial(hl_gauss_loss, bin_edges=jnp.linspace(-2.0, 2.0, 6)),
        targets=np.array([-1.9, 0.3, 5.0, 0.0, 1.1, -0.7]),
    )


def test_bad_input():
    h, y = jnp.zeros((3, 5)), jnp.zeros(3)
    with pytest.raises(ValueError, match="6 bin_edges are needed, got 5"):
        hl_gauss_loss(h, y, jnp.arange(5.0))
    with pytest.raises(ValueError, match="bin_edges must increase"):
        hl_gauss_loss(h, y, jnp.zeros(6))
    with pytest.raises(ValueError, match=r"targets \(2,\) for logits \(3, 5\)"):
        hl_gauss_loss(h, y[:2], jnp.arange(6.0))
    with pytest.raises(ValueError, match="sigma must lie in"):
        hl_gauss_probs(y, jnp.arange(6.0), sigma=0.0)
    with pytest.raises(ValueError, match="sigma_ratio must lie in"):
        hl_gauss_probs(y, jnp.arange(6.0), sigma_ratio=-1.0)
    with pytest.raises(ValueError, match="5 bin_centers are needed, got 4"):
        categorical_value(h, jnp.arange(4.0))
    with pytest.raises(ValueError, match="at least 2 numbers"):
        two_hot_probs(y, jnp.zeros((1,)))
