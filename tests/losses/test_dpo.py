"""DPO against its definition by probabilities, its gradient in closed form; the winners' term and the schedule."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.losses import dpo_loss, dpo_with_sft_loss, iterative_tuning_schedule
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
W, L, REF_W, REF_L = -RNG.gamma(2.0, 5.0, (4, 20))
A = jnp.asarray  # inside the tests: in float64 where they enable it


@pytest.mark.parametrize("beta, smoothing", [(0.1, 0.0), (0.5, 0.2), (2.0, 0.5)])
def test_equals_the_definition(beta, smoothing, x64):
    # as a preference of a Bradley-Terry model: exp of implied rewards
    win, lose = (np.exp(W) / np.exp(REF_W)) ** beta, (np.exp(L) / np.exp(REF_L)) ** beta
    wanted = -(1 - smoothing) * np.log(win / (win + lose)) - smoothing * np.log(lose / (win + lose))
    got = dpo_loss(A(W), A(L), A(REF_W), A(REF_L), beta=beta, label_smoothing=smoothing)
    np.testing.assert_allclose(got, wanted, rtol=1e-11)  # float64 of exponents up to 80
    slopes = jax.grad(lambda *x: dpo_loss(*x, beta=beta, label_smoothing=smoothing).sum(), argnums=(0, 1, 2, 3))(
        A(W), A(L), A(REF_W), A(REF_L)
    )
    pull = beta * ((1 - smoothing) * lose / (win + lose) - smoothing * win / (win + lose))
    np.testing.assert_allclose(slopes[0], -pull, rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(slopes[1], -slopes[0])
    assert not np.any(slopes[2]) and not np.any(slopes[3])


def test_starts_at_log_2_with_half_the_pull():
    w, lose = A(W, jnp.float32), A(L, jnp.float32)
    np.testing.assert_allclose(dpo_loss(w, lose, w, lose), np.log(2), rtol=1e-6)  # single precision
    slope = jax.grad(lambda x: dpo_loss(x, lose, w, lose, beta=0.5).sum())(w)
    np.testing.assert_allclose(slope, -0.25, rtol=1e-6)


def test_with_the_winners_cross_entropy(x64):
    lengths = A(RNG.integers(1, 9, 20))
    got = dpo_with_sft_loss(A(W), A(L), A(REF_W), A(REF_L), lengths, sft_weight=0.3, beta=0.2)
    wanted = dpo_loss(A(W), A(L), A(REF_W), A(REF_L), beta=0.2) - 0.3 * W / np.asarray(lengths)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    slope = jax.grad(lambda w: dpo_with_sft_loss(w, w, w * 0, w * 0, lengths, sft_weight=0.3, beta=0.2).sum())(A(W))
    # winner and loser alike: the preference pulls neither way
    np.testing.assert_allclose(slope, -0.3 / np.asarray(lengths), rtol=1e-12)


def test_the_best_policy_is_the_reference_times_exponential_rewards(x64):
    """The theorem that DPO rests on: with all pairs as a Bradley-Terry judge prefers them, nothing pulls at it any more."""
    rewards, ref, beta = RNG.normal(size=5), jax.nn.log_softmax(A(RNG.normal(size=5))), 0.3
    first, second = np.nonzero(~np.eye(5, dtype=bool))
    chance = 1 / (1 + np.exp(rewards[second] - rewards[first]))

    def expected(scores):
        logp = jax.nn.log_softmax(scores)
        return jnp.sum(chance * dpo_loss(logp[first], logp[second], ref[first], ref[second], beta=beta))

    slope = jax.jit(jax.grad(expected))
    np.testing.assert_allclose(slope(ref + rewards / beta), 0, atol=1e-15)
    assert np.abs(slope(ref)).max() > 0.1 and np.abs(slope(ref + rewards)).max() > 0.01


def test_schedule():
    stages = iterative_tuning_schedule((64, 128, 256), sft_steps=5, dpo_steps=2)
    assert [s.kind for s in stages] == ["sft", "dpo"] * 3
    assert [s.resolution for s in stages] == [64, 64, 128, 128, 256, 256]
    assert all(a.stop == b.start for a, b in itertools.pairwise(stages))
    assert stages[-1].stop == 21


def test_contract():
    half = functools.partial(dpo_loss, beta=0.5, label_smoothing=0.1)
    check_loss(lambda w, lose: half(w, lose, w * 0 - 3, lose * 0 - 4), predictions=W[:6], targets=L[:6])


def test_bad_input():
    logp = jnp.zeros(3)
    with pytest.raises(ValueError, match="label_smoothing must lie in"):
        dpo_loss(logp, logp, logp, logp, label_smoothing=1.5)
    with pytest.raises(ValueError, match=r"logp_w \(3,\) and logp_l \(2,\) disagree"):
        dpo_loss(logp, logp[:2], logp, logp)
    with pytest.raises(ValueError, match="length_w must lie in"):
        dpo_with_sft_loss(logp, logp, logp, logp, 0, sft_weight=1.0)
    with pytest.raises(ValueError, match="resolutions must increase"):
        iterative_tuning_schedule((2, 1), sft_steps=1, dpo_steps=1)
    with pytest.raises(ValueError, match="at least 1 step"):
        iterative_tuning_schedule((1, 2), sft_steps=1, dpo_steps=0)
