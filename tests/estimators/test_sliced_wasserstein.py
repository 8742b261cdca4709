"""Sliced Wasserstein against SciPy, POT, the authors' code on the same directions, and closed forms."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from jaxtrain.estimators import (
    lcv_sliced_wasserstein,
    sliced_wasserstein,
    sphere_directions,
    ucv_sliced_wasserstein,
    wasserstein_1d,
)
from jaxtrain.estimators.sliced_wasserstein import _lower, _upper

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "sliced_wasserstein.npz")
ESTIMATORS = {"sw": sliced_wasserstein, "lcv": lcv_sliced_wasserstein, "ucv": ucv_sliced_wasserstein}
KEY = jax.random.key(0)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_one_dimension_equals_scipy_and_pot(p, x64):
    u, v, wu, wv = (jnp.asarray(GOLDEN[name]) for name in ("u", "v", "wu", "wv"))
    plain = jax.jit(lambda: wasserstein_1d(u, v, p=p))()
    weighted = jax.jit(lambda: wasserstein_1d(u, v, p=p, u_weights=wu, v_weights=wv))()
    # float64: sums of some twenty numbers
    np.testing.assert_allclose(plain, GOLDEN[f"plain{p}"], rtol=1e-12)
    np.testing.assert_allclose(weighted, GOLDEN[f"weighted{p}"], rtol=1e-12)
    # equal weights given take the other way through the code
    np.testing.assert_allclose(wasserstein_1d(u, v, p=p, u_weights=jnp.ones(7)), plain, rtol=1e-12)
    if p == 1:
        np.testing.assert_allclose(plain, wasserstein_distance(u, v), rtol=1e-12)
        np.testing.assert_allclose(weighted, wasserstein_distance(u, v, wu, wv), rtol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_equals_the_official_code_on_its_directions(name, p, x64):
    for case in ("shifted", "spread", "high"):
        x, y, directions = (jnp.asarray(GOLDEN[f"{case}/{part}"]) for part in ("x", "y", "directions"))
        value, gradient = jax.value_and_grad(lambda x: ESTIMATORS[name](x, y, p=p, directions=directions))(x)  # noqa: B023
        # float64; the coefficient is a quotient of small means
        np.testing.assert_allclose(value, GOLDEN[f"{case}/{name}{p}"], rtol=1e-11)
        np.testing.assert_allclose(gradient, GOLDEN[f"{case}/{name}{p}_gradient"], rtol=0, atol=1e-11)
        if name == "sw":
            np.testing.assert_allclose(value, GOLDEN[f"{case}/pot{p}"], rtol=1e-11)


def test_a_translation_by_hand(x64):
    """W₂²(θ) = (θ·v)² is the control itself. With B its mean and c = C − B the paper's Z is B + c̄³ / mean(c²)."""
    x, v = jax.random.normal(KEY, (15, 6)), jnp.arange(6.0)
    directions = sphere_directions(jax.random.key(1), 9, 6, jnp.float64)
    c = (directions @ v) ** 2 - v @ v / 6
    z = v @ v / 6 + c.mean() ** 3 / (c**2).mean()
    np.testing.assert_allclose(lcv_sliced_wasserstein(x, x + v, directions=directions), z**0.5, rtol=1e-12)
    exact = lcv_sliced_wasserstein(x, x + v, directions=directions, centered=True)
    np.testing.assert_allclose(exact, (v @ v / 6) ** 0.5, rtol=1e-12)  # whatever the directions
    # one point each: the variances vanish and both controls agree
    one = [f(x[:1], x[:1] + v, directions=directions) for f in (lcv_sliced_wasserstein, ucv_sliced_wasserstein)]
    np.testing.assert_allclose(one, [z**0.5] * 2, rtol=1e-12)


def test_the_controls_have_mean_zero():
    """Exactly, over the axes: the mean of (θ·a)² over an orthonormal basis is |a|²/d. And by Monte Carlo."""
    k = jax.random.split(KEY, 4)
    x, y = jax.random.normal(k[0], (11, 5)), 2 * jax.random.normal(k[1], (8, 5)) + 1
    weights = jax.random.uniform(k[3], (11,))
    basis = jnp.linalg.qr(jax.random.normal(k[2], (5, 5)))[0]
    many = sphere_directions(k[2], 20_000, 5)
    for control in (_lower, _upper):
        for xw in (None, weights):
            # float32, values of size 1 to 10
            np.testing.assert_allclose(control(x, y, basis, xw, None).mean(), 0.0, atol=1e-5)
        c = control(x, y, many, None, None)
        assert abs(c.mean()) < 4 * c.std() / 20_000**0.5


def test_weights_are_repetitions(x64):
    x, y = jax.random.normal(KEY, (3, 4)), jax.random.normal(jax.random.key(1), (5, 4)) + 1
    repeated = jnp.repeat(x, jnp.array([1, 3, 1]), axis=0, total_repeat_length=5)
    for estimator in ESTIMATORS.values():
        want = estimator(repeated, y, key=KEY, num_projections=7)
        got = estimator(x, y, key=KEY, num_projections=7, x_weights=jnp.array([1.0, 3.0, 1.0]))
        np.testing.assert_allclose(got, want, rtol=1e-11)


def test_less_variance_and_little_bias():
    """On clouds with different means; the exact distance from 20,000 directions."""
    k = jax.random.split(KEY, 3)
    x, y = jax.random.normal(k[0], (30, 20)), 1.2 * jax.random.normal(k[1], (30, 20)) + 2.0
    exact = sliced_wasserstein(x, y, key=k[2], num_projections=20_000)
    keys = jax.random.split(jax.random.key(5), 400)
    values = {
        n: jax.jit(jax.vmap(lambda k, f=f: f(x, y, key=k, num_projections=10)))(keys) for n, f in ESTIMATORS.items()
    }
    for name in ("lcv", "ucv"):
        assert values[name].var() < values["sw"].var() / 3
        # O(1/L) bias of the coefficient: below one standard deviation of the plain estimate
        assert abs(values[name].mean() - exact) < values["sw"].std()


def test_gradients_are_finite_where_the_distance_is_zero():
    x = same = jax.random.normal(KEY, (6, 3))
    for estimator in ESTIMATORS.values():
        for p in (1, 2, 3):
            value, gradient = jax.value_and_grad(lambda x, f=estimator, p=p: f(x, same, key=KEY, p=p))(x)
            assert value == 0.0 and not gradient.any(), (estimator, p, value)
    assert jnp.isnan(sliced_wasserstein(x.at[0, 0].set(jnp.nan), x, key=KEY))


def test_dtypes_vmap_and_a_traced_order():
    x, y = jax.random.normal(KEY, (9, 3)), jax.random.normal(jax.random.key(1), (6, 3)) + 1
    for estimator in ESTIMATORS.values():
        half = estimator(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16), key=KEY)
        assert half.dtype == jnp.bfloat16
        # bfloat16 has 8 bits; 100 directions of them
        np.testing.assert_allclose(float(half), float(estimator(x, y, key=KEY)), rtol=0.1)
        orders = jax.jit(jax.vmap(lambda p, f=estimator: f(x, y, key=KEY, p=p)))(jnp.array([1.0, 2.0]))
        np.testing.assert_allclose(orders, [estimator(x, y, key=KEY, p=p) for p in (1, 2)], rtol=1e-5)


def test_clear_errors():
    x = jnp.ones((4, 3))
    with pytest.raises(ValueError, match="either a key to draw directions with, or the directions"):
        sliced_wasserstein(x, x)
    with pytest.raises(ValueError, match="num_projections must be at least 1"):
        sliced_wasserstein(x, x, key=KEY, num_projections=0)
    with pytest.raises(ValueError, match=r"p must lie in \[1.0, inf\], got 0.5"):
        sliced_wasserstein(x, x, key=KEY, p=0.5)
    with pytest.raises(ValueError, match="got 0 and 4 points"):
        wasserstein_1d(jnp.zeros(0), jnp.zeros(4))
