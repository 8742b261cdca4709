"""Scale- and shift-invariant losses against NumPy's least squares, differences by loops, shading there and back, WHDR."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.core import checked
from jaxtrain.losses import (
    implied_albedo,
    inverse_shading,
    multi_scale_gradient_loss,
    scale_invariant_mse,
    scale_shift_invariant_loss,
    ssi_align,
    uninvert_shading,
    whdr,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
P, T = RNG.uniform(size=(2, 6, 5, 7))
MASK = RNG.uniform(size=(6, 5, 7)) < 0.7
LOSSES = {
    "scale_shift": scale_shift_invariant_loss,
    "scale": scale_invariant_mse,
    "gradients": functools.partial(multi_scale_gradient_loss, scales=2),
}


def _least_squares(columns, target):
    solution, rest, *_ = np.linalg.lstsq(np.stack(columns, 1), target, rcond=None)
    return solution, rest[0] / len(target)


def test_alignment_and_losses_are_numpys_least_squares(x64):
    p, t, mask = jnp.asarray(P), jnp.asarray(T), jnp.asarray(MASK)
    scale, shift = ssi_align(p, t, mask)
    both, alone = scale_shift_invariant_loss(p, t, mask), scale_invariant_mse(p, t, mask.astype(jnp.float32))
    for i, m in enumerate(MASK):
        (a, b), rest = _least_squares([P[i][m], np.ones(m.sum())], T[i][m])
        # rounding of two ways to solve; the problem's condition is about 10
        np.testing.assert_allclose([scale[i], shift[i], both[i]], [a, b, rest], rtol=1e-11)
        np.testing.assert_allclose(alone[i], _least_squares([P[i][m]], T[i][m])[1], rtol=1e-11)


def test_scale_and_shift_do_not_count(x64):
    p, t, mask = jnp.asarray(P), jnp.asarray(T), jnp.asarray(MASK)
    for a, b in ((3.0, 0.0), (-0.5, 2.0), (1e3, -1e3)):
        got = scale_shift_invariant_loss(a * p + b, t, mask)
        np.testing.assert_allclose(got, scale_shift_invariant_loss(p, t, mask), rtol=1e-9)  # 1e-16 of 1e3 squared
        np.testing.assert_allclose(scale_shift_invariant_loss(a * t + b, t, mask), 0.0, atol=1e-18)
    np.testing.assert_allclose(scale_invariant_mse(-7 * p, t), scale_invariant_mse(p, t), rtol=1e-12)
    np.testing.assert_allclose(scale_invariant_mse(0.1 * t, t), 0.0, atol=1e-30)


def test_large_offsets_keep_their_digits():
    p = jnp.asarray(1000 + P, jnp.float32)
    with jax.enable_x64(True):
        wanted = np.asarray(scale_shift_invariant_loss(jnp.asarray(p, jnp.float64), jnp.asarray(T)))
    # the mean of 1000.5 is rounded at 3e-5, in a spread of 0.3; normal equations of sums would be off by 0.06 and more
    np.testing.assert_allclose(scale_shift_invariant_loss(p, jnp.asarray(T, jnp.float32)), wanted, rtol=1e-3)


def test_stopping_the_gradient_of_the_alignment_changes_nothing(x64):
    """The envelope theorem, and therefore the gradient by hand."""
    p, t, mask = jnp.asarray(P), jnp.asarray(T), jnp.asarray(MASK)
    got = jax.jit(jax.grad(lambda p: scale_shift_invariant_loss(p, t, mask).sum()))(p)
    a, b = (x[:, None, None] for x in ssi_align(p, t, mask))
    wanted = 2 * a * (a * p + b - t) * mask / jnp.sum(mask, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-15)


def test_differences_by_a_loop(x64):
    wanted = np.zeros(6)
    for n in range(6):
        for step in (1, 2, 4, 8):
            r, m = (P - T)[n, ::step, ::step], MASK[n, ::step, ::step]
            h, w = r.shape
            pairs = [((i, j), (i, j + 1)) for i in range(h) for j in range(w - 1)]
            pairs += [((i, j), (i + 1, j)) for i in range(h - 1) for j in range(w)]
            wanted[n] += sum(abs(r[x] - r[y]) for x, y in pairs if m[x] and m[y]) / max(m.sum(), 1)
    loss = jax.jit(multi_scale_gradient_loss)
    got = loss(jnp.asarray(P), jnp.asarray(T), jnp.asarray(MASK))
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    shifted = loss(jnp.asarray(T) + 0.7, jnp.asarray(T), jnp.asarray(MASK))
    np.testing.assert_allclose(shifted, 0.0, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_masked_does_not_count_even_if_it_is_nan(name):
    p, t, mask = jnp.asarray(P, jnp.float32), jnp.asarray(T, jnp.float32), jnp.asarray(MASK).at[0].set(False)
    fn = jax.jit(jax.value_and_grad(lambda p, t: LOSSES[name](p, t, mask).sum()))
    value, slope = fn(p, t)
    broken_value, broken_slope = fn(jnp.where(mask, p, jnp.nan), jnp.where(mask, t, jnp.inf))
    np.testing.assert_array_equal(value, broken_value)
    np.testing.assert_array_equal(slope, broken_slope)
    np.testing.assert_array_equal(slope[~np.asarray(mask)], 0.0)
    assert np.all(np.isfinite(slope)) and float(LOSSES[name](p, t, mask)[0]) == 0.0


@pytest.mark.parametrize("name", ["scale_shift", "scale"])
def test_size_of_predictions_does_not_count_even_if_squares_underflow(name):
    p, t = jnp.asarray(P, jnp.float32), jnp.asarray(T, jnp.float32)
    fn = jax.jit(jax.value_and_grad(lambda p: LOSSES[name](p, t).sum()))
    value, slope = fn(p)
    for power in (-100, -40, 40):  # of 2: nothing is rounded
        got, steep = fn(2.0**power * p)
        np.testing.assert_allclose(got, value, rtol=1e-6)
        np.testing.assert_allclose(steep * 2.0**power, slope, rtol=1e-5, atol=1e-7)  # single precision


def test_constant_predictions_explain_nothing():
    p, t = jnp.full((1, 5, 7), 0.1), jnp.asarray(T[:1], jnp.float32)
    scale, shift = ssi_align(p, t)
    assert float(scale[0]) == 0.0
    np.testing.assert_allclose(shift[0], T[0].mean(), rtol=1e-6)  # single precision
    np.testing.assert_allclose(scale_shift_invariant_loss(p, t)[0], T[0].var(), rtol=1e-6)


def test_shading_there_and_back_and_the_image_model(x64):
    s, albedo = jnp.asarray(RNG.gamma(1.0, 5.0, (2, 4, 3))), jnp.asarray(RNG.uniform(size=(2, 4, 3, 3)))
    np.testing.assert_allclose(uninvert_shading(inverse_shading(s)), s, rtol=1e-13)
    np.testing.assert_allclose(implied_albedo(albedo * s[..., None], s), albedo, rtol=1e-14)
    np.testing.assert_allclose(implied_albedo(albedo[..., 0] * s, s), albedo[..., 0], rtol=1e-14)
    assert float(uninvert_shading(jnp.zeros(()), eps=1e-3)) == pytest.approx(999)
    np.testing.assert_allclose(implied_albedo(albedo, jnp.zeros_like(s), eps=0.5), 2 * albedo, rtol=1e-14)


def test_whdr_by_a_loop(x64):
    albedo = RNG.uniform(size=(3, 5, 6))
    points = RNG.integers(0, 5, (3, 40, 4))
    darker, weights = RNG.integers(0, 3, (3, 40)), RNG.uniform(size=(3, 40)) * (RNG.uniform(size=(3, 40)) < 0.8)
    for delta in (0.0, 0.1, 0.6):
        wanted = []
        for image, pairs, said, confidence in zip(albedo, points, darker, weights, strict=True):
            wrong = 0.0
            for (y1, x1, y2, x2), answer, weight in zip(pairs, said, confidence, strict=True):
                ratio = image[y2, x2] / image[y1, x1]
                found = 1 if ratio > 1 + delta else 2 if 1 / ratio > 1 + delta else 0
                wrong += weight * (found != answer)
            wanted.append(wrong / confidence.sum())
        got = whdr(*(jnp.asarray(x) for x in (albedo, points, darker, weights)), delta=delta)
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
    nothing = whdr(*(jnp.asarray(x) for x in (albedo, points, darker, 0 * weights)))
    np.testing.assert_array_equal(nothing, 0.0)


@pytest.mark.parametrize("name", LOSSES)
def test_contract(name):
    # compiled: eager calls would compile every step of each loss
    check_loss(jax.jit(LOSSES[name]), predictions=P[:, :3, :3], targets=T[:, :3, :3])


def test_bad_input():
    x, pairs = jnp.zeros((2, 3, 3)), jnp.zeros((2, 4), int)
    with pytest.raises(ValueError, match=r"ssi_align: pred, target and mask of shapes \(2, 3, 3\), \(3, 3\) and None"):
        ssi_align(x, x[0])
    with pytest.raises(ValueError, match=r"and \(2, 3\); give \(batch, height, width\) for all"):
        scale_shift_invariant_loss(x, x, x[..., 0])
    with pytest.raises(ValueError, match="scales must be at least 1"):
        multi_scale_gradient_loss(x, x, scales=0)
    with pytest.raises(ValueError, match="eps must lie in"):
        uninvert_shading(x, eps=0.0)
    with pytest.raises(ValueError, match=r"shading \(2, 3\) is neither"):
        implied_albedo(x[..., None], x[..., 0])
    with pytest.raises(ValueError, match=r"whdr: albedo \(2, 3, 3\), points \(2, 4\)"):
        whdr(x, pairs, pairs, x[..., 0])
    with pytest.raises(ValueError, match="a point lies outside the image of 3 × 3 pixels"):
        whdr(x, jnp.full((2, 4, 4), 3), pairs, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="a point lies outside the image of 3 × 3 pixels"):
        checked(whdr)(x, jnp.full((2, 4, 4), -1), pairs, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="delta must lie in"):
        whdr(x, jnp.zeros((2, 4, 4), int), pairs, jnp.ones((2, 4)), delta=-1.0)
