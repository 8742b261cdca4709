"""Guidance weights by hand and on average, and what they do to a Gaussian, where it can be solved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from jaxtrain.schedules import cfg_schedule, guided_score

TIMES = np.array([1.0, 0.75, 0.5, 0.25, 0.0])
ROOT = np.sqrt(0.5)
BY_HAND = {
    "constant": [1, 1, 1, 1, 1],
    "linear": [0, 0.5, 1, 1.5, 2],
    "cosine": [0, 1 - ROOT, 1, 1 + ROOT, 2],
    "inv_linear": [2, 1.5, 1, 0.5, 0],
    "sine": [2, 1 + ROOT, 1, 1 - ROOT, 0],
    "v_shape": [2, 1, 0, 1, 2],
    "lambda_shape": [0, 1, 2, 1, 0],
    "pcs": [0, (1 - ROOT) / 2, 0.5, (1 + ROOT) / 2, 1],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_weights_by_hand_and_on_average(x64, name):
    weight = cfg_schedule(name, scale=3.0)
    np.testing.assert_allclose(weight(TIMES), 3.0 * np.array(BY_HAND[name]), atol=1e-14)  # float64
    fine = jnp.linspace(0, 1, 2001)
    # the trapezoidal rule is exact for the straight pieces and, over a period, for cosines
    mean = jnp.trapezoid(weight(fine), fine)
    np.testing.assert_allclose(mean, 1.5 if name == "pcs" else 3.0, rtol=1e-12)


def test_power_clamp_and_interval(x64):
    np.testing.assert_allclose(
        cfg_schedule("pcs", scale=2.0, s=2.0)(TIMES), 1 - np.cos(np.pi * np.array([0, 1, 4, 9, 16]) / 16), atol=1e-14
    )
    np.testing.assert_allclose(cfg_schedule("linear", scale=1.0, clamp=0.75)(TIMES), [0.75, 0.75, 1, 1.5, 2])
    limited = cfg_schedule("constant", scale=2.0, interval=(0.25, 0.6))
    np.testing.assert_array_equal(limited(TIMES), [0, 0, 2, 2, 0])
    # with s = 1 it is half of the cosine
    np.testing.assert_allclose(
        cfg_schedule("pcs", scale=1.0)(TIMES), cfg_schedule("cosine", scale=0.5)(TIMES), atol=1e-14
    )


def test_numbers_may_be_traced():
    def at(scale, s, clamp, low, t):
        return cfg_schedule("pcs", scale=scale, s=s, clamp=clamp, interval=(low, 1.0))(t)

    got = jax.jit(jax.vmap(at, (0, None, 0, None, None)))(jnp.array([2.0, 8.0]), 1.0, jnp.array([1.5, 0.0]), 0.1, 0.5)
    np.testing.assert_allclose(got, [1.5, 4.0], rtol=1e-6)


@pytest.mark.parametrize("name", ["constant", "linear", "inv_linear"])
def test_a_guided_gaussian_moves_as_it_must(x64, name):
    r"""Class N(m, s²) among N(0, s²): dx/dσ = -σ (m(1+w) - x)/(s²+σ²) has mean m + m ∫ w sσ/(s²+σ²)^{3/2} dσ.

    For a constant weight that is m(1 + w): guidance exaggerates what sets the class apart.
    """
    m, s, scale, top, steps = 0.7, 0.5, 2.0, 20.0, 4000
    weight = cfg_schedule(name, scale=scale)
    # σ = top · t², so that small noise has many steps
    times = jnp.linspace(1.0, 0.0, steps + 1)

    def step(x, i):
        def slope(x, t):
            sigma = top * t**2
            cond, uncond = (m - x) / (s**2 + sigma**2), -x / (s**2 + sigma**2)
            return -sigma * guided_score(cond, uncond, weight(t))

        width = top * (times[i + 1] ** 2 - times[i] ** 2)
        first = slope(x, times[i])
        return x + 0.5 * width * (first + slope(x + width * first, times[i + 1])), None

    # the mean of the noised class
    end, _ = jax.lax.scan(step, jnp.asarray(m), jnp.arange(steps))
    pull = quad(lambda z: BY_TIME[name](np.sqrt(z / top)) * s * z / (s**2 + z**2) ** 1.5, 0, top, limit=200)[0]
    # Heun's method, of second order: (1/4000)² times derivatives of order 10²
    np.testing.assert_allclose(end, m + m * scale * pull, rtol=2e-5)


BY_TIME = {"constant": lambda t: 1.0, "linear": lambda t: 2 - 2 * t, "inv_linear": lambda t: 2 * t}


def test_guidance_keeps_the_dtype_and_the_ends():
    cond, uncond = jnp.array([1.0, 2.0], jnp.bfloat16), jnp.array([3.0, 1.0], jnp.bfloat16)
    assert guided_score(cond, uncond, jnp.float32(0.5)).dtype == jnp.bfloat16
    np.testing.assert_array_equal(guided_score(cond, uncond, 0.0), cond)
    np.testing.assert_array_equal(guided_score(cond, uncond, -1.0), uncond)


def test_clear_errors():
    with pytest.raises(ValueError, match="name must be one of constant, linear, .*, got 'quadratic'"):
        cfg_schedule("quadratic", scale=1.0)
    with pytest.raises(ValueError, match="scale must lie in"):
        cfg_schedule("linear", scale=-1.0)
    with pytest.raises(ValueError, match=r"low <= high, got \(0.5, 0.2\)"):
        cfg_schedule("constant", scale=1.0, interval=(0.5, 0.2))
    with pytest.raises(ValueError, match="s must lie in"):
        cfg_schedule("pcs", scale=1.0, s=0.0)
    with pytest.raises(ValueError, match=r"of one shape are needed, got \(2,\) and \(3,\)"):
        guided_score(jnp.ones(2), jnp.ones(3), 1.0)
