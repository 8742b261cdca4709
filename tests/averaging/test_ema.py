"""Exponential averages against torch, weighted sums of all iterates, optax, and exact linear recursions."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.averaging import (
    ParamsEmaState,
    annealed_ema,
    averaged_params,
    ema_decay_for_batch_size,
    ema_decay_warmup,
    ema_time_constant,
    params_ema,
    scale_ema_decay,
    scale_hyperparameters,
)

STEPS = 30
WALK = np.random.default_rng(0).normal(size=(STEPS + 1, 4)).cumsum(0)
"""Iterates; the first is the initial one."""


def follow(tx, walk=WALK, dtype=jnp.float64):
    """The averages after every step of a walk, of shape (steps, size)."""
    walk = jnp.asarray(walk, dtype)

    def step(carry, after):
        params, state = carry
        updates, state = tx.update(after - params, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), averaged_params(state, params)

    return np.asarray(jax.jit(lambda: jax.lax.scan(step, (walk[0], tx.init(walk[0])), walk[1:])[1])())


def weighted(weights, walk=WALK[1:]):
    """What the definition says: for every k the mean of the iterates up to k with the weights ``weights(k)``."""
    out = []
    for k in range(1, len(walk) + 1):
        w = np.asarray(weights(k), np.float64)
        out.append((w[:, None] * walk[:k]).sum(0) / w.sum())
    return np.array(out)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_debiased_average_is_the_weighted_mean_of_the_iterates(decay, x64):
    want = weighted(lambda k: decay ** np.arange(k - 1, -1, -1.0))
    # the sum of weights is kept in float32: one rounding in each of 30 steps
    np.testing.assert_allclose(follow(params_ema(decay)), want, rtol=1e-6, atol=1e-6)


def test_without_debiasing_it_is_torch(x64):
    """torch.optim.swa_utils.get_ema_multi_avg_fn: see tests/golden/make_torch_averages.py."""
    golden = np.load(Path(__file__).parents[1] / "golden" / "torch_averages.npz")
    walk = np.concatenate([golden["first"][None], golden["iterates"]])
    got = follow(params_ema(float(golden["decay"]), debias=False), walk)[-1]
    # the update is a difference: one rounding of numbers of order one in each of 12 steps
    np.testing.assert_allclose(got, golden["ema"], rtol=0, atol=1e-14)


def test_optax_agrees_and_the_paper_form_is_one_step_late(x64):
    """optax.ema over parameters, and optax.incremental_update; θ_t in place of θ_{t+1}."""
    walk, ours = jnp.asarray(WALK), follow(params_ema(0.9, debias=False))
    incremental, average = [], walk[0]
    for after in walk[1:]:
        average = optax.incremental_update(after, average, 0.1)
        incremental.append(average)
    np.testing.assert_allclose(ours, incremental, rtol=0, atol=1e-13)
    tx = optax.ema(0.9, debias=True)
    state, debiased = tx.init(walk[0]), []
    for after in walk[1:]:
        average, state = tx.update(after, state)
        debiased.append(average)
    np.testing.assert_allclose(follow(params_ema(0.9)), debiased, rtol=1e-6, atol=1e-6)  # float32 mass
    early = follow(params_ema(0.9, debias=False, use_updated_params=False))
    np.testing.assert_allclose(early[0], WALK[0], atol=1e-14)
    np.testing.assert_allclose(early[1:], ours[:-1], rtol=0, atol=1e-13)


def test_start_step(x64):
    s = 7
    debiased, plain = follow(params_ema(0.8, start_step=s)), follow(params_ema(0.8, start_step=s, debias=False))
    np.testing.assert_allclose(debiased[: s - 1], WALK[1:s], atol=1e-14)  # the live model before
    np.testing.assert_allclose(plain[: s - 1], WALK[1:s], atol=1e-14)
    want = weighted(lambda k: 0.8 ** np.arange(k - 1, -1, -1.0), WALK[s:])
    np.testing.assert_allclose(debiased[s - 1 :], want, rtol=1e-6, atol=1e-6)
    e = WALK[s - 1]
    for k in range(s, STEPS + 1):  # from the parameters before the start on
        e = 0.8 * e + 0.2 * WALK[k]
        np.testing.assert_allclose(plain[k - 1], e, atol=1e-13)


def test_a_schedule_of_decays(x64):
    schedule = ema_decay_warmup(0.99, total=10)
    decays = np.array([float(schedule(t)) for t in range(STEPS)])
    got = follow(params_ema(schedule))
    want = weighted(lambda k: [(1 - decays[i]) * np.prod(decays[i + 1 : k]) for i in range(k)])
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)  # float32 mass


@pytest.mark.parametrize("decay_max, power, start", [(0.9, 0.67, 0), (1.0, 1.0, 0), (0.9, 0.5, 5)])
def test_annealed_ema_is_its_recursion(decay_max, power, start, x64):
    got, e = follow(annealed_ema(decay_max, power=power, start=start)), None
    for k in range(1, STEPS + 1):
        t = k - 1 - start
        gamma = 1.0 if t < 0 else max(1 - decay_max, (t + 1) ** -power)
        e = WALK[k] if e is None else (1 - gamma) * e + gamma * WALK[k]
        np.testing.assert_allclose(got[k - 1], e, rtol=1e-12, atol=1e-12)


def test_annealed_ema_limits(x64):
    np.testing.assert_allclose(
        follow(annealed_ema(1.0, power=1.0)), weighted(lambda k: np.ones(k)), rtol=1e-12, atol=1e-12
    )
    # at rest a fixed decay: from there on it is a plain average
    got = follow(annealed_ema(0.5, power=1.0))
    for k in range(3, STEPS):
        np.testing.assert_allclose(got[k], 0.5 * got[k - 1] + 0.5 * WALK[k + 1], atol=1e-12)


def test_a_constant_is_averaged_to_itself_in_every_dtype():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        walk = np.full((STEPS + 1, 3), 0.7)
        for tx in (params_ema(0.999), params_ema(0.9, debias=False), annealed_ema(0.99)):
            np.testing.assert_array_equal(follow(tx, walk, dtype), jnp.full((STEPS, 3), 0.7, dtype))


def test_no_weight_means_no_nan():
    """What is not averaged cannot spoil the average."""
    tx = params_ema(0.9, start_step=3)
    state, params = tx.init(jnp.zeros(2)), jnp.zeros(2)
    for value in (jnp.nan, jnp.nan, 1.0, 2.0):
        after = jnp.full(2, value)
        _, state = tx.update(jnp.where(jnp.isnan(after), after, after - params), state, params)
        params = jnp.nan_to_num(after)
    np.testing.assert_allclose(state.average, (0.9 * 1 + 2) / 1.9, rtol=1e-6)


# the scaling rule


def test_scaling_rule_is_exact_for_a_parameter_that_stands_still(x64):
    rng = np.random.default_rng(1)
    for rho, kappa in ((0.9, 4), (0.999, 7), (0.5, 2)):
        zeta, theta = rng.normal(size=3), rng.normal(size=3)
        small = zeta
        for _ in range(kappa):
            small = rho * small + (1 - rho) * theta
        big = scale_ema_decay(rho, kappa)
        np.testing.assert_allclose(big * zeta + (1 - big) * theta, small, rtol=1e-14)
        np.testing.assert_allclose(scale_ema_decay(scale_ema_decay(rho, kappa), 1 / kappa), rho, rtol=1e-14)
        np.testing.assert_allclose(scale_ema_decay(scale_ema_decay(rho, 2), 3), scale_ema_decay(rho, 6), rtol=1e-14)
        np.testing.assert_allclose(ema_time_constant(big, 32 * kappa), ema_time_constant(rho, 32), rtol=1e-12)
    assert scale_ema_decay(0.9, 1) == 0.9
    assert 1 - 20 * (1 - 0.9) < 0 < scale_ema_decay(0.9, 20)  # where the linear rule is no decay


def stationary_variance_of_average(lr, rho, noise):
    """Exact, of ζ, for θ ← θ − η(θ + ε), ζ ← ρζ + (1 − ρ)θ_t on a unit parabola: the fixed point of a linear map.

    With z = (θ, ζ), z' = M z + (−η ε, 0), the covariance C = M C Mᵀ + η² σ² e₁e₁ᵀ.
    """
    m = np.array([[1 - lr, 0.0], [1 - rho, rho]])
    q = np.zeros((2, 2))
    q[0, 0] = lr**2 * noise
    c = np.linalg.solve(np.eye(4) - np.kron(m, m), q.reshape(-1)).reshape(2, 2)
    return c[1, 1]


def test_scaling_rule_keeps_the_stationary_variance_to_first_order_in_the_rate():
    """B → κB: noise σ²/κ, rate κη, decay ρ^κ. The error of the rule falls with η, without it the error stays."""
    kappa, errors, unscaled = 8, [], []
    for lr in (1e-2, 1e-3, 1e-4):
        rho = 1 - lr  # both scales of time alike
        base = stationary_variance_of_average(lr, rho, 1.0)
        scaled = stationary_variance_of_average(kappa * lr, scale_ema_decay(rho, kappa), 1.0 / kappa)
        kept = stationary_variance_of_average(kappa * lr, rho, 1.0 / kappa)
        errors.append(abs(scaled / base - 1))
        unscaled.append(abs(kept / base - 1))
    assert errors[0] < 0.1
    # first order: a tenth of the rate, a tenth of the error (up to the next order)
    np.testing.assert_allclose(np.array(errors[1:]) / errors[:-1], 0.1, rtol=0.1)
    assert min(unscaled) > 0.7


def test_params_ema_on_the_parabola_has_the_exact_variance(x64):
    """The transformation in the paper's form, against the linear recursion of the covariance from its start."""
    lr, rho, steps, runs = 0.3, 0.8, 25, 20_000
    noise = jax.random.normal(jax.random.key(0), (steps, runs))
    tx = optax.chain(optax.sgd(lr), params_ema(rho, debias=False, use_updated_params=False))

    def step(carry, e):
        params, state = carry
        updates, state = tx.update(params + e, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.zeros(runs)
    (params, state), _ = jax.lax.scan(step, (start, tx.init(start)), noise)
    m = np.array([[1 - lr, 0.0], [1 - rho, rho]])
    c = np.zeros((2, 2))
    for _ in range(steps):
        c = m @ c @ m.T + np.diag([lr**2, 0.0])
    got = averaged_params(state, params)
    # a variance from 20,000 samples: five standard deviations of sqrt(2 / 20,000)
    np.testing.assert_allclose([params.var(), got.var()], np.diag(c), rtol=0.05)


def test_hyperparameters_scale_together():
    adam = scale_hyperparameters(
        learning_rate=1e-3, batch_size=256, ema_decay=0.99, kappa=4, optimizer="adam", b1=0.9, b2=0.99, eps=1e-8
    )
    # by hand
    want = {"batch_size": 1024, "learning_rate": 2e-3, "ema_decay": 0.99**4, "b1": 0.6, "b2": 0.96, "eps": 5e-9}
    assert adam.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(adam[name], value, rtol=1e-12)
    small = scale_hyperparameters(learning_rate=0.1, batch_size=256, ema_decay=0.99, kappa=0.25)
    assert (small["learning_rate"], small["batch_size"]) == (0.025, 64)
    with pytest.raises(ValueError, match="kappa 16 scales b1 = 0.9 to .* up to kappa = 10"):
        scale_hyperparameters(
            learning_rate=0.1, batch_size=1, ema_decay=0.9, kappa=16, optimizer="adam", b1=0.9, b2=0.99
        )
    with pytest.raises(ValueError, match="SGD has no b1"):
        scale_hyperparameters(learning_rate=0.1, batch_size=1, ema_decay=0.9, kappa=2, b1=0.9)
    with pytest.raises(ValueError, match="optimizer must be 'sgd' or 'adam', got 'lion'"):
        scale_hyperparameters(learning_rate=0.1, batch_size=1, ema_decay=0.9, kappa=2, optimizer="lion")
    with pytest.raises(ValueError, match="kappa must lie in"):
        scale_ema_decay(0.9, 0.0)


def test_progressive_scaling_is_the_rule_at_every_step(x64):
    """Two phases: after k₁ steps of B and k₂ of 4B a standing parameter has the weight of k₁ + 4k₂ steps of B."""
    schedule = ema_decay_for_batch_size(0.9, base_batch_size=32, batch_size=lambda t: jnp.where(t < 10, 32, 128))
    walk = np.concatenate([np.zeros((1, 2)), np.ones((15, 2))])
    got = follow(params_ema(schedule, debias=False), walk)[-1]
    np.testing.assert_allclose(got, 1 - 0.9 ** (10 + 4 * 5), rtol=1e-12)


def test_clear_errors():
    with pytest.raises(ValueError, match=r"decay must lie in \[0.0, 1.0\], got 1.5"):
        params_ema(1.5)
    with pytest.raises(ValueError, match="power must lie"):
        annealed_ema(power=2.0)
    with pytest.raises(ValueError, match="params_ema averages parameters: call tx.update"):
        params_ema(0.9).update(jnp.ones(2), params_ema(0.9).init(jnp.ones(2)))
    state = optax.chain(params_ema(0.9), params_ema(0.99)).init(jnp.ones(2))
    with pytest.raises(ValueError, match="several averages .* say which"):
        averaged_params(state, jnp.ones(2), kind=ParamsEmaState)
    with pytest.raises(ValueError, match="index must lie between 0 and 1"):
        averaged_params(state, jnp.ones(2), index=2)
