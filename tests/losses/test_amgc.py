"""Distribution-based classifier losses against sampling, a case by hand and explicit margins."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from jaxtrain.core import checked
from jaxtrain.losses import amarx_loss, distribution_classifier_loss, gaussian_class_stats, variance_enlarge
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
K, D = 6, 4
W, B, MEANS = RNG.standard_normal((K, D)), RNG.standard_normal(K), RNG.standard_normal((K, D))
ROOTS = 0.7 * RNG.standard_normal((K, D, D))
COVS = ROOTS @ np.swapaxes(ROOTS, 1, 2)
ARGS = tuple(map(jnp.asarray, (W, B, MEANS)))


def explicit(covs):
    """The other code path: cross-entropy at the means, with a margin for each pair, in NumPy."""
    out = []
    for k in range(K):
        z = W @ MEANS[k] + B
        margins = np.array([0.5 * (W[j] - W[k]) @ covs[k] @ (W[j] - W[k]) for j in range(K)])
        out.append(np.log(np.exp(z + margins).sum()) - z[k])
    return np.array(out)


def test_is_cross_entropy_with_adaptive_margins(x64):
    args = tuple(map(jnp.asarray, (W, B, MEANS, COVS)))
    # float64
    np.testing.assert_allclose(distribution_classifier_loss(*args), explicit(COVS), rtol=1e-12)
    for lam in (0.0, 0.5, 3.0):
        wide = COVS + lam * np.stack([np.diag(np.diag(c)) for c in COVS])
        np.testing.assert_allclose(amarx_loss(*args, lam=lam), explicit(wide), rtol=1e-12)
        np.testing.assert_allclose(variance_enlarge(args[3], lam=lam), wide, rtol=1e-14)
    old = jnp.arange(K) < 2
    some = variance_enlarge(args[3], lam=2.0, mask_old=old)
    np.testing.assert_array_equal(some[2:], COVS[2:])
    np.testing.assert_allclose(
        distribution_classifier_loss(*args[:3], some)[:2], amarx_loss(*args, lam=2.0)[:2], rtol=1e-13
    )


def test_without_variance_it_is_cross_entropy_at_the_means(x64):
    args = tuple(map(jnp.asarray, (W, B, MEANS)))
    want = optax.losses.softmax_cross_entropy_with_integer_labels(args[2] @ args[0].T + args[1], jnp.arange(K))
    np.testing.assert_allclose(distribution_classifier_loss(*args, jnp.zeros((K, D, D))), want, rtol=1e-12)


def test_bounds_the_expected_cross_entropy(x64):
    """Above the mean over 20,000 samples, and equal to it for small variance up to what the bound gives away."""
    args = tuple(map(jnp.asarray, (W, B, MEANS)))
    noise = jax.random.normal(jax.random.key(0), (10_000, D))
    noise = jnp.concatenate([noise, -noise])  # in pairs: odd terms cancel

    def sampled(size):
        x = MEANS[:, None] + size * jnp.einsum("kij,nj->kni", jnp.asarray(ROOTS), noise)
        labels = jnp.broadcast_to(jnp.arange(K)[:, None], x.shape[:2])
        return optax.losses.softmax_cross_entropy_with_integer_labels(x @ args[0].T + args[1], labels).mean(axis=1)

    for size in (0.1, 0.5, 1.0):
        bound = distribution_classifier_loss(*args, size**2 * jnp.asarray(COVS))
        # 20,000 samples in pairs: the second-order term is known to about 1%
        assert np.all(bound >= 0.99 * sampled(size)), size
    # the gap is the variance of the exponents under the softmax, of second order in size like the term itself
    gap = [np.asarray(distribution_classifier_loss(*args, s**2 * jnp.asarray(COVS)) - sampled(s)) for s in (0.02, 0.01)]
    np.testing.assert_allclose(gap[0], 4 * gap[1], rtol=0.05, atol=1e-7)


def test_bounds_the_integral_for_two_classes(x64):
    """E log(1 + e^t) of a normal t by Gauss-Hermite quadrature; the bound moves the expectation inside the logarithm."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(80)
    shares = shares / shares.sum()
    for mean, spread in ((-1.0, 0.3), (0.5, 2.0), (-3.0, 1.0)):
        t = mean + spread * nodes
        # v = 1 in one dimension: the exponent of class 1 under class 0
        args = jnp.array([[0.0], [1.0]]), jnp.zeros(2), jnp.array([[mean], [0.0]]), jnp.array([[[spread**2]], [[1.0]]])
        got = distribution_classifier_loss(*args)[0]
        np.testing.assert_allclose(got, np.log(shares @ (1 + np.exp(t))), rtol=1e-9)  # what quadrature gives away
        assert got > shares @ np.log1p(np.exp(t))


def test_two_classes_by_hand(x64):
    w, b, mean, cov = (
        np.array([[1.0], [3.0]]),
        np.array([0.2, -0.1]),
        np.array([[0.5], [-0.5]]),
        np.array([[[0.3]], [[0.7]]]),
    )
    got = amarx_loss(*map(jnp.asarray, (w, b, mean, cov)), lam=1.0)
    want = np.log1p(np.exp([2 * 0.5 - 0.3 + 0.5 * 4 * 0.6, 2 * 0.5 + 0.3 + 0.5 * 4 * 1.4]))
    np.testing.assert_allclose(got, want, rtol=1e-13)


def test_class_stats_are_those_of_numpy(x64):
    x, y = RNG.standard_normal((40, D)), RNG.integers(0, 3, 40)
    means, covs, counts = gaussian_class_stats(jnp.asarray(x), jnp.asarray(y), num_classes=4)
    for k in range(3):
        np.testing.assert_allclose(means[k], x[y == k].mean(axis=0), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(covs[k], np.cov(x[y == k].T, bias=True), rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(counts, np.bincount(y, minlength=4))
    assert not np.any(means[3]) and not np.any(covs[3])


def test_traced_labels_go_to_the_nearest_class_or_are_named():
    x = jnp.asarray(RNG.standard_normal((4, D)))
    stats = functools.partial(gaussian_class_stats, num_classes=3)
    # all three results of one and the same class
    for got, want in zip(jax.jit(stats)(x, jnp.array([0, 1, 9, -1])), stats(x, jnp.array([0, 1, 2, 0])), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)  # float32
    np.testing.assert_array_equal(checked(stats)(x, jnp.array([0, 1, 2, 0]))[2], [2, 1, 1])
    with pytest.raises(Exception, match="label 9 is none of the 3 classes"):
        checked(stats)(x, jnp.array([0, 1, 9, 0]))


def test_gradient(x64):
    args = tuple(map(jnp.asarray, (W, B, MEANS, COVS)))
    # central differences in float64
    check_grads(
        jax.jit(lambda *a: amarx_loss(*map(jnp.asarray, a), lam=0.5)),
        args,
        order=1,
        modes=["rev"],
        atol=1e-6,
        rtol=1e-6,
    )


def test_contract():
    def loss(w, means):
        return amarx_loss(w, jnp.asarray(B, w.dtype), means, jnp.asarray(COVS, w.dtype), lam=0.5)

    # one value for each class, and the classes depend on each other; bfloat16 rounds all arguments
    check_loss(
        loss,
        predictions=W,
        targets=MEANS,
        laws=("shape", "dtype", "jit", "vmap", "finite", "finite_gradient"),
    )


def test_bad_input():
    w, b, means = ARGS
    covs = jnp.asarray(COVS)
    with pytest.raises(ValueError, match=r"bias needs shape \(6,\), got \(5,\)"):
        distribution_classifier_loss(w, b[:5], means, covs)
    with pytest.raises(ValueError, match=r"covs needs shape \(6, 4, 4\)"):
        amarx_loss(w, b, means, covs[:3])
    with pytest.raises(ValueError, match="classes ≥ 2"):
        distribution_classifier_loss(w[:1], b[:1], means[:1], covs[:1])
    with pytest.raises(ValueError, match="lam must lie in"):
        amarx_loss(w, b, means, covs, lam=-1.0)
    with pytest.raises(ValueError, match="mask_old of shape"):
        variance_enlarge(covs, lam=1.0, mask_old=jnp.ones(3, bool))
    with pytest.raises(ValueError, match=r"are needed, got \(6, 4\) and \(5,\)"):
        gaussian_class_stats(means, jnp.zeros(5, int), num_classes=4)
    with pytest.raises(ValueError, match="label 9 is none of the 4 classes"):
        gaussian_class_stats(means, jnp.full(6, 9), num_classes=4)
