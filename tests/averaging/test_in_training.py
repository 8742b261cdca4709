"""Averages inside real training: Flax's BatchNorm, gradient accumulation, sharded parameters, half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxtrain.averaging import (
    SwaState,
    SwitchEmaState,
    averaged_params,
    lawa,
    power_function_ema,
    recompute_batch_stats,
    swa,
    swad,
    switch_ema,
)
from jaxtrain.training import create_state
from jaxtrain.training.adapters import from_linen, from_nnx


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.dense1, self.norm1 = nnx.Linear(4, 5, rngs=rngs), nnx.BatchNorm(5, momentum=0.99, rngs=rngs)
        self.dropout = nnx.Dropout(0.0, rngs=rngs)  # keeps a key and a counter in the model state
        self.dense2, self.norm2 = nnx.Linear(5, 3, rngs=rngs), nnx.BatchNorm(3, momentum=0.5, rngs=rngs)

    def __call__(self, x):
        return self.norm2(self.dense2(self.dropout(nnx.relu(self.norm1(self.dense1(x))))))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(5, name="dense1")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train, momentum=0.99, name="norm1")(x))
        return linen.BatchNorm(use_running_average=not train, momentum=0.5, name="norm2")(
            linen.Dense(3, name="dense2")(x)
        )


def statistics(params, batches):
    """Mean over batches of the mean and the biased variance of each layer's inputs, in float64 NumPy."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    seen = []
    for x in np.asarray(batches, np.float64):
        row = []
        for layer in ("1", "2"):
            x = x @ p["dense" + layer]["kernel"] + p["dense" + layer]["bias"]
            row += [x.mean(axis=0), x.var(axis=0)]
            normal = (x - row[-2]) / np.sqrt(row[-1] + 1e-5)
            x = np.maximum(normal * p["norm" + layer]["scale"] + p["norm" + layer]["bias"], 0)
        seen.append(row)
    return [np.mean(column, axis=0) for column in zip(*seen, strict=True)]


@pytest.mark.parametrize("flax", ["nnx", "linen"])
def test_refreshed_statistics_of_flax_batch_norm(flax):
    batches = jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0, (6, 32, 4)), jnp.float32)
    model = from_nnx(NnxNet) if flax == "nnx" else from_linen(LinenNet(), batches[0], train_argument="train")
    params, old = model.init(jax.random.key(0))

    @jax.jit
    def refresh(params, old, batches):
        return recompute_batch_stats(lambda p, s, x: model.apply(p, s, x, train=True)[1], params, old, batches)

    # spoiled statistics and then true ones must give the same
    spoiled = jax.tree.map(lambda s: s + 100 if jnp.issubdtype(s.dtype, jnp.floating) else s, old)
    new = refresh(params, spoiled, batches)
    stats = new if flax == "nnx" else new["batch_stats"]
    got = [stats[norm][name] for norm in ("norm1", "norm2") for name in ("mean", "var")]
    for value, want in zip(got, statistics(params, batches), strict=True):
        # float32; momentum 0.99 leaves a hundredth of each statistic, so that its rounding counts a hundredfold
        np.testing.assert_allclose(value, want, rtol=2e-5, atol=2e-5)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), old)


def test_accumulated_gradients_count_as_one_step(x64):
    grads = jnp.asarray(np.random.default_rng(1).normal(size=(12, 3)))
    tx = optax.chain(optax.sgd(0.1, momentum=0.9), switch_ema(0.8, 2), swa(2, 2))
    one, many = jnp.ones(3), jnp.ones(3)
    accumulated = optax.MultiSteps(tx, 3)
    state, other = tx.init(one), accumulated.init(many)
    for g in grads.reshape(4, 3, 3):
        updates, state = tx.update(g.mean(axis=0), state, one)
        one = optax.apply_updates(one, updates)
        for part in g:
            updates, other = accumulated.update(part, other, many)
            many = optax.apply_updates(many, updates)
    for kind in (SwaState, SwitchEmaState):
        # float64; MultiSteps keeps a running mean
        np.testing.assert_allclose(
            averaged_params(other, many, kind=kind), averaged_params(state, one, kind=kind), atol=1e-14
        )


def test_averages_lie_where_the_parameters_lie():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    params = jax.device_put(jnp.arange(16.0), sharding)
    tx = optax.chain(optax.sgd(0.1), switch_ema(0.5, 2), swa(0, 1))

    @jax.jit
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    state, alone, other = tx.init(params), jnp.arange(16.0), tx.init(jnp.arange(16.0))
    for _ in range(3):
        params, state = step(params, state)
        alone, other = step(alone, other)
    for kind in (SwaState, SwitchEmaState):
        average = averaged_params(state, params, kind=kind)
        assert average.sharding.is_equivalent_to(sharding, 1)
        np.testing.assert_array_equal(average, averaged_params(other, alone, kind=kind))  # elementwise: no sums


def test_rules_for_parameters_lay_out_their_averages():
    """By jaxtrain.training's rules: several averages, a ring of past models and the models of SWAD."""
    from jaxtrain.training.sharding import make_mesh, state_shardings

    mesh = make_mesh(fsdp=8)
    split, whole = PartitionSpec(None, "fsdp"), PartitionSpec()
    tx = optax.chain(optax.adam(0.1), power_function_ema([0.05, 0.1]), lawa(3), swad(2))
    params = {"kernel": jnp.zeros((3, 16)), "bias": jnp.zeros(5)}
    abstract = jax.eval_shape(lambda: create_state(params, tx, jax.random.key(0)))
    _, power, ring, valley = state_shardings(mesh, [("kernel", split)], abstract).opt_state
    for tree in (*power.averages, valley.segment, valley.average, *valley.prefixes):
        assert (tree["kernel"].spec, tree["bias"].spec) == (split, whole)
    assert (ring.ring["kernel"].spec, ring.ring["bias"].spec[1:]) == (PartitionSpec(None, None, "fsdp"), ())
    assert ring.count.spec == valley.losses.spec == whole


def test_switching_half_precision_parameters():
    """The parameters land on the average, rounded to their precision; the average itself stays in float32."""
    params = {"w": jnp.full(4, 1.0, jnp.bfloat16)}
    tx = optax.chain(optax.sgd(0.25), switch_ema(0.75, 2))
    state = tx.init(params)
    for _ in range(4):
        updates, state = tx.update({"w": jnp.ones(4, jnp.bfloat16)}, state, params)
        params = optax.apply_updates(params, updates)
    average = state[1].average["w"]
    assert average.dtype == jnp.float32 and params["w"].dtype == jnp.bfloat16
    # the update and the sum are each rounded to bfloat16's 8 bits
    np.testing.assert_allclose(np.asarray(params["w"], np.float32), average, rtol=2**-7)
