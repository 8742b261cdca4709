"""Entropy of attention against SciPy, and its penalty against loops over layers, heads and queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxtrain.losses import (
    attention_entropy,
    entropy_regularization,
    headwise_entropy_stats,
    scaled_ffn,
    weight_normalized,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
LAYERS, BATCH, HEADS, T = 2, 3, 4, 6
LOGITS = RNG.standard_normal((LAYERS, BATCH, HEADS, T, T)) * np.array([0.1, 1, 3, 10])[:, None, None]
LOGITS = np.where(np.tril(np.ones((T, T))) == 1, LOGITS, -np.inf)
PROBS = np.exp(LOGITS - LOGITS.max(-1, keepdims=True))
PROBS /= PROBS.sum(-1, keepdims=True)
THETA = np.array([0.3, 0.5, 0.7, 0.4])


def by_loops(probs, theta, m, context, reduce=np.sum):
    """The release, statement by statement, for one example at a time; without the coefficient."""
    found = []
    for b in range(BATCH):
        total = 0.0
        for layer in range(LAYERS):
            for h in range(HEADS):
                penalties = []
                for q in range(T):
                    entropy = scipy.stats.entropy(probs[layer, b, h, q])
                    d = entropy - theta[layer][h] * np.log(context)
                    penalties.append(d**2 if abs(d) > m * np.log(context) else 0.0)
                total += reduce(penalties) / HEADS / LAYERS
        found.append(total)
    return np.array(found)


def test_entropy_is_that_of_scipy(x64):
    got = attention_entropy(jnp.asarray(PROBS))
    # eps moves each term by 1e-9 at most
    np.testing.assert_allclose(got, scipy.stats.entropy(PROBS, axis=-1), atol=T * 1e-9)
    np.testing.assert_allclose(attention_entropy(jnp.full(7, 1 / 7)), np.log(7), atol=1e-8)
    np.testing.assert_allclose(attention_entropy(jnp.eye(5)), 0, atol=2e-9)


@pytest.mark.parametrize("context", [None, 16])
def test_penalty_is_that_of_the_release(context, x64):
    theta = np.stack([THETA, THETA[::-1]])
    p = jnp.asarray(PROBS)
    for given, used in ((THETA, np.stack([THETA, THETA])), (theta, theta)):
        wanted = by_loops(PROBS, used, 0.2, context or T)
        got = entropy_regularization(p, jnp.asarray(given), coeff=1e-5, context=context)
        # eps: 1e-9 of entropies of size 1
        np.testing.assert_allclose(got, 1e-5 * wanted, rtol=1e-7)
    mean = entropy_regularization(p, jnp.asarray(theta), coeff=1.0, context=context, reduction="mean")
    np.testing.assert_allclose(mean, by_loops(PROBS, theta, 0.2, context or T, np.mean), rtol=1e-7)


def test_dead_zone_is_not_shifted(x64):
    """Nothing up to the margin, then the whole square at once."""
    even = jnp.full((1, 1, 1, 1, 8), 1 / 8)
    most = np.log(8)
    for theta, wanted in ((0.81, 0.0), (0.79, (0.21 * most) ** 2), (1.19, 0.0), (1.21, (0.21 * most) ** 2)):
        got = entropy_regularization(even, jnp.array([theta]), coeff=1.0)[0]
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_gradient_of_thresholds(x64):
    theta, p = jnp.asarray(THETA), jnp.asarray(PROBS)
    f = jax.jit(lambda t: entropy_regularization(p, t, coeff=1.0).sum())
    h = 1e-6
    steps = h * jnp.eye(HEADS)
    wanted = [(f(theta + e) - f(theta - e)) / (2 * h) for e in steps]
    # central differences of a quadratic: rounding of 1e-16 / 1e-6, of sums of some tens
    np.testing.assert_allclose(jax.grad(f)(theta), wanted, rtol=1e-7)


def test_thresholds_learn_where_heads_are():
    """Descent on the thresholds alone ends with every row inside the margin or at the mean of those outside."""
    even = jnp.full((1, 1, 1, 3, 8), 1 / 8)

    def step(theta, _):
        return theta - 0.05 * jax.grad(lambda t: entropy_regularization(even, t, coeff=1.0).sum())(theta), None

    theta, _ = jax.lax.scan(step, jnp.array([0.1]), None, length=100)
    assert 0.8 <= float(theta[0]) <= 1.0


def test_numbers_may_be_traced():
    got = jax.jit(lambda c, m: entropy_regularization(jnp.asarray(PROBS), jnp.asarray(THETA), coeff=c, margin_factor=m))
    np.testing.assert_allclose(got(2.0, 0.1), 2 * by_loops(PROBS, [THETA] * 2, 0.1, T), rtol=1e-5)


def test_stats():
    relative = np.mean(scipy.stats.entropy(PROBS, axis=-1), axis=(1, 3)) / np.log(T)
    stats = headwise_entropy_stats(jnp.asarray(PROBS), low=0.3, high=0.6)
    np.testing.assert_allclose(stats["relative"], relative, rtol=1e-5)
    np.testing.assert_allclose(stats["entropy"], relative * np.log(T), rtol=1e-5)
    np.testing.assert_allclose(stats["collapsed"], np.mean(relative < 0.3), rtol=1e-6)
    np.testing.assert_allclose(stats["overloaded"], np.mean(relative > 0.6), rtol=1e-6)
    assert 0 < stats["collapsed"] < 1 and 0 < stats["overloaded"] < 1


def test_helpers_of_blocks_without_normalization():
    w = jnp.asarray(RNG.standard_normal((3, 4)), jnp.float32).at[:, 0].set(0)
    same = weight_normalized(w, jnp.linalg.norm(w, axis=0))
    np.testing.assert_allclose(same, w, rtol=1e-6)
    got = weight_normalized(w, jnp.full(4, 2.0))
    np.testing.assert_allclose(jnp.linalg.norm(got, axis=0), [0, 2, 2, 2], rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(lambda w: weight_normalized(w, jnp.ones(4)).sum())(w)))
    np.testing.assert_array_equal(scaled_ffn(w, w, jnp.array(0.0)), w)


def test_contract():
    """Attention of one layer and two heads from logits, with logits of ±1e4."""
    logits = RNG.standard_normal((6, 2, 3, 4))

    def loss(h, theta):
        return entropy_regularization(jax.nn.softmax(h)[None], theta[0], coeff=1.0)

    check_loss(loss, predictions=logits, targets=np.tile([0.3, 0.6], (6, 1)))


def test_bad_input():
    p, theta = jnp.asarray(PROBS), jnp.asarray(THETA)
    with pytest.raises(ValueError, match=r"must be \(layers, batch, heads, queries, keys\)"):
        entropy_regularization(p[0], theta)
    with pytest.raises(ValueError, match=r"thresholds \(3,\) for 2 layers of 4 heads"):
        entropy_regularization(p, theta[:3])
    with pytest.raises(ValueError, match="coeff must lie in"):
        entropy_regularization(p, theta, coeff=-1.0)
    with pytest.raises(ValueError, match="margin_factor must lie in"):
        entropy_regularization(p, theta, margin_factor=-0.1)
    with pytest.raises(ValueError, match="context must be at least 2"):
        entropy_regularization(p, theta, context=1)
    with pytest.raises(ValueError, match="reduction must be"):
        entropy_regularization(p, theta, reduction="max")
    with pytest.raises(ValueError, match="eps must lie in"):
        attention_entropy(p, eps=0.0)
    with pytest.raises(ValueError, match="must be"):
        headwise_entropy_stats(p[0, 0])
    with pytest.raises(ValueError, match="context must be"):
        headwise_entropy_stats(p[..., :1])
    with pytest.raises(ValueError, match="disagree"):
        scaled_ffn(p, p[0], theta[0])
    with pytest.raises(ValueError, match="gain"):
        weight_normalized(jnp.ones((3, 4)), jnp.ones(3))
