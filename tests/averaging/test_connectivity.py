"""Barriers and planes: closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.averaging import (
    layerwise_barriers,
    loss_barrier,
    loss_on_line,
    loss_on_plane,
    plane_coordinates,
    plane_through,
)


def _model(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {
        "one": {"w": jnp.asarray(rng.normal(size=(3, 4)), dtype), "b": jnp.asarray(rng.normal(size=4), dtype)},
        "two": {"w": jnp.asarray(rng.normal(size=(4, 2)), dtype)},
    }


def test_a_linear_model_with_a_convex_loss_has_no_barrier(x64):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 2))

    def loss(w):
        return jnp.mean((x @ w - y) ** 2)

    a, b = jnp.asarray(rng.normal(size=(3, 2))), jnp.asarray(rng.normal(size=(3, 2)))
    # convexity: every point lies below the chord; the ends are on it
    assert float(loss_barrier(loss, a, b)) == 0.0
    line = np.asarray(loss_on_line(loss, a, b, num_points=5))
    # a quadratic on a line: L(t) = (1-t) L(a) + t L(b) - t (1-t) mean |x (a - b)|²
    t, gap = np.linspace(0, 1, 5), np.mean(np.asarray(x @ (a - b)) ** 2)
    np.testing.assert_allclose(line, (1 - t) * line[0] + t * line[-1] - t * (1 - t) * gap, rtol=1e-12)


def test_the_barrier_of_two_wells(x64):
    """(w² - 1)² from -1 to 1.5: losses 0 and 1.5625; L - chord by hand on the grid."""
    t = np.linspace(0, 1, 31)
    want = np.max(((2.5 * t - 1) ** 2 - 1) ** 2 - 1.5625 * t)
    got = loss_barrier(lambda w: (w**2 - 1) ** 2, jnp.array(-1.0), jnp.array(1.5), num_points=31)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert want > 0.3


def test_barriers_of_layers_equal_a_loop(x64):
    a, b = _model(3, jnp.float64), _model(4, jnp.float64)
    x = np.random.default_rng(5).normal(size=(10, 3))

    def loss(p):
        return jnp.mean(jnp.abs(jnp.tanh(x @ p["one"]["w"] + p["one"]["b"]) @ p["two"]["w"]))

    got = jax.jit(lambda a, b: layerwise_barriers(loss, a, b, num_points=7))(a, b)
    assert list(got) == ["['one']", "['two']"]
    for name, key in (("['one']", "one"), ("['two']", "two")):
        gaps = []
        for t in np.linspace(0, 1, 7):
            mixed = a | {key: jax.tree.map(lambda p, q, t=t: (1 - t) * p + t * q, a[key], b[key])}
            gaps.append(float(loss(mixed)) - (1 - t) * float(loss(a)) - t * float(loss(b)))
        np.testing.assert_allclose(got[name], max(gaps), rtol=1e-10, atol=1e-14)
    # all layers as one group is the barrier of the whole
    whole = layerwise_barriers(loss, a, b, num_points=7, granularity="model")
    np.testing.assert_allclose(whole[""], loss_barrier(loss, a, b, num_points=7), rtol=1e-12)


def test_a_deep_linear_network_is_convex_in_each_layer(x64):
    """Adilova et al., section 4: the squared loss is convex in one layer, though not in both."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))

    def loss(p):
        return jnp.mean((x @ p["u"]["w"] @ p["v"]["w"] - y) ** 2)

    a = {"u": {"w": jnp.asarray(rng.normal(size=(3, 3)))}, "v": {"w": jnp.asarray(rng.normal(size=(3, 2)))}}
    b = jax.tree.map(lambda w: -w, a)  # the same function
    np.testing.assert_allclose(loss(a), loss(b), rtol=1e-12)
    line = np.asarray(loss_on_line(lambda u: loss(a | {"u": {"w": u}}), a["u"]["w"], b["u"]["w"], num_points=9))
    assert (np.diff(line, 2) >= -1e-12).all()
    # half-way between the two the network is 0
    barrier = float(loss_barrier(loss, a, b, num_points=3))
    np.testing.assert_allclose(barrier, max(0.0, np.mean(y**2) - float(loss(a))), atol=1e-12)


def test_a_plane_holds_its_three_models(x64):
    a, b, c = (_model(seed, jnp.float64) for seed in (7, 8, 9))
    plane = plane_through(a, b, c)
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(p)]) for p in (a, b, c, plane.u, plane.v)]
    np.testing.assert_allclose([flat[3] @ flat[3], flat[4] @ flat[4], flat[3] @ flat[4]], [1, 1, 0], atol=1e-14)
    for model, point in zip((a, b, c), flat[:3], strict=True):
        x, y = np.asarray(plane_coordinates(plane, model))
        np.testing.assert_allclose(flat[0] + x * flat[3] + y * flat[4], point, atol=1e-13)
    np.testing.assert_allclose(plane_coordinates(plane, b), [np.linalg.norm(flat[1] - flat[0]), 0], atol=1e-13)
    goal = flat[2]

    def loss(p):  # squared distance to c
        return sum(jnp.sum((x - y) ** 2) for x, y in zip(jax.tree.leaves(p), jax.tree.leaves(c), strict=True))

    xs, ys = np.linspace(-1, 2, 4), np.linspace(0, 3, 3)
    grid = loss_on_plane(loss, plane, xs, ys)
    want = [[np.sum((flat[0] + x * flat[3] + y * flat[4] - goal) ** 2) for x in xs] for y in ys]
    np.testing.assert_allclose(grid, want, rtol=1e-12)


def test_clear_errors():
    a = _model(0)
    with pytest.raises(ValueError, match=r"\['two'\] is missing|\['two'\]\['w'\] is missing"):
        loss_on_line(lambda p: 0.0, a, {"one": a["one"]})
    with pytest.raises(ValueError, match="at least 3"):
        loss_barrier(lambda p: 0.0, a, a, num_points=2)
    with pytest.raises(ValueError, match=r"plane_through: c against a: .*\['one'\]\['b'\] is float32\[1\]"):
        plane_through(a, a, a | {"one": {"w": a["one"]["w"], "b": jnp.ones(1)}})
