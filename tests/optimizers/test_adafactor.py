"""Adafactor against PyTorch's and a transcription of the paper, and what factoring means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import adafactor, relative_step_size
from tests.optimizers._adaptive import difference_to_golden, follow, largest_difference, start

# float64, 36 steps, the same operations in another order (measured: 4e-16)
ROUNDING = 1e-13


def changing(max_relative):
    """PyTorch's learning rate is the largest relative step; it falls after step 20."""
    return lambda t: jnp.minimum(max_relative * jnp.where(t < 20, 1.0, 0.3), 1 / jnp.sqrt(t + 1.0))


def test_equals_pytorch(x64):
    assert difference_to_golden(adafactor(changing(0.3)), "adafactor") < ROUNDING
    options = {"eps2": 0.5, "decay_exponent": 0.5, "clipping_threshold": 1.2}
    assert difference_to_golden(adafactor(changing(0.01), **options), "adafactor_fixed") < ROUNDING


def test_optax_with_the_same_numbers_rounds_its_decay(x64):
    params, grads = start()
    theirs, _ = follow(optax.adafactor(relative_step_size(0.3), min_dim_size_to_factor=2), params, grads)
    distance = largest_difference(theirs, follow(adafactor(relative_step_size(0.3)), params, grads)[0])
    assert 1e-10 < distance < 1e-6  # single precision in one number
    # its defaults do not factor, and without a learning rate the step is 1
    unfactored, _ = follow(optax.adafactor(relative_step_size(0.3)), params, grads)
    assert largest_difference(unfactored, theirs) > 0.01


def transcription(x, grads, b1, eps1):
    """Algorithm 4 of the paper with sums, relative steps, and a momentum of the scaled updates; NumPy."""
    x, rows, columns, mean = np.array(x), 0.0, 0.0, 0.0
    for t, g in enumerate(np.asarray(grads), start=1):
        b2, squares = 1 - t**-0.8, g**2 + eps1
        rows = b2 * rows + (1 - b2) * squares.sum(axis=1)
        columns = b2 * columns + (1 - b2) * squares.sum(axis=0)
        u = g / np.sqrt(np.outer(rows, columns) / rows.sum())
        u = u / max(1.0, np.sqrt(np.mean(u**2)))
        step = max(1e-3, np.sqrt(np.mean(x**2))) * min(0.01, 1 / np.sqrt(t)) * u
        mean = b1 * mean + (1 - b1) * step
        x = x - mean
    return x


@pytest.mark.parametrize(("b1", "eps1"), [(None, 1e-30), (0.9, 0.1)])
def test_equals_a_transcription(x64, b1, eps1):
    params, grads = start()
    ours, state = follow(adafactor(b1=b1, eps1=eps1), params["matrix"], grads["matrix"])
    wanted = transcription(params["matrix"], grads["matrix"], b1 or 0.0, eps1)
    np.testing.assert_allclose(ours[-1], wanted, rtol=0, atol=1e-13)  # as above
    sizes = sorted(x.size for x in jax.tree.leaves(state) if x.size > 1)
    assert sizes == ([2, 3] if b1 is None else [2, 3, 6])
    unfactored = adafactor(min_dim_size_to_factor=3).init(params["matrix"])
    assert sorted(x.size for x in jax.tree.leaves(unfactored) if x.size > 1) == [6]


def test_a_rank_one_square_is_rebuilt_exactly(x64):
    """Then every entry of the first update is a sign, as with a whole second moment."""
    rng = np.random.default_rng(0)
    g = jnp.asarray(np.outer(rng.normal(size=5), rng.normal(size=7)))
    tx = adafactor(1.0, clipping_threshold=1e9)
    u, _ = tx.update(g, tx.init(g), jnp.ones((5, 7)))
    np.testing.assert_allclose(u, -jnp.sign(g), rtol=1e-13)  # a product and a quotient of means
    # no axis to factor over: the same as the vector
    grads = jnp.asarray(rng.normal(size=(30, 5)))
    flat, _ = follow(adafactor(), jnp.ones(5), grads)
    column, _ = follow(adafactor(), jnp.ones((5, 1)), grads[..., None])
    np.testing.assert_allclose(column[..., 0], flat, rtol=1e-14)


def test_steps_are_relative_to_the_parameters_and_clipped(x64):
    grads = start()[1]["matrix"] * jnp.exp(jnp.arange(36.0))[:, None, None]  # growing: updates above one
    scales = []
    for size in (0.0, 1.0, 1000.0):
        tx = adafactor()
        params, state = jnp.full((2, 3), size), tx.init(jnp.zeros((2, 3)))
        for g in grads[:3]:
            u, state = tx.update(g, state, params)
        scales.append(float(jnp.sqrt(jnp.mean(u**2))))
    # RMS(U) > 1 is clipped to 1: what is left is ρ max(ε₂, RMS)
    np.testing.assert_allclose(scales, [1e-5, 1e-2, 10.0], rtol=1e-12)  # float64, a root of a mean


def test_relative_step_size():
    rho = jax.vmap(relative_step_size())(jnp.array([0, 9_998, 10_000, 999_999]))
    np.testing.assert_allclose(rho, [0.01, 0.01, 1 / np.sqrt(10_001), 1e-3], rtol=1e-6)  # single precision
    warm = jax.vmap(relative_step_size(warmup=True))(jnp.array([0, 9_998, 10_000]))
    np.testing.assert_allclose(warm, [1e-6, 9.999e-3, 1 / np.sqrt(10_001)], rtol=1e-6)
    last = jnp.int32(2**31 - 1)  # where optax's counter ends
    np.testing.assert_allclose(relative_step_size()(last), 2**-15.5, rtol=1e-6)
    tx = adafactor()
    state = jax.tree.map(lambda x: last if x.dtype == jnp.int32 else x + 1, tx.init(jnp.ones(2)))
    # second moments of 1 that hardly move
    np.testing.assert_allclose(tx.update(jnp.ones(2), state, jnp.ones(2))[0], -(2**-15.5), rtol=1e-5)


def test_a_line_of_zeros_beside_large_entries_stands_still():
    """As the weights of a unit that is dead. Their mean of squares is ε₁ = 1e-30, and 1e-30 / 1e16 is zero in float32.

    (1e-30 / 1e10 too where what is below 1e-38 counts as zero, as with XLA's usual optimisation.)
    """
    g = jnp.array([[0.0, 0.0, 0.0, 0.0], [1e8, -3e8, 2e-3, 0.0], [1.0, 0.0, 0.0, 0.0]])
    tx = adafactor(1.0, clipping_threshold=1e9)
    update, _ = tx.update(g, tx.init(g), jnp.ones((3, 4)))
    wide = np.asarray(g, np.float64)
    squares = wide**2 + 1e-30
    row, col = squares.mean(axis=1, keepdims=True), squares.mean(axis=0, keepdims=True)
    # single precision: a product of three roots
    np.testing.assert_allclose(update, -wide / np.sqrt(row * col / row.mean()), rtol=1e-6)


def test_half_precision_keeps_float32_moments():
    g = jnp.full((4, 4), 1e-10, jnp.float16)  # its square, and ε₁, are zero in half precision
    tx = adafactor()
    updates, state = tx.update(g, tx.init(g), jnp.ones((4, 4), jnp.float16))
    assert updates.dtype == jnp.float16 and bool(jnp.isfinite(updates).all())
    assert {x.dtype.name for x in jax.tree.leaves(state)} == {"float32", "int32"}


def test_clear_errors():
    with pytest.raises(ValueError, match=r"decay_exponent must lie in \[0.0, 1.0\], got 1.5"):
        adafactor(decay_exponent=1.5)
    with pytest.raises(ValueError, match=r"clipping_threshold must lie in \[1.17.*e-38, inf\], got 0.0"):
        adafactor(clipping_threshold=0.0)
    with pytest.raises(ValueError, match="min_dim_size_to_factor must be at least 1, got 0"):
        adafactor(min_dim_size_to_factor=0)
    with pytest.raises(ValueError, match=r"max_relative must lie in \[1.17.*e-38, inf\], got 0.0"):
        relative_step_size(0.0)
    with pytest.raises(ValueError, match=r"b1 must lie in \[0.0, 0.99.*\], got 1.0"):
        adafactor(b1=1.0)
    for name in ("eps1", "eps2"):
        with pytest.raises(ValueError, match=name + r" must lie in \[0.0, inf\], got -1.0"):
            adafactor(**{name: -1.0})
    with pytest.raises(ValueError, match="adafactor's steps are relative to the parameters: call tx.update"):
        adafactor().update(jnp.ones(2), adafactor().init(jnp.ones(2)))


def test_the_two_longest_axes_are_factored_wherever_they_are(x64):
    rng = np.random.default_rng(0)
    shapes = ((5, 2), (2, 5), (4, 2, 3), (2, 4, 3), (3, 3), (3, 2, 4))
    params = [jnp.asarray(rng.normal(size=s)) for s in shapes]
    grads = [jnp.asarray(rng.normal(size=(3, *s))) for s in shapes]
    ours = follow(adafactor(relative_step_size(0.3)), params, grads)[0]
    theirs = follow(optax.adafactor(relative_step_size(0.3), min_dim_size_to_factor=2), params, grads)[0]
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)  # single precision in optax's decay
