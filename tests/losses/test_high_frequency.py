"""Detail losses against PyWavelets and scikit-image, by loops, and by what must not matter; PSNR and SSIM."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.losses import (
    haar_dwt2,
    haar_idwt2,
    hog_features,
    hog_loss,
    hr_loss,
    psnr,
    ssim,
    wavelet_high_frequency_loss,
)
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "image_detail.npz")
RNG = np.random.default_rng(0)
A, B = RNG.uniform(size=(2, 6, 8, 8, 2))
HOG = jax.jit(hog_features, static_argnames=("cell", "bins", "block", "signed"))  # eager calls compile every step


def _golden(name):
    return jnp.asarray(GOLDEN[name])[..., None]


def test_haar_is_that_of_pywavelets_and_keeps_energy(x64):
    bands = haar_dwt2(_golden("image")[None])
    for name, band in zip(("ll", "lh", "hl", "hh"), bands, strict=True):
        np.testing.assert_allclose(band[0, ..., 0], GOLDEN[name], rtol=1e-14, atol=1e-15)  # rounding
    x = jnp.asarray(A)
    np.testing.assert_allclose(haar_idwt2(*haar_dwt2(x)), A, atol=1e-15)
    np.testing.assert_allclose(sum(jnp.sum(y**2) for y in haar_dwt2(x)), np.sum(A**2), rtol=1e-14)


@pytest.mark.parametrize("levels, p", [(1, 1.0), (2, 1.5), (3, 2.0)])
def test_wavelet_loss_by_inner_products(levels, p, x64):
    """Every coefficient is the inner product with a Haar function, written down as such."""
    wanted = np.zeros(6)
    for level in range(1, levels + 1):
        n = 2**level
        step, flat = np.repeat([1.0, -1.0], n // 2), np.ones(n)
        for mother in (np.outer(flat, step), np.outer(step, flat), np.outer(step, step)):
            found = [
                np.einsum("bijc,ij->bc", (A - B)[:, i : i + n, j : j + n], mother / n)
                for i in range(0, 8, n)
                for j in range(0, 8, n)
            ]
            wanted += np.mean(np.abs(found) ** p, axis=(0, 2))
    got = wavelet_high_frequency_loss(jnp.asarray(A), jnp.asarray(B), levels=levels, p=p)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_brightness_does_not_count(x64):
    a, shift = jnp.asarray(A), jnp.arange(6.0)[:, None, None, None]
    wave, hog = jax.jit(lambda x: (wavelet_high_frequency_loss(x, a, levels=3), hog_loss(x, a, cell=4)))(a + shift)
    np.testing.assert_allclose(wave, 0.0, atol=1e-14)
    np.testing.assert_allclose(hog, 0.0, atol=1e-12)  # the shift is rounded


@pytest.mark.parametrize("block", [1, 2])
def test_hog_is_that_of_scikit_image_where_votes_are_not_shared(block, x64):
    rows, columns = np.meshgrid(np.arange(32.0), np.arange(32.0), indexing="ij")
    angles = np.deg2rad(20 * np.arange(9) + 10)[:, None, None]
    images = (columns * np.cos(angles) + rows * np.sin(angles) + 0.3) ** 2 / 100
    got = HOG(jnp.asarray(images)[..., None], block=block, eps=1e-5)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(got, GOLDEN[f"hog_{block}"], rtol=1e-6, atol=1e-9)  # it adds in float32


def test_sharing_votes_changes_noise_by_a_little(x64):
    got = HOG(_golden("noise"), eps=1e-5).reshape(2, -1)
    cosine = np.sum(got * GOLDEN["hog_hard"], -1) / np.linalg.norm(got, axis=-1) / 2  # four cells of length 1
    assert np.all(cosine > 0.95) and np.all(cosine < 0.999), cosine


@pytest.mark.parametrize("signed", [False, True])
def test_hog_by_a_loop(signed, x64):
    bins, cell, eps, turn = 5, 3, 0.02, 360 if signed else 180
    wanted = np.zeros((6, 2, 2, bins))
    for n, i, j in np.ndindex(6, 6, 6):  # what is left over of 8 pixels does not count
        best = (0.0, 0.0)
        for c in range(2):
            gy = A[n, i + 1, j, c] - A[n, i - 1, j, c] if i else 0.0
            gx = A[n, i, j + 1, c] - A[n, i, j - 1, c] if j else 0.0
            best = max(best, (math.hypot(gx, gy), math.degrees(math.atan2(gy, gx)) % turn))
        length, angle = best
        for k in range(bins):
            apart = abs(angle - (k + 0.5) * turn / bins)
            wanted[n, i // cell, j // cell, k] += length * max(0, 1 - min(apart, turn - apart) * bins / turn) / cell**2
    wanted /= np.sqrt(np.sum(wanted**2, -1, keepdims=True) + eps**2)
    got = HOG(jnp.asarray(A), cell=cell, bins=bins, signed=signed, eps=eps)
    np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-13)
    other = HOG(jnp.asarray(B), cell=cell, bins=bins, signed=signed, eps=eps)
    loss = hog_loss(jnp.asarray(A), jnp.asarray(B), cell=cell, bins=bins, signed=signed, eps=eps)
    np.testing.assert_allclose(loss, np.mean(np.abs(wanted - np.asarray(other)), axis=(1, 2, 3)), rtol=1e-11)


def test_slopes_stay_bounded_where_images_are_nearly_flat():
    target = jnp.asarray(A, jnp.float32)
    slope = jax.jit(jax.grad(lambda x: hog_loss(x, target, cell=4).sum()))
    # a vote's length has slope 1 and its angle 1/|g|: a vote at most 1 + bins/π; four entries of a cell's mean share 1/eps
    bound = 4 * (1 + 9 / np.pi) / 1e-2 / (4 * 4)
    for size in (0.0, 1e-20, 1e-12, 1e-4):
        assert float(jnp.abs(slope(size * target[::-1])).max()) < bound


def test_weights_may_differ_between_examples():
    a, b = jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32)

    @jax.jit
    def all_of_it(w):
        wave, hog = wavelet_high_frequency_loss(a, b, levels=2), hog_loss(a, b, cell=4)
        return wave, hog, hr_loss(a, b, w_wave=w, w_hog=1 - 0.1 * w, levels=2, cell=4)

    w = np.arange(6)
    wave, hog, got = all_of_it(jnp.asarray(w, jnp.float32))
    np.testing.assert_allclose(got, w * wave + (1 - 0.1 * w) * hog, rtol=2e-6)  # single precision


def test_psnr_and_ssim_are_scikit_images(x64):
    a, b = _golden("a"), _golden("b")
    np.testing.assert_allclose(psnr(a, b), GOLDEN["psnr"], rtol=1e-12)
    # its window is cut at 3.5 σ = 5 pixels too
    np.testing.assert_allclose(ssim(a, b), GOLDEN["ssim"], rtol=1e-11)
    np.testing.assert_allclose(psnr(255 * a, 255 * b, data_range=255.0), GOLDEN["psnr"], rtol=1e-12)
    np.testing.assert_allclose(ssim(255 * a, 255 * b, data_range=255.0), GOLDEN["ssim"], rtol=1e-11)


def test_ssim_keeps_its_digits_far_from_zero():
    a, b = GOLDEN["a"][..., None] + 1000, GOLDEN["b"][..., None] + 1000
    with jax.enable_x64(True):
        wanted = np.asarray(ssim(jnp.asarray(a), jnp.asarray(b)))
    # 1000.3 has lost all below 6e-5; squares of it would have lost all below 0.06
    np.testing.assert_allclose(ssim(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)), wanted, atol=2e-4)


def test_equal_images_have_no_slope_and_no_images_no_number():
    x = jnp.asarray(A[:1], jnp.float32)
    value, slope = jax.value_and_grad(lambda y: psnr(y, x)[0])(x)
    assert float(value) == np.inf and not np.any(slope)
    assert np.isnan(psnr(x.at[0, 0, 0, 0].set(jnp.nan), x)[0])
    none = jnp.zeros((0, 16, 16, 1))
    assert ssim(none, none).shape == psnr(none, none).shape == hr_loss(none, none, w_wave=1.0, w_hog=1.0).shape == (0,)


def test_contract():
    fn = functools.partial(hr_loss, w_wave=1.0, w_hog=1.0, cell=2, levels=2)
    check_loss(jax.jit(fn), predictions=A[:, :4, :4, :1], targets=B[:, :4, :4, :1])  # eager calls compile every step


def test_bad_input():
    x = jnp.zeros((1, 6, 6, 1))
    with pytest.raises(ValueError, match=r"\(1, 5, 6, 1\); give \(batch, height, width, channels\), height and width"):
        haar_dwt2(x[:, :5])
    with pytest.raises(ValueError, match="haar_idwt2: bands of shapes"):
        haar_idwt2(x, x, x, x[:, 1:])
    with pytest.raises(ValueError, match="2 levels need sizes that are multiples of 4"):
        wavelet_high_frequency_loss(x, x, levels=2)
    with pytest.raises(ValueError, match="p must lie in"):
        wavelet_high_frequency_loss(x, x, p=0.5)
    with pytest.raises(ValueError, match=r"hog_loss: images of shapes \(1, 6, 6, 1\) and \(1, 5, 6, 1\)"):
        hog_loss(x, x[:, 1:])
    with pytest.raises(ValueError, match="hold no block of 2 × 2 cells of 4"):
        hog_features(x, cell=4, block=2)
    with pytest.raises(ValueError, match="bins must be at least 2"):
        hog_features(x, bins=1)
    with pytest.raises(ValueError, match="w_hog must lie in"):
        hr_loss(x, x, w_wave=1.0, w_hog=-1.0)
    for wrong in (jnp.ones(3), jnp.ones((1, 1))):
        with pytest.raises(ValueError, match=r"hr_loss: w_wave of shape .*; give one number or \(1,\)"):
            hr_loss(x, x, w_wave=wrong, w_hog=1.0, cell=2)
    with pytest.raises(ValueError, match="hold no window of 11 × 11"):
        ssim(x, x)
    with pytest.raises(ValueError, match="data_range must lie in"):
        psnr(x, x, data_range=0.0)
