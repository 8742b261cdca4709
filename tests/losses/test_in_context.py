"""In-context regression against scipy, scikit-learn's Gaussian process, and an integral over the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct

from jaxtrain.losses import (
    bayes_linear_regression_online,
    bayes_linear_regression_predictive,
    gaussian_nll_loss,
    in_context_regression_tasks,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
X, Y, Q = RNG.normal(size=(9, 3)), RNG.normal(size=9), RNG.normal(size=(2, 4, 3))
GRID, WEIGHTS = np.array([0.2, 0.7, 1.5]), np.array([1.0, 3.0, 2.0])
predict = jax.jit(bayes_linear_regression_predictive)


def test_equals_scipys_density(x64):
    mean, log_var, y = RNG.normal(size=(3, 20))
    got = gaussian_nll_loss(*map(jnp.asarray, (mean, log_var, y)))
    wanted = -scipy.stats.norm.logpdf(y, mean, np.exp(log_var / 2)) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)  # float64
    # the best variance of a fixed mean is the mean squared error
    slope = jax.grad(lambda v: gaussian_nll_loss(jnp.asarray(mean), jnp.full(20, v), jnp.asarray(y)).sum())
    np.testing.assert_allclose(slope(np.log(np.mean((y - mean) ** 2))), 0.0, atol=1e-13)


def test_one_level_is_scikit_learns_process(x64):
    process = GaussianProcessRegressor(ConstantKernel(0.8) * DotProduct(0.0, "fixed"), alpha=0.7**2, optimizer=None)
    process.fit(X, Y)
    mean, std = process.predict(Q.reshape(-1, 3), return_std=True)
    got = predict(*map(jnp.asarray, (X, Y, Q)), prior_var=0.8, noise_grid=jnp.array([0.7]))
    np.testing.assert_allclose(got.mean.ravel(), mean, rtol=1e-10)
    # it says what is known of the function, without the noise of a target
    np.testing.assert_allclose(got.var.ravel(), std**2 + 0.7**2, rtol=1e-10)
    np.testing.assert_allclose(got.noise_var, 0.7**2, rtol=1e-14)


def test_levels_by_an_integral_over_the_weight(x64):
    x, y, q, v = RNG.normal(size=(4, 1)), np.array([0.5, -1.0, 0.3, 0.9]), 1.7, 0.6
    w = np.linspace(-12, 12, 40_001)  # 15 standard deviations; the trapezoid is exact to rounding for such integrands
    joint = [
        p * scipy.stats.norm.pdf(w, 0, np.sqrt(v)) * np.prod([scipy.stats.norm.pdf(b, a * w, s) for a, b in zip(x[:, 0], y, strict=True)], 0)
        for s, p in zip(GRID, WEIGHTS, strict=True)
    ]  # fmt: skip
    total = np.sum(joint)
    mean = np.sum(joint @ (q * w)) / total
    second = sum(np.sum(j * ((q * w) ** 2 + s**2)) for j, s in zip(joint, GRID, strict=True)) / total
    got = predict(
        *map(jnp.asarray, (x, y, [q])), prior_var=v, noise_grid=jnp.asarray(GRID), noise_weights=jnp.asarray(WEIGHTS)
    )
    np.testing.assert_allclose(got.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(got.var, second - mean**2, rtol=1e-9)
    noise = sum(np.sum(j) * s**2 for j, s in zip(joint, GRID, strict=True)) / total
    np.testing.assert_allclose(got.noise_var, noise, rtol=1e-9)


def test_online_is_one_prediction_after_the_other(x64):
    x, y, grid, weights = map(jnp.asarray, (X, Y, GRID, WEIGHTS))
    options = {"prior_var": 0.8, "noise_grid": grid, "noise_weights": weights}
    got = bayes_linear_regression_online(x, y, **options)
    seen = jnp.tril(jnp.ones((9, 9), bool), -1)
    each = jax.jit(jax.vmap(lambda q, where: bayes_linear_regression_predictive(x, y, q, where=where, **options)))(
        x, seen
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, each)
    # what does not count is as if it were not there, however wild; before the first pair there is the prior
    alone = predict(x[:5], y[:5], x[5], **options)
    wild = predict(jnp.concatenate([x[:5], 1e6 * x[5:]]), y.at[5:].set(jnp.nan), x[5], where=seen[5], **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), alone, wild)
    noise = np.sum(WEIGHTS * GRID**2) / 6
    np.testing.assert_allclose([got.mean[0], got.noise_var[0]], [0, noise], atol=1e-14)
    np.testing.assert_allclose(got.var[0], 0.8 * np.sum(X[0] ** 2) + noise, rtol=1e-12)


def test_much_data_tells_the_noise_and_single_precision_holds():
    tasks = in_context_regression_tasks(
        jax.random.key(1),
        num_tasks=3,
        seq_len=60,
        dim=2,
        prior_var=1.0,
        noise_prior=(jnp.array(GRID, jnp.float32), None),
    )
    online = jax.jit(
        jax.vmap(
            lambda x, y: bayes_linear_regression_online(x, y, prior_var=1.0, noise_grid=jnp.array(GRID, jnp.float32))
        )
    )
    found = online(tasks["x"], tasks["y"])
    # odds grow like an exponential in the number of pairs; of the levels 0.2, 0.7 and 1.5
    np.testing.assert_allclose(found.noise_var[:, -1], tasks["sigma"] ** 2, rtol=0.01)
    with jax.enable_x64(True):
        exact = online(jnp.asarray(tasks["x"], jnp.float64), jnp.asarray(tasks["y"], jnp.float64))
    np.testing.assert_allclose(found.mean, exact.mean, atol=1e-3)  # a condition number of about 60 · 2 / 0.2² of 6e-8
    np.testing.assert_allclose(found.var, exact.var, rtol=1e-3)


def test_a_level_of_weight_zero_is_as_if_it_were_not_there(x64):
    x, y, q, grid = map(jnp.asarray, (X, Y, Q[0], GRID))
    mean = lambda w, grid: predict(x, y, q, prior_var=0.8, noise_grid=grid, noise_weights=w).mean  # noqa: E731
    np.testing.assert_allclose(
        mean(jnp.array([1.0, 0.0, 2.0]), grid), mean(jnp.array([1.0, 2.0]), grid[::2]), rtol=1e-12
    )
    slope = jax.grad(lambda w: mean(w, grid).sum())(jnp.array([1.0, 0.0, 2.0]))
    assert np.all(np.isfinite(slope)) and slope[1] == 0 and slope[0] != 0


def test_nothing_known_of_far_inputs_never_means_less_than_noise():
    rng = np.random.default_rng(0)
    x = jnp.asarray(10 * rng.normal(size=(20, 1)), jnp.float32)
    far = jnp.asarray(1e4 * rng.normal(size=(20, 1)), jnp.float32)
    found = predict(x, x[:, 0], far, prior_var=1.0, noise_grid=jnp.array([0.01]))
    assert np.all(found.var >= np.float32(0.01) ** 2)  # a difference of 1e8, rounded at 10
    alone = predict(x[:0], x[:0, 0], far, prior_var=1.0, noise_grid=jnp.array([0.01]))
    np.testing.assert_allclose(alone.var, np.asarray(far)[:, 0] ** 2, rtol=1e-6)  # single precision


def test_tasks_have_the_moments_of_their_formula():
    grid, weights = jnp.array(GRID, jnp.float32), jnp.array(WEIGHTS, jnp.float32)
    tasks = in_context_regression_tasks(
        jax.random.key(0), num_tasks=8000, seq_len=4, dim=3, prior_var=0.5, noise_prior=(grid, weights), input_scale=2.0
    )
    x, y, w, sigma = (np.asarray(tasks[name], np.float64) for name in ("x", "y", "w", "sigma"))
    noise = ((y - np.einsum("ntd,nd->nt", x, w)) / sigma[:, None]).ravel()
    # five standard errors of means and variances of normal variables
    for sample, variance in ((noise, 1.0), (x.ravel(), 4.0), (w.ravel(), 0.5)):
        assert abs(sample.mean()) < 5 * np.sqrt(variance / len(sample))
        np.testing.assert_allclose(sample.var(), variance, rtol=5 * np.sqrt(2 / len(sample)))
    parts = np.array([(np.abs(sigma - s) < 1e-6).mean() for s in GRID])
    np.testing.assert_allclose(parts, WEIGHTS / 6, atol=5 * np.sqrt(0.25 / 8000))
    # no prediction is better than the best one: its squared error is what it says
    best = jax.jit(
        jax.vmap(
            lambda x, y: bayes_linear_regression_online(x, y, prior_var=0.5, noise_grid=grid, noise_weights=weights)
        )
    )
    found = best(tasks["x"], tasks["y"])
    score = (y - np.asarray(found.mean)) ** 2 / np.asarray(found.var)
    assert abs(score.mean() - 1) < 5 * score.std() / np.sqrt(score.size)


def test_contract():
    mean, log_var, y = RNG.normal(size=(3, 6))
    check_loss(lambda z, y: gaussian_nll_loss(z[:, 0], z[:, 1], y), predictions=np.stack([mean, log_var], 1), targets=y)


def test_bad_input():
    x, y, grid = jnp.zeros((3, 2)), jnp.zeros(3), jnp.ones(2)
    with pytest.raises(ValueError, match=r"mean \(3,\) and log_var \(2,\) disagree"):
        gaussian_nll_loss(y, y[:2], y)
    with pytest.raises(ValueError, match=r"x of shape \(3, 2\) and y \(2,\)"):
        bayes_linear_regression_online(x, y[:2], prior_var=1.0, noise_grid=grid)
    with pytest.raises(ValueError, match="noise_grid must lie in"):
        bayes_linear_regression_online(x, y, prior_var=1.0, noise_grid=0 * grid)
    with pytest.raises(ValueError, match="prior_var must lie in"):
        bayes_linear_regression_online(x, y, prior_var=0.0, noise_grid=grid)
    with pytest.raises(ValueError, match=r"noise_grid \(2,\) and noise_weights \(3,\)"):
        bayes_linear_regression_online(x, y, prior_var=1.0, noise_grid=grid, noise_weights=jnp.ones(3))
    with pytest.raises(ValueError, match=r"x_query of shape \(3,\) for inputs of 2 features"):
        bayes_linear_regression_predictive(x, y, y, prior_var=1.0, noise_grid=grid)
    with pytest.raises(ValueError, match=r"where of shape \(2,\) for \(3,\) targets"):
        bayes_linear_regression_predictive(x, y, x, prior_var=1.0, noise_grid=grid, where=jnp.ones(2, bool))
    with pytest.raises(ValueError, match="all noise_weights are 0"):
        bayes_linear_regression_online(x, y, prior_var=1.0, noise_grid=grid, noise_weights=0 * grid)
    for wrong in ((jnp.ones(()), None), (jnp.ones((2, 2)), None), (grid, jnp.ones(3))):
        with pytest.raises(ValueError, match=r"in_context_regression_tasks: noise_grid .* give \(levels,\) for both"):
            in_context_regression_tasks(
                jax.random.key(0), num_tasks=1, seq_len=1, dim=1, prior_var=1.0, noise_prior=wrong
            )
    with pytest.raises(ValueError, match="seq_len must be at least 1"):
        in_context_regression_tasks(
            jax.random.key(0), num_tasks=1, seq_len=0, dim=1, prior_var=1.0, noise_prior=(grid, None)
        )
