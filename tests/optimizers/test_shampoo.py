"""Distributed Shampoo against the released code, full-matrix AdaGrad, the methods it grafts on, and its own closed forms."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import (
    block_and_merge_dims,
    distributed_shampoo,
    matrix_inverse_root,
    scale_by_distributed_shampoo,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "shampoo.npz")
RATE = optax.piecewise_constant_schedule(0.0625, {20: 0.25})
RNG = np.random.default_rng(0)
# the leaves and options of tests/golden/make_shampoo.py in our names
CASES = {
    "blocks": (("matrix",), {"max_preconditioner_dim": 4}),
    "kernel": (("kernel",), {"grafting": "adagrad", "max_preconditioner_dim": 5, "precondition_frequency": 3}),
    "vectors": (("matrix", "vector", "scalar"), {"grafting": "sgd", "max_preconditioner_dim": 1024, "b1": 0.0}),
    "decaying": (
        ("matrix",),
        {
            "grafting": "rmsprop",
            "max_preconditioner_dim": 8,
            "b1": 0.8,
            "b2": 0.95,
            "precondition_frequency": 4,
            "start_preconditioning_step": 6,
            "weight_decay": 0.1,
            "momentum": 0.5,
        },
    ),
    "l2_nesterov": (
        ("matrix",),
        {
            "grafting": None,
            "max_preconditioner_dim": 8,
            "weight_decay": 0.1,
            "decoupled": False,
            "use_bias_correction": False,
            "b2": 0.9,
            "momentum": 0.5,
            "nesterov": True,
        },
    ),
    "newton": (("matrix",), {"max_preconditioner_dim": 8, "epsilon": 1e-3, "root_method": "newton"}),
}


def run(tx, params, grads):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[1])(params, grads)


def golden(leaves):
    return ({k: jnp.asarray(GOLDEN[f"{kind}/{k}"]) for k in leaves} for kind in ("first", "grads"))


@pytest.mark.parametrize("case", CASES)
def test_equals_the_released_code(case, x64):
    leaves, options = CASES[case]
    tx = distributed_shampoo(RATE, **({"epsilon": 1e-6, "grafting_b2": 0.99} | options))
    ours = run(tx, *golden(leaves))
    for k in leaves:
        # 30 float64 steps (measured: 6e-15, Newton 5e-14); the full 35 x 35 matrix of "vectors" has a null space until
        # the end, where epsilon^(-1/2) = 1e3 amplifies rounding (1.4e-11)
        tolerance = 1e-10 if case == "vectors" else 1e-12
        np.testing.assert_allclose(ours[k], GOLDEN[f"{case}/{k}"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("graft", ["adam", "adamw", "rmsprop", "adagrad", "sgd"])
def test_is_the_grafted_method_before_it_starts(graft, x64):
    """As the released package tests it: with roots that never come, Shampoo is Adam, AdamW, RMSprop, AdaGrad or SGD."""
    never = {"start_preconditioning_step": 10**6}
    ours, theirs = {
        "adam": (distributed_shampoo(0.1, **never, weight_decay=0.3, decoupled=False), optax.adam(0.1)),
        "adamw": (distributed_shampoo(0.1, **never, weight_decay=0.3), optax.adamw(0.1, weight_decay=0.3)),
        "rmsprop": (
            distributed_shampoo(0.1, b1=0.0, b2=0.99, grafting="rmsprop", grafting_b2=0.99, **never),
            optax.rmsprop(0.1, decay=0.99, eps=1e-8, eps_in_sqrt=False),
        ),
        "adagrad": (
            distributed_shampoo(0.1, b1=0.0, grafting="adagrad", **never),
            optax.chain(optax.scale_by_rss(0.0, eps=0.0), optax.scale(-0.1)),
        ),
        "sgd": (
            distributed_shampoo(0.1, b1=0.0, grafting="sgd", momentum=0.9, nesterov=True, **never),
            optax.sgd(0.1, momentum=0.9, nesterov=True),
        ),
    }[graft]
    if graft == "adam":
        theirs = optax.chain(optax.add_decayed_weights(0.3), theirs)
    params, grads = golden(["vector"])
    a, b = run(ours, params, grads), run(theirs, params, grads)
    # float64; AdaGrad's 1e-8 beside roots of sums of squares, of which the smallest is 1e-3
    np.testing.assert_allclose(a["vector"], b["vector"], rtol=0, atol=1e-5 if graft == "adagrad" else 1e-12)


def test_a_vector_is_full_matrix_adagrad(x64):
    grads = RNG.normal(size=(10, 6))
    tx = distributed_shampoo(0.1, b1=0.0, epsilon=1e-4, grafting=None)
    ours = run(tx, jnp.zeros(6), jnp.asarray(grads))
    x, total = np.zeros(6), np.zeros((6, 6))
    for t, g in enumerate(grads):
        total += np.outer(g, g)
        values, vectors = np.linalg.eigh(total)
        x = x - 0.1 * vectors @ ((vectors.T @ g) / np.sqrt(values + 1e-4))
        np.testing.assert_allclose(ours[t], x, rtol=0, atol=1e-10)  # float64, condition up to 1e5


def test_diagonal_gradients_have_a_closed_form(x64):
    """Of diag(d) both factors are diagonal, and the step is d over the root of the summed squares: AdaGrad."""
    grads = jnp.asarray([np.diag(RNG.normal(size=4)) for _ in range(8)])
    tx = distributed_shampoo(0.1, b1=0.0, epsilon=1e-14, grafting=None, max_preconditioner_dim=4)
    ours = run(tx, jnp.zeros((4, 4)), grads)
    total = np.cumsum(np.square(grads), axis=0)
    wanted = -0.1 * np.cumsum(np.where(total > 0, grads / np.sqrt(np.where(total > 0, total, 1)), 0), axis=0)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-10)  # epsilon over the smallest sum of squares


def test_blocks_are_apart_and_keep_the_norm_of_the_graft(x64):
    g = jnp.asarray(RNG.normal(size=(5, 8, 6)))
    options = {"b1": 0.0, "epsilon": 1e-6, "max_preconditioner_dim": 4}
    whole = run(distributed_shampoo(0.1, **options), jnp.zeros((8, 6)), g)
    part = g[:, 4:, 4:]
    # the (4, 2) block has 8 entries, more than 4: it is not merged either
    alone = run(distributed_shampoo(0.1, **options), jnp.zeros((4, 2)), part)
    np.testing.assert_allclose(whole[:, 4:, 4:], alone, rtol=0, atol=1e-12)
    # the first step of Adam without averages is the sign, of norm √8
    np.testing.assert_allclose(jnp.linalg.norm(alone[0]), 0.1 * np.sqrt(8), rtol=1e-6)  # its epsilon
    assert float(jnp.abs(jnp.abs(alone[0]) - 0.1).max()) > 0.01  # but not the sign itself


def test_stacked_layers_equal_layers_apart(x64):
    g = jnp.asarray(RNG.normal(size=(5, 3, 4, 2)))
    options = {"epsilon": 1e-6, "max_preconditioner_dim": 4, "precondition_frequency": 2}
    stacked = run(distributed_shampoo(0.1, **options, stacked_axes=1), g[0], g)
    alone = jax.vmap(lambda g: run(distributed_shampoo(0.1, **options), g[0], g), in_axes=1, out_axes=1)(g)
    np.testing.assert_allclose(stacked, alone, rtol=0, atol=1e-12)  # the same sums


def test_parameters_together_equal_parameters_alone(x64):
    """A vector and a matrix have factors of one size, and roots of two."""
    g = {"v": jnp.asarray(RNG.normal(size=(4, 3))), "w": jnp.asarray(RNG.normal(size=(4, 3, 3))), "s": jnp.ones(4)}
    options = {"epsilon": 1e-6, "max_preconditioner_dim": 4}
    first = jax.tree.map(lambda x: x[0], g)
    together = run(distributed_shampoo(0.1, **options), first, g)
    for k, stacked in {"v": 0, "w": 0, "s": 1}.items():  # nothing is stacked in a number
        alone = run(distributed_shampoo(0.1, **options, stacked_axes=stacked), first[k], g[k])
        np.testing.assert_allclose(together[k], alone, rtol=0, atol=1e-12)  # the same sums


def test_options_that_no_golden_run_has(x64):
    # another root: of diag(d) with r = 2, d over the sum of squares
    d = jnp.diag(jnp.array([2.0, -3.0]))
    options = {"b1": 0.0, "epsilon": 1e-14, "grafting": None, "max_preconditioner_dim": 2}
    tx = scale_by_distributed_shampoo(**options, root=2)
    update, _ = jax.jit(tx.update)(d, tx.init(d))
    np.testing.assert_allclose(jnp.diagonal(update), [1 / 2, -1 / 3], rtol=1e-10)  # epsilon beside 4
    # without grafting the gradient itself until roots begin, also at multiples of their period
    late = scale_by_distributed_shampoo(**options, precondition_frequency=2, start_preconditioning_step=3)
    state = late.init(d)
    for wanted in (d, d, jnp.sign(d) / jnp.sqrt(3)):
        update, state = jax.jit(late.update)(d, state)
        np.testing.assert_allclose(update, wanted, rtol=0, atol=1e-10)
    # some parameters decay
    tx = distributed_shampoo(0.5, grafting="sgd", weight_decay=0.1, mask={"a": True, "b": False}, b1=0.0)
    params = {"a": jnp.array([2.0]), "b": jnp.array([2.0])}
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-1.1, -1.0], rtol=1e-12)
    # Newton's iteration needs no decomposition
    tx = scale_by_distributed_shampoo(epsilon=1e-3, root_method="newton")
    assert "eigh" not in str(jax.make_jaxpr(tx.update)(d, tx.init(d)))


def test_merging_and_cutting():
    def of(shape, block):
        return block_and_merge_dims(shape, block=block)

    assert of((1, 2, 5, 1), 10) == ((10,), ((10,),))
    assert of((1, 2, 5, 1), 1) == ((2, 5), ((1, 1), (1, 1, 1, 1, 1)))
    assert of((32, 3, 64, 64), 8192)[0] == (96, 4096)
    assert of((3, 3, 4, 6), 1024)[0] == (216,)
    assert of((), 4) == ((1,), ((1,),))
    assert of((0, 3), 4) == ((0,), ((0,),))
    assert of((7, 5), 4) == ((7, 5), ((4, 3), (4, 1)))


@pytest.mark.parametrize("method", ["eigh", "newton"])
def test_inverse_roots(method, x64):
    q = np.linalg.qr(RNG.normal(size=(3, 6, 6)))[0]
    values = np.geomspace(1e-4, 10.0, 6)
    a = jnp.asarray(q * values @ np.swapaxes(q, 1, 2))
    for root in (1, 2, 4):
        x = matrix_inverse_root(a, root=root, epsilon=1e-3, method=method)
        wanted = q * (values + 1e-3) ** (-1 / root) @ np.swapaxes(q, 1, 2)
        # float64 at condition 1e4: relative to the largest entry
        np.testing.assert_allclose(x, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())
    single = matrix_inverse_root(a.astype(jnp.float32), root=4, epsilon=1e-3, method=method)
    np.testing.assert_allclose(single, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())  # float32 at condition 1e4
    if method == "newton":  # one step from X = z^(1/r) I
        b = a[0] + 1e-3 * jnp.eye(6)
        z = 3 / (2 * jnp.linalg.norm(b))
        one = matrix_inverse_root(a[0], root=2, epsilon=1e-3, method=method, max_steps=1)
        np.testing.assert_allclose(one, jnp.sqrt(z) * (1.5 * jnp.eye(6) - z * b / 2), rtol=0, atol=1e-12)
    # an eigenvalue below zero is lifted to epsilon by eigh
    if method == "eigh":
        below = matrix_inverse_root(jnp.diag(jnp.array([-1e-3, 4.0])), root=2, epsilon=1e-4)
        np.testing.assert_allclose(np.diag(below), [100.0, 4.0011**-0.5], rtol=1e-10)


def test_clear_errors():
    with pytest.raises(ValueError, match="grafting must be one of 'adam', 'rmsprop', .* got 'lion'"):
        distributed_shampoo(0.1, grafting="lion")
    with pytest.raises(ValueError, match="root_method must be one of eigh, newton, got 'svd'"):
        distributed_shampoo(0.1, root_method="svd")
    with pytest.raises(ValueError, match="epsilon must lie in"):
        distributed_shampoo(0.1, epsilon=0.0)
    with pytest.raises(ValueError, match="start_preconditioning_step must lie in"):
        distributed_shampoo(0.1, start_preconditioning_step=0)
    with pytest.raises(ValueError, match="shard_roots='fsdp' is no axis of the mesh"):
        distributed_shampoo(0.1, shard_roots="fsdp").init(jnp.ones(2))
    with pytest.raises(TypeError, match="max_preconditioner_dim decides shapes and must be a Python integer"):
        jax.jit(lambda n: distributed_shampoo(0.1, max_preconditioner_dim=n).init(jnp.ones(2))[0].count)(5)
    with pytest.raises(ValueError, match=r"matrix_inverse_root needs square matrices, got shape \(2, 3\)"):
        matrix_inverse_root(jnp.ones((2, 3)), root=2)
    with pytest.raises(ValueError, match=r"matrix_inverse_root needs square matrices, got shape \(3,\)"):
        matrix_inverse_root(jnp.ones(3), root=2)
    with pytest.raises(TypeError, match="root decides shapes and must be a Python integer"):
        matrix_inverse_root(jnp.eye(2), root=2.5, method="newton")
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        block_and_merge_dims((2,), block=0)
