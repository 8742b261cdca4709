"""Losses for topology against SciPy's morphology, formulas in float64, and counts of quads."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxtrain.losses import (
    betti_error,
    betti_numbers,
    cldice_loss,
    dice_ce_loss,
    skeleton_recall_loss,
    skeleton_tube,
    soft_skeletonize,
)
from jaxtrain.testing import check_loss

CROSS = ndimage.generate_binary_structure(2, 1)


def strokes(number, seed, size=(20, 24)):
    """Masks of thick lines."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[: size[0], : size[1]]
    masks = np.zeros((number, *size), bool)
    for mask in masks:
        for _ in range(3):
            (a, c), (b, d), r = rng.uniform(0, size[0], 2), rng.uniform(0, size[1], 2), rng.uniform(0.7, 2.5)
            for t in np.linspace(0, 1, 50):
                mask |= (y - (1 - t) * a - t * c) ** 2 + (x - (1 - t) * b - t * d) ** 2 <= r**2
    return masks


def scipy_opening(image):
    eroded = ndimage.grey_erosion(image, footprint=CROSS, mode="constant", cval=np.inf)
    return ndimage.grey_dilation(eroded, size=(3, 3), mode="constant", cval=-np.inf)


def scipy_skeleton(image, num_iters):
    skeleton = np.maximum(image - scipy_opening(image), 0)
    for _ in range(num_iters):
        image = ndimage.grey_erosion(image, footprint=CROSS, mode="constant", cval=np.inf)
        delta = np.maximum(image - scipy_opening(image), 0)
        skeleton = skeleton + np.maximum(delta - skeleton * delta, 0)
    return skeleton


RNG = np.random.default_rng(0)
LABELS = np.where(strokes(3, 1), RNG.integers(1, 3, (3, 20, 24)), 0)
LOGITS = 2 * RNG.standard_normal((3, 20, 24, 3)) + 2 * np.eye(3)[LABELS]
ONEHOT = np.eye(3)[LABELS]
P = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
DICE = -((2 * (P * ONEHOT).sum((1, 2)) + 1e-5) / ((P + ONEHOT).sum((1, 2)) + 1e-5)).mean(-1)
CE = -np.log((P * ONEHOT).sum(-1)).mean((1, 2))


@pytest.mark.parametrize("num_iters", [0, 4])
def test_soft_skeleton_equals_scipy_morphology(num_iters, x64):
    images = np.random.default_rng(2).random((2, 9, 12))
    wanted = [scipy_skeleton(image, num_iters) for image in images]
    got = jax.jit(functools.partial(soft_skeletonize, num_iters=num_iters))(jnp.asarray(images))
    np.testing.assert_allclose(got, wanted, atol=1e-14)  # the same few operations in float64


def test_the_skeleton_of_a_thin_line_is_the_line():
    line = np.zeros((1, 8, 9), np.float32)
    line[0, 3, :5] = line[0, 3:, 5] = 1
    np.testing.assert_array_equal(soft_skeletonize(jnp.asarray(line)), line)


def test_cldice_equals_its_formula(x64):
    wanted = []
    for p, t in zip(P, ONEHOT, strict=True):
        s_p, s_t = (np.stack([scipy_skeleton(x[..., c], 2) for c in (1, 2)], -1) for x in (p, t))
        a = ((s_p * t[..., 1:]).sum() + 0.5) / (s_p.sum() + 0.5)
        b = ((s_t * p[..., 1:]).sum() + 0.5) / (s_t.sum() + 0.5)
        wanted.append(1 - 2 * a * b / (a + b))
    got = jax.jit(functools.partial(cldice_loss, num_iters=2))(
        jnp.asarray(LOGITS), jnp.asarray(LABELS), alpha=0.3, smooth=0.5
    )
    np.testing.assert_allclose(got, 0.7 * DICE + 0.3 * np.array(wanted), rtol=1e-12)  # float64


def test_dice_and_skeleton_recall_equal_their_formulas(x64):
    logits, labels = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    np.testing.assert_allclose(dice_ce_loss(logits, labels), CE + DICE, rtol=1e-12)  # float64
    tube = np.random.default_rng(3).random(LABELS.shape) < 0.4  # any set of pixels will do
    on = (ONEHOT * tube[..., None])[..., 1:]
    recall = ((P[..., 1:] * on).sum((1, 2)) + 1e-5) / (on.sum((1, 2)) + 1e-5)
    got = skeleton_recall_loss(logits, labels, jnp.asarray(tube), weight=3.0)
    np.testing.assert_allclose(got, CE - 3 * recall.mean(-1), rtol=1e-12)


def test_gaps_cost_more_than_their_pixels():
    # one pixel missing in the middle of a line, or at its border where a thick line has no skeleton
    labels = np.zeros((1, 9, 15), int)
    labels[0, 3:6] = 1
    gap, border = labels.copy(), labels.copy()
    gap[0, 3:6, 7] = 0
    border[0, 3, 5:8] = 0
    loss = lambda seen: float(cldice_loss(20 * jax.nn.one_hot(seen, 2), jnp.asarray(labels), alpha=1.0)[0])  # noqa: E731
    # the gap takes 1 of 15 from the recall of the skeleton (smoothed by 1): 2ab / (a + b) = 30/31 with a = 1, b = 15/16
    np.testing.assert_allclose(loss(jnp.asarray(gap)), 1 - 30 / 31, atol=1e-6)
    assert loss(jnp.asarray(border)) < 0.5 * loss(jnp.asarray(gap))


def thinned_pixel_by_pixel(mask):
    """Zhang and Suen's conditions for one pixel after another, P2 ... P9 clockwise from the north."""
    x = np.pad(mask, 1).astype(int)
    changed = True
    while changed:
        changed = False
        for step in (1, 2):
            gone = []
            for i, j in np.argwhere(x):
                p2, p3, p4, p5 = x[i - 1, j], x[i - 1, j + 1], x[i, j + 1], x[i + 1, j + 1]
                p6, p7, p8, p9 = x[i + 1, j], x[i + 1, j - 1], x[i, j - 1], x[i - 1, j - 1]
                ring = [p2, p3, p4, p5, p6, p7, p8, p9, p2]
                rises = sum(1 for u, v in itertools.pairwise(ring) if (u, v) == (0, 1))
                sides = (p2 * p4 * p6, p4 * p6 * p8) if step == 1 else (p2 * p4 * p8, p2 * p6 * p8)
                if 2 <= sum(ring[:-1]) <= 6 and rises == 1 and sides == (0, 0):
                    gone.append((i, j))
            for i, j in gone:
                x[i, j], changed = 0, True
    return x[1:-1, 1:-1].astype(bool)


def test_the_tube_is_zhang_and_suens_skeleton_dilated_inside_the_mask():
    masks = np.concatenate(
        [strokes(4, 5), np.random.default_rng(6).random((1, 20, 24)) < 0.7, np.ones((1, 20, 24)) > 0]
    )
    thin = np.stack([thinned_pixel_by_pixel(mask) for mask in masks])
    np.testing.assert_array_equal(jax.jit(functools.partial(skeleton_tube, dilations=0))(masks), thin)
    wanted = [ndimage.binary_dilation(t, CROSS, iterations=2) & m for t, m in zip(thin, masks, strict=True)]
    np.testing.assert_array_equal(skeleton_tube(jnp.asarray(masks)), wanted)
    # thinning keeps components and holes, so that the tube says where a mask must not break
    assert [betti_numbers(t) for t in thin] == [betti_numbers(m) for m in masks]


def test_betti_numbers_have_the_euler_number_of_quads():
    masks = np.random.default_rng(7).random((20, 9, 11)) < np.linspace(0.1, 0.9, 20)[:, None, None]
    for mask in masks:
        x = np.pad(mask, 1).astype(int)
        quads = np.stack([x[:-1, :-1], x[:-1, 1:], x[1:, 1:], x[1:, :-1]])
        on = quads.sum(0)
        diagonal = (on == 2) & (quads[0] == quads[2])
        # Gray (1971): corners of one pixel less corners of three, less two diagonals, over four
        euler = ((on == 1).sum() - (on == 3).sum() - 2 * diagonal.sum()) / 4
        b0, b1 = betti_numbers(mask)
        assert b0 - b1 == euler
    a, b = masks[4], masks[15]
    assert betti_error(a, b) == tuple(np.abs(np.subtract(betti_numbers(a), betti_numbers(b))).tolist())
    assert betti_numbers(np.zeros((3, 3), bool)) == (0, 0) and betti_numbers(np.ones((3, 3), bool)) == (1, 0)


SMALL = {"predictions": RNG.standard_normal((4, 3, 4, 2)), "targets": strokes(4, 8, (3, 4)).astype(int)}


@pytest.mark.parametrize("name", ["dice_ce", "cldice", "recall"])
def test_contract(name):
    loss = {
        "dice_ce": dice_ce_loss,
        "cldice": functools.partial(cldice_loss, num_iters=1),
        "recall": lambda x, y: skeleton_recall_loss(x, y, y > 0),
    }[name]
    check_loss(jax.jit(loss), **SMALL)


def test_bad_input():
    logits, labels = jnp.zeros((2, 4, 5, 2)), jnp.zeros((2, 4, 5), int)
    with pytest.raises(ValueError, match=r"give \(batch, height, width, classes\)"):
        cldice_loss(logits[0], labels[0])
    with pytest.raises(ValueError, match=r"labels of shape \(2, 4, 4\)"):
        dice_ce_loss(logits, labels[..., :4])
    with pytest.raises(ValueError, match="label 2 is none of the 2 classes"):
        dice_ce_loss(logits, labels + 2)
    with pytest.raises(ValueError, match="alpha must lie in"):
        cldice_loss(logits, labels, alpha=1.5)
    with pytest.raises(ValueError, match="num_iters must be"):
        cldice_loss(logits, labels, num_iters=-1)
    with pytest.raises(ValueError, match=r"tube of shape \(1, 4, 5\)"):
        skeleton_recall_loss(logits, labels, labels[:1] > 0)
    with pytest.raises(TypeError, match="dtype int32; give bool"):
        skeleton_tube(labels)
    with pytest.raises(ValueError, match=r"soft_skeletonize: images of shape \(4, 5\)"):
        soft_skeletonize(jnp.zeros((4, 5)))
    with pytest.raises(TypeError, match="give bool"):
        betti_numbers(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="disagree"):
        betti_error(np.zeros((3, 3), bool), np.zeros((3, 4), bool))
