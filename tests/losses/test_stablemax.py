"""StableMax against the authors' formulas in float64, softmax, and rounding worked out by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import log_stablemax, softmax_collapse_fraction, stablemax, stablemax_cross_entropy
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "orthograd.npz")
LABELS = jnp.arange(21) % 6


def test_equals_the_official_formulas(x64):
    x = jnp.asarray(GOLDEN["logits"])
    np.testing.assert_allclose(log_stablemax(x), GOLDEN["log_stablemax"], rtol=1e-12, atol=1e-15)  # float64
    np.testing.assert_allclose(stablemax(x), np.exp(GOLDEN["log_stablemax"]), rtol=1e-12)
    np.testing.assert_allclose(stablemax_cross_entropy(x, LABELS), GOLDEN["loss"], rtol=1e-12, atol=1e-15)
    grad = jax.grad(lambda x: stablemax_cross_entropy(x, LABELS).sum())(x)
    # the last row is zero, where both branches meet with slope 1
    np.testing.assert_allclose(grad, GOLDEN["grad"], rtol=1e-11, atol=1e-15)


def test_single_precision_is_as_good_as_the_official_double():
    x = jnp.asarray(GOLDEN["logits"], jnp.float32)
    # relative to the loss itself, also where it is small; the logits' own rounding is multiplied by up to log(1e5)
    np.testing.assert_allclose(stablemax_cross_entropy(x, LABELS), GOLDEN["loss"], rtol=5e-6)


def test_is_the_softmax_of_log_s():
    x = jnp.asarray(GOLDEN["logits"], jnp.float32)
    log_s = jnp.sign(x) * jnp.log1p(jnp.abs(x))
    np.testing.assert_allclose(log_stablemax(x), jax.nn.log_softmax(log_s), rtol=1e-5, atol=1e-6)  # float32
    np.testing.assert_allclose(stablemax(x).sum(-1), np.ones(21), rtol=1e-6)


def test_contract():
    check_loss(stablemax_cross_entropy, class_symmetric=True)


def test_does_not_collapse_where_softmax_does():
    x, y = jnp.array([[20.0, 0.0]]), jnp.array([0])
    softmax = lambda x: optax.losses.softmax_cross_entropy_with_integer_labels(x, y)[0]  # noqa: E731
    assert float(softmax(x)) == 0.0 and float(jax.grad(softmax)(x)[0, 0]) == 0.0
    value, grad = jax.value_and_grad(lambda x: stablemax_cross_entropy(x, y)[0])(x)
    np.testing.assert_allclose(value, -np.log(21 / 22), rtol=1e-6)  # one float32 rounding
    # d/dx log(1 + 1/(1 + x)) = -1 / ((1 + x)(2 + x)); of the other logit 1/(22)
    np.testing.assert_allclose(grad, [[-1 / (21 * 22), 1 / 22]], rtol=1e-6)


@pytest.mark.parametrize(
    "dtype, bits", [(jnp.float32, 24), (jnp.float16, 11), (jnp.bfloat16, 8)], ids=["float32", "float16", "bfloat16"]
)
def test_collapse_begins_where_one_plus_x_is_one(dtype, bits):
    # 1 + exp(-gap) rounds to 1 from half a unit of the last place on: gap ≥ bits · log 2
    gap = bits * np.log(2)
    step = float(jnp.finfo(dtype).eps) * 2 * gap  # the gap itself is rounded to dtype
    gaps = jnp.asarray([gap - 2 * step, gap + 2 * step], jnp.float32)
    x = jnp.stack([jnp.zeros(2), -gaps], axis=1)
    found = [float(softmax_collapse_fraction(x[i : i + 1], jnp.array([0]), dtype=dtype)) for i in range(2)]
    assert found == [0.0, 1.0]
    # a wrong prediction never collapses
    assert float(softmax_collapse_fraction(x, jnp.array([1, 1]), dtype=dtype)) == 0.0


def test_collapse_is_a_loss_of_exactly_zero():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(300, 5)) * 12, jnp.float32)
    y = jnp.argmax(x, axis=1)
    zero = np.asarray(optax.losses.softmax_cross_entropy_with_integer_labels(x - x.max(1, keepdims=True), y)) == 0
    found = float(softmax_collapse_fraction(x, y))
    assert 0.1 < found < 0.9
    # sums of exponentials in another order may round differently once in a while
    np.testing.assert_allclose(found, zero.mean(), atol=1 / 300)


def test_clear_errors():
    with pytest.raises(ValueError, match="stablemax_cross_entropy: label 2 is none of the 2 classes"):
        stablemax_cross_entropy(jnp.zeros((1, 2)), jnp.array([2]))
    with pytest.raises(TypeError, match="dtype must be floating, got int32"):
        softmax_collapse_fraction(jnp.zeros((1, 2)), jnp.array([0]), dtype=jnp.int32)


def test_classes_masked_out_do_not_count():
    x = jnp.array([[1.0, -jnp.inf, 2.0], [3.0, -jnp.inf, -jnp.inf]])
    value, grad = jax.value_and_grad(lambda x: stablemax_cross_entropy(x, jnp.array([0, 0])).sum())(x)
    np.testing.assert_allclose(value, np.log(5 / 2), rtol=1e-6)  # of the second example nothing can be confused
    np.testing.assert_allclose(grad, [[-0.3, 0, 0.2], [0, 0, 0]], rtol=1e-6)  # 1/5 - 1/2 and 1/5
