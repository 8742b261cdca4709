"""Ideal binary masks: exact recovery where sources do not overlap, optax's loss, torchmetrics' decibels."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import signal

from jaxtrain.losses import apply_binary_mask, gnsdr, ideal_binary_mask, mask_bce_loss, nsdr, sdr
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "si_sdr.npz")
RNG = np.random.default_rng(0)


def test_sdr_is_that_of_torchmetrics(x64):
    got = sdr(jnp.asarray(GOLDEN["ref"]), jnp.asarray(GOLDEN["est"]))
    # it adds 2e-16 to both energies, of 1 and more
    np.testing.assert_allclose(got, GOLDEN["si_sdr"], rtol=1e-11)


def test_sdr_is_the_angle_between_signals(x64):
    s, e = RNG.normal(size=(2, 5, 40))
    cos = np.sum(s * e, -1) / np.linalg.norm(s, axis=-1) / np.linalg.norm(e, axis=-1)
    wanted = 20 * np.log10(np.abs(cos) / np.sin(np.arccos(cos)))
    np.testing.assert_allclose(sdr(jnp.asarray(s), jnp.asarray(e)), wanted, rtol=1e-10)  # arccos loses some digits


def test_masks_of_both_sources_add_up_to_one_but_for_ties():
    a, b = jnp.asarray(RNG.uniform(size=(2, 7, 9)), jnp.float32)
    b = b.at[2, 3].set(a[2, 3])
    both = ideal_binary_mask(a, b) + ideal_binary_mask(b, a)
    np.testing.assert_array_equal(both, jnp.ones((7, 9)).at[2, 3].set(0.0))
    np.testing.assert_array_equal(ideal_binary_mask(a, b, theta=1.5), np.asarray(a) > 1.5 * np.asarray(b))
    np.testing.assert_array_equal(ideal_binary_mask(a, b, theta=0.0), 1.0)


def test_sources_that_share_no_bin_come_back_exactly(x64):
    # whole periods in windows without overlap fill one bin each
    time, rate = np.arange(512), 64
    voice = np.sin(2 * np.pi * 5 * time / rate) * np.repeat([1, 0, 2, 1], 128)
    music = 3 * np.cos(2 * np.pi * 9 * time / rate + 0.4) + np.sin(2 * np.pi * 20 * time / rate)
    sources = np.stack([voice, music])
    options = {"window": "boxcar", "nperseg": rate, "noverlap": 0, "boundary": None}
    _, _, spectra = signal.stft(sources, **options)
    magnitude = jnp.abs(spectra)
    masks = ideal_binary_mask(magnitude, magnitude[::-1])
    mixture = jnp.asarray(spectra.sum(0))
    parts = apply_binary_mask(mixture, masks)
    assert parts.shape == spectra.shape
    _, back = signal.istft(np.asarray(parts), boundary=False, **{k: v for k, v in options.items() if k != "boundary"})
    np.testing.assert_allclose(back, sources, atol=1e-13)  # rounding of two Fourier transforms
    ours = nsdr(jnp.asarray(sources), jnp.asarray(back), jnp.asarray(sources.sum(0))[None].repeat(2, 0))
    assert float(ours.min()) > 250  # -20 log10(1e-16) = 320, less the sums


def test_loss_is_optaxs_for_every_bin():
    z, mask = jnp.asarray(5 * RNG.normal(size=(3, 4, 5, 2)), jnp.float32), jnp.asarray(RNG.integers(0, 2, (3, 4, 5, 2)))
    got = mask_bce_loss(z, mask)
    np.testing.assert_array_equal(got, optax.losses.sigmoid_binary_cross_entropy(z, mask))
    p = np.asarray(jax.nn.sigmoid(z), np.float64)
    wanted = -np.log(np.where(mask == 1, p, 1 - p))
    np.testing.assert_allclose(got, wanted, rtol=1e-3)  # the reference loses digits of 1 - p in float32
    np.testing.assert_array_equal(mask_bce_loss(z, mask == 1), got)
    # the gradient is probability less mask
    g = jax.grad(lambda z: mask_bce_loss(z, mask).sum())(z)
    np.testing.assert_allclose(g, p - np.asarray(mask), atol=1e-6)  # rounding of single precision


def test_decibels_of_silence():
    s, zero = jnp.array([1.0, 2.0]), jnp.zeros(2)
    assert float(sdr(s, zero)) == -np.inf and float(sdr(zero, s)) == -np.inf and float(sdr(s, 4 * s)) == np.inf
    # one silent or perfect example must not make NaN of a whole gradient
    for ref, est in ((s, zero), (zero, s), (s, 4 * s)):
        np.testing.assert_array_equal(jax.grad(sdr, argnums=1)(ref, est), 0.0)
    assert np.isnan(nsdr(zero, s, s)) and np.isnan(sdr(s, s * jnp.nan))


def test_global_figure_by_hand():
    values, lengths = jnp.array([1.0, -2.0, 6.0]), jnp.array([10, 30, 20])
    np.testing.assert_allclose(gnsdr(values, lengths), (10 - 60 + 120) / 60, rtol=1e-6)  # single precision
    s, e, x = (jnp.asarray(GOLDEN[k], jnp.float32) for k in ("ref", "est", "ref"))
    x = x + jnp.asarray(RNG.normal(size=x.shape), jnp.float32)
    np.testing.assert_array_equal(nsdr(s, e, x), sdr(s, e) - sdr(s, x))


def test_threshold_is_strict_and_may_be_traced():
    mixture, probs = jnp.array([1j, 2j, 3j]), jnp.array([0.2, 0.5, 0.8])
    got = jax.jit(jax.vmap(lambda t: apply_binary_mask(mixture, probs, threshold=t)))(jnp.array([0.1, 0.5, 0.9]))
    np.testing.assert_array_equal(got, [[1j, 2j, 3j], [0, 0, 3j], [0, 0, 0]])


def test_contract():
    mask = RNG.integers(0, 2, (6, 4))
    check_loss(lambda z, m: jnp.mean(mask_bce_loss(z, m), axis=1), predictions=RNG.normal(size=(6, 4)), targets=mask)


def test_bad_input():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"target_mag \(2, 3\) and other_mag \(3,\) disagree"):
        ideal_binary_mask(x, x[0])
    with pytest.raises(ValueError, match="theta must lie in"):
        ideal_binary_mask(x, x, theta=-1.0)
    with pytest.raises(ValueError, match=r"logits \(2, 3\) and mask \(3,\) disagree"):
        mask_bce_loss(x, x[0])
    with pytest.raises(ValueError, match=r"probs \(3,\) do not end in the axes of mixture_stft \(2, 3\)"):
        apply_binary_mask(x + 0j, x[0])
    with pytest.raises(ValueError, match="threshold must lie in"):
        apply_binary_mask(x + 0j, x, threshold=2.0)
    with pytest.raises(ValueError, match=r"sdr: signals of shapes \(2, 3\) and \(3,\)"):
        sdr(x, x[0])
    with pytest.raises(ValueError, match=r"lengths \(0,\); give one of each"):
        gnsdr(jnp.zeros(0), jnp.zeros(0))
