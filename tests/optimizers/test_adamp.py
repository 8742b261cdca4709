"""AdamP and SGDP against the authors' files and pytorch_optimizer, the projection itself, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import adamp, effective_step_size, project_scale_invariant, scale_by_projection, sgdp
from tests.optimizers.golden_runs import assert_equal_to_golden, golden, part, rate, run

OFTEN = {"delta": 1.0, "wd_ratio": 0.3, "weight_decay": 0.1}  # of tests/golden/make_adamp.py
TRANSPOSED = {"matrix": (1, 0), "kernel": (2, 3, 1, 0)}  # PyTorch's layouts to JAX's


@pytest.mark.parametrize(
    ("case", "tx"),
    [
        ("adamp", lambda **k: adamp(rate, **k)),
        ("adamp_often", lambda **k: adamp(rate, **OFTEN, **k)),
        ("adamp_nesterov", lambda **k: adamp(rate, nesterov=True, **OFTEN, **k)),
        ("sgdp", lambda **k: sgdp(rate, **OFTEN, **k)),
        ("sgdp_nesterov", lambda **k: sgdp(rate, 0.8, 0.3, nesterov=True, **OFTEN, **k)),
    ],
)
def test_equals_the_official_code(x64, case, tx):
    # 40 float64 steps that lead up to 25 far (measured: 1e-14)
    assert_equal_to_golden(tx(channel_axis=0), "adamp", case, rtol=0, atol=1e-12)


def test_layouts_of_jax_are_the_default(x64):
    arrays = golden("adamp")

    def turned(leaves, lead):
        axes = {
            n: (*range(lead), *(a + lead for a in TRANSPOSED.get(n, range(x.ndim - lead)))) for n, x in leaves.items()
        }
        return {name: jnp.transpose(x, axes[name]) for name, x in leaves.items()}

    iterates, _ = run(adamp(rate, **OFTEN), turned(part(arrays, "first"), 0), turned(part(arrays, "grads"), 1))
    for leaf, expected in turned(part(arrays, "adamp_often"), 1).items():
        np.testing.assert_allclose(iterates[leaf], expected, rtol=0, atol=1e-12, err_msg=leaf)  # as above


def test_the_released_sgdp_keeps_the_projection(x64):
    """Without nesterov its momentum is projected in place; run so here, it is the golden case and not the paper's."""
    arrays = golden("adamp")
    project = project_scale_invariant(1.0, 0.3, channel_axis=0)

    def step(carry, inputs):
        (w, b), (g, r) = carry, inputs
        b = {n: 0.9 * b[n] + g[n] for n in w}
        found = {n: project(w[n], g[n], b[n]) for n in w}
        w = {n: w[n] * (1 - r * 0.1 * found[n][1] / (1 - 0.9)) - r * found[n][0] for n in w}
        return (w, {n: p for n, (p, _) in found.items()}), w

    w, grads = part(arrays, "first"), part(arrays, "grads")
    rates = jax.vmap(rate)(jnp.arange(40))
    _, iterates = jax.lax.scan(step, (w, jax.tree.map(jnp.zeros_like, w)), (grads, rates))
    for leaf, expected in part(arrays, "sgdp_in_place").items():
        np.testing.assert_allclose(iterates[leaf], expected, rtol=0, atol=1e-12, err_msg=leaf)


def orthogonal_rows(rng, shape):
    """Weights and a gradient at a right angle to them for each last index, and any update."""
    w, g, p = rng.normal(size=(3, *shape))
    others = tuple(range(len(shape) - 1))
    g -= w * (g * w).sum(axis=others) / (w * w).sum(axis=others)
    return w, g, p


@pytest.mark.parametrize("shape", [(6, 4), (3, 3, 2, 5), (7, 1)])
def test_channels_lose_their_radial_part(x64, shape):
    w, g, p = orthogonal_rows(np.random.default_rng(0), shape)
    update, factor = project_scale_invariant()(jnp.asarray(w), jnp.asarray(g), jnp.asarray(p))
    others = tuple(range(len(shape) - 1))
    radial = np.sum(w * np.asarray(update), axis=others)
    # eps = 1e-8 beside lengths of order 2 leaves 1e-8 of it
    np.testing.assert_allclose(radial, 0, atol=1e-6)
    expected = p - w * (p * w).sum(axis=others) / (w * w).sum(axis=others)
    np.testing.assert_allclose(update, expected, rtol=0, atol=1e-7)
    assert float(factor) == 0.1


def test_layers_and_neither(x64):
    rng = np.random.default_rng(1)
    w, g, p = (jnp.asarray(x) for x in rng.normal(size=(3, 5, 4)))
    g = g - w * jnp.sum(g * w) / jnp.sum(w * w)  # as a whole, not row by row
    project = project_scale_invariant()
    update, factor = project(w, g, p)
    np.testing.assert_allclose(update, p - w * jnp.sum(w * p) / jnp.sum(w * w), rtol=0, atol=1e-7)
    assert float(factor) == 0.1
    for same in (project(w, g + w, p), project_scale_invariant(0.0)(w, g, p), project(w[0], g[0], p[0])):
        assert float(same[1]) == 1.0
    np.testing.assert_array_equal(project(w, g + w, p)[0], p)


def test_gradients_of_zero_and_near_epsilon(x64):
    """Lengths in the cosine are ε at least, as in PyTorch's: a gradient of zero is at a right angle to everything."""
    w, p = jnp.array([[1.0], [0.0]]), jnp.ones((2, 1))
    zero = project_scale_invariant()(w, jnp.zeros((2, 1)), p)
    np.testing.assert_allclose(zero[0], [[0.0], [1.0]], atol=1e-7)  # eps leaves 2e-8
    assert float(zero[1]) == 0.1
    assert float(project_scale_invariant(0.0)(w, jnp.zeros((2, 1)), p)[1]) == 1.0
    # |g| = 1e-9 along w: the cosine is 1e-9 / ε = 0.1; the threshold δ / √2 is below it, then above
    for delta, factor in ((0.135, 1.0), (0.145, 0.1)):
        assert float(project_scale_invariant(delta)(w, 1e-9 * w, p)[1]) == factor


def test_without_projection_it_is_adamw_and_sgd(x64):
    arrays = golden("adamp")
    first, grads = part(arrays, "first"), part(arrays, "grads")
    options = {"weight_decay": 0.1}
    for ours, theirs in (
        (adamp(rate, delta=0.0, **options), optax.adamw(rate, **options)),
        (sgdp(rate, delta=0.0, nesterov=True), optax.sgd(rate, momentum=0.9, nesterov=True)),
        (
            adamp(rate, mask={"matrix": True, "kernel": False, "vector": False, "scalar": False}, delta=0.0, **options),
            optax.adamw(rate, mask=lambda p: {n: n == "matrix" for n in p}, **options),
        ),
    ):
        found, expected = (run(tx, first, grads)[0] for tx in (ours, theirs))
        # 40 float64 steps that lead up to 25 far
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), found, expected)


def test_lengths_stay_on_scale_invariant_weights_and_grow_with_momentum(x64):
    """A projected step is at a right angle to w: |w|² grows by η²|u|² and nothing else."""
    a = jnp.asarray(np.random.default_rng(2).normal(size=(6, 1)))

    def loss(w):
        return jnp.sum(a * w) / jnp.sqrt(jnp.sum(w * w))

    def lengths(tx):
        def step(carry, _):
            w, state = carry
            updates, state = tx.update(jax.grad(loss)(w), state, w)
            return (w + updates, state), (jnp.sum((w + updates) ** 2), jnp.sum(updates**2))

        w = jnp.ones((6, 1))
        return jax.lax.scan(step, (w, tx.init(w)), length=30)[1]

    squares, steps = lengths(sgdp(0.1))
    np.testing.assert_allclose(squares, 6 + jnp.cumsum(steps), rtol=1e-7)  # eps leaves 1e-8 of each radial part
    plain, _ = lengths(optax.sgd(0.1, momentum=0.9))
    assert plain[-1] - 6 > 1.5 * (squares[-1] - 6)
    assert float(effective_step_size(jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0]))) == pytest.approx(1.25)


def test_what_is_not_a_number_stays_in_its_entry():
    w, g = jnp.array([[1.0], [0.0], [0.0]]), jnp.array([[0.0], [1.0], [jnp.nan]])
    tx = sgdp(1.0, momentum=0.0)
    update = jax.jit(lambda g, w: tx.update(g, tx.init(w), w)[0])
    np.testing.assert_array_equal(update(g, w), [[0.0], [-1.0], [jnp.nan]])
    # the cosine with weights that are not numbers is none either: no projection, though g is at a right angle to the rest
    updates = update(jnp.array([[0.0], [1.0], [0.0]]), w.at[2].set(jnp.nan))
    np.testing.assert_array_equal(updates, [[0.0], [-1.0], [jnp.nan]])


def test_half_precision():
    w = jnp.ones((3, 2), jnp.bfloat16)
    for tx in (adamp(0.1), sgdp(0.1)):
        updates, state = tx.update(w, tx.init(w), w)
        assert updates.dtype == jnp.bfloat16
        assert {x.dtype.name for x in jax.tree.leaves(state)} <= {"float32", "int32"}
        np.testing.assert_allclose(updates.astype(jnp.float32), -0.1, rtol=2**-8)  # not orthogonal: not projected


def test_clear_errors():
    with pytest.raises(ValueError, match=r"momentum must lie in \[0.0, 0.99.*\], got 1"):
        sgdp(0.1, momentum=1.0)
    with pytest.raises(ValueError, match=r"b1 must lie in \[0.0, 0.99.*\], got 1"):
        adamp(0.1, b1=1.0)
    with pytest.raises(ValueError, match=r"weight_decay must lie in \[0.0, inf\], got -1"):
        sgdp(0.1, weight_decay=-1.0)
    with pytest.raises(ValueError, match=r"wd_ratio must lie in \[0.0, 1.0\], got 2"):
        adamp(0.1, wd_ratio=2)
    with pytest.raises(ValueError, match="the projection looks at the parameters"):
        scale_by_projection(optax.identity()).update(jnp.ones(2), optax.EmptyState())
