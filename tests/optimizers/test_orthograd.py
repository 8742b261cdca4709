"""⊥Grad against the authors' class, and the geometry it promises."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import nlm_cosine, orthogonalize_gradients

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "orthograd.npz")
LEAVES = ("matrix", "kernel", "vector")
# torch counts steps from 1, optax from 0; the rate falls at the 21st step in both
RATE = optax.piecewise_constant_schedule(0.1, {20: 0.2})
BASES = {"sgd": optax.sgd(RATE, momentum=0.8), "adamw": optax.adamw(RATE, weight_decay=0.1)}


@pytest.mark.parametrize("base", BASES)
def test_equals_the_official_class(x64, base):
    params = {k: jnp.asarray(GOLDEN[f"first/{k}"]) for k in LEAVES} | {"scalar": jnp.float64(1.0)}
    grads = {k: jnp.asarray(GOLDEN[f"grads/{k}"]) for k in LEAVES} | {"scalar": jnp.sin(jnp.arange(40.0))}
    tx = optax.chain(orthogonalize_gradients(), BASES[base])

    def run(tx):
        def step(carry, g):
            params, state = carry
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), grads)[1])()

    iterates = run(tx)
    for k in LEAVES:
        # 40 float64 steps of size 0.1 (measured: 2e-14)
        np.testing.assert_allclose(iterates[k], GOLDEN[f"{base}/{k}"], rtol=0, atol=1e-12)
    # nothing is orthogonal to a number: it is trained as without the projection
    np.testing.assert_allclose(iterates["scalar"], run(BASES[base])["scalar"], rtol=1e-12)


def test_is_orthogonal_and_keeps_the_length():
    rng = np.random.default_rng(0)
    w, g = ({"a": jnp.asarray(rng.normal(size=(7, 3)), jnp.float32), "b": jnp.ones(4)} for _ in range(2))
    g["b"] = jnp.array([1.0, 2.0, 3.0, -9.0])
    updates, _ = orthogonalize_gradients().update(g, orthogonalize_gradients().init(w), w)
    plain, _ = orthogonalize_gradients(rescale=False).update(g, optax.EmptyState(), w)
    for k in w:
        # float32 sums of some twenty products of size one to ten
        np.testing.assert_allclose(jnp.sum(updates[k] * w[k]), 0, atol=1e-5)
        np.testing.assert_allclose(jnp.linalg.norm(updates[k]), jnp.linalg.norm(g[k]), rtol=1e-6)
        u, v, n = (np.asarray(x[k], np.float64).ravel() for x in (plain, g, w))
        np.testing.assert_allclose(u, v - n * (n @ v) / (n @ n), rtol=0, atol=1e-5)
    # the gradient of a function that does not change with the scale of w is orthogonal already
    scale_free = jax.grad(lambda w: jnp.sum(w / jnp.linalg.norm(w) * g["a"]))(w["a"])
    same, _ = orthogonalize_gradients().update(scale_free, optax.EmptyState(), w["a"])
    np.testing.assert_allclose(same, scale_free, rtol=0, atol=1e-6)


def test_noise_is_not_blown_up():
    w = jnp.asarray(np.random.default_rng(1).normal(size=50), jnp.float32)
    for g in (0.1 * w, -3 * w):
        update, _ = orthogonalize_gradients().update(g, optax.EmptyState(), w)
        # what rounding leaves of a parallel gradient; rescaled it would have the length of g
        assert float(jnp.linalg.norm(update)) < 2e-6 * float(jnp.linalg.norm(g))
    bad, _ = orthogonalize_gradients().update(w.at[0].set(jnp.nan), optax.EmptyState(), w)
    assert bool(jnp.isnan(bad).all())
    zero, _ = orthogonalize_gradients().update(jnp.ones(3), optax.EmptyState(), jnp.zeros(3))
    np.testing.assert_allclose(zero, np.ones(3), rtol=1e-6)  # no direction to take out; one float32 rounding


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e30])
def test_gradients_of_any_size_keep_their_length(size):
    """In float32, where their squares vanish or overflow; late in training they are that small."""
    rng = np.random.default_rng(4)
    w, g = (jnp.asarray(rng.normal(size=(7, 3)), jnp.float32) for _ in range(2))
    for tx in (orthogonalize_gradients(eps=1e-37), orthogonalize_gradients(rescale=False)):
        wanted, _ = tx.update(g, optax.EmptyState(), w)
        update, _ = tx.update(size * g, optax.EmptyState(), w)
        np.testing.assert_allclose(update / size, wanted, rtol=0, atol=1e-6)  # another rounding of entries of size one
    # eps is beside the length of the gradient itself, as released
    update, _ = orthogonalize_gradients(eps=1e-25).update(1e-25 * g, optax.EmptyState(), w)
    plain, _ = orthogonalize_gradients(rescale=False).update(g, optax.EmptyState(), w)
    length = jnp.linalg.norm(plain)
    np.testing.assert_allclose(update / 1e-25, plain * jnp.linalg.norm(g) / (length + 1), rtol=0, atol=1e-6)


def test_half_precision_is_computed_in_single():
    # <w, w> of 1,000 ones is 1,000, which sums in bfloat16 never reach
    w, g = jnp.ones(1000, jnp.bfloat16), jnp.arange(1000).astype(jnp.bfloat16)
    update, _ = orthogonalize_gradients(rescale=False).update(g, optax.EmptyState(), w)
    g64 = np.asarray(g, np.float64)
    assert update.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(update, np.float64), g64 - g64.mean(), rtol=2**-8, atol=1e-3)  # the last cast


def test_nlm_cosine_by_definition():
    rng = np.random.default_rng(2)
    g, w = (
        {"a": jnp.asarray(rng.normal(size=(4, 2)), jnp.float32), "b": jnp.asarray(rng.normal(size=3), jnp.float32)}
        for _ in range(2)
    )
    gv, wv = (np.concatenate([np.ravel(x["a"]), np.ravel(x["b"])]) for x in (g, w))
    wanted = -gv @ wv / np.linalg.norm(gv) / np.linalg.norm(wv)
    np.testing.assert_allclose(nlm_cosine(g, w), wanted, rtol=1e-5)  # float32
    # lengths near the ends of float32 do not matter
    tiny, huge = jax.tree.map(lambda x: 1e-30 * x, g), jax.tree.map(lambda x: 1e30 * x, w)
    np.testing.assert_allclose(nlm_cosine(tiny, huge), wanted, rtol=1e-5)
    assert float(nlm_cosine(g, jax.tree.map(jnp.zeros_like, w))) == 0.0


def test_clear_errors():
    with pytest.raises(ValueError, match=r"eps must lie in \[1e-38, inf\], got 0"):
        orthogonalize_gradients(eps=0)
    with pytest.raises(TypeError, match="a parameter or gradient is complex64.*split_real_and_imaginary"):
        orthogonalize_gradients().update(jnp.ones(2, complex), optax.EmptyState(), jnp.ones(2, complex))
    with pytest.raises(ValueError, match="orthogonalize_gradients needs the parameters"):
        orthogonalize_gradients().update(jnp.ones(2), optax.EmptyState())
