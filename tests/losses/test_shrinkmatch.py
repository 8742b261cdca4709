"""ShrinkMatch against the released loss, a literal loop over classes, and cases by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from jaxtrain.losses import (
    certain_ratio_ema,
    distribution_alignment,
    fixmatch_loss,
    shrink_class_space,
    shrinkmatch_uncertain_loss,
)
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "shrinkmatch.npz")
RNG = np.random.default_rng(0)


def by_loop(p, tau):
    """Classes are taken away one at a time, the strongest competitor first, until the top one is certain."""
    top = max(range(len(p)), key=lambda c: p[c])
    left = [c for c in range(len(p)) if c != top]
    confident = p[top] >= tau
    while not confident and len(left) > 1:
        left.remove(max(left, key=lambda c: p[c]))
        confident = p[top] / (p[top] + sum(p[c] for c in left)) >= tau
    return np.isin(np.arange(len(p)), [top, *left]), p[top] / (p[top] + sum(p[c] for c in left)), confident


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_equals_the_released_loss(classes, x64):
    probs, logits = (jnp.asarray(GOLDEN[f"{name}_{classes}"]) for name in ("probs", "logits"))
    loss, pull = jax.jit(jax.vmap(jax.value_and_grad(lambda z, p: shrinkmatch_uncertain_loss(z, p))))(logits, probs)
    np.testing.assert_allclose(loss, GOLDEN[f"losses_{classes}"], rtol=1e-12, atol=1e-15)  # float64
    np.testing.assert_allclose(pull, GOLDEN[f"gradients_{classes}"], rtol=1e-12, atol=1e-15)
    removed = classes - shrink_class_space(probs).mask.sum(-1)
    np.testing.assert_array_equal(removed, GOLDEN[f"removed_{classes}"])


def test_the_space_by_a_loop(x64):
    found = jax.jit(lambda p, tau: shrink_class_space(p, threshold=tau))
    for classes in (2, 3, 4, 7):
        p = RNG.dirichlet(np.full(classes, 0.5), 40)
        for tau in (0.6, 0.95, 1.0):
            wanted = [by_loop(row, tau) for row in p]
            got = found(jnp.asarray(p), tau)
            np.testing.assert_array_equal(got.mask, [w[0] for w in wanted])
            np.testing.assert_allclose(got.sub_confidence, [w[1] for w in wanted], rtol=1e-13)  # float64
            np.testing.assert_array_equal(got.reached, [w[2] for w in wanted])


def test_three_classes_by_hand():
    p = jnp.array([[0.5, 0.1, 0.4], [0.6, 0.38, 0.02], [0.96, 0.03, 0.01]])
    mask, confidence, reached = shrink_class_space(p)
    # only the runner-up can go: 0.5 / 0.6 is not enough, 0.6 / 0.62 is; the last is certain as it is
    assert mask.tolist() == [[True, True, False], [True, False, True], [True, True, True]]
    np.testing.assert_allclose(confidence, [0.5 / 0.6, 0.6 / 0.62, 0.96], rtol=1e-6)  # float32
    assert reached.tolist() == [False, True, True]
    loss = shrinkmatch_uncertain_loss(jnp.array([[1.0, 5.0, 0.0]] * 3), p)
    np.testing.assert_allclose(loss, [0.0, 0.6 * np.log(1 + np.exp(-1.0)), 0.0], rtol=1e-6)


def test_a_threshold_of_one_leaves_the_least_class():
    p = jnp.asarray(RNG.dirichlet(np.ones(6), 20), jnp.float32)
    mask, _, reached = shrink_class_space(p, threshold=1.0)
    extremes = jax.nn.one_hot(p.argmax(1), 6, dtype=bool) | jax.nn.one_hot(p.argmin(1), 6, dtype=bool)
    np.testing.assert_array_equal(mask, extremes)
    assert not reached.any()
    np.testing.assert_array_equal(shrinkmatch_uncertain_loss(p, p, threshold=1.0), 0.0)


def test_equals_the_log_softmax_of_the_classes_that_stay(x64):
    p, z = RNG.dirichlet(np.full(8, 0.3), 30), 3 * RNG.normal(size=(30, 8))
    loss = shrinkmatch_uncertain_loss(jnp.asarray(z), jnp.asarray(p), threshold=0.9)
    mask, _, reached = map(np.asarray, shrink_class_space(jnp.asarray(p), threshold=0.9))
    wanted = np.zeros(30)
    for i in np.flatnonzero(reached & (p.max(1) < 0.9)):
        gathered = scipy.special.log_softmax(z[i, mask[i]])
        wanted[i] = -p[i].max() * gathered[p[i, mask[i]].argmax()]
    assert np.count_nonzero(wanted) > 10
    np.testing.assert_allclose(loss, wanted, rtol=1e-12)  # float64


def test_fixmatch(x64):
    p, z = RNG.dirichlet(np.full(4, 0.2), 30), RNG.normal(size=(30, 4))
    wanted = np.where(p.max(1) >= 0.8, -(p * np.log(np.exp(z) / np.exp(z).sum(1, keepdims=True))).sum(1), 0.0)
    np.testing.assert_allclose(fixmatch_loss(jnp.asarray(z), jnp.asarray(p), threshold=0.8), wanted, rtol=1e-12)
    hard = jax.nn.one_hot(p.argmax(1), 4)
    plain = optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(z), p.argmax(1))
    np.testing.assert_allclose(fixmatch_loss(jnp.asarray(z), hard), plain, rtol=1e-12)
    z = jnp.asarray(z)
    to_probs = jax.grad(lambda p: (fixmatch_loss(z, p, threshold=0.5) + shrinkmatch_uncertain_loss(z, p)).sum())
    np.testing.assert_array_equal(to_probs(jnp.asarray(p)), 0.0)
    for fn in (
        lambda p: distribution_alignment(p, p.mean(0)).max(),
        lambda p: shrink_class_space(p).sub_confidence.sum(),
    ):
        np.testing.assert_array_equal(jax.grad(fn)(jnp.asarray(p)), 0.0)


def test_classes_that_are_masked_out_count_for_nothing():
    # class 2 is removed by neither rule but masked: nothing is left beside the top class
    p, z = jnp.array([[0.6, 0.38, 0.02]]), jnp.array([[0.3, 1.0, -jnp.inf]])
    value, pull = jax.value_and_grad(lambda z: shrinkmatch_uncertain_loss(z, p).sum())(z)
    assert value == 0
    np.testing.assert_array_equal(pull, 0.0)
    # and with one left: as without the class
    p, z = jnp.array([[0.6, 0.35, 0.03, 0.02]]), jnp.array([[0.3, 1.0, -jnp.inf, 0.5]])
    value, pull = jax.value_and_grad(lambda z: shrinkmatch_uncertain_loss(z, p, threshold=0.9).sum())(z)
    np.testing.assert_allclose(value, 0.6 * np.log1p(np.exp(0.2)), rtol=1e-6)  # float32
    rise = 0.6 / (1 + np.exp(-0.2))
    np.testing.assert_allclose(pull, [[-rise, 0.0, 0.0, rise]], rtol=1e-6)
    # the pseudo-label gives them nothing
    p, z = jnp.array([[0.97, 0.03, 0.0]]), jnp.array([[1.0, 0.0, -jnp.inf]])
    value, pull = jax.value_and_grad(lambda z: fixmatch_loss(z, p).sum())(z)
    q = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(value, -0.97 * np.log(q) - 0.03 * np.log(1 - q), rtol=1e-6)
    np.testing.assert_allclose(pull, [[q - 0.97, 0.97 - q, 0.0]], rtol=1e-5)


def test_alignment_makes_the_average_even(x64):
    p = jnp.asarray(RNG.dirichlet(np.ones(3), 50))
    np.testing.assert_allclose(distribution_alignment(p, jnp.full(3, 1 / 3)), p, rtol=1e-13)
    mean = np.asarray(p).mean(0)
    wanted = np.asarray(p) / mean / (np.asarray(p) / mean).sum(1, keepdims=True)
    np.testing.assert_allclose(distribution_alignment(p, p.mean(0)), wanted, rtol=1e-13)
    never = distribution_alignment(jnp.array([[0.5, 0.5, 0.0]], jnp.float32), jnp.array([0.5, 0.5, 0.0], jnp.float32))
    np.testing.assert_allclose(never, [[0.5, 0.5, 0.0]], rtol=1e-6)


def test_ratio_along_a_run():
    masks = jnp.asarray(RNG.random((5, 20)) < 0.4)
    ratio, wanted = None, np.mean(masks[0])
    for i, mask in enumerate(masks):
        ratio = certain_ratio_ema(ratio, mask, decay=0.9)
        wanted = wanted if i == 0 else 0.9 * wanted + 0.1 * np.mean(mask)
    np.testing.assert_allclose(ratio, wanted, rtol=1e-6)  # float32


PROBS = np.array([[0.55, 0.3, 0.1, 0.04, 0.01], [0.02, 0.96, 0.01, 0.01, 0.0], [0.3, 0.2, 0.2, 0.2, 0.1]] * 2)


@pytest.mark.parametrize("loss", [shrinkmatch_uncertain_loss, fixmatch_loss])
def test_contract(loss):
    check_loss(jax.jit(loss), predictions=RNG.normal(size=(6, 5)), targets=PROBS, class_symmetric=True)


def test_bad_input():
    z, p = jnp.zeros((2, 3)), jnp.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match=r"strong_logits \(2, 3\) and weak_probs \(2, 2\) disagree"):
        shrinkmatch_uncertain_loss(z, p[:, :2])
    with pytest.raises(ValueError, match="have one class"):
        shrink_class_space(p[:, :1])
    with pytest.raises(ValueError, match="have one class"):
        fixmatch_loss(z[:, :1], p[:, :1])
    with pytest.raises(ValueError, match="threshold must lie in"):
        shrink_class_space(p, threshold=1.5)
    with pytest.raises(ValueError, match=r"queue_mean of shape \(2,\)"):
        distribution_alignment(p, p[0, :2])
    with pytest.raises(ValueError, match="decay must lie in"):
        certain_ratio_ema(None, jnp.ones(3, bool), decay=2.0)
