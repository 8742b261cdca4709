"""Power-function averages against the released code of EDM2, sums over all iterates, and numerical integrals."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.polynomial.legendre import leggauss

from jaxtrain.averaging import (
    averaged_params,
    posthoc_ema,
    posthoc_ema_coefficients,
    power_ema_beta,
    power_ema_exp_to_std,
    power_ema_inner_product,
    power_ema_snapshot,
    power_ema_std_to_exp,
    power_function_ema,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "edm2.npz")
"""From the released training/phema.py: see tests/golden/make_edm2.py."""


def test_widths_and_exponents_are_those_of_the_released_code():
    # np.roots there, a closed form here; near the widest profile the cubic has a root near 0
    np.testing.assert_allclose(power_ema_std_to_exp(GOLDEN["std"]), GOLDEN["exp"], rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(power_ema_exp_to_std(GOLDEN["exp"]), GOLDEN["std_again"], rtol=1e-14)
    np.testing.assert_allclose(power_ema_exp_to_std(power_ema_std_to_exp(GOLDEN["std"])), GOLDEN["std"], rtol=1e-12)
    # traced, in float32
    np.testing.assert_allclose(jax.jit(power_ema_std_to_exp)(GOLDEN["std"]), GOLDEN["exp"], rtol=3e-5, atol=3e-3)


def test_decays_are_those_of_the_released_code():
    exponents = power_ema_std_to_exp(GOLDEN["std"])
    got = power_ema_beta(GOLDEN["t_next"][None], 1.0, exponent=exponents[:, None])
    np.testing.assert_allclose(got, GOLDEN["beta"], rtol=1e-10)


def test_inner_products_are_those_of_the_released_code_and_of_quadrature():
    exp_a, exp_b = power_ema_std_to_exp(GOLDEN["a_std"]), power_ema_std_to_exp(GOLDEN["b_std"])
    got = power_ema_inner_product(GOLDEN["a_t"], exp_a, GOLDEN["b_t"], exp_b)
    np.testing.assert_allclose(got, GOLDEN["inner"], rtol=1e-10)
    nodes, weights = leggauss(200)
    for i in range(len(got)):
        t_a, t_b = GOLDEN["a_t"][i], GOLDEN["b_t"][i]
        end = min(t_a, t_b)
        tau = end * (nodes + 1) / 2
        profiles = [(g + 1) * tau**g / t ** (g + 1) for t, g in ((t_a, exp_a[i]), (t_b, exp_b[i]))]
        # 200 nodes: the integrand is a power that is not whole, smooth but at 0
        np.testing.assert_allclose(got[i], (weights * profiles[0] * profiles[1]).sum() * end / 2, rtol=1e-6)


def test_coefficients_are_those_of_the_released_code():
    in_exp, out_exp = power_ema_std_to_exp(GOLDEN["in_std"]), power_ema_std_to_exp(GOLDEN["out_std"])
    got = posthoc_ema_coefficients(GOLDEN["in_t"], in_exp, GOLDEN["out_t"], out_exp)
    # the exponents differ by 1e-14, the equations magnify
    np.testing.assert_allclose(got, GOLDEN["coefficients"], rtol=0, atol=1e-9)
    # a profile that is stored is given back
    one_hot = np.zeros(20)
    one_hot[18] = 1
    np.testing.assert_allclose(got[:, 0], one_hot, atol=1e-9)
    # one wanted profile, one column
    alone = posthoc_ema_coefficients(GOLDEN["in_t"], in_exp, GOLDEN["out_t"][1], out_exp[1])
    np.testing.assert_allclose(alone, got[:, 1], atol=1e-12)


def run(walk, stds, every=None):
    """The final state of averages along a walk from zero, and snapshots."""
    tx, params = power_function_ema(stds), jnp.zeros_like(jnp.asarray(walk[0]))
    state, snapshots = tx.init(params), []
    update = jax.jit(lambda u, s, p: tx.update(u, s, p)[1])
    for k, after in enumerate(jnp.asarray(walk), 1):
        state, params = update(after - params, state, params), after
        if every and k % every == 0:
            snapshots.append(jax.device_get(power_ema_snapshot(state)))
    return state, params, snapshots


def test_tracked_averages_are_sums_over_the_iterates_and_those_of_the_released_class(x64):
    walk, stds = GOLDEN["walk"], [0.05, 0.1, 0.25]
    state, params, _ = run(walk, stds)
    i = np.arange(1.0, len(walk) + 1)
    for n, std in enumerate(stds):
        g = power_ema_std_to_exp(std)
        w = i ** (g + 1) - (i - 1) ** (g + 1)
        want = (w[:, None] * walk).sum(0) / w.sum()
        got = averaged_params(state, params, index=n)
        # float64, 40 steps
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
        if n < 2:
            np.testing.assert_allclose(got, GOLDEN["tracked"][n], rtol=1e-11, atol=1e-11)
    with pytest.raises(ValueError, match="several averages"):
        averaged_params(state, params)


def test_an_average_that_was_not_tracked(x64):
    """From 20 snapshots of widths 0.05 and 0.10; the paper's promise is a small error, catalogued as 8e-4."""
    walk = np.random.default_rng(3).normal(size=(400, 6)).cumsum(0)
    _, _, snapshots = run(walk, [0.05, 0.1], every=20)
    times = np.arange(1.0, 401)
    for std, step in ((0.07, None), (0.15, None), (0.2, None), (0.12, 300)):
        g, end = power_ema_std_to_exp(std), step or 400
        w = (times ** (g + 1) - (times - 1) ** (g + 1))[:end]
        want = (w[:, None] * walk[:end]).sum(0) / w.sum()
        got = posthoc_ema(snapshots, std, step=step)
        assert np.linalg.norm(got - want) < 1e-2 * np.linalg.norm(want), std
    # stored: exactly
    np.testing.assert_allclose(posthoc_ema(snapshots, 0.1), snapshots[-1].averages[1], rtol=1e-6)


def test_many_steps_keep_their_digits():
    """After a million steps 1 − β is 2e-5: found without cancellation in float32."""
    tx = power_function_ema(0.1)
    state = tx.init(jnp.zeros(()))._replace(step=jnp.int32(10**6 - 1))
    _, state = tx.update(jnp.ones(()), state, jnp.zeros(()))
    want = 1 - (1 - 1e-6) ** (power_ema_std_to_exp(0.1) + 1)
    np.testing.assert_allclose(state.averages[0], want, rtol=1e-6)


def test_widths_may_be_traced():
    walk = GOLDEN["walk"]

    def final(stds):
        tx = power_function_ema(stds)
        state, params = tx.init(jnp.zeros(5)), jnp.zeros(5)
        for after in jnp.asarray(walk[:5], jnp.float32):
            _, state = tx.update(after - params, state, params)
            params = after
        return jnp.stack(state.averages)

    got = jax.jit(jax.vmap(final))(jnp.array([[0.05, 0.1], [0.2, 0.25]]))
    # exponents in float32
    np.testing.assert_allclose(got[0], final([0.05, 0.1]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got[1], final([0.2, 0.25]), rtol=1e-3, atol=1e-4)


def test_clear_errors():
    with pytest.raises(ValueError, match="std must lie in"):
        power_function_ema(0.3)
    with pytest.raises(ValueError, match="one width or a row of them"):
        power_function_ema([])
    with pytest.raises(ValueError, match="at least one snapshot"):
        posthoc_ema([], 0.1)
    with pytest.raises(ValueError, match="one time and one exponent"):
        posthoc_ema_coefficients([1.0, 1.0], [2.0, 2.0], 1.0, 2.0)
    with pytest.raises(ValueError, match="one power_function_ema, got 0"):
        power_ema_snapshot(optax.adam(0.1).init(jnp.ones(2)))
    state = power_function_ema(0.1).init(jnp.ones(2))
    other = power_function_ema(0.1).init(jnp.ones(3))._replace(step=jnp.int32(2))
    with pytest.raises(ValueError, match="two snapshots: the trees differ"):
        posthoc_ema([state._replace(step=jnp.int32(1)), other], 0.1)
