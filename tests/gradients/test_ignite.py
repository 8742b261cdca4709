"""IGNITE on models whose derivatives are known, its multiplier, and the search on a surrogate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import (
    IgniteState,
    ignite,
    ignite2,
    offline_gradient_ascent,
    surrogate_sharpness,
    value_and_grad,
)

KEY = jax.random.key(0)


def _fit(b, s, x, k):
    return jnp.sum(b**2) / 2, Aux(s, {})


def _of(fn):
    return lambda b, s, x, k: (fn(b), Aux(s, {}))


def test_of_a_quadratic_it_is_the_hessian_times_the_direction(x64):
    """G = bᵀA b / 2 + cᵀb: the difference is exact for every r, ρ A u."""
    rng = np.random.default_rng(0)
    a, c, b = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
    a = a + a.T
    u = (a @ b + c) / np.linalg.norm(a @ b + c)
    for r in (1e-3, 0.5):
        rule = ignite2(value_and_grad(_fit), _of(lambda b: b @ a @ b / 2 + c @ b), weight=0.7, rho=0.2, r=r)
        (loss, aux), grads = rule(jnp.asarray(b), {}, None, KEY)
        np.testing.assert_allclose(grads, b + 0.7 * 0.2 * a @ u, rtol=1e-11)  # 1e-16 / r
        np.testing.assert_allclose(aux.metrics["prediction_gradient_norm"], np.linalg.norm(a @ b + c), rtol=1e-14)
        np.testing.assert_allclose(loss, b @ b / 2)


def test_the_limit_of_small_r_is_the_gradient_of_the_norm(x64):
    g = lambda b: jnp.sum(jnp.tanh(b) ** 2) + b[0] * jnp.exp(b[1])  # noqa: E731
    b = jnp.array([0.3, -0.7, 1.1])
    want = jax.grad(lambda b: 0.3 * jnp.linalg.norm(jax.grad(g)(b)))(b)
    errors = []
    for r in (1e-2, 1e-3, 1e-4):
        rule = ignite2(value_and_grad(_of(lambda b: 0.0 * b[0])), _of(g), weight=1.0, rho=0.3, r=r)
        errors.append(float(jnp.abs(rule(b, {}, None, KEY)[1] - want).max()))
    # of first order in r
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 10.0, rtol=0.05)


def test_a_linear_model_has_no_sharpness_to_lose(x64):
    phi = np.random.default_rng(0).normal(size=(6, 3))
    rule = ignite2(value_and_grad(_fit), _of(lambda b: jnp.mean(phi @ b)), weight=5.0)
    np.testing.assert_allclose(rule(jnp.ones(3), {}, None, KEY)[1], np.ones(3), atol=1e-14)


def test_the_multiplier(x64):
    """G = b²/2 at b = 3: the norm is 3; it rises by η (ρ 3 - ε), is used before it rises, and stops at 0."""
    for epsilon, want in ((0.1, 0.5 + 2 * (0.3 - 0.1)), (0.5, 0.5 + 2 * (0.3 - 0.5)), (9.0, 0.0)):
        rule = ignite(value_and_grad(_fit), _of(lambda b: b**2 / 2), rho=0.1, r=0.1, epsilon=epsilon, dual_rate=2.0)
        (_, aux), grads = rule(jnp.array(3.0), IgniteState(jnp.array(0.5), {"own": 1}), None, KEY)
        np.testing.assert_allclose(aux.model_state.multiplier, want, rtol=1e-13)
        assert aux.model_state.model_state == {"own": 1} and aux.metrics["multiplier"] == 0.5
        np.testing.assert_allclose(grads, 3.0 + 0.5 * 0.1, rtol=1e-13)
    with pytest.raises(TypeError, match=r"start from IgniteState\(.*got dict"):
        rule(jnp.array(3.0), {}, None, KEY)


def test_sharpness_of_a_prediction(x64):
    a = np.random.default_rng(0).normal(size=5)
    for rho in (0.0, 0.3):
        got = surrogate_sharpness(lambda b: a @ b, jnp.ones(5), KEY, rho=rho, num_samples=8)
        np.testing.assert_allclose(got, rho * np.linalg.norm(a), rtol=1e-13)
    # where the gradient vanishes only the search sees a change: b² at 0 with ρ = 0.3, in every direction
    bowl = lambda b: jnp.sum(b["x"] ** 2) + b["y"] ** 2  # noqa: E731
    flat = {"x": jnp.zeros(3), "y": jnp.zeros(())}
    np.testing.assert_allclose(surrogate_sharpness(bowl, flat, KEY, rho=0.3), 0.09, rtol=1e-13)
    assert surrogate_sharpness(bowl, flat, KEY, rho=0.3, num_samples=0) == 0
    with pytest.raises(ValueError, match="rho must lie in"):
        surrogate_sharpness(bowl, flat, KEY, rho=-0.3)


def test_ascent_on_a_surrogate(x64):
    """Of a concave parabola the distance to the top shrinks by 1 - η each step."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    climb = jax.jit(
        lambda rate: offline_gradient_ascent(lambda x: -jnp.sum((x - 2) ** 2, 1) / 2, x, steps=7, rate=rate)
    )
    for rate in (0.1, 0.5):
        np.testing.assert_allclose(climb(rate), 2 + (1 - rate) ** 7 * (x - 2), rtol=1e-12)
    half = offline_gradient_ascent(lambda x: x[:, 0], x.astype(jnp.bfloat16), steps=1, rate=0.5)
    assert half.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"4 designs need as many predictions, got \(4, 3\)"):
        offline_gradient_ascent(lambda x: x, x, steps=1, rate=0.1)


def test_clear_errors():
    with pytest.raises(ValueError, match="r must lie in"):
        ignite2(value_and_grad(_fit), _of(jnp.sum), r=0.0)
    with pytest.raises(ValueError, match="epsilon must lie in"):
        ignite(value_and_grad(_fit), _of(jnp.sum), epsilon=-1.0)
