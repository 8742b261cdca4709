"""WCDAS against the released class, SciPy's density and limits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from jaxtrain.losses import cosine_softmax_logits, wcdas_loss, wrapped_cauchy_logits
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "wcdas.npz")
RNG = np.random.default_rng(0)
X, W, LABELS = RNG.standard_normal((6, 8)), RNG.standard_normal((5, 8)), np.arange(6) % 5
GAMMA = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])


@pytest.mark.parametrize("name", ["learned", "fixed"])
def test_equals_the_released_wcdas(name, x64):
    x, w, g, y = (jnp.asarray(GOLDEN[key]) for key in ("features", "weights", "gamma_raw", "labels"))
    # the release has 3.14 for pi, which a scale makes up for
    scale = (250.0 if name == "fixed" else 1 + np.logaddexp(0, 3.0)) * np.pi / 3.14
    logits = wrapped_cauchy_logits(x, w, g, scale=scale)
    # float64
    np.testing.assert_allclose(logits, GOLDEN[f"{name}_logits"], rtol=1e-12)
    loss = lambda x, w, g: wcdas_loss(x, y, w, g, scale=scale).mean()  # noqa: E731
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(x, w, g)
    np.testing.assert_allclose(value, GOLDEN[f"{name}_loss"], rtol=1e-12)
    for got, key in zip(gradients, ("features", "weights", "gamma"), strict=True):
        np.testing.assert_allclose(got, GOLDEN[f"{name}_grad_{key}"], rtol=1e-9, atol=1e-13)


def test_learned_scale(x64):
    args = jnp.asarray(X), jnp.asarray(W)
    for fn in (
        lambda *a, **k: wrapped_cauchy_logits(*args, jnp.asarray(GAMMA), *a, **k),
        lambda *a, **k: cosine_softmax_logits(*args, *a, **k),
    ):
        np.testing.assert_allclose(fn(0.0), fn(scale=1 + np.log(2)), rtol=1e-13)
        np.testing.assert_allclose(fn(jnp.asarray(3.0)), fn(scale=1 + np.logaddexp(0, 3.0)), rtol=1e-13)


@pytest.mark.parametrize("g", [-1.0, 0.0, 3.0])
def test_is_the_density_of_scipy(g, x64):
    theta = np.linspace(0, 2 * np.pi, 41)
    gamma = 1 / (1 + np.exp(-g))

    def density(theta):
        circle = jnp.stack([jnp.cos(theta), jnp.sin(theta)], axis=-1)
        return wrapped_cauchy_logits(circle, jnp.array([[1.0, 0.0]]), jnp.array([g]), scale=1.0)[..., 0]

    # float64
    np.testing.assert_allclose(density(theta), scipy.stats.wrapcauchy.pdf(theta, gamma), rtol=1e-9)
    grid = np.linspace(-np.pi, np.pi, 4001)
    # a smooth periodic function: the trapezoid's error is gamma^4000
    np.testing.assert_allclose(scipy.integrate.trapezoid(density(grid), grid), 1.0, rtol=1e-12)


def test_cosines_and_limits():
    x, w = jnp.asarray(X, jnp.float32), jnp.asarray(W, jnp.float32)
    want = (X / np.linalg.norm(X, axis=1)[:, None]) @ (W / np.linalg.norm(W, axis=1)[:, None]).T
    # rounding of single precision
    np.testing.assert_allclose(cosine_softmax_logits(x * 1e30, w * 1e-25, scale=1.0), want, atol=1e-6)
    # gamma -> 0: all logits s / (2 pi)
    flat = wrapped_cauchy_logits(x, w, jnp.full(5, -15.0), scale=3.0)
    np.testing.assert_allclose(flat, 3 / (2 * np.pi), rtol=1e-5)
    np.testing.assert_array_equal(wrapped_cauchy_logits(x, w, jnp.full(5, -99.0), scale=3.0), flat)


@pytest.mark.parametrize(("dtype", "g"), [(jnp.float32, 1e4), (jnp.bfloat16, 4.595)])
def test_sharp_classes_at_angle_zero_stay_finite(dtype, g):
    """gamma = 0.99 and the clipped end, features along their class: the density's peak, and a finite gradient."""
    x = jnp.asarray(W, dtype)
    args = x, jnp.arange(5), jnp.asarray(W, dtype), jnp.full(5, g, dtype)
    loss = jax.jit(jax.value_and_grad(lambda *a: wcdas_loss(a[0], args[1], *a[1:]).sum(), argnums=(0, 1, 2)))
    value, gradients = loss(args[0], *args[2:])
    assert np.isfinite(value) and all(np.all(np.isfinite(d.astype(jnp.float32))) for d in gradients)
    at_zero = jnp.diagonal(
        wrapped_cauchy_logits(x.astype(jnp.float32), x.astype(jnp.float32), jnp.full(5, 4.595), scale=1.0)
    )
    # (1 + gamma) / (1 - gamma) of g = 4.595; a rounding of 1e-7 against (1 - gamma)² = 1e-4
    np.testing.assert_allclose(at_zero, (1 + 2 * np.exp(4.595)) / (2 * np.pi), rtol=5e-3)


def test_angles_in_bfloat16_are_those_of_its_numbers():
    x, w, g, y = jnp.asarray(X, jnp.bfloat16), jnp.asarray(W), jnp.asarray(GAMMA), jnp.asarray(LABELS)
    got = wcdas_loss(x, y, w, g, scale=250.0)
    want = wcdas_loss(x.astype(jnp.float32), y, w, g, scale=250.0)
    # rounded once at the end: logits of 100 in eight bits would be off by 0.5
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-8)


def test_zero_features_have_a_finite_gradient():
    for fn in (
        lambda x: wcdas_loss(x, jnp.array([0]), jnp.asarray(W), jnp.asarray(GAMMA)),
        lambda x: cosine_softmax_logits(x, jnp.asarray(W)),
    ):
        assert np.all(np.isfinite(jax.jit(jax.grad(lambda x, fn=fn: fn(x).sum()))(jnp.zeros((1, 8)))))
    np.testing.assert_array_equal(cosine_softmax_logits(jnp.zeros((1, 8)), jnp.asarray(W)), 0.0)


def test_contract():
    def fn(x, y):
        return wcdas_loss(x, y, jnp.asarray(W, x.dtype), jnp.asarray(GAMMA, x.dtype), scale=10.0)

    # not bfloat16: the class weights would be rounded too, which are no prediction
    laws = ("shape", "dtype", "batch", "finite", "finite_gradient", "gradient")
    check_loss(fn, predictions=X, targets=LABELS, laws=laws)


def test_bad_input():
    x, w, y, g = jnp.asarray(X), jnp.asarray(W), jnp.asarray(LABELS), jnp.asarray(GAMMA)
    with pytest.raises(ValueError, match=r"need shape \(classes, 8\), one row for each class"):
        cosine_softmax_logits(x, w.T)
    with pytest.raises(ValueError, match=r"gamma_raw of shape \(4,\) for 5 classes"):
        wrapped_cauchy_logits(x, w, jnp.zeros(4))
    with pytest.raises(ValueError, match="scale must lie in"):
        wcdas_loss(x, y, w, g, scale=0.0)
    with pytest.raises(ValueError, match="label 7 is none of the 5 classes"):
        wcdas_loss(x, y.at[0].set(7), w, g)
