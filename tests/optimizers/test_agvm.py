"""AGVM against NumPy, optax's groups and what noise does to a cosine."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import agvm, agvm_scale, module_gradient_variance, scale_by_agvm

LABELS = {"conv": "trunk", "norm": "trunk", "head": {"w": "box", "b": "box"}, "s": "mask"}
SHAPES = {"conv": (3, 4), "norm": (5,), "head": {"w": (2, 2), "b": (2,)}, "s": ()}
RNG = np.random.default_rng(0)
STEPS = 40


def random(lead, scale=1.0):
    return jax.tree.map(lambda s: scale * RNG.normal(size=(*lead, *s)), SHAPES, is_leaf=lambda x: isinstance(x, tuple))


SIGNAL = random(())
HALVES = tuple(jax.tree.map(lambda s, n: s + n, SIGNAL, random((STEPS,))) for _ in range(2))
MOMENT = jax.tree.map(lambda x: np.abs(x), random((STEPS,)))


def in_numpy(decay, interval, start, moments=False, low=0.5, high=10.0):
    """The released hook's arithmetic for three parameter groups, group 0 the trunk."""
    groups = [("conv", "norm"), ("head",), ("s",)]
    bar, out = np.ones(3), []
    for t in range(STEPS):
        if t >= start and t % interval == 0:
            phi = []
            for names in groups:
                pair = []
                for half in HALVES:
                    g = np.concatenate([np.ravel(x[t]) for n in names for x in jax.tree.leaves(half[n])])
                    v = np.concatenate([np.ravel(x[t]) for n in names for x in jax.tree.leaves(MOMENT[n])])
                    pair.append(g / (np.sqrt(0.9 * v + 0.1 * g**2) + 1e-3) if moments else g)
                a, b = pair
                phi.append(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
            bar = decay * bar + (1 - decay) * np.sqrt(np.clip((phi[0] + 1e-6) / (np.array(phi) + 1e-6), low, high))
        out.append(bar.copy())
    return np.array(out)


@pytest.mark.parametrize(
    "decay, interval, start, moments, limits",
    [(0.97, 5, 7, False, (0.5, 10.0)), (0.0, 1, 0, False, (0.9, 1.1)), (0.5, 3, 0, True, (0.5, 10.0))],
)
def test_equals_the_hook_in_numpy(x64, decay, interval, start, moments, limits):
    low, high = limits
    tx = scale_by_agvm(
        LABELS, "trunk", decay=decay, interval=interval, start_step=start, low=low, high=high, b2=0.9, eps=1e-3
    )
    halves, moment = jax.tree.map(jnp.asarray, (HALVES, MOMENT))

    def step(state, inputs):
        (a, b), v = inputs
        g = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
        more = {"second_moment": v} if moments else {}
        updates, state = tx.update(g, state, half_grads=(a, b), **more)
        ratios = jax.tree.map(lambda u, g: u / g, updates, g)
        return state, jnp.stack([jnp.ravel(ratios[n])[0] for n in ("norm", "s")] + [ratios["head"]["b"][0]])

    _, got = jax.jit(lambda s: jax.lax.scan(step, s, (halves, moment)))(
        tx.init(jax.tree.map(lambda x: x[0], halves[0]))
    )
    want = in_numpy(decay, interval, start, moments, *limits)
    # multipliers are kept in float32
    np.testing.assert_allclose(got, want[:, [0, 2, 1]], rtol=2e-6)
    np.testing.assert_array_equal(got[:start], 1.0)


def test_alike_groups_and_equal_halves_keep_their_rates(x64):
    g = jax.tree.map(jnp.asarray, SIGNAL)
    phi = module_gradient_variance(g, g, LABELS)
    # 1 - cos is 0 but for rounding, far below the 1e-6 that is added
    np.testing.assert_allclose(list(agvm_scale(phi, "trunk").values()), 1.0, rtol=1e-9)
    same = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([1.0, 2.0])}
    other = {"a": jnp.array([1.0, -0.3]), "b": jnp.array([1.0, -0.3])}
    scales = agvm_scale(module_gradient_variance(same, other, {"a": "a", "b": "b"}), "a")
    assert float(scales["a"]) == float(scales["b"]) == 1.0
    # small gradients are no less alike; their squares vanish in float32
    a, b = {"x": jnp.array([1.0, 2.0], jnp.float32)}, {"x": jnp.array([1.0, 1.5], jnp.float32)}
    for size in (1.0, 1e-6, 1e-30, 1e30):
        phi = module_gradient_variance(*(jax.tree.map(lambda x, s=size: s * x, g) for g in (a, b)), "all")["all"]
        np.testing.assert_allclose(phi, 1 - 4 / np.sqrt(5 * 3.25), rtol=1e-4)  # float32 beside 1
    # gradients of zero have a variance of 1
    zero = jax.tree.map(jnp.zeros_like, same)
    assert list(module_gradient_variance(zero, zero, "all").values()) == [1.0]


def test_noise_of_gaussian_gradients():
    """φ = noise / (signal² + noise): here 2000 · 0.25 / (2000 + 500)."""
    a, b = jax.random.normal(jax.random.key(0), (2, 2000)) * 0.5 + 1.0
    phi = module_gradient_variance(a, b, "all")["all"]
    # fluctuates by about 1/√2000
    np.testing.assert_allclose(phi, 0.2, atol=4 / np.sqrt(2000))


def test_with_frozen_multipliers_it_is_sgd_with_rates_of_groups(x64):
    """One measurement at the first step, never again: optax.partition with scaled rates."""
    halves = jax.tree.map(jnp.asarray, jax.tree.map(lambda x: x[0], HALVES))
    g = jax.tree.map(lambda x, y: (x + y) / 2, *halves)
    tx = agvm(0.1, LABELS, "trunk", momentum=0.9, decay=0.0, interval=10_000, start_step=0)
    scales = in_numpy(0.0, 1, 0)[0]
    rates = dict(zip(("trunk", "box", "mask"), scales, strict=True))
    groups = optax.partition({name: optax.sgd(0.1 * s, momentum=0.9) for name, s in rates.items()}, LABELS)
    state, other = tx.init(g), groups.init(g)
    for _ in range(3):
        got, state = tx.update(g, state, half_grads=halves)
        want, other = groups.update(g, other)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6), got, want)


def test_halves_that_are_no_numbers_change_nothing_and_labels_may_be_a_prefix():
    g = {"a": {"x": jnp.ones(2), "y": jnp.ones(1)}, "b": jnp.ones(3)}
    tx = scale_by_agvm({"a": 1, "b": 2}, 1, interval=1, start_step=0)
    state = tx.init(g)
    assert set(state.multipliers) == {1, 2}
    bad = jax.tree.map(lambda x: x * jnp.nan, g)
    updates, state = jax.jit(lambda g, s, h: tx.update(g, s, half_grads=h))(g, state, (bad, bad))
    assert all(float(m) == 1 for m in state.multipliers.values()) and int(state.count) == 1
    np.testing.assert_array_equal(updates["b"], 1)
    # the reference may be another optimizer's, with everything else
    nobody = jax.tree.map(lambda x: optax.MaskedNode(), g)
    assert tx.init(nobody).multipliers == {}


def test_clear_errors():
    g = {"a": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"the reference 'trunk' is none of the labels \['head'\]"):
        scale_by_agvm({"a": "head"}, "trunk").init(g)
    tx = scale_by_agvm({"a": "head"}, "head")
    with pytest.raises(ValueError, match=r"scale_by_agvm needs half_grads=\(a, b\)"):
        tx.update(g, tx.init(g))
    with pytest.raises(ValueError, match="interval must lie in"):
        scale_by_agvm({"a": "head"}, "head", interval=0)
    with pytest.raises(ValueError, match="decay must lie in"):
        agvm(0.1, {"a": "head"}, "head", decay=1.5)
