"""Gravity against the authors' file, the numbers of its rule, and the noise it starts with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import GravityState, gravity, scale_by_gravity
from tests.optimizers.golden_runs import assert_equal_to_golden, golden, part, rate, run


def test_equals_the_official_code(x64):
    # 40 float64 steps of size up to 0.03 (measured: 1e-17)
    assert_equal_to_golden(gravity(rate, alpha=0.0), "gravity", "plain", rtol=0, atol=1e-14)


def test_equals_the_official_code_from_its_velocity(x64):
    tx = gravity(rate, beta=0.7)

    def init(params):
        return (GravityState(jnp.zeros((), jnp.int32), part(golden("gravity"), "velocity")), *tx.init(params)[1:])

    assert_equal_to_golden(optax.GradientTransformation(init, tx.update), "gravity", "started", rtol=0, atol=1e-14)


def test_largest_gradient_above_one_is_damped_below_smaller_ones(x64):
    """ζ = g / (1 + (M g)²) rises up to |g| = 1/M, where it is g/2, and falls beyond."""
    g = jnp.array([0.5, 0.1, 2.0])
    tx = scale_by_gravity(0.0, 0.9, key=jax.random.key(0))
    update, _ = tx.update(g, tx.init(g))
    zeta = update / (1 - 1.9 / 3)
    np.testing.assert_allclose(zeta, [0.25, 0.1 / 1.04, 2 / 17], rtol=1e-14)  # float64


def test_tiny_gradients_are_averaged_with_a_growing_decay(x64):
    """Without damping V_t is the plain recursion; constant gradients give 1 - Π β̂."""
    tx = scale_by_gravity(0.0, 0.8, key=jax.random.key(0))
    g = jnp.full(3, 1e-9)
    found, _ = run(tx, jnp.zeros(3), jnp.stack([g] * 10))
    decays = (0.8 * np.arange(1, 11) + 1) / (np.arange(1, 11) + 2)
    expected = 1e-9 * np.cumsum(1 - np.cumprod(decays))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-13)  # damped by 1e-36


@pytest.mark.parametrize("learning_rate", [1e-3, 10.0, optax.linear_schedule(0.5, 0.0, 10)])
def test_the_first_displacement_has_spread_alpha(learning_rate):
    start = learning_rate(0) if callable(learning_rate) else learning_rate
    params = {"a": jnp.zeros((100, 100)), "b": jnp.zeros(10_000)}
    velocity = gravity(learning_rate, alpha=0.02, seed=3).init(params)[0].velocity
    for v in velocity.values():
        # of 10,000 normal numbers the deviation has a relative error of 0.7 %, the mean one of 1 % of the deviation
        assert float(v.std() * start) == pytest.approx(0.02, rel=0.035)
        assert abs(float(v.mean() * start)) < 0.05 * 0.02
    assert abs(np.corrcoef(velocity["a"].ravel(), velocity["b"])[0, 1]) < 0.05  # leaves have keys of their own
    again = gravity(learning_rate, alpha=0.02, seed=jax.random.key(3)).init(params)[0].velocity
    np.testing.assert_array_equal(again["a"], velocity["a"])


def test_rates_may_be_a_grid():
    rates, seeds = jnp.array([0.0, 0.1, 1.0]), jnp.arange(3)
    w = jnp.zeros(4)
    found = jax.vmap(lambda r, s: gravity(r, seed=s).init(w)[0].velocity)(rates, seeds)
    assert found[0].tolist() == [0.0] * 4  # a traced rate of 0 cannot be refused: it starts without noise
    inside = jax.jit(lambda: gravity(0.1, seed=1).init(w)[0].velocity)()  # plain numbers inside a traced function
    np.testing.assert_allclose(found[1], inside, rtol=1e-6)


def test_half_precision_and_zero_gradients():
    w = jnp.zeros(3, jnp.bfloat16)
    tx = gravity(0.1, alpha=0.0)
    updates, state = tx.update(w, tx.init(w), w)
    assert updates.dtype == jnp.bfloat16 and state[0].velocity.dtype == jnp.float32
    assert updates.tolist() == [0.0, 0.0, 0.0]


def test_clear_errors():
    with pytest.raises(ValueError, match="the learning rate is 0 at the start; give scale_by_gravity the peak"):
        gravity(optax.linear_schedule(0.0, 0.1, 10))
    with pytest.raises(ValueError, match=r"alpha must lie in \[0.0, inf\], got -1"):
        gravity(alpha=-1)
    with pytest.raises(ValueError, match=r"beta must lie in \[0.0, 0.99.*\], got 1"):
        gravity(beta=1.0)
    # or the check of types that tests run under
    with pytest.raises(TypeError, match="scale_by_gravity needs a typed key from jax.random.key|'key'"):
        scale_by_gravity(key=0)
