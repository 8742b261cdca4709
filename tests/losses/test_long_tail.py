"""Losses for a long tail against their definitions, the releases and pytorch_optimizer."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import deferred_reweight, ldam_loss, logit_adjusted_loss, vs_loss
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "wcdas.npz")
SADDLE = np.load(Path(__file__).parents[1] / "golden" / "saddle_escape.npz")
Z, LABELS = np.random.default_rng(0).standard_normal((6, 5)), np.arange(6) % 5
COUNTS = np.array([500, 100, 30, 8, 2])


def test_logit_adjustment(x64):
    z, y = jnp.asarray(Z), jnp.asarray(LABELS)
    e = COUNTS**0.7 * np.exp(Z)
    # the definition, in float64
    want = -np.log(e[np.arange(6), LABELS] / e.sum(axis=1))
    np.testing.assert_allclose(logit_adjusted_loss(z, y, COUNTS, tau=0.7), want, rtol=1e-12)
    np.testing.assert_allclose(logit_adjusted_loss(z, y, COUNTS / COUNTS.sum(), tau=0.7), want, rtol=1e-12)
    plain = optax.losses.softmax_cross_entropy_with_integer_labels(z, y)
    np.testing.assert_allclose(logit_adjusted_loss(z, y, COUNTS, tau=0.0), plain, rtol=1e-12)
    np.testing.assert_allclose(logit_adjusted_loss(z, y, np.full(5, 7), tau=-2.0), plain, rtol=1e-12)


def test_ldam_equals_pytorch_optimizer(x64):
    z, y = jnp.asarray(GOLDEN["cosines"]), jnp.asarray(GOLDEN["labels"])
    value, gradient = jax.value_and_grad(lambda z: ldam_loss(z, y, GOLDEN["counts"]).mean())(z)
    # theirs keeps the margins in float32, times a scale of 30
    np.testing.assert_allclose(value, GOLDEN["ldam_loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient, GOLDEN["ldam_grad"], atol=1e-5)


@pytest.mark.parametrize(("name", "how"), [("vs", {}), ("vs_strong", {"gamma": 1.5, "tau": 0.5})])
def test_vs_equals_the_release(name, how, x64):
    z, y = jnp.asarray(SADDLE["logits"]), jnp.asarray(SADDLE["labels"])
    value, gradient = jax.value_and_grad(lambda z: vs_loss(z, y, SADDLE["counts"], **how).mean())(z)
    # float64
    np.testing.assert_allclose(value, SADDLE[f"{name}_loss"], rtol=1e-12)
    np.testing.assert_allclose(gradient, SADDLE[f"{name}_grad"], rtol=1e-11, atol=1e-15)


def test_vs_limits(x64):
    z, y = jnp.asarray(Z), jnp.asarray(LABELS)
    adjusted = logit_adjusted_loss(z, y, COUNTS, tau=0.7)
    np.testing.assert_allclose(vs_loss(z, y, COUNTS, gamma=0.0, tau=0.7), adjusted, rtol=1e-13)
    plain = optax.losses.softmax_cross_entropy_with_integer_labels(z, y)
    np.testing.assert_allclose(vs_loss(z, y, COUNTS, gamma=0.0, tau=0.0), plain, rtol=1e-13)
    np.testing.assert_allclose(vs_loss(z, y, np.full(5, 7)), plain, rtol=1e-12)


def test_deferred_weights_equal_the_release(x64):
    weights = deferred_reweight(SADDLE["counts"], 10, start=10)
    # theirs subtract 0.9999^n from 1, which costs four digits
    np.testing.assert_allclose(weights, SADDLE["weights"], rtol=1e-11)
    z, y = jnp.asarray(SADDLE["logits"]), jnp.asarray(SADDLE["labels"])
    of_example = weights[y]
    weighted = jnp.sum(of_example * vs_loss(z, y, SADDLE["counts"])) / of_example.sum()
    np.testing.assert_allclose(weighted, SADDLE["vs_weighted_loss"], rtol=1e-11)
    np.testing.assert_array_equal(deferred_reweight(SADDLE["counts"], 9, start=10), 1.0)


def test_deferred_weights_by_hand():
    # 1 / (1 + b + …), brought to the sum 2: 2 / (1 + 1/1.5) and so on
    np.testing.assert_allclose(deferred_reweight(np.array([2, 1]), 0, start=0, beta=0.5), [0.8, 1.2], rtol=1e-6)
    np.testing.assert_array_equal(deferred_reweight(np.array([9, 1]), 0, start=0, beta=0.0), 1.0)
    # towards 1: inverse frequencies; single precision
    close = deferred_reweight(np.array([9, 1]), 0, start=0, beta=1 - 1e-6)
    np.testing.assert_allclose(close, [0.2, 1.8], rtol=1e-5)
    traced = jax.jit(lambda step, beta: deferred_reweight(jnp.array([500, 3]), step, start=5, beta=beta))
    want = deferred_reweight(np.array([500, 3]), 5, start=5)
    # beta rounded to single precision is off by 2e-4 of 1 - beta; the ratio of weights, 162, by n times less
    np.testing.assert_allclose(traced(5, 0.9999), want, rtol=1e-4)
    np.testing.assert_array_equal(traced(4, 0.9999), 1.0)


@pytest.mark.parametrize("fn", [logit_adjusted_loss, vs_loss, ldam_loss])
def test_a_class_that_is_masked_out_is_not_there(fn, x64):
    there, y = np.array([0, 2, 3]), jnp.array([0, 2, 3, 0])
    z = jnp.asarray(Z[:4]).at[:, [1, 4]].set(-jnp.inf)
    # neither the most frequent class nor the rarest one of those that stay: the factors and margins are relative to them
    counts = np.array([500, 100, 30, 2, 8])
    value, pull = jax.value_and_grad(lambda z: fn(z, y, counts).sum())(z)
    wanted, slope = jax.value_and_grad(lambda z: fn(z, jnp.array([0, 1, 2, 0]), counts[there]).sum())(z[:, there])
    np.testing.assert_allclose(value, wanted, rtol=1e-12)  # float64
    np.testing.assert_allclose(pull[:, there], slope, rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(pull[:, np.array([1, 4])], 0.0)
    alone = jax.grad(lambda z: fn(z, 0 * y, counts).sum())(jnp.full((4, 5), -jnp.inf).at[:, 0].set(1.0))
    np.testing.assert_array_equal(alone, 0.0)  # no other class is left


def test_contract():
    check_loss(lambda z, y: logit_adjusted_loss(z, y, COUNTS), predictions=Z, targets=LABELS)
    some = ("shape", "dtype", "finite", "finite_gradient", "bfloat16")
    check_loss(lambda z, y: vs_loss(z, y, COUNTS), predictions=Z, targets=LABELS, laws=some)
    check_loss(lambda z, y: ldam_loss(z, y, COUNTS), predictions=Z / 3, targets=LABELS, laws=some)


def test_bad_input():
    z, y = jnp.asarray(Z), jnp.asarray(LABELS)
    with pytest.raises(ValueError, match=r"class_counts of shape \(4,\) for 5 classes"):
        logit_adjusted_loss(z, y, COUNTS[:4])
    with pytest.raises(ValueError, match="class_counts must lie in"):
        ldam_loss(z, y, np.array([3, 2, 1, 1, 0]))
    with pytest.raises(ValueError, match="max_margin must lie in"):
        ldam_loss(z, y, COUNTS, max_margin=-1.0)
    with pytest.raises(ValueError, match="scale must lie in"):
        ldam_loss(z, y, COUNTS, scale=0.0)
    with pytest.raises(ValueError, match="gamma must lie in"):
        vs_loss(z, y, COUNTS, gamma=-0.1)
    with pytest.raises(ValueError, match="beta must lie in"):
        deferred_reweight(COUNTS, 0, start=0, beta=1.0)
    with pytest.raises(ValueError, match="class_counts must lie in"):
        deferred_reweight(np.array([3, 0]), 0, start=0)
    with pytest.raises(ValueError, match=r"class_counts need shape \(n,\), got \(1, 5\)"):
        deferred_reweight(COUNTS[None], 0, start=0)
    with pytest.raises(ValueError, match="label 7 is none of the 5 classes"):
        logit_adjusted_loss(z, y.at[0].set(7), COUNTS)
