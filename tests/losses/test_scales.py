"""Images made scale by scale against loops and enumeration; weighted cross-entropy, the kept prior, chosen layers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from jaxtrain.losses import (
    layer_mask,
    multiscale_token_logprob,
    prior_distillation_loss,
    scale_weighted_token_loss,
    scale_weights,
    select_layers_by_change,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
SCALES, VOCABULARY = (1, 2, 3), 5
LOGITS, TOKENS = RNG.normal(size=(4, 14, VOCABULARY)), RNG.integers(0, VOCABULARY, (4, 14))
WHERE = RNG.random((4, 14)) < 0.7
A = jnp.asarray  # inside the tests: in float64 where they enable it


def by_loops():
    """Log-probabilities of each scale's tokens, of all and of those that count."""
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    all_of, counted = np.zeros((4, 3)), np.zeros((4, 3))
    for b in range(4):
        position = 0
        for k, side in enumerate(SCALES):
            for _ in range(side * side):
                value = np.log(p[b, position, TOKENS[b, position]])
                all_of[b, k] += value
                counted[b, k] += value * WHERE[b, position]
                position += 1
    return all_of, counted


def test_an_image_is_the_sum_of_its_scales(x64):
    wanted, counted = by_loops()
    args = A(LOGITS), A(TOKENS), SCALES
    np.testing.assert_allclose(multiscale_token_logprob(*args, per_scale=True), wanted, rtol=1e-12)
    np.testing.assert_allclose(multiscale_token_logprob(*args), wanted.sum(1), rtol=1e-12)
    np.testing.assert_allclose(multiscale_token_logprob(*args, where=A(WHERE)), counted.sum(1), rtol=1e-12)


def test_all_images_together_have_probability_one(x64):
    """Every image of 1 + 4 tokens of 2, with logits of the second scale that depend on the first."""
    images = A(list(itertools.product((0, 1), repeat=5)))
    first, second = A(RNG.normal(size=2)), A(RNG.normal(size=(2, 4, 2)))
    logits = jnp.concatenate([jnp.broadcast_to(first, (32, 1, 2)), second[images[:, 0]]], axis=1)
    np.testing.assert_allclose(jnp.exp(multiscale_token_logprob(logits, images, (1, 2))).sum(), 1.0, rtol=1e-14)


def test_weights_of_scales_by_hand():
    np.testing.assert_allclose(scale_weights((1, 2)), [1, 0.5, 0.5, 0.5, 0.5])  # 8 of 13 of 2 scales: 1
    np.testing.assert_allclose(scale_weights((1, 1, 2), kind="geometric", decay=0.1)[1:], [0.1] + 4 * [0.01], rtol=1e-6)
    np.testing.assert_array_equal(scale_weights((1, 2), kind="tokens"), 1)
    np.testing.assert_allclose(scale_weights((1, 2), kind="scales"), [2.5] + 4 * [0.625])
    # the release: 13 scales up to 64, of which the first 8 hold 921 of 10,521 tokens
    release = scale_weights((1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64))
    assert release.shape == (10_521,)
    np.testing.assert_array_equal(release[:921], 1.0)
    np.testing.assert_array_equal(release[921:], 0.5)


def test_weighted_loss_by_segments_and_loops(x64):
    all_of, counted = by_loops()
    args = A(LOGITS), A(TOKENS), SCALES
    mine = np.array([1.0, 0.3, 0.7])
    np.testing.assert_allclose(scale_weighted_token_loss(*args, A(mine)), -all_of @ mine / 14, rtol=1e-12)
    got = scale_weighted_token_loss(*args, A(mine), where=A(WHERE))
    np.testing.assert_allclose(got, -counted @ mine / WHERE.sum(1), rtol=1e-12)
    # the ordinary loss, and its scales by segment_sum
    token = optax.losses.softmax_cross_entropy_with_integer_labels(A(LOGITS), A(TOKENS))
    plain = scale_weighted_token_loss(*args, scale_weights(SCALES, kind="tokens"))
    np.testing.assert_allclose(plain, token.mean(1), rtol=1e-12)
    scale = np.repeat([0, 1, 2], [1, 4, 9])
    sums = jax.ops.segment_sum(token.T, scale, 3)
    alike = scale_weighted_token_loss(*args, scale_weights(SCALES, kind="scales"))
    # the weights are single precision
    np.testing.assert_allclose(alike, (sums / np.array([1, 4, 9])[:, None]).mean(0), rtol=1e-6)


def test_prior_is_scipys_divergence(x64):
    frozen = RNG.normal(size=LOGITS.shape)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (frozen, LOGITS))
    wanted = scipy.stats.entropy(p, q, axis=-1)
    got = prior_distillation_loss(A(LOGITS), A(frozen), weight=0.3)
    np.testing.assert_allclose(got, 0.3 * wanted.mean(1), rtol=1e-12)
    got = prior_distillation_loss(A(LOGITS), A(frozen), weight=0.3, where=A(WHERE))
    np.testing.assert_allclose(got, 0.3 * (wanted * WHERE).sum(1) / WHERE.sum(1), rtol=1e-12)
    # the gradient of the divergence: q - p, none to the frozen model
    slopes = jax.grad(lambda x, y: prior_distillation_loss(x, y, weight=14.0).sum(), argnums=(0, 1))(
        A(LOGITS), A(frozen)
    )
    np.testing.assert_allclose(slopes[0], q - p, rtol=1e-10, atol=1e-15)
    np.testing.assert_array_equal(slopes[1], 0)
    same = jax.value_and_grad(lambda x: prior_distillation_loss(x, A(LOGITS)).sum())(A(LOGITS))
    np.testing.assert_array_equal(same[0], 0)
    np.testing.assert_allclose(same[1], 0, atol=1e-16)


def test_prior_of_masked_tokens():
    """Tokens that neither model may draw count for nothing."""
    wide = [
        jnp.pad(A(x, jnp.float32), ((0, 0), (0, 0), (0, 1)), constant_values=-jnp.inf) for x in (LOGITS, 2 * LOGITS)
    ]
    value, slope = jax.value_and_grad(lambda x: prior_distillation_loss(x, wide[1]).sum())(wide[0])
    np.testing.assert_allclose(value, prior_distillation_loss(A(LOGITS), A(2 * LOGITS)).sum(), rtol=1e-6)
    assert bool(jnp.isfinite(slope).all())


def test_layers_by_change_and_training_only_those():
    before = {f"block{i}": {"ca": A(RNG.normal(size=(3, 2))), "sa": A(RNG.normal(size=4))} for i in range(2)}
    after = {"block0": {"ca": before["block0"]["ca"] * 1.5, "sa": before["block0"]["sa"] * 1.1},
             "block1": {"ca": before["block1"]["ca"] * 0.7, "sa": before["block1"]["sa"]}}  # fmt: skip
    kind = lambda path: path.split("/")[-1]  # noqa: E731
    for measure in ("elements", "norm"):
        ranking = select_layers_by_change(before, after, group=kind, measure=measure)
        assert [name for name, _ in ranking] == ["ca", "sa"]
        np.testing.assert_allclose([value for _, value in ranking], [(0.5 + 0.3) / 2, 0.05], rtol=1e-5)
    every = select_layers_by_change(before, after)
    assert [n for n, _ in every] == ["block0/ca", "block1/ca", "block0/sa", "block1/sa"] and every[-1][1] == 0
    assert select_layers_by_change(before, after, group=lambda p: None if "ca" in p else "rest")[0][0] == "rest"
    mask = layer_mask(before, [ranking[0][0]], group=kind)
    assert mask == {"block0": {"ca": True, "sa": False}, "block1": {"ca": True, "sa": False}}
    tx = optax.partition({True: optax.sgd(0.1), False: optax.set_to_zero()}, mask)
    updates, _ = tx.update(before, tx.init(before))
    np.testing.assert_array_equal(updates["block0"]["sa"], 0)
    np.testing.assert_allclose(updates["block1"]["ca"], -0.1 * before["block1"]["ca"])


def test_contract():
    logits, tokens = RNG.normal(size=(6, 5, 3)), RNG.integers(0, 3, (6, 5))
    weights = scale_weights((1, 2))
    check_loss(lambda x, y: scale_weighted_token_loss(x, y, (1, 2), weights), predictions=logits, targets=tokens)
    check_loss(prior_distillation_loss, predictions=logits, targets=RNG.normal(size=(6, 5, 3)))


def test_bad_input():
    logits, tokens = jnp.zeros((2, 5, 4)), jnp.zeros((2, 5), int)
    with pytest.raises(ValueError, match=r"have 10 tokens; the logits \(2, 5, 4\)"):
        multiscale_token_logprob(logits, tokens, (1, 3))
    with pytest.raises(ValueError, match="label 4 is none of the 4 classes"):
        multiscale_token_logprob(logits, tokens.at[0, 0].set(4), (1, 2))
    with pytest.raises(ValueError, match="side lengths ≥ 1"):
        scale_weights((1, 0))
    with pytest.raises(ValueError, match="kind must be"):
        scale_weights((1, 2), kind="fine")
    with pytest.raises(ValueError, match="coarse must be one of the 2 scales, got 3"):
        scale_weights((1, 2), coarse=3)
    with pytest.raises(ValueError, match="decay must lie in"):
        scale_weights((1, 2), decay=-1.0)
    with pytest.raises(ValueError, match=r"weights \(3,\); give \(5,\) or \(2,\)"):
        scale_weighted_token_loss(logits, tokens, (1, 2), jnp.ones(3))
    with pytest.raises(ValueError, match=r"where \(5,\) for targets"):
        scale_weighted_token_loss(logits, tokens, (1, 2), jnp.ones(2), where=jnp.ones(5, bool))
    with pytest.raises(ValueError, match="frozen_logits"):
        prior_distillation_loss(logits, logits[:1])
    with pytest.raises(ValueError, match="weight must lie in"):
        prior_distillation_loss(logits, logits, weight=-1.0)
    with pytest.raises(ValueError, match="measure must be"):
        select_layers_by_change({"a": jnp.ones(1)}, {"a": jnp.ones(1)}, measure="max")
    with pytest.raises(ValueError, match="the trees differ"):
        select_layers_by_change({"a": jnp.ones(1)}, {"b": jnp.ones(1)})
    with pytest.raises(ValueError, match="no layer is named b; there are a"):
        layer_mask({"a": jnp.ones(1)}, ["b"])
    with pytest.raises(ValueError, match="got the string 'a'"):
        layer_mask({"a": jnp.ones(1)}, "a")
