"""FASSL in float64 by its formulas, against Sinkhorn's equal shares on unequal clusters, and its identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.losses import (
    estimate_prototype_frequency,
    frequency_aware_swap_loss,
    prototype_assignment,
    rebalanced_weights,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


Z1, Z2, C = unit(RNG.normal(size=(6, 4))), unit(RNG.normal(size=(6, 4))), unit(RNG.normal(size=(5, 4)))
FREQ = RNG.dirichlet(np.ones(5))


def assigned(z, freq=1.0, t=0.1):
    e = np.exp(z @ C.T / t) / freq  # e^(-log f) = 1 / f
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("freq", [None, FREQ])
def test_equals_its_formula_and_gradient(freq, x64):
    f = 1.0 if freq is None else freq
    p1, p2 = assigned(Z1, f), assigned(Z2, f)
    np.testing.assert_allclose(
        prototype_assignment(jnp.asarray(Z1), jnp.asarray(C), freq=None if freq is None else jnp.asarray(freq)),
        p1,
        rtol=1e-12,
    )

    def total(z1, z2, c):
        return frequency_aware_swap_loss(z1, z2, c, freq=None if freq is None else jnp.asarray(freq)).sum()

    value, pulls = jax.value_and_grad(total, argnums=(0, 1, 2))(*map(jnp.asarray, (Z1, Z2, C)))
    np.testing.assert_allclose(value, -(p2 * np.log(p1)).sum() - (p1 * np.log(p2)).sum(), rtol=1e-12)
    # cross-entropy with constant targets: (p - q) by the scores z c / T
    np.testing.assert_allclose(pulls[0], (p1 - p2) @ C / 0.1, rtol=1e-9, atol=1e-12)  # float64, terms that cancel
    np.testing.assert_allclose(pulls[1], (p2 - p1) @ C / 0.1, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(pulls[2], ((p1 - p2).T @ Z1 + (p2 - p1).T @ Z2) / 0.1, rtol=1e-9, atol=1e-12)


def test_views_that_agree_are_at_rest(x64):
    z, c = jnp.asarray(Z1), jnp.asarray(C)
    pull = jax.grad(lambda z1, z2: frequency_aware_swap_loss(z1, z2, c, freq=jnp.asarray(FREQ)).sum())(z, z)
    np.testing.assert_allclose(pull, 0.0, atol=1e-13)
    loss = frequency_aware_swap_loss(z, z, c)
    p = assigned(Z1)
    np.testing.assert_allclose(loss, -2 * (p * np.log(p)).sum(1), rtol=1e-12)  # twice the entropy


def test_equal_frequencies_are_the_first_stage(x64):
    z1, z2, c = map(jnp.asarray, (Z1, Z2, C))
    first = frequency_aware_swap_loss(z1, z2, c)
    np.testing.assert_allclose(frequency_aware_swap_loss(z1, z2, c, freq=jnp.full(5, 0.2)), first, rtol=1e-12)
    np.testing.assert_allclose(rebalanced_weights(jnp.full(5, 0.2), beta=1.7), 1.0, rtol=1e-12)


def test_targets_are_constants_of_a_learned_temperature(x64):
    z1, z2, c = map(jnp.asarray, (Z1, Z2, C))
    slope = jax.grad(lambda t: frequency_aware_swap_loss(z1, z2, c, temperature=t).sum())(0.3)
    q1, q2, h = assigned(Z1, t=0.3), assigned(Z2, t=0.3), 1e-6

    def at(t):
        return -(q2 * np.log(assigned(Z1, t=t))).sum() - (q1 * np.log(assigned(Z2, t=t))).sum()

    np.testing.assert_allclose(slope, (at(0.3 + h) - at(0.3 - h)) / (2 * h), rtol=1e-7)  # central differences
    of_ema = jax.grad(lambda f: estimate_prototype_frequency(jnp.asarray(q1), f).sum())(jnp.asarray(FREQ))
    np.testing.assert_array_equal(of_ema, 0.0)
    for fn in (frequency_aware_swap_loss, lambda z, _, c, freq: prototype_assignment(z, c, freq=freq)):
        of_freq = jax.grad(lambda f, fn=fn: fn(z1, z2, c, freq=f).max())(jnp.asarray(FREQ))
        np.testing.assert_array_equal(of_freq, 0.0)


def test_targets_of_a_momentum_encoder(x64):
    z1, z2, c = map(jnp.asarray, (Z1, Z2, C))
    np.testing.assert_array_equal(
        frequency_aware_swap_loss(z1, z2, c, teacher=(z1, z2)), frequency_aware_swap_loss(z1, z2, c)
    )
    got = frequency_aware_swap_loss(z1, z2, c, teacher=(z2[::-1], z1[::-1]))
    p1, p2, q1, q2 = assigned(Z1), assigned(Z2), assigned(Z2[::-1]), assigned(Z1[::-1])
    np.testing.assert_allclose(got, -(q2 * np.log(p1)).sum(1) - (q1 * np.log(p2)).sum(1), rtol=1e-12)


def test_shares_follow_the_data_where_sinkhorn_makes_them_equal():
    shares = np.array([0.6, 0.25, 0.1, 0.05])
    centres = unit(np.linalg.qr(RNG.normal(size=(8, 8)))[0][:4])
    labels = np.repeat(np.arange(4), (2000 * shares).astype(int))
    z = unit(centres[labels] + 0.1 * RNG.normal(size=(2000, 8)))
    q = prototype_assignment(jnp.asarray(z, jnp.float32), jnp.asarray(centres, jnp.float32))
    freq = None
    for batch in np.array_split(RNG.permutation(2000), 20):
        freq = estimate_prototype_frequency(q[batch], freq, decay=0.9)
    # batches of 100 averaged over some 19 of them have a standard error of 0.005 for the smallest share
    np.testing.assert_allclose(freq, shares, atol=0.025)
    np.testing.assert_allclose(estimate_prototype_frequency(q, None), shares, rtol=0.02)  # what the temperature blurs
    equal = np.exp(z @ centres.T / 0.05)
    for _ in range(100):
        equal /= equal.sum(0) * 4
        equal /= equal.sum(1, keepdims=True) * 2000
    np.testing.assert_allclose(equal.sum(0), 0.25, rtol=0.02)  # Sinkhorn, as SwAV has it
    # weights of examples are 1 on average, and the clusters weigh alike with beta = 1
    weights = np.asarray(q @ rebalanced_weights(q.mean(0), beta=1.0))
    np.testing.assert_allclose(weights.mean(), 1.0, rtol=1e-5)  # float32
    np.testing.assert_allclose([weights[labels == k].sum() / 2000 for k in range(4)], 0.25, rtol=0.05)


def test_frequencies_along_a_run(x64):
    q = RNG.dirichlet(np.ones(5), (3, 6))
    freq = None
    for batch in q:
        freq = estimate_prototype_frequency(jnp.asarray(batch), freq, decay=0.9)
    means = q.mean(1)
    np.testing.assert_allclose(freq, 0.81 * means[0] + 0.09 * means[1] + 0.1 * means[2], rtol=1e-13)


def test_weights_by_hand(x64):
    f = jnp.asarray(FREQ)
    for beta in (0.0, 0.5, 2.0):
        wanted = FREQ**-beta / (FREQ * FREQ**-beta).sum()
        np.testing.assert_allclose(rebalanced_weights(f, beta=beta), wanted, rtol=1e-12)
    np.testing.assert_allclose(rebalanced_weights(7 * f, beta=0.5), rebalanced_weights(f, beta=0.5), rtol=1e-12)
    assert np.all(np.isfinite(rebalanced_weights(jnp.array([1.0, 1e-38], jnp.float32), beta=0.9)))


def test_contract():
    c, freq = jnp.asarray(C), jnp.asarray(FREQ)
    # targets are constants of both views, which differences move and gradients do not: see the closed form above
    check_loss(
        jax.jit(lambda z1, z2: frequency_aware_swap_loss(z1, z2, c.astype(z1.dtype), freq=freq)),
        predictions=Z1,
        targets=Z2,
        except_=["gradient"],
    )


def test_bad_input():
    z, c = jnp.ones((3, 2)), jnp.ones((4, 2))
    with pytest.raises(ValueError, match="disagree in their last axis"):
        prototype_assignment(z, c[:, :1])
    with pytest.raises(ValueError, match=r"embeddings \[\(3, 2\), \(2, 2\)"):
        frequency_aware_swap_loss(z, z[:2], c)
    with pytest.raises(ValueError, match="temperature must lie in"):
        prototype_assignment(z, c, temperature=0.0)
    with pytest.raises(ValueError, match="one frequency for each prototype"):
        prototype_assignment(z, c, freq=jnp.ones(3))
    with pytest.raises(ValueError, match="frequencies must be above 0, got 0"):
        rebalanced_weights(jnp.array([0.0, 1.0]), beta=1.0)
    with pytest.raises(ValueError, match=r"assignments \(3, 4\) and ema \(3,\)"):
        estimate_prototype_frequency(jnp.ones((3, 4)), jnp.ones(3))
    with pytest.raises(ValueError, match="decay must lie in"):
        estimate_prototype_frequency(jnp.ones((3, 4)), None, decay=-1.0)
    with pytest.raises(ValueError, match="beta must lie in"):
        rebalanced_weights(jnp.ones(3), beta=np.inf)
