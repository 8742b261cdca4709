"""SPL+ against the minimiser of its model, and the risk measures against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from jaxtrain.optimizers import (
    cvar_objective,
    cvar_prox_linear_step,
    cvar_subgradient_step,
    empirical_cvar,
    empirical_var,
    spl_plus,
)
from tests.optimizers.trajectories import flat, random_tree, run

STEPS = 40


@pytest.mark.parametrize("gap, share", [(-3.0, "none"), (0.5, "part"), (40.0, "all")])
def test_the_step_minimises_the_model(x64, gap, share):
    rng = np.random.default_rng(0)
    theta, g = rng.normal(size=(2, 4))
    alpha, beta, lt, la = 0.7, 0.9, 0.3, 0.5
    loss = alpha + gap

    # the maximum as a third variable above both of its branches: a smooth problem with linear constraints
    def model(z):
        d, a, top = z[:4], z[4], z[5]
        return a + top / (1 - beta) + d @ d / (2 * lt) + (a - alpha) ** 2 / (2 * la)

    above = {"type": "ineq", "fun": lambda z: np.array([z[5], z[5] - (loss + g @ z[:4] - z[4])])}
    best = minimize(model, np.zeros(6), constraints=above, method="SLSQP", options={"ftol": 1e-15, "maxiter": 500}).x
    new, quantile, eta = cvar_prox_linear_step(
        jnp.asarray(theta), alpha, loss, jnp.asarray(g), beta=beta, lr_params=lt, lr_alpha=la
    )
    # finite differences inside SLSQP
    np.testing.assert_allclose(np.append(new - theta, quantile), best[:5], atol=2e-5)
    assert {"none": eta == 0, "part": 0 < eta < 10, "all": jnp.isclose(eta, 10)}[share]
    if share == "part":  # on the kink
        np.testing.assert_allclose(loss + g @ (new - theta), quantile, rtol=1e-13)


def test_equals_the_equations(x64):
    params, grads = random_tree(1), random_tree(2, (STEPS,))
    losses = np.random.default_rng(3).exponential(size=STEPS) * 5
    x, alpha, beta, expected, etas = flat(params), 0.5, 0.8, [], []
    for t, (g, loss) in enumerate(zip(flat(grads, 1), losses, strict=True)):
        lt, la = 0.05 / np.sqrt(t + 1), 2.0 / np.sqrt(t + 1)
        etas.append(np.clip((loss - alpha + la) / (lt * g @ g + la), 0, 5))
        x, alpha = x - lt * etas[-1] * g, alpha - la * (1 - etas[-1])
        expected.append(x)
    tx = spl_plus(lambda t: 0.05 / jnp.sqrt(t + 1.0), lambda t: 2.0 / jnp.sqrt(t + 1.0), beta, alpha0=0.5)
    iterates, state = run(tx, params, grads, {"value": losses})
    np.testing.assert_allclose(iterates, expected, rtol=1e-12, atol=1e-13)  # float64, sums in another order
    np.testing.assert_allclose(state.alpha, alpha, rtol=1e-12)
    assert min(etas) == 0 and 0 < np.median(etas) < 5


def test_rescaled_losses_with_rescaled_steps_change_nothing(x64):
    params, grads = random_tree(4), random_tree(5, (STEPS,))
    losses = np.random.default_rng(6).exponential(size=STEPS)
    quiet, state = run(spl_plus(0.05, 0.5), params, grads, {"value": losses})
    c = 2.0**10  # multiplies without rounding
    loud, rescaled = run(
        spl_plus(0.05 / c, 0.5 * c), params, jax.tree.map(lambda g: c * g, grads), {"value": c * losses}
    )
    np.testing.assert_allclose(loud, quiet, rtol=1e-13)
    np.testing.assert_allclose(rescaled.alpha, c * state.alpha, rtol=1e-13)


def test_of_all_losses_it_is_sgd():
    """β = 0 and a loss far above α: α stands still and θ takes the step γ_θ."""
    new, alpha, eta = cvar_prox_linear_step(
        jnp.array([1.0, 2.0]), 0.0, 1e4, jnp.array([3.0, 4.0]), beta=0.0, lr_params=0.1, lr_alpha=0.1
    )
    np.testing.assert_allclose(new, [0.7, 1.6], rtol=1e-6)
    assert (float(alpha), float(eta)) == (0.0, 1.0)
    # without a step of α and without a gradient nothing moves
    still = cvar_prox_linear_step(jnp.ones(2), 0.0, 5.0, jnp.zeros(2), beta=0.5, lr_params=0.1, lr_alpha=0.0)
    assert still[0].tolist() == [1.0, 1.0] and float(still[1]) == 0.0


@pytest.mark.parametrize("above", [True, False])
def test_subgradient_step_is_the_gradient_of_the_objective(x64, above):
    def loss(theta):
        return jnp.sum(theta**2)

    theta, alpha = jnp.array([1.0, -2.0]), 4.0 if above else 6.0
    gradient = jax.grad(lambda t, a: cvar_objective(loss(t)[None], a, beta=0.8), argnums=(0, 1))(theta, alpha)
    new = cvar_subgradient_step(theta, alpha, loss(theta), jax.grad(loss)(theta), beta=0.8, lr=0.1)
    np.testing.assert_allclose(new[0], theta - 0.1 * gradient[0], rtol=1e-14)
    np.testing.assert_allclose(new[1], alpha - 0.1 * gradient[1], rtol=1e-14)
    # at the kink the loss is not above
    assert float(cvar_subgradient_step(theta, 2.0, 2.0, theta, beta=0.5, lr=0.5)[1]) == 1.5


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 0.95, 0.97])
def test_risks_equal_sorting_and_minimising(x64, beta):
    losses = np.random.default_rng(7).lognormal(size=20)
    value = empirical_var(jnp.asarray(losses), beta=beta)
    np.testing.assert_array_equal(value, np.quantile(losses, beta, method="inverted_cdf"))
    worst, count = np.sort(losses)[::-1], (1 - beta) * 20
    weights = np.clip(count - np.arange(20), 0, 1)
    conditional = empirical_cvar(jnp.asarray(losses), beta=beta)
    np.testing.assert_allclose(conditional, worst @ weights / count, rtol=1e-12)

    def objective(a):
        return a + np.mean(np.maximum(losses - a, 0)) / (1 - beta)

    least = minimize_scalar(objective, bounds=(0, losses.max()), method="bounded", options={"xatol": 1e-10}).fun
    np.testing.assert_allclose(conditional, least, atol=1e-6)  # a piecewise linear function, to xatol times its slope
    # the derivative is the weight of each loss
    gradient = jax.grad(lambda x: empirical_cvar(x, beta=beta))(jnp.asarray(losses))
    np.testing.assert_allclose(np.sort(gradient)[::-1], weights / count, atol=1e-12)


def test_the_quantile_of_many_losses_is_counted_one_by_one():
    losses = jnp.arange(3_000_000, dtype=jnp.float32)
    # 1.8 · 10⁶ losses do not exceed the answer; float32 numbers them exactly up to 1.6 · 10⁷
    assert float(empirical_var(losses, beta=0.6)) == 1_799_999.0


def test_traced_shares():
    losses = jnp.arange(1.0, 21.0)
    quantiles = jax.vmap(lambda beta: empirical_var(losses, beta=beta))(jnp.array([0.0, 0.5, 0.95]))
    assert quantiles.tolist() == [1.0, 10.0, 19.0]


def test_alpha_finds_the_quantile(x64):
    """Losses that nothing moves: α settles at their quantile."""
    losses = np.random.default_rng(8).exponential(size=9)
    draws = np.random.default_rng(9).choice(losses, size=20_000)
    tx = spl_plus(1.0, lambda t: 0.3 / jnp.sqrt(t + 1), 0.75)

    def step(state, value):
        return tx.update(jnp.zeros(1), state, value=value)[1], state.alpha

    path = jax.jit(lambda d: jax.lax.scan(step, tx.init(jnp.zeros(1)), d)[1])(jnp.asarray(draws))
    # steps at the end are 0.3 · 4/√20,000 = 0.008 long
    np.testing.assert_allclose(path[-5000:].mean(), np.quantile(losses, 0.75, method="inverted_cdf"), atol=0.02)


def test_clear_errors():
    g = jnp.ones(2)
    with pytest.raises(ValueError, match="beta must lie in"):
        spl_plus(beta=1.0)
    with pytest.raises(ValueError, match=r"lr_alpha must lie in \[0.0, inf\], got -1"):
        spl_plus(lr_alpha=-1)
    with pytest.raises(ValueError, match="alpha0 must lie in"):
        spl_plus(alpha0=jnp.inf)
    with pytest.raises(ValueError, match="lr_params must lie in"):
        cvar_prox_linear_step(g, 0.0, 1.0, g, beta=0.5, lr_params=-1, lr_alpha=1)
    with pytest.raises(ValueError, match="lr must lie in"):
        cvar_subgradient_step(g, 0.0, 1.0, g, beta=0.5, lr=-1)
    with pytest.raises(ValueError, match=r"one loss for each example, got an array of shape \(0,\)"):
        empirical_var(jnp.zeros(0), beta=0.5)
    with pytest.raises(ValueError, match="spl_plus needs the loss: call tx.update"):
        spl_plus().update(g, spl_plus().init(g))
    # where types are checked, as here, they speak first
    with pytest.raises((ValueError, TypeError), match="one loss for each example|parameter 'losses'"):
        empirical_cvar(jnp.float32(1.0), beta=0.5)
