"""Losses of bags: the decomposition, SciPy's and scikit-learn's solutions, and the noise of private means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn.linear_model import LinearRegression

from jaxtrain.core import checked
from jaxtrain.losses import (
    bag_level_loss,
    instance_level_loss,
    interpolated_bag_loss,
    interpolated_bag_ridge,
    private_bag_means,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
N, D, M = 60, 4, 13
IDS = RNG.permutation(np.concatenate([np.arange(M), RNG.integers(0, M, N - M)]))  # sizes from 1 on
X, Y, F = RNG.standard_normal((N, D)), RNG.standard_normal(N), RNG.standard_normal(N)
MEANS = np.array([Y[b == IDS].mean() for b in range(M)])


def by_definition(f, rho):
    """One bag after the other, in NumPy."""
    out = []
    for b in range(M):
        inside = f[b == IDS]
        out.append((MEANS[b] - inside.mean()) ** 2 + rho * inside.var())
    return np.array(out)


def test_equals_the_definition_and_decomposes(x64):
    args = jnp.asarray(F), jnp.asarray(MEANS), jnp.asarray(IDS)
    for rho in (0.0, 0.3, 1.0):
        # float64
        np.testing.assert_allclose(interpolated_bag_loss(*args, rho=rho), by_definition(F, rho), rtol=1e-12)
    np.testing.assert_allclose(bag_level_loss(*args), by_definition(F, 0.0), rtol=1e-12)
    each = np.asarray(instance_level_loss(*args))
    np.testing.assert_allclose(each, (MEANS[IDS] - F) ** 2, rtol=1e-12)
    # instance level = bag level + variance within the bag
    np.testing.assert_allclose([each[b == IDS].mean() for b in range(M)], by_definition(F, 1.0), rtol=1e-12)


def test_bags_of_one_are_the_squared_error(x64):
    args = jnp.asarray(F), jnp.asarray(Y), jnp.arange(N)
    for loss in (bag_level_loss, instance_level_loss, lambda *a: interpolated_bag_loss(*a, rho=0.7)):
        np.testing.assert_allclose(loss(*args), (F - Y) ** 2, rtol=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.4, 1.0])
def test_closed_form_is_that_of_a_search(rho, x64):
    shares = np.bincount(IDS) / N

    def objective(b):
        return shares @ by_definition(X @ b, rho) + 0.01 * b @ b

    found = scipy.optimize.minimize(objective, np.zeros(D), method="BFGS", options={"gtol": 1e-9}).x
    got = interpolated_bag_ridge(jnp.asarray(X), jnp.asarray(MEANS), jnp.asarray(IDS), rho=rho, ridge=0.01)
    # gradients by finite differences: the square root of rounding
    np.testing.assert_allclose(got, found, atol=1e-6)

    # and the loss's own gradient vanishes there
    def loss(b):
        value = interpolated_bag_loss(jnp.asarray(X) @ b, jnp.asarray(MEANS), jnp.asarray(IDS), rho=rho)
        return jnp.sum(shares * value) + 0.01 * b @ b

    np.testing.assert_allclose(jax.grad(loss)(got), 0.0, atol=1e-13)


def test_closed_form_with_bags_of_one_is_least_squares(x64):
    want = LinearRegression(fit_intercept=False).fit(X, Y).coef_
    for rho in (0.0, 1.0):
        got = interpolated_bag_ridge(jnp.asarray(X), jnp.asarray(Y), jnp.arange(N), rho=rho)
        np.testing.assert_allclose(got, want, rtol=1e-10)


def test_private_means_have_the_noise_of_their_bag(x64):
    y, ids = jnp.asarray([0.2, 3.0, -0.4, 0.0, 9.0]), jnp.array([0, 0, 0, 1, 0])
    keys = jax.random.split(jax.random.key(0), 40_000)
    drawn = jax.vmap(lambda key: private_bag_means(key, y, ids, num_bags=2, epsilon=0.5, clip=1.0))(keys)
    # clipped: (0.2 + 1 - 0.4 + 1) / 4 and 0; variances 2 (2 C / (k epsilon))² = 2 and 32
    scale = np.array([1.0, 4.0])
    error = np.sqrt(2) * scale / 200  # of a mean of 40,000
    assert np.all(np.abs(drawn.mean(axis=0) - np.array([0.45, 0.0])) < 4 * error)
    # a Laplace variance has a relative error of sqrt(5 / n) = 1.1%
    np.testing.assert_allclose(drawn.var(axis=0), 2 * scale**2, rtol=0.05)
    np.testing.assert_allclose(np.abs(drawn[:, 1]).mean(), 4.0, rtol=0.03)


def test_contract():
    means = np.array([0.3, -1.0])

    # the mean travels with each example: the laws halve and reorder the batch
    def alone(f, y):
        return instance_level_loss(f, y, jnp.arange(f.shape[0]))

    check_loss(alone, predictions=F[:6], targets=np.concatenate([means] * 3))

    def paired(f, y):
        ids = jnp.arange(f.shape[0])
        return interpolated_bag_loss(f, y, ids, rho=0.5)

    check_loss(
        paired, predictions=F[:6], targets=Y[:6], laws=("shape", "dtype", "finite", "finite_gradient", "gradient")
    )


def test_empty_bags_cost_nothing():
    args = jnp.array([1.0, 3.0]), jnp.array([5.0, 2.0]), jnp.array([1, 1])
    np.testing.assert_array_equal(interpolated_bag_loss(*args, rho=1.0), [0.0, 1.0])
    assert np.all(np.isfinite(jax.grad(lambda f: interpolated_bag_loss(f, *args[1:]).sum())(args[0])))


def test_traced_bags_go_to_the_nearest_one():
    f, means, wrong, right = jnp.array([1.0, 3.0, 4.0]), jnp.array([5.0, 2.0]), [0, 9, -1], [0, 1, 0]
    for loss in (bag_level_loss, instance_level_loss):
        got = jax.jit(loss)(f, means, jnp.array(wrong))
        np.testing.assert_allclose(got, loss(f, means, jnp.array(right)), rtol=1e-6)  # float32
    with pytest.raises(Exception, match="bag 9 is none of the 2 bags"):
        checked(bag_level_loss)(f, means, jnp.array(wrong))


def test_bad_input():
    f, means, ids = jnp.asarray(F), jnp.asarray(MEANS), jnp.asarray(IDS)
    with pytest.raises(ValueError, match=r"one number for each example, got \(60,\) and \(59,\)"):
        bag_level_loss(f, means, ids[:-1])
    with pytest.raises(ValueError, match="bag 13 is none of the 13 bags"):
        instance_level_loss(f, means, ids.at[0].set(13))
    with pytest.raises(ValueError, match="one number for each bag"):
        instance_level_loss(f, means[:, None], ids)
    with pytest.raises(ValueError, match="rho must lie in"):
        interpolated_bag_loss(f, means, ids, rho=-0.1)
    with pytest.raises(ValueError, match="the rows of x and bag_ids need one number for each example"):
        interpolated_bag_ridge(jnp.asarray(X), means, ids[1:])
    with pytest.raises(ValueError, match="y and bag_ids need one number for each example"):
        private_bag_means(jax.random.key(0), f, ids[1:], num_bags=13, epsilon=1.0, clip=1.0)
    with pytest.raises(ValueError, match="x needs shape"):
        interpolated_bag_ridge(f, means, ids)
    with pytest.raises(ValueError, match="epsilon must lie in"):
        private_bag_means(jax.random.key(0), f, ids, num_bags=13, epsilon=0.0, clip=1.0)
