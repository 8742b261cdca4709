"""Correctness-aware calibration in closed form, against SciPy's minimiser, and on data whose calibration is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from jaxtrain.losses import (
    augmentation_calibrator_apply,
    augmented_top_probs,
    correctness_aware_loss,
    fit_temperature,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
Z, Y = 2 * RNG.normal(size=(40, 5)), RNG.integers(0, 5, 40)
T = np.exp(0.5 * RNG.normal(size=40))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
def test_is_the_distance_of_confidence_from_correctness(p, x64):
    conf = special.softmax(Z / T[:, None], axis=1).max(1)
    wanted = np.abs(conf - (Z.argmax(1) == Y)) ** p
    got = correctness_aware_loss(jnp.asarray(Z), jnp.asarray(Y), jnp.asarray(T), p=p)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)  # float64
    one = correctness_aware_loss(jnp.asarray(Z), jnp.asarray(Y), 1.0, p=p)
    np.testing.assert_allclose(one, np.abs(special.softmax(Z, 1).max(1) - (Z.argmax(1) == Y)) ** p, rtol=1e-12)


def test_slope_in_the_temperature_of_two_classes(x64):
    # c = sigmoid(d/T), dc/dT = -c (1 - c) d / T²
    d, t = 1.3, 0.8
    c = special.expit(d / t)
    slope = jax.jit(jax.grad(lambda t, y: correctness_aware_loss(jnp.array([d, 0.0]), jnp.array(y), t)))
    down = -c * (1 - c) * d / t**2
    np.testing.assert_allclose(slope(t, 0), -2 * (1 - c) * down, rtol=1e-12)  # right: colder
    np.testing.assert_allclose(slope(t, 1), 2 * c * down, rtol=1e-12)  # wrong: warmer
    assert slope(t, 0) > 0 > slope(t, 1)
    # a narrow mistake of three classes: cross-entropy wants more confidence in the wrong one, this one less
    z, y = jnp.array([1.0, 0.95, 0.0]), jnp.array(1)
    by_ce = jax.grad(lambda t: -jax.nn.log_softmax(z / t)[1])(1.0)
    by_ca = jax.grad(lambda t: correctness_aware_loss(z, y, t))(1.0)
    assert by_ce > 0 > by_ca
    np.testing.assert_array_equal(jax.grad(lambda z: correctness_aware_loss(z, y, 1.0))(z), 0.0)


def test_bounds():
    z = jnp.array([[30.0, 0.0, 0.0, 0.0]] * 2)
    y = jnp.array([0, 1])
    hot = correctness_aware_loss(z, y, 1e6)
    np.testing.assert_allclose(hot, [0.75**2, 0.25**2], rtol=1e-4)  # 30 / T = 3e-5
    cold = correctness_aware_loss(z, y, 1.0)
    # 1 - c = 3 e^-30 keeps its digits: 1 - (1 - 3e-13) would be 0 in single precision
    np.testing.assert_allclose(cold, [9 * np.exp(-60.0), 1.0], rtol=1e-5)


def _by_scipy(z, y, objective):
    onehot, right = np.eye(z.shape[1])[y], z.argmax(1) == y

    def loss(log_t):
        p = special.softmax(z / np.exp(log_t), axis=1)
        if objective == "nll":
            return -np.log(p[np.arange(len(y)), y]).mean()
        if objective == "mse":
            return ((p - onehot) ** 2).sum(1).mean()
        return ((p.max(1) - right) ** 2).mean()

    return np.exp(optimize.minimize_scalar(loss, bounds=(-3, 4), method="bounded", options={"xatol": 1e-10}).x)


@pytest.mark.parametrize("objective", ["ca", "nll", "mse"])
def test_fit_is_scipys_and_finds_the_truth(objective, x64):
    rng = np.random.default_rng(1)
    z = 2 * rng.normal(size=(4000, 4))
    # labels drawn from the softmax at temperature 1: calibrated, and here three times too sharp
    y = (z + rng.gumbel(size=z.shape)).argmax(1)
    fit = jax.jit(lambda z: fit_temperature(z, jnp.asarray(y), objective=objective))
    got = fit(jnp.asarray(z))
    # SciPy sees the loss, whose minimum is flat to 1e-16 over 1e-8 of its square root; ours the slope
    np.testing.assert_allclose(got, _by_scipy(z, y, objective), rtol=1e-6)
    np.testing.assert_allclose(got, 1.0, atol=0.1)  # four standard errors at 4,000 examples
    np.testing.assert_allclose(fit(jnp.asarray(3 * z)), 3 * got, rtol=1e-6)  # the bisection's last interval
    np.testing.assert_allclose(fit(jnp.asarray(3 * z + 7)), 3 * got, rtol=1e-6)


def test_fit_without_a_minimum():
    z = jnp.array([[2.0, 0.0], [0.0, 2.0]])
    # all right: as cold as may be, 1/100 of the difference of 2, half a step of the grid and its last half at most
    assert float(fit_temperature(z, jnp.array([0, 1]))) < 0.03
    assert float(fit_temperature(z, jnp.array([1, 0]))) > 150  # all wrong
    assert float(fit_temperature(jnp.zeros((2, 3)), jnp.array([0, 1]))) > 0


def test_masked_classes_are_none(x64):
    """As if they were not there: values, slopes, the fitted temperature; and a confidence of 1 where one class is left."""
    masked, y = jnp.pad(jnp.asarray(Z), ((0, 0), (0, 1)), constant_values=-jnp.inf), jnp.asarray(Y)
    for got, wanted in zip(
        jax.value_and_grad(lambda t: correctness_aware_loss(masked, y, t).sum())(0.7),
        jax.value_and_grad(lambda t: correctness_aware_loss(jnp.asarray(Z), y, t).sum())(0.7),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)  # float64
    # the other two go the same way
    fit = jax.jit(lambda z: fit_temperature(z, y, objective="nll"))
    np.testing.assert_allclose(fit(masked), fit(jnp.asarray(Z)), rtol=1e-7)  # the bisection's last interval
    sure = jax.value_and_grad(lambda t: correctness_aware_loss(jnp.array([1.0, -jnp.inf]), jnp.array(0), t))(1.0)
    np.testing.assert_array_equal(sure, (0.0, 0.0))


def test_probabilities_are_gathered_in_the_examples_order(x64):
    copies = RNG.normal(size=(3, 40, 5))
    got = augmented_top_probs(jnp.asarray(Z), jnp.asarray(copies), k=4)
    assert got.shape == (40, 3, 4)
    order = np.argsort(-Z, axis=1)
    for m in range(3):
        for i in (0, 7, 39):
            np.testing.assert_allclose(got[i, m], special.softmax(copies[m, i])[order[i, :4]], rtol=1e-12)
    own = augmented_top_probs(jnp.asarray(Z), jnp.asarray(Z)[None], k=5)[:, 0]
    np.testing.assert_allclose(own, -np.sort(-special.softmax(Z, axis=1), axis=1), rtol=1e-12)


def test_calibrator_is_a_network_with_a_positive_output(x64):
    w1, b1, w2, b2 = (RNG.normal(size=s) for s in ((6, 3), (3,), (3, 1), (1,)))
    x = RNG.random((5, 2, 3))
    params = [{"w": jnp.asarray(w1), "b": jnp.asarray(b1)}, {"w": jnp.asarray(w2), "b": jnp.asarray(b2)}]
    wanted = 0.2 + np.log1p(np.exp(np.maximum(x.reshape(5, 6) @ w1 + b1, 0) @ w2 + b2))[:, 0]
    np.testing.assert_allclose(augmentation_calibrator_apply(params, jnp.asarray(x), low=0.2), wanted, rtol=1e-12)


def test_contract():
    def of_temperatures(x, i):
        """Predictions are what the temperature comes from; targets number the examples."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        logits = jnp.asarray(Z[:6], wide.dtype)[i]
        return correctness_aware_loss(logits, jnp.asarray(Y[:6])[i], 0.1 + jax.nn.softplus(wide)).astype(x.dtype)

    laws = ("shape", "batch", "finite_gradient", "gradient")
    check_loss(of_temperatures, predictions=RNG.normal(size=6), targets=np.arange(6), laws=laws)
    check_loss(lambda z, y: correctness_aware_loss(z, y, 0.7), laws=("dtype", "finite", "bfloat16"))


def test_bad_input():
    z, y = jnp.asarray(Z), jnp.asarray(Y)
    with pytest.raises(ValueError, match=r"temperature of shape \(3,\); give one number or one for each of \(40,\)"):
        correctness_aware_loss(z, y, jnp.ones(3))
    with pytest.raises(ValueError, match="temperature must lie in"):
        correctness_aware_loss(z, y, 0.0)
    with pytest.raises(ValueError, match="p must lie in"):
        correctness_aware_loss(z, y, 1.0, p=0.5)
    with pytest.raises(ValueError, match="label 5 is none of the 5 classes"):
        fit_temperature(z, y.at[0].set(5))
    with pytest.raises(ValueError, match=r"logits \(0, 5\) must be \(batch, n\) of one example at least"):
        fit_temperature(z[:0], y[:0])
    with pytest.raises(ValueError, match="objective must be one of ca, nll, mse, got 'ece'"):
        fit_temperature(z, y, objective="ece")
    with pytest.raises(ValueError, match="k is 6, but there are 5 classes"):
        augmented_top_probs(z, z[None], k=6)
    with pytest.raises(ValueError, match=r"logits \(40, 5\) and copies \(1, 39, 5\) disagree"):
        augmented_top_probs(z, z[None, 1:])
    with pytest.raises(ValueError, match=r"layers of shapes \[\(5, 2\)\] for 5 inputs and one temperature"):
        augmentation_calibrator_apply([{"w": jnp.zeros((5, 2)), "b": jnp.zeros(2)}], z)
