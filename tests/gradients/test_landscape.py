"""The loss along a line, and directions that scale with the filters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.gradients import filter_normalised_direction, weight_loss_landscape

KEY = jax.random.key(0)


def test_of_a_quadratic_it_is_a_parabola(x64):
    rng = np.random.default_rng(0)
    a, w, d = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
    alphas = np.linspace(-2, 2, 9)
    got = jax.jit(lambda w, d, t: weight_loss_landscape(lambda w: w @ a @ w, w, d, t))(w, d, alphas)
    want = w @ a @ w + alphas * (w @ a @ d + d @ a @ w) + alphas**2 * (d @ a @ d)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    with pytest.raises(ValueError, match=r"weight_loss_landscape: the trees differ"):
        weight_loss_landscape(lambda w: w @ w, jnp.ones(3), jnp.ones(4), jnp.zeros(1))


def test_every_filter_is_as_long_as_that_of_the_weights(x64):
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 5))), "dead": jnp.zeros((4, 2)), "bias": jnp.ones(5)}
    direction = filter_normalised_direction(KEY, params)
    norms = lambda x: np.sqrt(np.sum(np.square(x), axis=(0, 1, 2)))  # noqa: E731
    np.testing.assert_allclose(norms(direction["kernel"]), norms(params["kernel"]), rtol=1e-13)
    assert not np.any(direction["dead"]) and not np.any(direction["bias"])
    first = filter_normalised_direction(KEY, params, filter_axis=0, scope=None)
    rows = lambda x: np.sqrt(np.sum(np.square(x), axis=(1, 2, 3)))  # noqa: E731
    np.testing.assert_allclose(rows(first["kernel"]), rows(params["kernel"]), rtol=1e-13)
    np.testing.assert_allclose(np.linalg.norm(first["bias"]), 5**0.5, rtol=1e-13)  # one filter
    assert abs(np.corrcoef(np.ravel(direction["kernel"]), np.ravel(params["kernel"]))[0, 1]) < 0.3


def test_the_landscape_does_not_see_a_rescaling_of_layers(x64):
    """Two layers with a rectifier compute the same when one is doubled and the other halved."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(8, 4))), jnp.asarray(rng.normal(size=(8, 1)))
    params = [jnp.asarray(rng.normal(size=(4, 6))), jnp.asarray(rng.normal(size=(6, 1)))]
    loss = lambda p: jnp.mean((jax.nn.relu(x @ p[0]) @ p[1] - y) ** 2)  # noqa: E731
    alphas = jnp.linspace(-1, 1, 5)
    curves = []
    for scaled in (params, [2.0 * params[0], params[1] / 2.0]):
        direction = filter_normalised_direction(KEY, scaled)
        curves.append(weight_loss_landscape(loss, scaled, direction, alphas))
    np.testing.assert_allclose(*curves, rtol=1e-12)
    assert np.ptp(curves[0]) > 0.1
