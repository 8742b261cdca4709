"""Where averages are found: optax's own, several of a kind, a user's, sharded ones; and that nothing live is lost."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtrain.averaging import (
    LawaState,
    ParamsEmaState,
    PowerEmaState,
    SwaState,
    averaged_model,
    averaged_params,
    lawa,
    params_ema,
    power_function_ema,
    swa,
    swad,
    swad_update,
    switch_ema,
    uniform_average,
    window_average,
)

GRADS = jnp.asarray(np.random.default_rng(0).normal(size=(9, 4)), jnp.float32)


def run(tx, params):
    state, seen = tx.init(params), []
    update = jax.jit(tx.update)
    for g in GRADS:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return params, state, seen


def test_schedule_free_is_read_by_optax_function_and_by_the_paper():
    lr, b1 = 0.1, 0.9
    tx = optax.contrib.schedule_free(optax.sgd(lr), lr, b1=b1)
    params, state, _ = run(optax.chain(optax.clip(10.0), tx), jnp.ones(4))
    got = averaged_params(state, params)
    np.testing.assert_array_equal(got, optax.contrib.schedule_free_eval_params(state[1], params))
    # the paper's loop: gradients at y do not depend on y here
    z = x = np.ones(4)
    for t, g in enumerate(np.asarray(GRADS, np.float64), 1):
        z = z - lr * g
        x = (1 - 1 / t) * x + z / t
    # float32: optax finds x from y and z again in every step, dividing by b1
    np.testing.assert_allclose(got, x, rtol=2e-6, atol=2e-6)
    masked = optax.masked(tx, {"a": True, "b": False})
    tree = {"a": jnp.ones(4), "b": jnp.ones(4)}
    updates, state = masked.update({"a": GRADS[0], "b": GRADS[0]}, masked.init(tree), tree)
    got = averaged_params(state, optax.apply_updates(tree, updates))
    np.testing.assert_allclose(got["a"], np.ones(4) - lr * np.asarray(GRADS[0]), rtol=1e-6)
    np.testing.assert_array_equal(got["b"], 1 + GRADS[0])


def test_lookahead_is_read_from_its_parameters():
    tx = optax.lookahead(optax.sgd(0.1), sync_period=3, slow_step_size=0.5)
    params, state, _ = run(tx, optax.LookaheadParams.init_synced(jnp.ones(4)))
    slow = fast = np.ones(4)
    for k, g in enumerate(np.asarray(GRADS), 1):
        fast = fast - 0.1 * g
        if k % 3 == 0:
            slow = fast = slow + 0.5 * (fast - slow)
    np.testing.assert_allclose(averaged_params(state, params), slow, rtol=1e-6)
    with pytest.raises(ValueError, match=r"keeps its average in optax.LookaheadParams, got"):
        averaged_params(state, params.fast)
    # with another average behind it
    chained = optax.chain(optax.lookahead(optax.sgd(0.1), 3, 0.5), uniform_average())
    params, state, seen = run(chained, optax.LookaheadParams.init_synced(jnp.ones(4)))
    with pytest.raises(ValueError, match="several averages"):
        averaged_params(state, params)
    np.testing.assert_allclose(averaged_params(state, params, kind=optax.LookaheadState), slow, rtol=1e-6)
    both = averaged_params(state, params, kind=SwaState)
    np.testing.assert_allclose(both.slow, np.mean([p.slow for p in seen], 0), rtol=1e-6, atol=1e-6)


def test_an_average_inside_an_optimizer_that_goes_on_is_an_error():
    inside = optax.chain(optax.sgd(0.1), swa(1, 1))
    for tx, params in (
        (optax.contrib.schedule_free(inside, 0.1), jnp.ones(4)),
        (optax.lookahead(inside, 3, 0.5), optax.LookaheadParams.init_synced(jnp.ones(4))),
    ):
        with pytest.raises(ValueError, match="SwaState stands inside .* Chain it behind"):
            averaged_params(tx.init(params), params, kind=SwaState)


def test_many_at_once_are_what_they_are_alone():
    """One chain with every average: each as if it were the only one."""
    averages = {
        "switch": switch_ema(0.9, None),
        "swa": swa(2, 3),
        "ema": params_ema(0.8),
        "slow ema": params_ema(0.95),
        "power": power_function_ema([0.1, 0.25]),
        "lawa": lawa(3, 2),
        "window": window_average(2),
        "masked": optax.masked(params_ema(0.5), True),
        "swad": swad(),
    }
    params, state, _ = run(optax.chain(optax.sgd(0.1), *averages.values()), jnp.ones(4))
    state = swad_update(state, 1.0)
    for place, (name, tx) in enumerate(averages.items(), 1):
        alone, other, _ = run(optax.chain(optax.sgd(0.1), tx), jnp.ones(4))
        other = swad_update(other, 1.0) if name == "swad" else other
        np.testing.assert_array_equal(alone, params)
        for index in range(2 if name == "power" else 1):
            got = averaged_params(state[place], params, index=index)
            # compiled together or alone: a rounding
            np.testing.assert_allclose(got, averaged_params(other, alone, index=index), rtol=1e-6, err_msg=name)
    one = averaged_params(state, params, kind=ParamsEmaState, index=1)
    np.testing.assert_array_equal(one, averaged_params(state[4], params))
    np.testing.assert_array_equal(
        averaged_params(state, params, kind=PowerEmaState, index=1), averaged_params(state[5], params, index=1)
    )
    assert averaged_params(state, params, kind=LawaState).shape == (4,)


class LastState(NamedTuple):
    last: Any
    observes = True
    started = True

    def read(self):
        return (self.last,)


def test_an_average_of_a_user_is_found():
    last = optax.GradientTransformation(
        lambda params: LastState(params), lambda u, s, params=None: (u, LastState(optax.apply_updates(params, u)))
    )
    params, state, _ = run(optax.chain(optax.sgd(0.1), last, swa(1, 1)), jnp.ones(4))
    np.testing.assert_array_equal(averaged_params(state, params, kind=LastState), params)


def test_evaluation_leaves_the_live_model_alone():
    tx = optax.chain(optax.sgd(0.1), uniform_average())
    params, state, seen = run(tx, jnp.ones(4))
    stats, before = {"mean": jnp.full(4, 7.0)}, jax.tree.map(np.array, (params, state))

    def update_stats(params, stats, x):
        return {"mean": 0.9 * stats["mean"] + 0.1 * jnp.mean(params * x, axis=0)}

    batches = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5, 4)), jnp.float32)

    @jax.jit
    def evaluate(params, state, stats):
        return averaged_model(state, params, stats, update_stats=update_stats, batches=batches)

    average, refreshed = evaluate(params, state, stats)
    want = np.mean(seen, axis=0)
    np.testing.assert_allclose(average, want, rtol=1e-6)
    np.testing.assert_allclose(refreshed["mean"], (want * np.asarray(batches)).mean((0, 1)), rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, (params, state), before)
    np.testing.assert_array_equal(stats["mean"], 7.0)
    same = averaged_model(state, params, stats)
    np.testing.assert_allclose(same[0], average, rtol=1e-6)
    assert same[1] is stats
    with pytest.raises(ValueError, match="got batches without update_stats"):
        averaged_model(state, params, stats, batches=batches)


def test_rings_and_several_lie_where_the_parameters_lie():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    tx = optax.chain(optax.sgd(0.1), params_ema(0.9), power_function_ema([0.1, 0.2]), lawa(3), swad())
    params = jnp.arange(16.0)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    def steps(params):
        state = tx.init(params)
        for _ in range(4):
            params, state = step(params, state)
        return params, swad_update(state, 1.0)

    (here, whole), (there, parts) = steps(params), steps(jax.device_put(params, split))
    for place in (1, 2, 3, 4):
        a = averaged_params(whole[place], here, index=0)
        b = averaged_params(parts[place], there, index=0)
        np.testing.assert_allclose(a, b, rtol=1e-6)
        assert b.sharding.is_equivalent_to(split, 1)
    assert parts[3].ring.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(None, "fsdp")), 2)
