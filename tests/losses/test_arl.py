"""ARL against the release's arithmetic in NumPy, the theorem on fused variances, and the scaled gradient by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxtrain.losses import arl_coefficients, arl_loss, grad_scale, modality_variance_weights
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
A, B = 2 * RNG.normal(size=(7, 5)), 0.5 * RNG.normal(size=(7, 5))
coefficients = jax.jit(arl_coefficients)


def by_hand(a, b, temperature, floor):
    """Release's arithmetic with scipy's entropy; the shares enter as it prints them."""
    entropy = [scipy.stats.entropy(scipy.special.softmax(x, axis=1), axis=1).mean() for x in (a, b)]
    h_a, h_b = (max(h / sum(entropy), floor) for h in entropy)
    v_a, v_b = h_b / (h_a + h_b), h_a / (h_a + h_b)
    size_a, size_b = np.abs(a).mean(), np.abs(b).mean()
    d_a = size_a / (size_a + size_b)
    # a softmax of two numbers is a sigmoid of their difference
    c_a = scipy.special.expit(temperature * ((1 - d_a) * v_a - d_a * v_b))
    return np.array([v_a, v_b]), np.array([c_a, 1 - c_a])


@pytest.mark.parametrize(
    "scale, temperature, floor", [(1.0, 8.0, 0.3), (0.05, 2.0, 0.05), (6.0, 8.0, 0.3), (6.0, 1.0, 0.01)]
)
def test_equals_the_formula(scale, temperature, floor, x64):
    v, c = by_hand(scale * A, B, temperature, floor)
    logits = [jnp.asarray(scale * A), jnp.asarray(B)]
    # float64 rounding of sums of entropies
    np.testing.assert_allclose(modality_variance_weights(logits, floor=floor), v, rtol=1e-12)
    np.testing.assert_allclose(coefficients(logits, temperature=temperature, floor=floor), c, rtol=1e-12)


def test_weights_are_those_of_the_least_variance(x64):
    # entropies log 2, log 4 and log 16 are as 1 : 2 : 4; so let the variances of three unbiased estimates be
    variance = np.array([1.0, 2.0, 4.0])
    logits = [jnp.where(jnp.arange(16) < n, 0.0, -1e4)[None] for n in (2, 4, 16)]
    v = np.asarray(modality_variance_weights(logits, floor=0.01))
    least = np.sum(v**2 * variance)
    np.testing.assert_allclose(least, 1 / np.sum(1 / variance), rtol=1e-12)
    for w in RNG.dirichlet(np.ones(3), 100):
        assert np.sum(w**2 * variance) > least
    # the fused squared error of Gaussian estimates: five standard errors of a mean of squares
    noise = RNG.normal(size=(20_000, 3)) * np.sqrt(variance)
    np.testing.assert_allclose(np.mean((noise @ v) ** 2), least, rtol=5 * np.sqrt(2 / 20_000))


def test_rests_where_the_dependence_is_inverse_to_the_variance(x64):
    a = np.array([[1.5, -0.5, 0.0]])
    h_a = scipy.stats.entropy(scipy.special.softmax(a[0]))
    # b of another entropy; then both are shifted, which changes how large they are but no prediction
    b = np.array([[0.3, 0.0, -0.3]])
    h_b = scipy.stats.entropy(scipy.special.softmax(b[0]))
    shift = 20.0
    ratio = h_b / h_a  # wanted d_a / d_b
    a_shifted = a + (ratio * np.abs(b + shift).sum() - a.sum()) / 3
    at_rest = coefficients([jnp.asarray(a_shifted), jnp.asarray(b + shift)])
    np.testing.assert_allclose(at_rest, [0.5, 0.5], atol=1e-13)
    less = coefficients([jnp.asarray(a_shifted - 5), jnp.asarray(b + shift)])
    more = coefficients([jnp.asarray(a_shifted + 5), jnp.asarray(b + shift)])
    assert less[0] > 0.5 > more[0]


def test_equal_and_empty_modalities():
    logits = jnp.asarray(A, jnp.float32)
    np.testing.assert_array_equal(coefficients([logits, logits]), [0.5, 0.5])
    np.testing.assert_array_equal(coefficients([0 * logits, 0 * logits]), [0.5, 0.5])
    certain = 1e4 * jax.nn.one_hot(jnp.arange(7) % 5, 5)  # no entropy at all
    np.testing.assert_allclose(modality_variance_weights([certain, certain]), [0.5, 0.5])
    np.testing.assert_allclose(modality_variance_weights([certain, logits]), [1 / 1.3, 0.3 / 1.3], rtol=1e-6)
    np.testing.assert_array_equal(coefficients([logits, 0 * logits], temperature=0.0), [0.5, 0.5])
    gradient = jax.grad(lambda x: coefficients([x, 2 * x + 1])[0])(logits)
    np.testing.assert_array_equal(gradient, 0.0)


def test_masked_classes_count_for_nothing(x64):
    logits = [jnp.asarray(A), jnp.asarray(B)]
    masked = [jnp.concatenate([x, jnp.full((7, 1), -jnp.inf)], axis=1) for x in logits]
    np.testing.assert_allclose(modality_variance_weights(masked), modality_variance_weights(logits), rtol=1e-14)
    np.testing.assert_allclose(coefficients(masked), coefficients(logits), rtol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_scaled_gradient(dtype):
    x, s = jnp.array([1.0, -2.0, jnp.inf], dtype), jnp.array(0.5)
    value, pull = jax.vjp(grad_scale, x, s)
    to_x, to_s = pull(jnp.array([1.0, 2.0, 3.0], dtype))
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(to_x, [1.5, 3.0, 4.5])
    assert value.dtype == to_x.dtype == dtype and float(to_s) == 0
    # both modes, twice, under vmap and one scale for each row
    f = lambda x: jnp.sum(grad_scale(x, 1.0) ** 3)  # noqa: E731
    y = jnp.array([1.0, 2.0], dtype)
    np.testing.assert_array_equal(jax.jvp(f, (y,), (y,))[1], 2 * 3 * (1 + 8))
    np.testing.assert_array_equal(jax.grad(f)(y), 2 * 3 * y**2)
    np.testing.assert_array_equal(jax.hessian(f)(y), jnp.diag(2 * 2 * 6 * y))
    rows = jax.grad(lambda x: jnp.sum(grad_scale(x, jnp.array([[-1.0], [0.0]]))))(jnp.ones((2, 2), dtype))
    np.testing.assert_array_equal(rows, [[0, 0], [1, 1]])
    scales = jax.jit(jax.vmap(lambda s: jax.grad(lambda x: grad_scale(x, s))(y[0])))(jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(scales, [1, 2])


def test_loss_by_hand(x64):
    labels = RNG.integers(0, 5, 7)
    ce = [scipy.special.logsumexp(x, axis=1) - x[np.arange(7), labels] for x in (A + B, A, B)]
    got = arl_loss(*jax.tree.map(jnp.asarray, (A + B, [A, B], labels)), gamma=0.3)
    np.testing.assert_allclose(got, ce[0] + 0.3 * (ce[1] + ce[2]), rtol=1e-13)
    np.testing.assert_allclose(arl_loss(*map(jnp.asarray, (A + B,)), [], jnp.asarray(labels)), ce[0], rtol=1e-13)


def test_contract():
    check_loss(lambda x, y: arl_loss(x, [0.5 * x, x[:, ::-1]], y, gamma=0.7))


def test_bad_input():
    x, y = jnp.zeros((3, 2)), jnp.zeros(3, int)
    with pytest.raises(ValueError, match="logits of 1 modalities; give 2 at least"):
        modality_variance_weights([x])
    with pytest.raises(ValueError, match="logits of 3 modalities; give exactly 2"):
        arl_coefficients([x, x, x])
    with pytest.raises(ValueError, match=r"shapes \[\(3, 2\), \(2, 2\)\]; give \(batch, classes\), all alike"):
        arl_coefficients([x, x[:2]])
    with pytest.raises(ValueError, match="floor must lie in"):
        modality_variance_weights([x, x], floor=0.0)
    with pytest.raises(ValueError, match="temperature must lie in"):
        arl_coefficients([x, x], temperature=-1.0)
    with pytest.raises(ValueError, match="gamma must lie in"):
        arl_loss(x, [x], y, gamma=-1.0)
    with pytest.raises(ValueError, match=r"logits \(3, 2\) and unimodal_logits\[1\] \(3, 1\) disagree"):
        arl_loss(x, [x, x[:, :1]], y)
    with pytest.raises(ValueError, match="label 2 is none of the 2 classes"):
        arl_loss(x, [x], y + 2)
    with pytest.raises(ValueError, match=r"a scale of shape \(2,\) does not broadcast to x of shape \(3,\)"):
        grad_scale(x[:, 0], jnp.zeros(2))
