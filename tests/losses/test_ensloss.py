"""EnsLoss against SciPy, the authors' code in float64 NumPy with the same draws, and the theorem it rests on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxtrain.losses import ensloss, inverse_box_cox, is_calibrated_derivative, sample_calibrated_derivatives
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
B = 32
F, Y = 2 * RNG.standard_normal(B), RNG.integers(0, 2, B)
LAMS = (-1.0, -0.3, 0.0, 0.5, 1.0)


def released(z, s, lam):
    """The authors' derivatives from normal draws z, in NumPy."""
    with np.errstate(divide="ignore"):
        r = np.exp(z) if lam == 0 else np.where(1 + lam * z > 0, 1 + lam * z, 0.0) ** (1 / lam)
    g = np.empty_like(s)
    g[np.argsort(s)] = np.maximum(np.sort(-r), -1.0)
    g[s > 1] *= 1 / s[s > 1]
    return g - 1e-6


def test_equals_the_released_code(x64):
    s = (2 * Y - 1) * F
    draw = jax.jit(lambda key, lam: sample_calibrated_derivatives(key, jnp.asarray(s), lam=lam))
    for number, lam in enumerate(LAMS * 6):
        key = jax.random.key(number)
        wanted = released(np.asarray(jax.random.normal(key, (B,), jnp.float64)), s, lam)
        np.testing.assert_allclose(draw(key, lam), wanted, rtol=1e-12, atol=1e-15)  # float64


def test_gradient_is_the_drawn_derivative(x64):
    key, f, y = jax.random.key(3), jnp.asarray(F), jnp.asarray(Y)
    value, grad = jax.value_and_grad(lambda f: ensloss(key, f, y, lam=0.5).mean())(f)
    g = sample_calibrated_derivatives(key, (2 * y - 1) * f, lam=0.5)
    np.testing.assert_array_equal(np.asarray(grad), np.asarray((2 * y - 1) * g) / B)
    np.testing.assert_allclose(value, np.mean(g * (2 * Y - 1) * F), rtol=1e-14)


def test_inverse_box_cox_equals_scipy(x64):
    q = np.linspace(0.01, 0.99, 40)
    z = scipy.stats.norm.ppf(q)
    np.testing.assert_allclose(inverse_box_cox(jnp.asarray(z), lam=0.0), scipy.stats.lognorm.ppf(q, 1.0), rtol=1e-12)
    for lam in (-0.4, -1e-5, 1e-5, 0.4):  # bases above 0
        np.testing.assert_allclose(
            inverse_box_cox(jnp.asarray(z), lam=lam), scipy.special.inv_boxcox(z, lam), rtol=1e-12
        )
    np.testing.assert_array_equal(inverse_box_cox(jnp.array([-3.0]), lam=0.5), 0.0)
    np.testing.assert_array_equal(inverse_box_cox(jnp.array([3.0]), lam=-0.5), np.inf)


@pytest.mark.parametrize("tail", ["inverse", "none"])
def test_every_draw_is_calibrated(tail):
    def one(key, lam):
        margins, draw = jax.random.split(key)
        s = 3 * jax.random.normal(margins, (B,))
        g = sample_calibrated_derivatives(draw, s, lam=lam, tail=tail)
        return is_calibrated_derivative(s, g), g.max(), g.min()

    keys, lams = jax.random.split(jax.random.key(1), 500), jnp.linspace(-1.0, 1.0, 500)
    good, highest, lowest = jax.jit(jax.vmap(one))(keys, lams)
    # the bound is -1 - 1e-6, rounded
    assert bool(good.all()) and float(highest.max()) < 0 and float(lowest.min()) >= -1.0000011


def test_the_tail_bounds_the_loss_from_falling_fast():
    s = jnp.array([0.5, 2.0, 100.0])
    args = {"lam": 0.0, "eps": 1e-6}
    plain = sample_calibrated_derivatives(jax.random.key(0), s, tail="none", **args) + 1e-6
    tailed = sample_calibrated_derivatives(jax.random.key(0), s, tail="inverse", **args) + 1e-6
    np.testing.assert_allclose(tailed, plain / np.maximum(s, 1), rtol=1e-3, atol=1e-7)  # 1e-6 taken off and on again


def test_known_losses_are_judged_rightly():
    s = jnp.linspace(-2.0, 2.0, 41)
    for g in (-jax.nn.sigmoid(-s), -jnp.exp(-s), jnp.where(s < 1, -1.0, 0.0), 2 * (s - 1)):
        assert bool(is_calibrated_derivative(s, g))
    for g in (jnp.where(s < 0, -1.0, 0.0), 2 * s, -jnp.exp(s), jnp.full(41, 0.0)):  # the perceptron's is not
        assert not bool(is_calibrated_derivative(s, g))
    assert bool(is_calibrated_derivative(jnp.zeros(2), jnp.array([-0.5, -1.0])))


def test_contract():
    # the batch is drawn together, and the derivatives are constants, which differences do not know
    loss = lambda x, y: ensloss(jax.random.key(0), x, y)  # noqa: E731
    check_loss(loss, predictions=F[:6], targets=Y[:6], except_=["batch", "gradient"])


def test_bad_input():
    f, y, key = jnp.asarray(F), jnp.asarray(Y), jax.random.key(0)
    with pytest.raises(ValueError, match="vectors of one size"):
        ensloss(key, f[:, None], y)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 1\]"):
        ensloss(key, f, 2 * y - 1)
    with pytest.raises(TypeError, match="typed key|parameter 'key'"):
        ensloss(0, f, y)
    with pytest.raises(ValueError, match="tail must be one of"):
        sample_calibrated_derivatives(key, f, tail="exp")
    with pytest.raises(ValueError, match="must be vectors"):
        is_calibrated_derivative(f, f[:3])
