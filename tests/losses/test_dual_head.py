"""Dual-head distillation against PyTorch's divergence, its projection against a least-squares solver."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from jaxtrain.aggregation import pcgrad
from jaxtrain.losses import align_auxiliary_gradient, binary_kl_loss, binary_kl_norm_loss, dhkd_loss
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "dual_head.npz")
S, T = GOLDEN["student"], GOLDEN["teacher"]


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("name", ["binary_kl", "binary_kl_norm"])
def test_equals_pytorchs_divergence(name, tau, x64):
    fn = functools.partial({"binary_kl": binary_kl_loss, "binary_kl_norm": binary_kl_norm_loss}[name], temperature=tau)
    teacher = jnp.asarray(T)
    grad = jax.jit(jax.grad(lambda s: fn(s, teacher).sum()))(jnp.asarray(S))
    # they subtract a sigmoid from 1 and sum terms of both signs: about 1e-16 / 1e-5 of the digits stay
    np.testing.assert_allclose(fn(jnp.asarray(S), teacher), GOLDEN[f"{name}_{tau:g}"], rtol=1e-10)
    np.testing.assert_allclose(grad, GOLDEN[f"{name}_{tau:g}_grad"], rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(fn(teacher, teacher), 0.0)
    np.testing.assert_array_equal(jax.grad(lambda t: fn(jnp.asarray(S), t).sum())(teacher), 0.0)


def test_near_the_teacher_and_far_from_it(x64):
    rng = np.random.default_rng(0)
    teacher, move = rng.normal(size=(4, 7)), rng.normal(size=(4, 7))
    # log cosh x = x²/2 - x⁴/12 + …: with logits 1e-4 apart the next term is 4e-10 of the first, at tau = 2
    got = binary_kl_norm_loss(jnp.asarray(teacher + 1e-4 * move), jnp.asarray(teacher))
    np.testing.assert_allclose(got, 1e-8 * np.sum(move**2, -1) / 8, rtol=1e-8)
    away = jax.grad(lambda s: binary_kl_norm_loss(s, jnp.asarray(teacher)).sum())
    slope = away(jnp.asarray(teacher + 1e3 * np.sign(move)))
    np.testing.assert_allclose(slope, np.sign(move), rtol=1e-12)  # tau / 2


def test_small_distances_keep_their_digits_in_single_precision():
    d = np.float32([1e-6, 1e-3, 0.3, 1.9, 2.1, 30.0])[:, None]
    zero = jnp.zeros_like(d)
    wide = np.float64(d[:, 0]) / 4
    wanted = 4 * np.log1p(2 * np.sinh(wide / 2) ** 2)  # log cosh through the half angle
    slope = jax.jit(jax.grad(lambda x: binary_kl_norm_loss(x, zero).sum()))
    for sign in (1, -1):
        got = binary_kl_norm_loss(jnp.asarray(sign * d), zero)
        np.testing.assert_allclose(got, wanted, rtol=5e-7)  # a few roundings
        np.testing.assert_allclose(slope(jnp.asarray(sign * d))[:, 0], sign * np.tanh(wide), rtol=5e-7)


@pytest.mark.parametrize("fn", [binary_kl_loss, binary_kl_norm_loss])
def test_masked_classes_count_for_nothing(fn):
    z, t = jnp.array([[1.0, -jnp.inf, 2.0]]), jnp.array([[0.5, -jnp.inf, -1.0]])
    kept = jnp.array([0, 2])
    value, grad = jax.value_and_grad(lambda z: fn(z, t).sum())(z)
    known, wanted = jax.value_and_grad(lambda z: fn(z, t[:, kept]).sum())(z[:, kept])
    np.testing.assert_allclose(value, known, rtol=1e-6)  # single precision
    np.testing.assert_allclose(grad, jnp.zeros((1, 3)).at[:, kept].set(wanted), rtol=1e-6)
    assert fn(z, t.at[0, 1].set(0.0))[0] == jnp.inf


def test_dual_head_is_its_parts(x64):
    rng = np.random.default_rng(1)
    main, aux, teacher = rng.normal(size=(3, 6, 4))
    labels = rng.integers(0, 4, 6)
    p = np.exp(main) / np.exp(main).sum(-1, keepdims=True)
    wanted = 0.7 * -np.log(p[np.arange(6), labels]) + 0.3 * 9 * np.log(np.cosh((aux - teacher) / 6)).sum(-1)
    args = [jnp.asarray(x) for x in (main, aux, teacher)]
    got = dhkd_loss(*args, jnp.asarray(labels), alpha=0.3, gamma=0.7, temperature=3.0)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)  # float64
    # each head hears its own teacher only
    total = jax.jit(lambda m, a: dhkd_loss(m, a, args[2], jnp.asarray(labels), alpha=0.3).sum())
    g = jax.grad(total, argnums=(0, 1))(*args[:2])
    np.testing.assert_allclose(g[0], p - np.eye(4)[labels], atol=1e-12)
    np.testing.assert_allclose(g[1], 0.3 * np.tanh((aux - teacher) / 4), atol=1e-12)


def test_projection_is_the_closest_without_conflict(x64):
    rng = np.random.default_rng(3)
    conflicts = []
    for main, aux in rng.normal(size=(6, 2, 8)):
        split = [{"w": jnp.asarray(g[:6]).reshape(2, 3), "b": jnp.asarray(g[6:])} for g in (main, aux)]
        got = align_auxiliary_gradient(*split)
        # the closest point of a half-space: aux plus as much of main, not less than none, as makes the sum shortest
        back = nnls(main[:, None], -aux)[0][0]
        flat = np.concatenate([np.ravel(got["w"]), got["b"]])
        np.testing.assert_allclose(flat, aux + back * main, rtol=1e-12, atol=1e-14)  # float64
        conflicts.append(back > 0)
    assert {True, False} == set(conflicts)


def test_projection_changes_only_conflicts():
    main, agrees, against = jnp.array([1.0, 2.0]), jnp.array([3.0, -1.0]), jnp.array([-3.0, 1.0])
    np.testing.assert_array_equal(align_auxiliary_gradient(main, agrees), agrees)
    np.testing.assert_array_equal(align_auxiliary_gradient(jnp.zeros(2), against), against)
    got = align_auxiliary_gradient(main, against)
    np.testing.assert_allclose(got, [-2.8, 1.4], rtol=1e-6)  # single precision
    # PCGrad of both is this, plus the main one with the like done to it
    both = pcgrad(jax.random.key(0), jnp.stack([main, against]))
    np.testing.assert_allclose(both, got + align_auxiliary_gradient(against, main), rtol=1e-6)
    huge = align_auxiliary_gradient(1e30 * main, 1e30 * against)  # whose squares overflow
    np.testing.assert_allclose(huge / 1e30, got, rtol=1e-6)
    half = align_auxiliary_gradient(main.astype(jnp.bfloat16), against.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), got, rtol=2.0**-8)  # rounded once
    assert bool(jnp.isnan(align_auxiliary_gradient(main, against.at[0].set(jnp.nan))).all())


def test_contract():
    check_loss(functools.partial(binary_kl_norm_loss, temperature=1.5), predictions=S[:6, :4], targets=T[:6, :4])
    laws = ("dtype", "finite_gradient", "bfloat16")
    check_loss(binary_kl_loss, predictions=S[:6, :4], targets=T[:6, :4], laws=laws)


def test_contract_of_both_heads():
    def fn(heads, labels):
        teacher = 3 * jax.nn.one_hot(labels, heads.shape[-1], dtype=heads.dtype)
        return dhkd_loss(heads[:, 0], heads[:, 1], teacher, labels, alpha=0.5)

    rng = np.random.default_rng(2)
    laws = ("shape", "dtype", "finite_gradient", "class_permutation")
    check_loss(fn, predictions=rng.normal(size=(6, 2, 4)), targets=rng.integers(0, 4, 6), laws=laws)


def test_numbers_may_be_traced():
    taus = jnp.array([1.0, 2.0])
    got = jax.jit(jax.vmap(lambda t: binary_kl_norm_loss(jnp.array([4.0, 1.0]), jnp.zeros(2), temperature=t)))(taus)
    np.testing.assert_allclose(got, [np.log(np.cosh([2, 0.5])).sum(), 4 * np.log(np.cosh([1, 0.25])).sum()], rtol=1e-6)


def test_bad_input():
    z, y = jnp.zeros((3, 2)), jnp.zeros(3, int)
    with pytest.raises(ValueError, match=r"binary_kl_loss: logits \(3, 2\) and teacher_logits \(2,\) disagree"):
        binary_kl_loss(z, z[0])
    with pytest.raises(ValueError, match="temperature must lie in"):
        binary_kl_norm_loss(z, z, temperature=0.0)
    with pytest.raises(ValueError, match=r"aux_logits \(2, 2\) disagree"):
        dhkd_loss(z, z[:2], z, y, alpha=1.0)
    with pytest.raises(ValueError, match="label 2 is none of the 2 classes"):
        dhkd_loss(z, z, z, y + 2, alpha=1.0)
    with pytest.raises(ValueError, match="alpha must lie in"):
        dhkd_loss(z, z, z, y, alpha=-1.0)
    with pytest.raises(ValueError, match=r"g_main has leaves of shapes \[\(3, 2\)\], g_aux of \[\(2,\)\]"):
        align_auxiliary_gradient(z, z[0])
    with pytest.raises(ValueError, match="trees of different structure"):
        align_auxiliary_gradient({"a": z}, {"b": z})
