"""IBP: bounds that hold, margins that are exact over a box, and an initialization that keeps a box's size."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import initializers as ibp


def _network(key, conv=True):
    keys = jax.random.split(key, 6)
    layers = []
    if conv:
        layers.append((jax.random.normal(keys[0], (3, 3, 1, 4)) / 3, jax.random.normal(keys[1], (4,))))
        layers.append((jax.random.normal(keys[2], (64, 8)) / 8, jax.random.normal(keys[3], (8,))))
    else:
        layers.append((jax.random.normal(keys[2], (16, 8)) / 4, jax.random.normal(keys[3], (8,))))
    layers.append((jax.random.normal(keys[4], (8, 3)), jax.random.normal(keys[5], (3,))))
    return layers


def _forward(layers, x):
    """Pre-activations by plain NumPy loops."""
    out = []
    for i, (kernel, bias) in enumerate(layers):
        k, b = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
        if i:
            x = np.maximum(x, 0)
        if k.ndim == 4:
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            y = np.zeros((*x.shape[:3], k.shape[3]))
            for r, c in itertools.product(range(3), range(3)):
                y += padded[:, r : r + x.shape[1], c : c + x.shape[2]] @ k[r, c]
            x = y + b
        else:
            x = x.reshape(len(x), -1) @ k + b
        out.append(x)
    return out


@pytest.mark.parametrize("conv", [True, False])
def test_no_point_of_the_box_leaves_the_bounds(conv):
    layers = _network(jax.random.key(0), conv)
    rng = np.random.default_rng(0)
    shape = (1, 4, 4, 1) if conv else (1, 16)
    lower = rng.normal(size=shape).astype(np.float32)
    upper = lower + rng.uniform(0, 0.5, shape).astype(np.float32)
    bounds = jax.jit(ibp.ibp_bounds)(layers, jnp.asarray(lower), jnp.asarray(upper))
    points = lower + (upper - lower) * rng.choice([0.0, 1.0, 0.3], (2000, *shape[1:]))
    for (low, high), z in zip(bounds, _forward(layers, points.astype(np.float64)), strict=True):
        # float32 rounding of sums of some 64 terms of order one
        assert (z >= np.asarray(low) - 1e-4).all() and (z <= np.asarray(high) + 1e-4).all()
    # the first affine layer is exact: some corner reaches its bound
    if not conv:
        weights = np.asarray(layers[0][0])
        corner = np.where(weights[:, 0] > 0, upper[0], lower[0])
        np.testing.assert_allclose(corner @ weights[:, 0] + layers[0][1][0], bounds[0][1][0, 0], rtol=1e-5)


def test_margins_are_those_of_the_worst_corner():
    rng = np.random.default_rng(1)
    lower = rng.normal(size=(3, 5))
    upper = lower + rng.uniform(0, 1, (3, 5))
    kernel, bias, labels = rng.normal(size=(5, 4)), rng.normal(size=4), np.array([2, 0, 3])
    got = ibp.ibp_margin_lower_bound(*(jnp.asarray(a) for a in (lower, upper, kernel, bias)), jnp.asarray(labels))
    for i, label in enumerate(labels):
        corners = np.array([np.where(pick, upper[i], lower[i]) for pick in itertools.product([0, 1], repeat=5)])
        z = corners @ kernel + bias
        np.testing.assert_allclose(got[i], (z[:, [label]] - z).min(0), rtol=1e-5, atol=1e-6)
    loss = ibp.ibp_robust_loss(got)
    np.testing.assert_allclose(loss, np.log(np.exp(-np.asarray(got)).sum(1)), rtol=1e-5)
    worst = np.where(np.eye(4, dtype=bool)[labels], np.inf, np.asarray(got)).min(1)
    np.testing.assert_allclose(ibp.verified_error(got, jnp.asarray(labels)), np.mean(worst <= 0))


def test_mean_radius_keeps_its_size_where_he_grows_as_predicted():
    """Gain of affine + ReLU: n E|w| / 2, 1 for IBP's and sqrt(n / π) for He's (normal) weights: half of a box is cut."""
    n, gains = 1024, {"ibp": [], "he": []}
    for seed in range(4):
        for name, init in (
            ("ibp", ibp.ibp_init),
            ("he", jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")),
        ):
            kernel = init(jax.random.key(seed), (n, n), jnp.float32)
            low, high = ibp.ibp_dense(-jnp.ones((1, n)), jnp.ones((1, n)), kernel, jnp.zeros(n))
            low, high = ibp.ibp_relu(low, high)
            gains[name].append(float(jnp.mean(high - low) / 2))
    # the mean of |w| over 10^6 weights is known to 1e-3
    np.testing.assert_allclose(gains["ibp"], 1.0, rtol=5e-3)
    np.testing.assert_allclose(gains["he"], np.sqrt(n / np.pi), rtol=5e-3)


@pytest.mark.parametrize("shape", [(40, 30), (3, 3, 8, 16)])
def test_init_moments_dtype_and_key(shape):
    keys = jax.random.split(jax.random.key(0), 200)
    w = np.asarray(jax.vmap(lambda k: ibp.ibp_init(k, shape))(keys))
    std = np.sqrt(2 * np.pi) / np.prod(shape[:-1])
    np.testing.assert_allclose(w.std(), std, rtol=1e-2)  # 2e5 draws and more: 2e-3
    assert abs(w.mean()) < 5 * std / np.sqrt(w.size)
    assert ibp.ibp_init(keys[0], shape, jnp.bfloat16).dtype == jnp.bfloat16
    np.testing.assert_array_equal(ibp.ibp_init(keys[0], shape), w[0])
    with pytest.raises(ValueError, match="at least an input and an output dimension"):
        ibp.ibp_init(keys[0], (3,))


def test_regularisers_by_hand_on_four_neurons():
    lower, upper = jnp.array([[1.0, 0.5, -3.0, -1.0]]), jnp.array([[3.0, 1.5, -1.0, 2.0]])
    # centres 2, 1, -2, 0.5, mean 0.375; active: the first two, inactive: the third
    alpha = 3 / 2
    spread = (np.array([2, 1, -2]) - 0.375) ** 2
    beta = (spread[0] + spread[1]) / spread[2]
    want = (max(0, 0.8 - 1 / alpha) + max(0, 0.8 - min(beta, 1 / beta))) / 0.8
    np.testing.assert_allclose(ibp.ibp_relu_balance_reg([(lower, upper)], tol=0.8), want, rtol=1e-6)
    # radii 1, .5, 1, 1.5: mean 1; the input's is .25
    tight = ibp.ibp_tightness_reg([(lower, upper)], (jnp.zeros(3), jnp.full(3, 0.5)), tol=0.5)
    np.testing.assert_allclose(tight, (0.5 - 0.25) / 0.5, rtol=1e-6)
    # nothing inactive: no balance to keep, and a finite gradient
    gradient = jax.grad(lambda u: ibp.ibp_relu_balance_reg([(jnp.ones((1, 2)), u)]))(jnp.full((1, 2), 2.0))
    np.testing.assert_array_equal(gradient, np.zeros((1, 2)))


def test_eps_schedule_is_smooth_and_ends_where_it_should(x64):
    schedule = ibp.smoothed_eps_schedule(0.3, start=100, length=400)
    values = np.asarray(jax.vmap(schedule)(jnp.arange(0, 601)))
    assert (values[:101] == 0).all() and np.allclose(values[500:], 0.3) and (np.diff(values) >= -1e-15).all()
    # auto_LiRPA's constants: alpha = eps / (t^4 + 4 t^3 (T - t)), t = 100, T = 400
    alpha = 0.3 / (100**4 + 4 * 100**3 * 300)
    np.testing.assert_allclose(values[150], alpha * 50**4, rtol=1e-12)
    np.testing.assert_allclose(values[200], alpha * 100**4, rtol=1e-12)
    slopes = np.diff(values)[201:499]
    np.testing.assert_allclose(slopes, alpha * 4 * 100**3, rtol=1e-9)


def test_clear_errors():
    with pytest.raises(ValueError, match="at least one layer"):
        ibp.ibp_bounds([], jnp.zeros((1, 2)), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="the ends of a box have one shape"):
        ibp.ibp_bounds(_network(jax.random.key(0), False), jnp.zeros((1, 16)), jnp.ones((1, 15)))
