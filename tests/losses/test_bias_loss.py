"""Bias loss against the released class, the paper's figure, and cross-entropy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import BiasLossState, bias_loss, feature_variance
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "bias_loss.npz")
FEATURES, LOGITS, LABELS = (GOLDEN[name] for name in ("features", "logits", "labels"))
CROSS_ENTROPY = optax.losses.softmax_cross_entropy_with_integer_labels


def test_equals_the_release_within_the_batch(x64):
    def loss(z, f, y):
        return bias_loss(z, y, f, norm="local")[0].mean()

    values, grads = jax.vmap(jax.value_and_grad(loss))(*map(jnp.asarray, (LOGITS, FEATURES, LABELS)))
    # float64
    np.testing.assert_allclose(values, GOLDEN["local_loss"], rtol=1e-12)
    np.testing.assert_allclose(grads, GOLDEN["local_grad"], rtol=1e-11, atol=1e-15)


def test_remembers_the_lowest_variance_as_the_release_does_but_stays_below_one(x64):
    """The release divides by the span of the batch, not by that from what it remembers: its s exceeds 1."""
    v = FEATURES.reshape(5, 6, -1).var(axis=-1, ddof=1)
    state, lowest = None, np.minimum.accumulate(v.min(axis=1))
    largest = []
    for k in range(5):
        z, y = jnp.asarray(LOGITS[k]), jnp.asarray(LABELS[k])
        losses, state = bias_loss(z, y, jnp.asarray(FEATURES[k]), state=state)
        np.testing.assert_allclose(state.lowest, lowest[k], rtol=1e-13)  # float64
        entropy = np.asarray(CROSS_ENTROPY(z, y))
        s = (v[k] - lowest[k]) / (v[k].max() - lowest[k])
        np.testing.assert_allclose(losses, (np.exp(0.3 * s) - 0.3) * entropy, rtol=1e-12)
        theirs = (v[k] - lowest[k]) / (v[k].max() - v[k].min())
        np.testing.assert_allclose(
            ((np.exp(0.3 * theirs) - 0.3) * entropy).mean(), GOLDEN["global_loss"][k], rtol=1e-12
        )
        largest.append(theirs.max())
    assert largest[0] == 1.0 and min(largest[1:]) > 1.02  # the remembered batch itself, and the others


def test_is_the_papers_figure():
    """Figure of the loss over the probability: at 0.1 and variances 0.2, 0.6, 1 it shows 1.755, 2.066, 2.42."""
    # two entries of distance d have variance d²/2; 0 and 1 are the ends of the batch
    features = jnp.sqrt(2.0) * jnp.sqrt(jnp.array([0.0, 0.2, 0.6, 1.0]))[:, None] * jnp.array([0.0, 1.0])
    logits = jnp.log(jnp.tile(jnp.array([0.1, 0.9]), (4, 1)))
    losses, _ = bias_loss(logits, jnp.zeros(4, int), features)
    np.testing.assert_allclose(losses[1:], [1.755, 2.066, 2.42], atol=0.01)  # as well as the figure can be read


def test_limits_and_weights(x64):
    z, y, f = (jnp.asarray(x[0]) for x in (LOGITS, LABELS, FEATURES))
    plain = CROSS_ENTROPY(z, y)
    np.testing.assert_allclose(bias_loss(z, y, f, alpha=0.0, beta=0.0)[0], plain, rtol=1e-13)
    # all variances alike: s = 0, and nothing is divided by 0
    same = jnp.broadcast_to(f[:1], f.shape)
    loss, g = jax.value_and_grad(lambda z: bias_loss(z, y, same)[0].sum())(z)
    np.testing.assert_allclose(loss, 0.7 * plain.sum(), rtol=1e-13)
    assert np.all(np.isfinite(g))
    to_features = jax.grad(lambda f: bias_loss(z, y, f)[0].sum())(f)
    np.testing.assert_array_equal(to_features, 0.0)
    np.testing.assert_allclose(feature_variance(f), np.asarray(f).reshape(6, -1).var(axis=1, ddof=1), rtol=1e-13)


def test_padding_has_no_influence(x64):
    z, y, f = (jnp.asarray(x[1]) for x in (LOGITS, LABELS, FEATURES))
    before = BiasLossState(jnp.asarray(1e-3))
    alone, state = bias_loss(z[:4], y[:4], f[:4], state=before)
    padded = f.at[4:].multiply(jnp.array([0.0, 100.0])[:, None, None, None])
    losses, after = bias_loss(z, y, padded, state=before, where=jnp.arange(6) < 4)
    np.testing.assert_allclose(losses, [*alone, 0.0, 0.0], rtol=1e-13)
    assert after.lowest == state.lowest == 1e-3
    nothing, after = bias_loss(z, y, f, where=jnp.zeros(6, bool))
    np.testing.assert_array_equal(nothing, 0.0)
    assert np.isinf(after.lowest)


def test_what_padding_and_overflow_hold_reaches_nobody():
    z, y, f = (jnp.asarray(x[1], jnp.float32) for x in (LOGITS, LABELS, FEATURES))
    y, valid = y.astype(int), jnp.arange(6) < 4
    spoiled, noise = z.at[4:].set(jnp.array([[jnp.nan], [jnp.inf]])), f.at[4:].set(jnp.nan)
    value, pull = jax.value_and_grad(lambda z: bias_loss(z, y, noise, where=valid)[0].sum())(spoiled)
    wanted, slope = jax.value_and_grad(lambda z: bias_loss(z, y[:4], f[:4])[0].sum())(z[:4])
    np.testing.assert_allclose(value, wanted, rtol=1e-6)  # float32
    np.testing.assert_allclose(pull, jnp.concatenate([slope, jnp.zeros((2, 4))]), rtol=1e-5, atol=1e-7)
    # squares of 1e30 overflow: s = 0 for that example, and neither the others nor the next batches notice
    for bad in (1e30, jnp.nan):
        losses, state = bias_loss(z, y, f.at[0, 0, 0, 0].set(bad))
        alone, want = bias_loss(z[1:], y[1:], f[1:])
        np.testing.assert_allclose(losses[1:], alone, rtol=1e-6)
        np.testing.assert_allclose(losses[0], 0.7 * CROSS_ENTROPY(z, y)[0], rtol=1e-6)
        assert state.lowest == want.lowest


def test_contract():
    def fn(z, y):
        return bias_loss(z, y, jnp.asarray(FEATURES[0], jnp.float32))[0]

    # the losses of a batch depend on each other, and the features here on the place in it
    laws = ("batch", "permutation", "vmap")
    check_loss(fn, predictions=LOGITS[0], targets=LABELS[0], except_=laws)


def test_bad_input():
    z, y, f = (jnp.asarray(x[0]) for x in (LOGITS, LABELS, FEATURES))
    with pytest.raises(ValueError, match=r"are needed, got \(6, 4\) and \(5, 3, 3, 2\)"):
        bias_loss(z, y, f[:5])
    with pytest.raises(ValueError, match="norm must be 'global' or 'local', got 'batch'"):
        bias_loss(z, y, f, norm="batch")
    with pytest.raises(ValueError, match="beta must lie in"):
        bias_loss(z, y, f, beta=1.5)
    with pytest.raises(ValueError, match="label 4 is none of the 4 classes"):
        bias_loss(z, y.at[0].set(4), f)
    with pytest.raises(ValueError, match=r"where of shape \(5,\) for a batch of 6"):
        bias_loss(z, y, f, where=jnp.ones(5, bool))
    with pytest.raises(ValueError, match="two entries for each example"):
        feature_variance(f[:, 0, 0, 0, None])
