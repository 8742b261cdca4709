"""Layers: Pillow's compositing, Porter and Duff's algebra, a gradient by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxtrain.losses import alpha_composite, layer_consistency_loss, layer_dropout_targets, premultiply, unpremultiply
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
FG, OTHER, LAST = RNG.uniform(size=(3, 6, 4, 5, 4))
BG, IMAGE = RNG.uniform(size=(2, 6, 4, 5, 3))


def test_is_that_of_pillow(x64):
    a, b = (RNG.integers(0, 256, (16, 16, 4)).astype(np.uint8) for _ in range(2))
    a[0], b[1] = 0, 0  # nothing above, nothing below
    wanted = np.asarray(Image.alpha_composite(Image.fromarray(b), Image.fromarray(a))) / 255
    upper, lower = (premultiply(jnp.asarray(x / 255)) for x in (a, b))
    got = alpha_composite(upper, lower, premultiplied=True)
    # Pillow rounds to 1/255 itself, before it divides by alpha; seen are colours times alpha
    np.testing.assert_allclose(got, premultiply(jnp.asarray(wanted)), atol=1.01 / 255)
    # over an opaque layer nothing is divided: half a level
    b[..., 3] = 255
    wanted = np.asarray(Image.alpha_composite(Image.fromarray(b), Image.fromarray(a)))[..., :3] / 255
    np.testing.assert_allclose(
        alpha_composite(jnp.asarray(a / 255), jnp.asarray(b / 255)[..., :3]), wanted, atol=0.51 / 255
    )


def test_layers_on_layers_in_any_order_of_evaluation(x64):
    over = lambda a, b: alpha_composite(a, b, premultiplied=True)  # noqa: E731
    a, b, c = (premultiply(jnp.asarray(x)) for x in (FG, OTHER, LAST))
    np.testing.assert_allclose(over(over(a, b), c), over(a, over(b, c)), rtol=1e-14)
    # both conventions are one
    straight = alpha_composite(jnp.asarray(FG), jnp.asarray(BG))
    np.testing.assert_allclose(over(a, jnp.asarray(BG)), straight, rtol=1e-14)


def test_alpha_of_zero_and_one():
    fg, bg = jnp.asarray(FG, jnp.float32), jnp.asarray(BG, jnp.float32)
    np.testing.assert_array_equal(alpha_composite(fg.at[..., 3].set(0.0), bg), bg)
    np.testing.assert_array_equal(alpha_composite(fg.at[..., 3].set(1.0), bg), fg[..., :3])


def test_multiplied_and_back(x64):
    np.testing.assert_allclose(unpremultiply(premultiply(jnp.asarray(FG))), FG, rtol=1e-14)
    clear = jnp.asarray(FG).at[..., 3].set(0.0)
    slope = jax.grad(lambda x: unpremultiply(x).sum())(premultiply(clear))
    assert np.all(np.isfinite(slope)) and not np.any(np.asarray(unpremultiply(premultiply(clear)))[..., :3])
    # what a sigmoid gives at -60; its square is 0 in single precision
    faint = jnp.array([0.0, 1e-27, 1e-26, 1e-26], jnp.float32)
    assert np.all(np.isfinite(jax.grad(lambda x: unpremultiply(x).sum())(faint)))
    np.testing.assert_allclose(unpremultiply(premultiply(jnp.array([0.2, 0.4, 0.6, 1e-12]))), [0.2, 0.4, 0.6, 1e-12])


def test_loss_and_its_gradient_by_hand(x64):
    fg, bg, image = jnp.asarray(FG), jnp.asarray(BG), jnp.asarray(IMAGE)
    alpha = FG[..., 3:]
    rest = alpha * FG[..., :3] + (1 - alpha) * BG - IMAGE
    for p in (1.0, 2.0, 3.5):
        got = layer_consistency_loss(fg, bg, image, p=p)
        np.testing.assert_allclose(got, np.mean(np.abs(rest) ** p, axis=(1, 2, 3)), rtol=1e-12)
    to_fg, to_bg = jax.grad(lambda f, b: layer_consistency_loss(f, b, image).sum(), argnums=(0, 1))(fg, bg)
    slope = 2 * rest / (4 * 5 * 3)
    np.testing.assert_allclose(to_fg[..., :3], slope * alpha, rtol=1e-12)
    np.testing.assert_allclose(to_fg[..., 3], np.sum(slope * (FG[..., :3] - BG), -1), rtol=1e-10, atol=1e-16)
    np.testing.assert_allclose(to_bg, slope * (1 - alpha), rtol=1e-12)
    # zero exactly for the composite
    whole = alpha_composite(fg, bg)
    np.testing.assert_array_equal(layer_consistency_loss(fg, bg, whole), 0.0)
    off = layer_consistency_loss(fg, bg, whole.at[2, 1, 1, 0].add(0.1))
    np.testing.assert_allclose(off, np.eye(6)[2] * 0.01 / 60, rtol=1e-12)
    multiplied = layer_consistency_loss(premultiply(fg), bg, image, premultiplied=True)
    np.testing.assert_allclose(multiplied, layer_consistency_loss(fg, bg, image), rtol=1e-13)


def test_withheld_truths():
    known = jnp.arange(10_000) % 2 == 0
    draw = jax.jit(lambda rate: layer_dropout_targets(jax.random.key(0), known, rate=rate))
    np.testing.assert_array_equal(draw(0.0), known)
    np.testing.assert_array_equal(draw(1.0), 0.0)
    some = np.asarray(draw(0.3))
    assert not np.any(some[~np.asarray(known)])
    assert abs(some.sum() - 3500) < 5 * np.sqrt(5000 * 0.3 * 0.7)  # five standard deviations


def test_contract():
    layers = np.concatenate([FG, BG], -1)[:, :2, :2]
    fn = jax.jit(lambda x, image: layer_consistency_loss(x[..., :4], x[..., 4:], image))
    check_loss(fn, predictions=layers, targets=IMAGE[:, :2, :2])


def test_bad_input():
    fg, bg = jnp.zeros((2, 3, 3, 4)), jnp.zeros((2, 3, 3, 3))
    with pytest.raises(ValueError, match=r"foreground of shape \(2, 3, 3, 4\) over \(2, 3, 3, 4\); .* with 3 channels"):
        alpha_composite(fg, fg)
    with pytest.raises(ValueError, match="with 3 or 4 channels"):
        alpha_composite(fg, bg[..., :2], premultiplied=True)
    with pytest.raises(
        ValueError, match=r"foreground \(2, 3, 3, 4\), background \(2, 3, 3, 3\) and image \(2, 3, 3, 4\)"
    ):
        layer_consistency_loss(fg, bg, fg)
    with pytest.raises(ValueError, match="p must lie in"):
        layer_consistency_loss(fg, bg, bg, p=0.5)
    with pytest.raises(ValueError, match="rate must lie in"):
        layer_dropout_targets(jax.random.key(0), jnp.ones(2, bool), rate=1.5)
    with pytest.raises(TypeError, match="needs a typed key|parameter 'key'"):
        layer_dropout_targets(jax.random.key_data(jax.random.key(0)), jnp.ones(2, bool))
