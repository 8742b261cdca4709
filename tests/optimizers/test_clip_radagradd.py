"""Clipped AdaGrad and Adam against the released classes, the paper's own experiment and known limits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import adagrad_norm, clip_adagrad, clip_adam, clip_radagradd, scale_by_clipped_adagrad
from tests.optimizers.trajectories import flat, random_tree, run

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "clip_radagradd.npz")
STEPS = 40


def of_golden(part):
    return {name: GOLDEN[f"{part}/{name}"] for name in ("matrix", "vector", "scalar")}


def schedule(t):
    return jnp.where(t < 25, 0.03, 0.01)


# the options of tests/golden/make_clip_radagradd.py in our names
CASES = {
    "adam_leaf": clip_adam(schedule, 1.5, b1=0.8, b2=0.95, eps=0.0, clip_mode="leaf"),
    "adam_element": clip_adam(schedule, 0.4, eps=0.0, clip_mode="element"),
    "adam_delayed": clip_adam(schedule, 1.5, delayed=True, b1=0.8, b2=0.95, eps=1e-3, eta=0.3, clip_mode="leaf"),
    "adagrad": clip_adagrad(schedule, 0.4, b0=0.0, eps=1e-3, clip_mode="element"),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_released_classes(x64, case):
    iterates, _ = run(CASES[case], of_golden("first"), of_golden("grads"))
    # 40 float64 steps of at most 0.1
    np.testing.assert_allclose(iterates, GOLDEN[f"iterates/{case}"], rtol=0, atol=1e-13)


def test_the_released_delay_is_of_the_gradient_too(x64):
    """The released delayed AdaGrad steps along the previous gradient: it is the one without delay, a step late.

    The paper steps along the newest one (algorithm 2); after 40 steps the two differ in the first digit.
    """
    options = {"eta": 0.3, "b0": 1e-2, "eps": 1e-3, "coordinatewise": True, "clip_mode": "leaf"}
    late = optax.chain(scale_by_clipped_adagrad(1.5, delayed=False, **options), optax.scale(-1.0))
    steps, _ = run(late, jax.tree.map(np.zeros_like, of_golden("first")), of_golden("grads"))
    released = GOLDEN["iterates/adagrad_delayed"]
    rates = np.where(np.arange(1, STEPS) < 25, 0.03, 0.01)[:, None]
    moved = np.diff(steps, axis=0, prepend=0.0)[:-1] * rates
    # float64 sums of 40 steps of at most 1.5
    np.testing.assert_allclose(np.diff(released, axis=0), moved, rtol=0, atol=1e-13)
    paper, _ = run(clip_radagradd(schedule, 1.5, **options), of_golden("first"), of_golden("grads"))
    assert np.abs(paper[-1] - released[-1]).max() > 0.1 * np.abs(released[-1]).max()


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("mode", ["global", "leaf", "element"])
@pytest.mark.parametrize("coordinatewise", [False, True])
def test_equals_the_equations(x64, delayed, mode, coordinatewise):
    """Algorithm 2 of arXiv 2406.04443 in NumPy, and its variants."""
    params, grads = random_tree(0), random_tree(1, (STEPS,))
    clip, eta, b0, eps = 2.0, 0.3, 0.5, 1e-3
    x, total, expected = flat(params), b0**2, []
    for t in range(STEPS):
        leaves = [grads[name][t] for name in sorted(grads)]
        length = np.sqrt(sum(np.sum(g**2) for g in leaves))
        norms = {"global": [length] * 3, "leaf": [np.sqrt(np.sum(g**2)) for g in leaves]}
        if mode == "element":
            leaves = [np.clip(g, -clip, clip) for g in leaves]
        else:
            leaves = [g * min(1, clip / n) for g, n in zip(leaves, norms[mode], strict=True)]
        g = np.concatenate([np.ravel(leaf) for leaf in leaves])
        before, total = total, total + eta * (g**2 if coordinatewise else g @ g)
        x = x - 0.1 * g / (np.sqrt(before if delayed else total) + (eps if coordinatewise else 0))
        expected.append(x)
    tx = scale_by_clipped_adagrad(
        clip, eta=eta, b0=b0, eps=eps, delayed=delayed, coordinatewise=coordinatewise, clip_mode=mode
    )
    iterates, _ = run(optax.chain(tx, optax.scale(-0.1)), params, grads)
    np.testing.assert_allclose(iterates, expected, rtol=1e-12, atol=1e-13)  # float64, sums in another order


def test_without_clipping_it_is_what_is_known(x64):
    params, grads = random_tree(2), random_tree(3, (STEPS,))
    ours, _ = run(clip_adagrad(0.1, np.inf, b0=0.5, coordinatewise=False), params, grads)
    norm, _ = run(adagrad_norm(0.1, b0=0.5), params, grads)
    np.testing.assert_allclose(ours, norm, rtol=1e-13)  # the same sums, a root and its inverse rounded apart
    ours, _ = run(clip_adam(0.1, np.inf), params, grads)
    np.testing.assert_allclose(ours, run(optax.adam(0.1), params, grads)[0], rtol=1e-12)
    clipped = optax.chain(optax.clip_by_global_norm(2.0), optax.adam(0.1))
    np.testing.assert_allclose(run(clip_adam(0.1, 2.0), params, grads)[0], run(clipped, params, grads)[0], rtol=1e-12)


def test_first_step_knows_b0_alone():
    tx = clip_radagradd(0.5, clip=np.inf, b0=4.0, eta=0.5)
    g = jnp.array([6.0, 8.0])
    first, state = tx.update(g, tx.init(g))
    second, _ = tx.update(g, state)
    # 0.5 · 6/4, then b = √(16 + 0.5 · 100)
    np.testing.assert_allclose(first, [-0.75, -1.0], rtol=1e-6)
    np.testing.assert_allclose(second, -0.5 * g / np.sqrt(66.0), rtol=1e-6)  # float32


def test_the_divisor_of_each_alias():
    g = jnp.array([8.0])
    for tx in (
        clip_radagradd(1.0, np.inf, b0=2.0, eps=2.0, coordinatewise=True),
        clip_adagrad(1.0, np.inf, delayed=True, b0=2.0, eps=2.0),
    ):
        assert tx.update(g, tx.init(g))[0].tolist() == [-2.0]  # 8/(2 + 2)


@pytest.mark.parametrize("make", [clip_radagradd, clip_adagrad, clip_adam])
def test_decay_takes_its_share_of_the_parameters(make):
    params = {"a": jnp.array([2.0]), "b": jnp.array([2.0])}
    tx = make(0.5, weight_decay=0.25, mask={"a": True, "b": False})
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert (updates["a"].tolist(), updates["b"].tolist()) == ([-0.25], [0.0])  # 0.5 · 0.25 · 2


@pytest.mark.parametrize("clip", [1.0, np.inf])
def test_an_overflowing_gradient_is_dropped(clip):
    g = {"a": jnp.array([1e30, 1.0])}
    for tx in (
        clip_radagradd(1.0, clip),
        clip_adagrad(1.0, clip),
        clip_adagrad(1.0, clip, clip_mode="leaf"),
        clip_adam(1.0, clip),
    ):
        state = tx.init(g)
        nothing, after = tx.update(g, state)
        assert nothing["a"].tolist() == [0.0, 0.0]
        before, after = (jax.tree.leaves(s)[-1].ravel().tolist() for s in (state, after))  # the sum of squares, or ν
        assert before == after


def test_zeros_move_nothing():
    zero = jnp.zeros(2)
    for tx in (
        clip_radagradd(b0=0.0),
        clip_adagrad(b0=0.0, eps=0.0),
        clip_adam(eps=0.0),
        clip_adam(eps=0.0, v0=0.0, delayed=True),
    ):
        assert tx.update(zero, tx.init(zero))[0].tolist() == [0.0, 0.0]
    # where another part of the model is trained, no leaf may be left
    tx = optax.masked(clip_adam(), False)
    assert tx.update(zero, tx.init(zero))[0].tolist() == [0.0, 0.0]


def test_half_precision_is_clipped_in_float32():
    g = jnp.ones(3, jnp.bfloat16)
    tx = clip_radagradd(1.0, 1.0, b0=0.0, clip_mode="leaf")
    updates, state = tx.update(g, tx.init(g))
    assert updates.dtype == jnp.bfloat16
    # (1/√3)² is 0.3346 in bfloat16
    np.testing.assert_allclose(state[0].sum_of_squares, 1.0, rtol=1e-6)


def test_clear_errors():
    with pytest.raises(ValueError, match=r"clip must lie in \(0, inf\], got 0"):
        clip_radagradd(clip=0)
    with pytest.raises(ValueError, match=r"clip must lie in \(0, inf\], got nan"):
        clip_adam(clip=float("nan"))
    with pytest.raises(ValueError, match=r"eta must lie in \[0.0, inf\], got -1"):
        clip_radagradd(eta=-1)
    with pytest.raises(ValueError, match="clip_mode must be one of global, leaf, element, got 'norm'"):
        clip_adagrad(clip_mode="norm")
    with pytest.raises(ValueError, match=r"weight_decay must lie in \[0.0, inf\], got -0.1"):
        clip_adagrad(weight_decay=-0.1)
    with pytest.raises(TypeError, match="a parameter or gradient is complex64"):
        clip_adagrad().init(jnp.ones(2, jnp.complex64))
    with pytest.raises(ValueError, match="b2 must lie in .* got 1.0"):
        clip_adam(b2=1.0)
