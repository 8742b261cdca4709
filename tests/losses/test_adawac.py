"""AdaWAC against the release's statements in NumPy, closed forms and steps by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.losses import adawac_loss, adawac_update_weights, augmentation_consistency, soft_dice_loss
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
CE, AC = RNG.gamma(1.0, 1.0, (40, 7)), RNG.gamma(1.0, 0.5, (40, 7))


def test_trajectory_is_that_of_the_release(x64):
    """40 steps: multiply both weights, divide by their sum; and the closed form of their ratio."""
    weights, lr = np.full((7, 2), 0.5), 0.7
    released = []
    for ce, ac in zip(CE, AC, strict=True):
        weights = weights * np.exp(lr * np.stack([ce, ac], axis=1))
        weights = weights / weights.sum(axis=1, keepdims=True)
        released.append(weights)

    def step(w, losses):
        w = adawac_update_weights(w, *losses, lr=lr)
        return w, w

    _, got = jax.jit(lambda: jax.lax.scan(step, jnp.full((7, 2), 0.5), (jnp.asarray(CE), jnp.asarray(AC))))()
    np.testing.assert_allclose(got, released, rtol=1e-11)  # 40 steps of rounding, of logarithms up to 20
    np.testing.assert_allclose(got.sum(axis=-1), 1, rtol=1e-14)
    wanted = np.exp(lr * np.cumsum(CE - AC, axis=0))
    np.testing.assert_allclose(got[..., 0] / got[..., 1], wanted, rtol=1e-11)


def test_limits():
    w = jnp.asarray(RNG.dirichlet([1, 1], 7), jnp.float32)
    ce = jnp.asarray(CE[0], jnp.float32)
    # rounding of a logarithm and back
    np.testing.assert_allclose(adawac_update_weights(w, ce, ce, lr=3.0), w, rtol=1e-6)
    np.testing.assert_allclose(adawac_update_weights(w, ce, 0 * ce, lr=0.0), w, rtol=1e-6)
    even = jnp.full((7, 2), 0.5)
    np.testing.assert_allclose(adawac_loss(ce, 3 * ce, even), 2 * ce, rtol=1e-6)


def test_two_steps_by_hand():
    w = jnp.array([[0.5, 0.5]])
    w = adawac_update_weights(w, jnp.log(jnp.array([4.0])), jnp.array([0.0]))  # 4 : 1
    w = adawac_update_weights(w, jnp.array([0.0]), jnp.log(jnp.array([2.0])))  # 4 : 2
    np.testing.assert_allclose(w, [[2 / 3, 1 / 3]], rtol=1e-6)
    got = adawac_loss(jnp.array([3.0]), jnp.array([6.0]), w, dice=jnp.array([1.0]), dice_ratio=0.25)
    np.testing.assert_allclose(got, [0.25 * 1 + 0.75 * 4], rtol=1e-6)


def test_large_losses_neither_overflow_nor_trap():
    w = jnp.array([[0.5, 0.5]])
    up = adawac_update_weights(w, jnp.array([1e4]), jnp.array([0.0]), lr=8.0)
    np.testing.assert_array_equal(up, [[1, 0]])
    # the release's exp(8e4) / exp(8e4) is NaN; and a weight of 0 would stay 0 for ever
    back = adawac_update_weights(up, jnp.array([0.0]), jnp.array([1e4]), lr=8.0)
    np.testing.assert_array_equal(back, [[0, 1]])


def test_weights_carry_no_gradient():
    def loss(ce):
        w = adawac_update_weights(jnp.full((7, 2), 0.5), ce, jnp.asarray(AC[0]))
        return adawac_loss(ce, jnp.asarray(AC[0]), w).sum()

    ce = jnp.asarray(CE[0], jnp.float32)
    w = adawac_update_weights(jnp.full((7, 2), 0.5), ce, jnp.asarray(AC[0]))
    np.testing.assert_allclose(jax.grad(loss)(ce), w[:, 0], rtol=1e-6)
    # neither through the step nor through the mixture, each for itself
    for through in (lambda w: adawac_update_weights(w, ce, 0 * ce)[:, 0], lambda w: adawac_loss(ce, 2 * ce, w)):
        np.testing.assert_array_equal(jax.grad(lambda w, f=through: f(w).sum())(w), 0.0)
    np.testing.assert_array_equal(jax.grad(lambda c: adawac_update_weights(w, c, 0 * ce)[:, 0].sum())(ce), 0.0)


def test_dice_by_loops(x64):
    logits, labels = RNG.standard_normal((3, 4, 5, 3)), RNG.integers(0, 2, (3, 4, 5))  # class 2 never appears
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    def dice(p, labels):
        found = []
        for k in range(3):
            score, target = p[..., k], (labels == k).astype(float)
            found.append(
                1 - (2 * np.sum(score * target) + 1e-5) / (np.sum(score * score) + np.sum(target * target) + 1e-5)
            )
        return np.mean(found)

    got = soft_dice_loss(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(got, [dice(p[i], labels[i]) for i in range(3)], rtol=1e-12)
    whole = soft_dice_loss(jnp.asarray(logits), jnp.asarray(labels), over_batch=True)
    np.testing.assert_allclose(whole, [dice(p, labels)] * 3, rtol=1e-12)
    right = soft_dice_loss(50 * jax.nn.one_hot(labels, 3), jnp.asarray(labels))
    np.testing.assert_allclose(right, 0, atol=1e-12)


def test_no_examples():
    none = jnp.ones((0, 4, 3))
    assert augmentation_consistency(none, none).shape == soft_dice_loss(none, jnp.zeros((0, 4), int)).shape == (0,)


def test_consistency_is_a_mean_of_squares():
    a, b = RNG.standard_normal((2, 4, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(
        augmentation_consistency(jnp.asarray(a), jnp.asarray(b), coef=3.0),
        3 * ((a - b) ** 2).mean(axis=(1, 2)),
        rtol=1e-6,
    )


def test_dice_contract():
    logits, labels = RNG.standard_normal((6, 2, 3)), RNG.integers(0, 3, (6, 2))
    check_loss(soft_dice_loss, predictions=logits, targets=labels, class_symmetric=True)


def test_mixture_contract():
    def loss(losses, weights):
        return adawac_loss(losses[..., 0], losses[..., 1], weights)

    check_loss(loss, predictions=RNG.gamma(1.0, 1.0, (6, 2)), targets=RNG.dirichlet([1, 1], 6))


def test_bad_input():
    w, ce = jnp.full((7, 2), 0.5), jnp.ones(7)
    with pytest.raises(ValueError, match=r"ce \(7,\) and consistency \(6,\) disagree"):
        adawac_update_weights(w, ce, ce[:6])
    with pytest.raises(ValueError, match=r"weights \(6, 2\) for losses \(7,\)"):
        adawac_loss(ce, ce, w[:6])
    with pytest.raises(ValueError, match=r"dice \(6,\)"):
        adawac_loss(ce, ce, w, dice=ce[:6])
    with pytest.raises(ValueError, match="lr must lie in"):
        adawac_update_weights(w, ce, ce, lr=-1.0)
    with pytest.raises(ValueError, match="dice_ratio must lie in"):
        adawac_loss(ce, ce, w, dice_ratio=1.5)
    with pytest.raises(ValueError, match="coef must lie in"):
        augmentation_consistency(w, w, coef=-1.0)
    with pytest.raises(ValueError, match="disagree"):
        augmentation_consistency(w, w[:3])
    with pytest.raises(ValueError, match="label 2 is none of the 2 classes"):
        soft_dice_loss(w, jnp.full(7, 2))
    with pytest.raises(ValueError, match="smooth must lie in"):
        soft_dice_loss(w, jnp.zeros(7, int), smooth=0.0)
