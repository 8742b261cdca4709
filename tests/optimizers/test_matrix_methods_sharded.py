"""SOAP and Shampoo on eight devices: the values of one, wherever the parameters lie, and no work between refreshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtrain.optimizers import (
    distributed_shampoo,
    scale_by_distributed_shampoo,
    scale_by_steepest_descent,
    scale_by_subspace_momentum,
    soap,
)
from tests.optimizers.test_soap import in_turn

RNG = np.random.default_rng(0)
STEPS = 5
# every leaf stacks layers, and lies on the mesh (4, 2) in a way of its own
SPECS = {
    "rows": P(None, "fsdp", None),
    "columns": P(None, None, "fsdp"),
    "both": P(None, "fsdp", "tensor"),
    "layers": P("fsdp", None, None),
    "biases": P("fsdp", "tensor"),
}
PARAMS = {k: jnp.asarray(RNG.normal(size=(4, 8, 8)[: len(spec)]), jnp.float32) for k, spec in SPECS.items()}
GRADS = {k: jnp.asarray(RNG.normal(size=(STEPS, *p.shape)), jnp.float32) for k, p in PARAMS.items()}
METHODS = {
    "soap": functools.partial(soap, 0.1, precondition_frequency=2, stacked_axes=1),
    # epsilon above the rounding of float32 factors, which the fourth root would make large; blocks of 8
    "shampoo": functools.partial(
        distributed_shampoo,
        0.1,
        epsilon=1e-3,
        precondition_frequency=2,
        stacked_axes=1,
        max_preconditioner_dim=8,
    ),
}


@functools.cache
def mesh():
    return jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)


def run(tx, params, grads):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), None

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[0])(params, grads)


@functools.cache
def placed():
    def place(x, spec):
        return jax.device_put(x, NamedSharding(mesh(), spec))

    return (
        {k: place(PARAMS[k], spec) for k, spec in SPECS.items()},
        {k: place(GRADS[k], P(None, *spec)) for k, spec in SPECS.items()},
    )


@functools.cache
def alone(method):
    return run(METHODS[method](), PARAMS, GRADS)[0]


def same(params, wanted):
    for k, x in params.items():
        # five float32 steps of size 0.1; partial sums in another order, which QR and the fourth root amplify
        np.testing.assert_allclose(x, wanted[k], rtol=0, atol=1e-3, err_msg=k)
        assert len(x.sharding.device_set) == 8


@pytest.mark.parametrize("method", METHODS)
def test_either_dimension_and_layers_may_be_split(method):
    params, _ = run(METHODS[method](), *placed())
    same(params, alone(method))


def test_roots_are_spread_over_the_mesh():
    tx = METHODS["shampoo"](shard_roots="fsdp")
    with jax.set_mesh(mesh()):
        params, state = run(tx, *placed())
        text = jax.jit(tx.update).lower(grads_at(0), state, params).compile().as_text()
    same(params, alone("shampoo"))
    for pool in jax.tree.leaves((state[0].factors, state[0].roots)):
        # the compiler may cut the matrices over the other axis of the mesh besides
        assert {len(shard.data) for shard in pool.addressable_shards} == {len(pool) // 4}
    # each device decomposes matrices of its own share, one at a time
    calls = [line for line in text.splitlines() if "custom-call" in line and "syevd" in line]
    assert calls and all("f32[8,8]" in line for line in calls)


def grads_at(t):
    return {k: g[t] for k, g in GRADS.items()}


def decompositions(jaxpr, inside=False):
    """Those that always run, and those in loops that run when a refresh is due."""
    found = ([], [])
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("eigh", "qr", "householder_product", "geqrf"):
            found[inside].append(eqn.primitive.name)
        for inner in jaxprs_in_params(eqn.params):
            for all_, more in zip(found, decompositions(inner, inside or eqn.primitive.name == "while"), strict=True):
                all_ += more
    return found


@pytest.mark.parametrize("method", METHODS)
def test_between_refreshes_nothing_is_decomposed(method):
    tx = METHODS[method]()
    members = jax.tree.map(lambda p: jnp.stack([p, p]), PARAMS)
    # an ensemble too: lax.cond would become a select, which computes both sides at every step
    state = jax.eval_shape(jax.vmap(tx.init), members)
    always, due = decompositions(jax.make_jaxpr(jax.vmap(tx.update))(members, state, members).jaxpr)
    assert not always and due


@pytest.mark.parametrize(
    "tx, number",
    [
        (scale_by_distributed_shampoo(max_preconditioner_dim=4), 2),  # pools of two sizes
        (scale_by_subspace_momentum(rank=2), 2),
        (scale_by_steepest_descent("spectral", num_steps=None), 2),
    ],
    ids=["shampoo", "subspace_momentum", "steepest_descent"],
)
def test_one_decomposition_waits_for_the_other(tx, number):
    """As SOAP's do, whose test says why."""
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones((4, 4))}
    jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params)).jaxpr
    loops = [eqn.params["body_jaxpr"].jaxpr for eqn in jaxpr.eqns if eqn.primitive.name == "while"]
    assert in_turn(loops[0] if loops else jaxpr) == number


def test_roots_keep_their_bits_between_refreshes():
    tx = METHODS["shampoo"]()
    update, state, kept = jax.jit(tx.update), tx.init(PARAMS), []
    for t in range(4):
        _, state = update(grads_at(t), state, PARAMS)
        kept.append([np.asarray(x) for x in jax.tree.leaves(state[0].roots)])
    # computed at steps 2 and 4, and the identity before
    for a, b, equal in ((0, 1, False), (1, 2, True), (2, 3, False)):
        assert all(np.array_equal(x, y) == equal for x, y in zip(kept[a], kept[b], strict=True))
    assert all(np.array_equal(x, np.broadcast_to(np.eye(x.shape[-1]), x.shape)) for x in kept[0])
