"""Ranger21 against the authors' file, with its quirks put in from outside, and each of its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import (
    adaptive_gradient_clip,
    add_norm_loss_decay,
    add_stable_weight_decay,
    centralize_gradients,
    lookahead,
    normalize_gradients_std,
    ranger21,
    ranger21_schedule,
    scale_by_positive_negative_momentum,
)
from tests.optimizers.golden_runs import assert_equal_to_golden, golden, part, rate, run


@pytest.mark.parametrize("case", ["whole", "plain"])
def test_equals_the_official_code(x64, case):
    """Its quirks: a subtracted part of 1 with β₂ in the norm, no maximum kept, and arrays that decay one at a time."""
    quirk = np.sqrt(5) / np.sqrt((1 + 0.999) ** 2 + 0.999**2)
    momentum = scale_by_positive_negative_momentum(1.0, amsgrad=False, softplus_beta=50.0 if case == "whole" else None)
    whole = [normalize_gradients_std()] if case == "whole" else []
    tx = optax.chain(
        *([adaptive_gradient_clip(channel_axis=0)] if case == "whole" else []),
        centralize_gradients(channel_axis=0),
        *whole,
        add_stable_weight_decay(optax.chain(momentum, optax.scale(quirk))),
        add_norm_loss_decay(channel_axis=0),
        optax.scale_by_learning_rate(ranger21_schedule(0.03, 40)),
        *([lookahead()] if case == "whole" else []),
    )
    arrays = golden("ranger21")
    first, grads = part(arrays, "first"), part(arrays, "grads")
    for leaf, expected in part(arrays, case).items():
        iterates, _ = run(tx, first[leaf], grads[leaf])
        # it shrinks by one decay after the other, which differs by their product, 1e-11 a step (measured: 6e-10)
        np.testing.assert_allclose(iterates, expected, rtol=0, atol=1e-9, err_msg=leaf)


def defaults():
    return ranger21(0.03, 40), [
        adaptive_gradient_clip(),
        centralize_gradients(),
        normalize_gradients_std(),
        add_stable_weight_decay(scale_by_positive_negative_momentum()),
        add_norm_loss_decay(),
        optax.scale_by_learning_rate(ranger21_schedule(0.03, 40)),
        lookahead(),
    ]


def other_numbers():
    momentum = {"b0": 0.5, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "softplus_beta": 5.0, "amsgrad": False}
    schedule = {"warmup_fraction": 0.3, "warmdown_start": 0.6, "min_lr": 1e-3}
    rest = {"weight_decay": 0.1, "agc_clip": 0.5, "agc_eps": 0.9, "norm_loss_factor": 0.1}
    ours = ranger21(
        *(0.03, 40),
        **momentum,
        **schedule,
        **rest,
        lookahead_steps=3,
        lookahead_alpha=0.3,
        normalize=False,
        channel_axis=0,
    )
    return ours, [
        adaptive_gradient_clip(0.5, 0.9, channel_axis=0),
        centralize_gradients(channel_axis=0),
        add_stable_weight_decay(scale_by_positive_negative_momentum(**momentum), 0.1, 0.95),
        add_norm_loss_decay(0.1, 1e-3, channel_axis=0),
        optax.scale_by_learning_rate(ranger21_schedule(0.03, 40, 0.95, **schedule)),
        lookahead(3, 0.3),
    ]


def without_centralisation():
    _, parts = defaults()
    return ranger21(0.03, 40, centralize=False), [*parts[:1], *parts[2:]]


@pytest.mark.parametrize("case", [defaults, other_numbers, without_centralisation])
def test_the_alias_is_the_chain(x64, case):
    arrays = golden("ranger21")
    first, grads = part(arrays, "first"), part(arrays, "grads")
    ours, parts = case()
    for a, b in zip(*(jax.tree.leaves(run(tx, first, grads)[0]) for tx in (ours, optax.chain(*parts))), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("case", "options", "weight_decay"),
    [
        ("default", {"b0": 1.0}, 0.0),
        ("options", {"b0": 0.5, "b1": 0.8, "b2": 0.9, "eps": 0.01}, 0.1),
        ("without_max", {"b0": 0.5, "b1": 0.8, "b2": 0.9, "eps": 0.01, "amsgrad": False}, 0.1),
    ],
)
def test_momentum_equals_the_official_code(x64, case, options, weight_decay):
    """AdaPNM, which is the momentum without softplus, and decoupled decay."""
    tx = optax.chain(
        scale_by_positive_negative_momentum(softplus_beta=None, **options),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    # 40 float64 steps that lead up to 1.4 far (measured: 2e-15)
    assert_equal_to_golden(tx, "adapnm", case, rtol=0, atol=1e-13)


def test_momentum_limits(x64):
    """β₀ = 0 and β₁ = 0: RMSProp with the bias correction and the maximum of AMSGrad."""
    grads = np.random.default_rng(0).normal(size=(20, 4)) * np.linspace(2, 0.1, 20)[:, None]
    tx = scale_by_positive_negative_momentum(0.0, 0.0, 0.9, 0.01, softplus_beta=None)
    found, _ = run(tx, jnp.zeros(4), jnp.asarray(grads))
    v, most, total = np.zeros(4), np.zeros(4), np.zeros(4)
    for t, g in enumerate(grads, 1):
        v = 0.9 * v + 0.1 * g**2
        most = np.maximum(most, v)
        total = total + g / (np.sqrt(most) / np.sqrt(1 - 0.9**t) + 0.01)
        np.testing.assert_allclose(found[t - 1], total, rtol=0, atol=1e-12)  # float64 sums of 20 numbers of order one
    # softplus: log(1 + e^{50 x})/50 is at least log(2)/50, where the root is 0
    soft = scale_by_positive_negative_momentum(0.0, 0.0, 0.0, 0.0)
    u, _ = soft.update(jnp.array([1e-9]), soft.init(jnp.zeros(1)))
    np.testing.assert_allclose(u, 1e-9 * 50 / np.log(2), rtol=1e-6)


def test_momentum_alternates(x64):
    """The two buffers as the paper writes them, in NumPy."""
    grads = np.random.default_rng(1).normal(size=(9, 3))
    tx = scale_by_positive_negative_momentum(0.7, 0.8, b2=0.0, softplus_beta=None, amsgrad=False)
    found, _ = run(tx, jnp.zeros(3), jnp.asarray(grads))
    buffers, total = [np.zeros(3), np.zeros(3)], np.zeros(3)
    for t, g in enumerate(grads):
        buffers[t % 2] = 0.64 * buffers[t % 2] + 0.36 * g
        p = (1.7 * buffers[t % 2] - 0.7 * buffers[1 - t % 2]) / np.sqrt(1.7**2 + 0.7**2)
        total = total + p / (abs(g) + 1e-8) / (1 - 0.8 ** (t + 1))
        np.testing.assert_allclose(found[t], total, rtol=0, atol=1e-12)
    _, state = tx.update(jnp.asarray(grads[0]), tx.init(jnp.zeros(3)))
    assert state.even.tolist() == [0.0] * 3 and state.nu_max is None
    np.testing.assert_allclose(state.odd, 0.36 * grads[0], rtol=1e-14)


def test_clipping_and_centralisation_are_optaxs_where_layouts_agree(x64):
    rng = np.random.default_rng(2)
    w = {"m": jnp.asarray(rng.normal(size=(5, 3))), "k": jnp.asarray(rng.normal(size=(3, 3, 2, 4)))}
    w["b"] = jnp.asarray(rng.normal(size=4))
    g = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), w)
    for ours, theirs in (
        (adaptive_gradient_clip(0.7), optax.adaptive_grad_clip(0.7)),
        (centralize_gradients(channel_axis=0), optax.centralize()),
    ):
        pair = [jax.jit(lambda g, w, tx=tx: tx.update(g, tx.init(w), w)[0])(g, w) for tx in (ours, theirs)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), *pair)
    centred = centralize_gradients().update(g, optax.EmptyState())[0]
    np.testing.assert_allclose(jnp.mean(centred["k"], axis=(0, 1, 2)), 0, atol=1e-15)
    # units of zeros may move by clip · eps
    zero = adaptive_gradient_clip(0.5).update(jnp.ones(4), optax.EmptyState(), jnp.zeros(4))[0]
    np.testing.assert_allclose(jnp.linalg.norm(zero), 0.5e-3, rtol=1e-12)


def test_normalisation_and_decays(x64):
    rng = np.random.default_rng(3)
    g, w = rng.normal(size=(6, 3, 2)), rng.normal(size=(3, 2))
    normal = normalize_gradients_std(0.0).update({"a": jnp.asarray(g[0]), "b": jnp.ones(2)}, optax.EmptyState())[0]
    np.testing.assert_allclose(normal["a"], g[0] / g[0].std(ddof=1), rtol=1e-13)
    assert normal["b"].tolist() == [1.0, 1.0]  # two entries: left alone
    three, _ = normalize_gradients_std(1.0).update(jnp.array([10.0, 20.0, 30.0]), optax.EmptyState())
    np.testing.assert_allclose(three, np.array([10, 20, 30]) / (10 + 1), rtol=1e-14)
    # stable decay: λ / √v̂ with the mean second moment over arrays of different size
    tx = add_stable_weight_decay(optax.set_to_zero(), 0.3, 0.9)
    params = {"a": jnp.asarray(w), "b": jnp.ones(1)}
    state, v = tx.init(params), 0.0
    for t, x in enumerate(g, 1):
        updates, state = tx.update({"a": jnp.asarray(x), "b": jnp.array([2.0])}, state, params)
        v = 0.9 * v + 0.1 * (np.sum(x**2) + 4) / 7
        root = np.sqrt(v / (1 - 0.9**t))
        np.testing.assert_allclose(updates["a"], 0.3 / root * w, rtol=1e-6)  # the mean is kept in float32
    # norm loss: the gradient of f Σ (1 - ‖w_r‖)²
    expected = jax.grad(lambda w: 0.3 * jnp.sum((1 - jnp.linalg.norm(w, axis=0)) ** 2))(jnp.asarray(w))
    found, _ = add_norm_loss_decay(0.3).update(jnp.zeros((3, 2)), optax.EmptyState(), jnp.asarray(w))
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # eps beside lengths of order one
    found, _ = add_norm_loss_decay(0.5, 1.0).update(jnp.zeros((2, 1)), optax.EmptyState(), jnp.array([[3.0], [4.0]]))
    np.testing.assert_allclose(found, [[2.5], [10 / 3]], rtol=1e-6)  # (1 - 1/(5 + 1)) w
    # parameters without arrays
    _, state = tx.update({}, tx.init({}), {})
    assert state.mean_square == 0


def test_lookahead_is_optaxs(x64):
    grads = jnp.asarray(np.random.default_rng(4).normal(size=(13, 3)))
    ours, state = run(optax.chain(optax.adam(0.1), lookahead(4, 0.3)), jnp.ones(3), grads)
    pair = optax.LookaheadParams(jnp.ones(3), jnp.ones(3))
    theirs, _ = run(optax.lookahead(optax.adam(0.1), 4, 0.3), pair, grads)
    np.testing.assert_allclose(ours, theirs.fast, rtol=0, atol=1e-14)  # float64
    np.testing.assert_allclose(state[1].slow, theirs.slow[-1], rtol=0, atol=1e-14)


def test_schedule():
    """Values at its corners; ⌈2 / (1 - 0.9)⌉ is 20, though in floating point the quotient is more."""
    s = ranger21_schedule(0.1, 1000, b2=0.9)
    found = [float(s(t)) for t in (0, 9, 19, 20, 718)]
    assert found == pytest.approx([0.1 / 20, 0.05, 0.1, 0.1, 0.1])
    assert float(s(719)) == pytest.approx(0.1 - (0.1 - 3e-5) / 281)
    # a difference of numbers of size 0.1 in float32
    assert [float(s(t)) for t in (999, 5000)] == pytest.approx([3e-5, 3e-5], abs=1e-8)
    short = ranger21_schedule(0.1, 100)  # 2000 steps of warm-up are more than 45 of 100: 22
    assert [float(short(t)) for t in (0, 21, 70)] == pytest.approx([0.1 / 22, 0.1, 0.1])
    # ⌈2 / (1 - 0.9)⌉ = 20 is more than 45 % of 44, whose 22 % are 9.68, but not of 45
    assert [float(ranger21_schedule(0.1, t, b2=0.9)(0)) for t in (44, 45)] == pytest.approx([0.1 / 9, 0.1 / 20])
    early = ranger21_schedule(0.1, 100, b2=0.5, warmdown_start=0.29)  # 0.29 · 100 is less than 29 in floating point
    assert [float(early(t)) for t in (27, 28)] == pytest.approx([0.1, 0.1 - (0.1 - 3e-5) / 72])
    traced = jax.vmap(lambda b2: ranger21_schedule(0.1, 1000, b2)(9))(jnp.array([0.9, 0.99]))
    np.testing.assert_allclose(traced, [0.05, 0.1 * 10 / 200], rtol=1e-6)
    assert float(ranger21_schedule(1e-6, 10)(9)) == pytest.approx(1e-6)  # below min_lr


def test_clear_errors():
    w = jnp.ones(2)
    with pytest.raises(TypeError, match="num_iterations decides shapes and must be a Python integer"):
        jax.jit(lambda n: ranger21_schedule(0.1, n)(0))(5)
    # or the check of types that tests run under
    with pytest.raises(TypeError, match="the peak of the learning rate must be a number, got function|'learning_rate'"):
        ranger21(optax.constant_schedule(0.1), 10)
    with pytest.raises(ValueError, match=r"b1 must lie in \[0.0, 0.99.*\], got 1"):
        scale_by_positive_negative_momentum(b1=1.0)
    with pytest.raises(ValueError, match="clip must be greater than 0 .*, got 0"):
        adaptive_gradient_clip(0)
    with pytest.raises(ValueError, match=r"channel_axis 2 is none of the axes of an array of shape \(2, 3\)"):
        centralize_gradients(channel_axis=2).update(jnp.ones((2, 3)), optax.EmptyState())
    for tx in (adaptive_gradient_clip(), add_norm_loss_decay(), add_stable_weight_decay(optax.identity()), lookahead()):
        with pytest.raises(ValueError, match="needs the parameters: call tx.update"):
            tx.update(w, tx.init(w))
    with pytest.raises(ValueError, match=r"b2 must lie in \[0.0, 0.99.*\], got 1.0"):
        add_stable_weight_decay(optax.identity(), b2=1.0)
    with pytest.raises(ValueError, match=r"eps must lie in \[1.17.*e-38, inf\], got 0.0"):
        add_norm_loss_decay(eps=0.0)  # a unit of zeros would be 0/0
    for make in (add_norm_loss_decay, lambda x: add_stable_weight_decay(optax.identity(), x)):
        with pytest.raises(ValueError, match=r"must lie in \[0.0, inf\], got -1.0"):
            make(-1.0)
    with pytest.raises(ValueError, match=r"sync_period must lie in \[1, inf\], got 0"):
        lookahead(0)
