"""Policy gradients against expectations in closed form and definitions by loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.losses import composite_reward, kl_shaped_reward, ppo_clip_loss, sequence_policy_gradient_loss
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
LOGP, OLD, GAIN = -RNG.gamma(1.0, 1.0, (6, 7)), -RNG.gamma(1.0, 1.0, (6, 7)), RNG.normal(size=(6, 7))
WHERE = RNG.random((6, 7)) < 0.6
A = jnp.asarray  # inside the tests: in float64 where they enable it


@pytest.mark.parametrize("baseline", [0.0, 0.7, -3.0])
def test_two_armed_bandit_in_closed_form(baseline, x64):
    # every sequence of two pulls with its probability: the expectation is exact, and no baseline changes it
    first, second = np.meshgrid([0, 1], [0, 1])
    pulls = A(np.stack([first.ravel(), second.ravel()], axis=1))
    gains = np.array([0.3, 1.1])
    reward = A(gains[np.asarray(pulls)].sum(axis=1))

    def expected(theta):
        p = jax.nn.sigmoid(theta)
        logp = jnp.log(jnp.where(pulls == 1, p, 1 - p))
        chance = jax.lax.stop_gradient(jnp.exp(logp.sum(1)))
        return jnp.sum(chance * sequence_policy_gradient_loss(logp, reward, baseline=baseline))

    p = 1 / (1 + np.exp(-0.4))
    # d/dtheta of 2 (p r1 + (1 - p) r0)
    np.testing.assert_allclose(jax.grad(expected)(0.4), -2 * p * (1 - p) * (1.1 - 0.3), rtol=1e-12)


def test_sums_only_what_counts(x64):
    reward = RNG.normal(size=6)
    wanted = [-(reward[b] - 0.2) * sum(LOGP[b, t] for t in range(7) if WHERE[b, t]) for b in range(6)]
    got = sequence_policy_gradient_loss(A(LOGP), A(reward), where=A(WHERE), baseline=0.2)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_ppo_by_definition(x64):
    ratio = np.exp(LOGP - OLD)
    wanted = -np.minimum(ratio * GAIN, ratio.clip(0.8, 1.2) * GAIN)
    np.testing.assert_allclose(ppo_clip_loss(A(LOGP), A(OLD), A(GAIN)), wanted, rtol=1e-12)
    slope = jax.grad(lambda x: ppo_clip_loss(x, A(OLD), A(GAIN)).sum())(A(LOGP))
    stopped = ((GAIN > 0) & (ratio > 1.2)) | ((GAIN < 0) & (ratio < 0.8))
    assert 5 < stopped.sum() < 30
    np.testing.assert_allclose(slope, np.where(stopped, 0.0, -ratio * GAIN), rtol=1e-12)


def test_ppo_starts_as_reinforce(x64):
    reward = A(RNG.normal(size=6))
    gain = jnp.broadcast_to(reward[:, None], (6, 7))
    for clip in (0.0, 0.2):
        ppo = jax.grad(lambda x, clip=clip: ppo_clip_loss(x, A(LOGP), gain, clip=clip).sum())(A(LOGP))
        plain = jax.grad(lambda x: sequence_policy_gradient_loss(x, reward).sum())(A(LOGP))
        np.testing.assert_allclose(ppo, plain, rtol=1e-13)


def test_shaped_reward_by_a_loop(x64):
    reward = RNG.normal(size=6)
    wanted = np.where(WHERE, -0.3 * (LOGP - OLD), 0.0)
    for b in range(6):
        wanted[b, np.flatnonzero(WHERE[b])[-1]] += reward[b]
    got = kl_shaped_reward(A(reward), A(LOGP), A(OLD), beta=0.3, where=A(WHERE))
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-15)
    whole = kl_shaped_reward(A(reward), A(LOGP), A(OLD), beta=0.3)
    np.testing.assert_allclose(whole.sum(1), reward - 0.3 * (LOGP - OLD).sum(1), rtol=1e-11)


def test_composite_reward(x64):
    parts, weights = RNG.random((6, 5)), RNG.random(5)
    np.testing.assert_allclose(composite_reward(A(parts), A(weights)), parts @ weights, rtol=1e-13)


def test_contract():
    # predictions are log-probabilities: ratios beyond e^30 are cut off; the gradient is 0 there, as said
    check_loss(functools.partial(lambda x, y: ppo_clip_loss(x, y, jnp.cos(y)).sum(-1)), predictions=LOGP, targets=OLD)
    check_loss(lambda x, y: sequence_policy_gradient_loss(x, y), predictions=LOGP, targets=GAIN[:, 0])


def test_bad_input():
    x = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"reward \(3,\) for 2 sequences"):
        sequence_policy_gradient_loss(x, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"advantage \(2,\) disagree"):
        ppo_clip_loss(x, x, jnp.zeros(2))
    with pytest.raises(ValueError, match="clip must lie in"):
        ppo_clip_loss(x, x, x, clip=2.0)
    with pytest.raises(ValueError, match="beta must lie in"):
        kl_shaped_reward(jnp.zeros(2), x, x, beta=-1.0)
    with pytest.raises(ValueError, match=r"weights \(2,\) for 3 parts"):
        composite_reward(x, jnp.ones(2))
