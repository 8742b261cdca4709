"""Learned slices: divergences by SciPy's Bessel functions and quadrature, samples and slopes by closed forms, bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, special

from jaxtrain.estimators import (
    optimize_slices_vmf,
    pac_sw_lambda,
    pac_sw_objective,
    sample_vmf,
    sliced_wasserstein,
    vmf_kl_to_uniform,
)
from jaxtrain.testing import check_estimator

KL = jax.jit(vmf_kl_to_uniform, static_argnums=1)


def by_bessel(kappa, d):
    """The catalogue's long formula, with the scale of the scaled Bessel function put back."""
    nu = d / 2 - 1
    log_i = np.log(special.ive(nu, kappa)) + kappa
    surface = np.log(2) + d / 2 * np.log(np.pi) - special.gammaln(d / 2)
    mean = special.ive(nu + 1, kappa) / special.ive(nu, kappa)
    return kappa * mean + nu * np.log(kappa) - d / 2 * np.log(2 * np.pi) - log_i + surface


@pytest.mark.parametrize("d", [2, 5, 60])
def test_divergence_equals_scipys(d, x64):
    kappa = np.array([0.3, 2.0, 30.0, 900.0])
    # the first term of the expansion that is left out is below 1e-9; SciPy's sum cancels where the result is small
    np.testing.assert_allclose(KL(jnp.asarray(kappa), d), by_bessel(kappa, d), rtol=2e-9, atol=1e-11)
    assert KL(jnp.asarray(0.0), d) == pytest.approx(0, abs=1e-10)


def test_divergence_by_quadrature_and_closed_form(x64):
    kappa = 2.0
    coth = 1 / np.tanh(kappa)
    np.testing.assert_allclose(KL(jnp.asarray(kappa), 3), kappa * coth - 1 + np.log(kappa / np.sinh(kappa)), rtol=1e-9)
    z = integrate.quad(lambda a: np.exp(kappa * np.cos(a)), 0, np.pi)[0]
    density = lambda a: np.exp(kappa * np.cos(a)) / z  # noqa: E731
    wanted = integrate.quad(lambda a: density(a) * np.log(density(a) * np.pi), 0, np.pi)[0]
    np.testing.assert_allclose(KL(jnp.asarray(kappa), 2), wanted, rtol=1e-9)
    # the slope is kappa A', for d = 3 kappa (1 / kappa^2 - 1 / sinh^2)
    slope = jax.jit(jax.grad(lambda k: vmf_kl_to_uniform(k, 3)))(jnp.asarray(kappa))
    np.testing.assert_allclose(slope, kappa * (1 / kappa**2 - 1 / np.sinh(kappa) ** 2), rtol=1e-8)
    # single precision, as its docstring says
    np.testing.assert_allclose(vmf_kl_to_uniform(jnp.float32(500.0), 20), by_bessel(500.0, 20), atol=5e-5)


@pytest.mark.parametrize("d", [2, 20, 200])
def test_samples_have_the_moments_of_the_distribution_and_their_slopes(d):
    n, mu = 6000, np.arange(1.0, d + 1) / np.linalg.norm(np.arange(1.0, d + 1))
    draw = functools.partial(sample_vmf, jax.random.key(0), jnp.asarray(3 * mu, jnp.float32), num=n)
    both = jax.jit(lambda k: jax.jvp(lambda k: draw(kappa=k), (k,), (1.0,)))
    for kappa in (0.0, 0.7 * d):
        x, slope = (np.asarray(z, np.float64) for z in both(kappa))
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
        mean, square = 0.0, 1 / d
        if kappa:
            mean = special.ive(d / 2, kappa) / special.ive(d / 2 - 1, kappa)
            square = 1 - (d - 1) / kappa * mean
        along, rise = x @ mu, slope @ mu
        # five standard errors, and rounding
        assert abs(along.mean() - mean) < 5 * np.sqrt((square - mean**2) / n)
        assert abs((along**2).mean() - square) < 5 * (along**2).std() / np.sqrt(n)
        across = x - along[:, None] * mu
        np.testing.assert_array_less(np.abs(across.mean(0)), 5 * np.sqrt(1 / (d - 1) / n) + 1e-6)
        if d == 20:  # the same variance in all directions across
            spread = across.T @ across / n * (d - 1) / (1 - square)
            np.testing.assert_allclose(spread, np.eye(d) - np.outer(mu, mu), atol=10 * np.sqrt(1 / n))
        # d E t / d kappa = E t^2 - (E t)^2: the gradient of a mean is unbiased
        assert abs(rise.mean() - (square - mean**2)) < 5 * rise.std() / np.sqrt(n) + 1e-5 * square
        if kappa:  # d E t^2 / d kappa, from E t^2 = 1 - (d - 1) A / kappa
            wanted = (d - 1) * (mean / kappa**2 - (square - mean**2) / kappa)
            got = 2 * along * rise
            assert abs(got.mean() - wanted) < 5 * got.std() / np.sqrt(n) + 1e-4 * wanted
            assert got.std() < 10 * abs(wanted)  # no wild values


def test_slope_of_samples_is_that_of_the_quantile_function(x64):
    # d = 3: t = 1 + log(u + (1 - u) e^(-2 kappa)) / kappa, and u from t
    draw = lambda k: sample_vmf(jax.random.key(1), jnp.array([0.0, 0.0, 1.0]), k, 200)[:, 2]  # noqa: E731
    both = jax.jit(lambda k: jax.jvp(draw, (k,), (1.0,)))
    for kappa in (0.5, 30.0):
        t, slope = both(kappa)
        e = np.exp(-2 * kappa)
        u = (np.exp(kappa * (np.asarray(t) - 1)) - e) / (1 - e)
        quantile = u + (1 - u) * e
        wanted = -np.log(quantile) / kappa**2 - 2 * (1 - u) * e / quantile / kappa
        np.testing.assert_allclose(slope, wanted, rtol=1e-6, atol=1e-9)  # rounding of u close to its ends


def test_bound(x64):
    kl, n, diameter, p, delta = 3.0, 50, 1.7, 1.5, 0.05
    bound = functools.partial(pac_sw_objective, 2.0, kl, n=n, diameter=diameter, p=p, delta=delta)
    wanted = 2.0 - (kl + np.log(1 / delta)) / 9.0 - 9.0 * diameter ** (2 * p) / (4 * n)
    np.testing.assert_allclose(bound(lam=9.0), wanted, rtol=1e-12)
    np.testing.assert_allclose(bound(), bound(lam=np.sqrt(n)), rtol=1e-12)
    best = optimize.minimize_scalar(lambda v: -float(bound(lam=v)), bounds=(0.1, 100), method="bounded")
    lam = pac_sw_lambda(kl, n=n, diameter=diameter, p=p, delta=delta)
    np.testing.assert_allclose(best.x, lam, rtol=1e-4)  # SciPy's tolerance
    # the release's n^a, with a = 1/2 + log(2 (KL + log 1/delta) / C) / (2 log n) and C = diameter^2p / 4
    exponent = 0.5 + np.log(2 * (kl - np.log(delta)) / (diameter ** (2 * p) / 4)) / (2 * np.log(n))
    np.testing.assert_allclose(n**exponent, np.sqrt(2) * lam, rtol=1e-12)
    # the constant: changing one of 2n points moves the distance by diameter^p / n at most (McDiarmid)
    np.testing.assert_allclose(2 * n * (diameter**p / n) ** 2 / 8, diameter ** (2 * p) / (4 * n), rtol=1e-12)


def test_learned_slices():
    x = jax.random.normal(jax.random.key(0), (50, 6))
    shift = jnp.array([2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    # with a penalty, and with next to none
    learn = jax.jit(lambda lam: optimize_slices_vmf(jax.random.key(1), x, x + shift, lam=lam))
    found, free = learn(2.0), learn(1e6)
    # a translation: W_2^2 = 4 theta_1^2, whose mean over the slices is known
    kappa, along = float(found.kappa), float(found.mu[0]) ** 2
    mean = special.ive(3, kappa) / special.ive(2, kappa)
    exact = 4 * (along * (1 - 5 / kappa * mean) + (1 - along) * mean / kappa)
    np.testing.assert_allclose(found.value, exact, rtol=0.15)  # 100 slices
    assert along > 0.95
    np.testing.assert_allclose(found.kl, vmf_kl_to_uniform(found.kappa, 6), rtol=1e-5)
    # the concentration is where 4 E theta_1^2 - KL / lambda is largest
    grid = np.linspace(0.5, 100, 2000)
    ratio = special.ive(3, grid) / special.ive(2, grid)
    best = grid[np.argmax(4 * (1 - 5 / grid * ratio) - by_bessel(grid, 6) / 2)]
    np.testing.assert_allclose(kappa, best, rtol=0.2)  # noise of the slices at this rate
    assert float(free.kappa) > 3 * kappa
    # by default the root of the smaller number of points
    few = functools.partial(optimize_slices_vmf, jax.random.key(1), x[:9], x, num_steps=3)
    np.testing.assert_array_equal(few().kappa, few(lam=3.0).kappa)
    assert (
        float(free.value) > float(found.value) > 2 * float(sliced_wasserstein(x, x + shift, key=jax.random.key(2)) ** 2)
    )


def test_contract():
    x = np.random.default_rng(0).normal(size=(8, 3))
    fn = jax.jit(lambda x, key: optimize_slices_vmf(key, x, 2 * x, num_steps=2, num_projections=4)._asdict())
    check_estimator(fn, x, takes_key=True, laws=("finite", "same_key", "other_key"))


def test_bad_input():
    key, x = jax.random.key(0), jnp.ones((4, 3))
    with pytest.raises(ValueError, match="dim must be at least 2"):
        vmf_kl_to_uniform(1.0, 1)
    with pytest.raises(ValueError, match="kappa must lie in"):
        sample_vmf(key, x[0], -1.0, 3)
    with pytest.raises(ValueError, match=r"kappa of shape \(2,\)"):
        sample_vmf(key, x[0], jnp.ones(2), 3)
    with pytest.raises(ValueError, match="diameter must lie in"):
        pac_sw_objective(1.0, 1.0, n=10, diameter=0.0)
    with pytest.raises(ValueError, match="have a single slice"):
        optimize_slices_vmf(key, x[:, :1], x[:, :1])


def test_what_is_not_a_number_ends():
    # nothing would ever be accepted; not a number is the answer
    assert np.isnan(jax.jit(lambda k: sample_vmf(jax.random.key(0), jnp.ones(3), k, 2))(jnp.nan)).all()
    found = jax.jit(lambda x: optimize_slices_vmf(jax.random.key(0), x, x, num_steps=1, num_projections=2))(
        jnp.full((4, 3), jnp.nan)
    )
    assert np.isnan(found.value)
    with pytest.raises(ValueError, match=r"samples \(0, 3\) and \(4, 3\)"):
        optimize_slices_vmf(jax.random.key(0), jnp.zeros((0, 3)), jnp.zeros((4, 3)))
