"""Cauchy-Schwarz divergences against integrals of kernel densities and loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from jaxtrain.losses import conditional_cs_divergence, cs_divergence, cs_ib_loss, cs_qmi, gaussian_gram

RNG = np.random.default_rng(0)
X, T = RNG.normal(size=9), RNG.normal(size=9)
GRID = np.linspace(-8, 8, 1601)
A = jnp.asarray  # inside the tests: in float64 where they enable it


def density(points, width):
    """A kernel density on the grid, one column for each point: (grid, points)."""
    return scipy.stats.norm.pdf(GRID[:, None], points, width)


def test_gram_by_differences(x64):
    x, y = RNG.normal(size=(6, 3)) + 100, RNG.normal(size=(4, 3)) + 100
    wanted = np.exp(-((x[:, None] - y) ** 2).sum(-1) / (2 * 0.7**2))
    # far from the origin: the distances come out of a difference of products of centred points
    np.testing.assert_allclose(gaussian_gram(A(x), A(y), bandwidth=0.7), wanted, rtol=1e-11)
    single = gaussian_gram(A(x, jnp.float32), A(y, jnp.float32), bandwidth=0.7)
    np.testing.assert_allclose(single, wanted, rtol=1e-3, atol=1e-7)  # the inputs' own rounding of 100


def test_is_the_divergence_of_kernel_densities(x64):
    p, q = density(X, 0.6).mean(1), density(T[:5] + 1, 0.6).mean(1)
    wanted = np.log((p**2).sum()) + np.log((q**2).sum()) - 2 * np.log((p * q).sum())
    # the product of two kernels of width h integrates to one of width h sqrt 2; a fine sum is exact for them
    got = cs_divergence(A(X), A(T[:5] + 1), bandwidth=0.6 * np.sqrt(2))
    np.testing.assert_allclose(got, wanted, rtol=1e-10)


def test_normal_distributions_in_closed_form():
    x, y = np.random.default_rng(1).normal(size=(2, 2000)) * [[1.0], [2.0]] + [[0.0], [1.5]]
    a, b, h = 1.0 + 0.25, 4.0 + 0.25, 0.5  # variances with the kernel's
    n = lambda v, m=0.0: scipy.stats.norm.logpdf(m, 0, np.sqrt(v))  # noqa: E731
    wanted = n(2 * a) + n(2 * b) - 2 * n(a + b, 1.5)
    got = cs_divergence(A(x), A(y), bandwidth=h * np.sqrt(2))
    np.testing.assert_allclose(got, wanted, rtol=0.1)  # sampling: 1/sqrt(2000) of each mean, some times over


def test_information_is_the_divergence_from_the_product(x64):
    kx, kt = density(X, 0.6), density(T, 0.9)
    joint, product = kx @ kt.T / 9, np.outer(kx.mean(1), kt.mean(1))
    wanted = np.log((joint**2).sum()) + np.log((product**2).sum()) - 2 * np.log((joint * product).sum())
    got = cs_qmi(A(X), A(T), bandwidth_x=0.6 * np.sqrt(2), bandwidth_t=0.9 * np.sqrt(2))
    np.testing.assert_allclose(got, wanted, rtol=1e-9)
    # a kernel that sees no differences
    for widths in ((1e6, 1.0), (1.0, 1e6)):
        assert abs(cs_qmi(A(X), A(T), bandwidth_x=widths[0], bandwidth_t=widths[1])) < 1e-10


def test_conditional_by_loops(x64):
    x, y, f = RNG.normal(size=(7, 3)), RNG.normal(size=(7, 2)), RNG.normal(size=(7, 2))
    k = lambda a, b, s: np.exp(-np.sum((a - b) ** 2) / (2 * s**2))  # noqa: E731

    def summed(left, right):
        total = 0.0
        for j in range(7):
            top = sum(k(x[j], x[i], 1.3) * k(left[j], right[i], 0.8) for i in range(7))
            total += top / sum(k(x[j], x[i], 1.3) for i in range(7)) ** 2
        return np.log(total)

    wanted = summed(y, y) + summed(f, f) - 2 * summed(f, y)
    got = conditional_cs_divergence(A(x), A(y), A(f), bandwidth_x=1.3, bandwidth_y=0.8)
    np.testing.assert_allclose(got, wanted, rtol=1e-11)
    order = RNG.permutation(7)
    again = conditional_cs_divergence(A(x[order]), A(y[order]), A(f[order]), bandwidth_x=1.3, bandwidth_y=0.8)
    np.testing.assert_allclose(again, got, rtol=1e-11)
    assert conditional_cs_divergence(A(x), A(y), A(y), bandwidth_x=1.3, bandwidth_y=0.8) == 0.0
    information = cs_qmi(A(x), A(f), bandwidth_x=1.3, bandwidth_t=0.5)
    both = cs_ib_loss(A(x), A(f), A(y), A(f), beta=0.2, bandwidth_x=1.3, bandwidth_t=0.5, bandwidth_y=0.8)
    np.testing.assert_allclose(both, wanted + 0.2 * information, rtol=1e-11)


def test_inputs_all_alike_leave_the_divergence_of_the_outputs(x64):
    got = conditional_cs_divergence(A(X), A(T), A(T + 1), bandwidth_x=1e7, bandwidth_y=0.7)
    np.testing.assert_allclose(got, cs_divergence(A(T), A(T + 1), bandwidth=0.7), rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_far_predictions_are_finite_and_pulled_back(dtype):
    x, y = A(X, dtype), A(T, dtype)
    far = (y + 1e4).astype(dtype)
    loss, slope = jax.value_and_grad(lambda f: cs_ib_loss(x, f, y, f))(far)
    assert np.isfinite(loss) and np.all(np.isfinite(slope.astype(jnp.float32)))
    assert np.all(np.asarray(slope, np.float32).sum() > 0)
    assert np.all(np.isfinite(jax.grad(lambda f: cs_ib_loss(x, f, y, f))(y).astype(jnp.float32)))


def test_gradient_by_differences(x64):
    x, t, y, f = (A(RNG.normal(size=(6, 2))) for _ in range(4))
    loss = jax.jit(lambda t, f: cs_ib_loss(x, t, y, f, beta=0.5))
    check_grads(loss, (t, f), order=1, modes=["rev"], rtol=1e-6)


def test_bad_input():
    x = jnp.ones(4)
    with pytest.raises(ValueError, match="bandwidth must lie in"):
        cs_divergence(x, x, bandwidth=0.0)
    with pytest.raises(ValueError, match="2 and 1 features cannot be compared"):
        gaussian_gram(jnp.ones((4, 2)), x, bandwidth=1.0)
    with pytest.raises(ValueError, match=r"x must be \(samples,\) or"):
        cs_divergence(jnp.ones((2, 2, 2)), x, bandwidth=1.0)
    with pytest.raises(ValueError, match="beta must lie in"):
        cs_ib_loss(x, x, x, x, beta=-1.0)
