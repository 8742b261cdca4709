"""SGD with a frozen embedding: bits that do not move, bytes counted by hand, norms from NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import (
    embed_gradient_ratio,
    freeze_labels,
    gradual_unfreeze_schedule,
    layerwise_grad_norms,
    optimizer_bytes_per_param,
    sgd_freeze_embed,
)

RNG = np.random.default_rng(0)
PARAMS = {
    "patch_embed": {"kernel": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32), "bias": jnp.full(3, 0.1)},
    "block": {"kernel": jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32), "bias": jnp.zeros(3)},
    "head": jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32),
}
GRADS = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=(30, *p.shape)), jnp.float32), PARAMS)


def run(tx, params, grads):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[1])(params, grads)


@pytest.mark.parametrize("momentum", [0.9, None])
def test_frozen_leaves_keep_their_bits_and_the_others_follow_sgd(momentum):
    rate = optax.piecewise_constant_schedule(0.1, {15: 0.1})
    ours = run(sgd_freeze_embed(rate, frozen=freeze_labels, momentum=momentum), PARAMS, GRADS)
    for name, p in PARAMS["patch_embed"].items():
        np.testing.assert_array_equal(ours["patch_embed"][name], np.broadcast_to(p, (30, *p.shape)))
    # SGD written out, in float64
    for path in (("block", "kernel"), ("block", "bias"), ("head",)):
        p, g, got = PARAMS, GRADS, ours
        for key in path:
            p, g, got = p[key], g[key], got[key]
        p, m = np.asarray(p, np.float64), 0.0
        for t in range(30):
            m = (momentum or 0.0) * m + np.asarray(g[t], np.float64)
            p = p - (0.1 if t < 15 else 0.01) * m
            np.testing.assert_allclose(got[t], p, rtol=0, atol=5e-6)  # thirty float32 steps of size 0.1 to 1
    # and the same bits as optax.sgd
    plain = run(optax.sgd(rate, momentum=momentum), PARAMS, GRADS)
    jax.tree.map(np.testing.assert_array_equal, ours["block"], plain["block"])


def test_nesterov_is_optaxs():
    ours = run(sgd_freeze_embed(0.1, frozen=freeze_labels, nesterov=True), PARAMS, GRADS)
    plain = run(optax.sgd(0.1, momentum=0.9, nesterov=True), PARAMS, GRADS)
    # two programs, in which XLA may contract products and sums otherwise: float32, parameters up to 1, rounding of 30 steps
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-6)
    jax.tree.map(close, ours["block"], plain["block"])


def test_frozen_may_be_a_tree_and_holds_no_state():
    tree = {"patch_embed": True, "block": False, "head": False}
    tree = {k: jax.tree.map(lambda _, still=still: still, PARAMS[k]) for k, still in tree.items()}
    assert tree == freeze_labels(PARAMS)
    tx = sgd_freeze_embed(0.1, frozen=tree)
    moving = sum(p.size for k in ("block", "head") for p in jax.tree.leaves(PARAMS[k]))
    assert sum(x.size for x in jax.tree.leaves(tx.init(PARAMS))) == moving


def test_bytes_by_hand():
    big = {
        "embed": jax.ShapeDtypeStruct((1000, 10), jnp.float32),
        "rest": jax.ShapeDtypeStruct((9000, 10), jnp.float32),
    }
    frozen = freeze_labels(big)
    counter = 1e-4  # a few scalars among 100,000 parameters
    assert abs(optimizer_bytes_per_param(optax.adamw(0.1), big) - 16) < counter
    assert optimizer_bytes_per_param(optax.sgd(0.1, momentum=0.9), big) == 12
    assert optimizer_bytes_per_param(optax.sgd(0.1), big) == 8
    assert optimizer_bytes_per_param(optax.set_to_zero(), big, frozen=jax.tree.map(lambda _: True, big)) == 4
    # a tenth is frozen
    mixed = optimizer_bytes_per_param(sgd_freeze_embed(0.1, frozen=freeze_labels), big, frozen=frozen)
    np.testing.assert_allclose(mixed, 0.1 * 4 + 0.9 * 12, rtol=1e-12)
    keyed = optimizer_bytes_per_param(
        optax.add_noise(0.1, 0.1, jax.random.key(0)), {"w": jax.ShapeDtypeStruct((8,), jnp.float32)}
    )
    assert keyed == 8 + (4 + 8) / 8  # a counter and a typed key of two words
    half = optimizer_bytes_per_param(optax.sgd(0.1), {"w": jax.ShapeDtypeStruct((8,), jnp.bfloat16)})
    assert half == 4


def test_norms_are_those_of_layers():
    norms = layerwise_grad_norms(PARAMS)
    assert set(norms) == {"patch_embed", "block", "head"}
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    for name, norm in norms.items():
        np.testing.assert_allclose(norm, np.linalg.norm(flat(PARAMS[name])), rtol=1e-6)  # float32
    doubled = layerwise_grad_norms(jax.tree.map(lambda p: 2 * p, PARAMS), PARAMS)
    np.testing.assert_allclose(list(doubled.values()), 2.0, rtol=1e-6)
    large = jax.tree.map(lambda p: p, PARAMS) | {"patch_embed": {"kernel": jnp.full((2, 2), 50.0)}}
    others = [float(norms[name]) for name in ("block", "head")]
    np.testing.assert_allclose(embed_gradient_ratio(large), 100 / np.mean(others), rtol=1e-6)  # the median of two
    # the largest of several that match, the median and not the mean of the others
    several = {"embed_a": 2.0, "embed_b": 6.0, "x": 1.0, "y": 2.0, "z": 30.0}
    assert float(embed_gradient_ratio({name: jnp.array([-g]) for name, g in several.items()})) == 3.0


def test_layers_thaw_from_the_last_to_the_first():
    schedules = [gradual_unfreeze_schedule(i, num_layers=4, steps=5) for i in range(4)]
    trained = [[i for i in range(4) if float(schedules[i](t)) == 1.0] for t in (0, 4, 5, 10, 15)]
    assert trained == [[3], [3], [2, 3], [1, 2, 3], [0, 1, 2, 3]]
    tx = optax.chain(optax.sgd(1.0), optax.scale_by_schedule(schedules[2]))
    updates = run(tx, jnp.zeros(()), jnp.ones(7))
    np.testing.assert_array_equal(updates, [0, 0, 0, 0, 0, -1, -2])


def test_clear_errors():
    with pytest.raises(ValueError, match=r"none of the patterns \('emb_in',\) is in a path; the paths are block/bias"):
        freeze_labels(PARAMS, patterns=["emb_in"])
    with pytest.raises(TypeError, match="patterns must be a sequence of regular expressions, got the text 'embed'"):
        freeze_labels(PARAMS, patterns="embed")
    with pytest.raises(ValueError, match="learning_rate must lie in"):
        sgd_freeze_embed(-0.1, frozen=freeze_labels)
    with pytest.raises(
        ValueError, match=r"layers of gradients and parameters differ: \['block', 'head', 'patch_embed', 'x'\]"
    ):
        layerwise_grad_norms(PARAMS, {"x": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"momentum must lie in \[0.0, 1.0\], got 1.1"):
        sgd_freeze_embed(0.1, frozen=freeze_labels, momentum=1.1)
    with pytest.raises(ValueError, match="match every layer"):
        embed_gradient_ratio(PARAMS, patterns=["."])
    with pytest.raises(ValueError, match="layer_index must be below num_layers = 3, got 3"):
        gradual_unfreeze_schedule(3, num_layers=3, steps=1)
    with pytest.raises(ValueError, match="there are no parameters"):
        optimizer_bytes_per_param(optax.sgd(0.1), {})
