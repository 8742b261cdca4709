"""Magnitude-preserving layers against the released code of EDM2 and by sampling."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.models import forced_weight_normalization, mp_cat, mp_dense, mp_normalize, mp_silu, mp_sum, mp_weight
from jaxtrain.testing import check_gradient_transformation

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "edm2.npz")
"""From the released training/networks_edm2.py: see tests/golden/make_edm2.py."""
A, B = jnp.asarray(GOLDEN["a"], jnp.float32), jnp.asarray(GOLDEN["b"], jnp.float32)


def test_released_code_agrees():
    # single precision here and, for the weights, there
    np.testing.assert_allclose(mp_silu(A), GOLDEN["mp_silu"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(mp_sum(A, B, 0.3), GOLDEN["mp_sum"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mp_cat(A, B[:, :2], 0.3), GOLDEN["mp_cat"], rtol=1e-5, atol=1e-6)
    kernel = jnp.asarray(GOLDEN["dense_kernel"], jnp.float32)
    np.testing.assert_allclose(mp_normalize(kernel), GOLDEN["dense_forced"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mp_dense(A, kernel, gain=0.7), GOLDEN["dense"], rtol=1e-5, atol=1e-6)
    weight = mp_weight(jnp.asarray(GOLDEN["conv_kernel"], jnp.float32))
    image = jnp.asarray(GOLDEN["image"], jnp.float32)
    got = jax.lax.conv_general_dilated(image, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(got, GOLDEN["conv"], rtol=1e-5, atol=1e-5)


def test_unit_magnitude_in_unit_magnitude_out():
    a, b = (jax.random.normal(jax.random.key(i), (2000, 256)) for i in range(2))
    kernel = 9 * jax.random.normal(jax.random.key(2), (256, 128))
    rms = lambda x: float(jnp.sqrt(jnp.mean(x**2)))  # noqa: E731
    # 2.5e5 samples and more: three standard deviations of their mean square stay below half a percent; SiLU's 0.596 is
    # rounded to three digits
    np.testing.assert_allclose(rms(mp_dense(a, kernel)), 1, rtol=1e-2)
    np.testing.assert_allclose(rms(mp_silu(a)), 1, rtol=1e-2)
    for t in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(rms(mp_sum(a, b, t)), 1, rtol=1e-2)
        parts = mp_cat(a, b[:, :32], t)
        np.testing.assert_allclose(rms(parts), 1, rtol=1e-2)
        # the parts contribute as 1 − t and t, in sums of squares
        np.testing.assert_allclose(
            jnp.sum(parts[:, :256] ** 2) / jnp.sum(parts[:, 256:] ** 2), ((1 - t) / t) ** 2, rtol=3e-2
        )


def test_gradients_are_orthogonal_to_the_weights_and_forcing_keeps_the_function():
    kernel = jax.random.normal(jax.random.key(0), (6, 3))
    loss = lambda k: jnp.sum(mp_dense(A, k) ** 3)  # noqa: E731
    grad = jax.grad(loss)(kernel)
    # along the weights the layer is constant up to ε / rms = 2e-4 for columns this short
    direct = jax.grad(lambda w: jnp.sum((A @ w) ** 3))(mp_weight(kernel))
    sizes = jnp.linalg.norm(direct, axis=0) * jnp.linalg.norm(mp_weight(kernel), axis=0)
    np.testing.assert_array_less(jnp.abs(jnp.sum(grad * kernel, 0)), 1e-3 * sizes)
    tx = optax.chain(optax.sgd(0.5), forced_weight_normalization())
    params = {"k": kernel, "gain": jnp.array([2.0])}
    grads = {"k": grad, "gain": jnp.array([1.0])}
    updates, _ = tx.update(grads, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    plain = kernel - 0.5 * grad
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(after["k"] ** 2, 0)), 1, rtol=2e-4)
    np.testing.assert_allclose(mp_dense(A, after["k"]), mp_dense(A, plain), rtol=3e-4, atol=1e-5)
    np.testing.assert_allclose(after["gain"], 1.5)  # no kernel: as it was


def test_zeros_stay_zeros_with_finite_gradients():
    zero = jnp.zeros((4, 2))
    np.testing.assert_array_equal(mp_normalize(zero), zero)
    assert np.all(np.isfinite(jax.grad(lambda k: mp_dense(jnp.ones((1, 4)), k).sum())(zero)))


def test_keeps_the_laws():
    def factory(learning_rate):
        return optax.chain(optax.sgd(learning_rate), forced_weight_normalization())

    check_gradient_transformation(factory=factory, hyperparams={"learning_rate": 0.1})


def test_clear_errors():
    with pytest.raises(ValueError, match=r"t must lie in \[0.0, 1.0\], got 2.0"):
        mp_sum(A, B, 2.0)
    tx = forced_weight_normalization()
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.ones((2, 2)), tx.init(None))
