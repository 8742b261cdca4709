"""AdaHessian against the authors' file, and Hutchinson's estimate against the exact Hessian."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import adahessian, hutchinson_hessian_diag, scale_by_adahessian, spatial_average

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "adahessian.npz")
CASES = {
    "default": {},
    "power": {"hessian_power": 0.5, "weight_decay": 0.1, "learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3},
    "momentum": {"hessian_power": 0.0, "learning_rate": 0.02},
}
NAMES = ("kernel", "dense", "bias", "scale")


def ours(name, value):
    """A golden array with Flax's layout of kernels, HWIO, in place of PyTorch's OIHW."""
    value = jnp.asarray(value)
    if name == "kernel":
        lead = tuple(range(value.ndim - 4))
        o, i, h, w = range(value.ndim - 4, value.ndim)
        value = value.transpose(*lead, h, w, i, o)
    return value


@pytest.mark.parametrize("case", CASES)
def test_equals_the_official_code(x64, case):
    params = {name: ours(name, GOLDEN[f"first/{name}"]) for name in NAMES}
    grads, diags, wanted = (
        {name: ours(name, GOLDEN[f"{case}/{name}/{kind}"]) for name in NAMES} for kind in ("grads", "diag", "iterates")
    )
    learning_rate = CASES[case].get("learning_rate", 0.15)
    # a tenth from the 21st step on, as in tests/golden/make_adahessian.py
    tx = adahessian(**CASES[case] | {"learning_rate": optax.piecewise_constant_schedule(learning_rate, {20: 0.1})})

    def step(carry, seen):
        params, state = carry
        updates, state = tx.update(seen[0], state, params, hessian_diag=seen[1])
        params = optax.apply_updates(params, updates)
        return (params, state), params

    _, iterates = jax.jit(lambda p, xs: jax.lax.scan(step, (p, tx.init(p)), xs))(params, (grads, diags))
    for name in NAMES:
        # 40 float64 steps of the same formula that lead up to 2 far
        np.testing.assert_allclose(iterates[name], wanted[name], rtol=1e-12, atol=1e-12, err_msg=name)


def quadratic(hessian):
    return lambda x: 0.5 * x @ jnp.asarray(hessian) @ x


def test_one_probe_finds_a_diagonal_hessian_exactly(x64):
    diag = jnp.array([1.0, -2.0, 1e4])
    for seed in range(3):
        got = hutchinson_hessian_diag(jax.random.key(seed), quadratic(jnp.diag(diag)), jnp.ones(3))
        np.testing.assert_array_equal(got, diag)


def test_hutchinson_is_unbiased_with_the_known_variance(x64):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 4))
    hessian = a + a.T
    probes = 4000
    draw = jax.jit(jax.vmap(lambda k: hutchinson_hessian_diag(k, quadratic(hessian), jnp.zeros(4))))
    d = np.asarray(draw(jax.random.split(jax.random.key(1), probes)))
    variance = (hessian**2).sum(axis=1) - np.diag(hessian) ** 2
    # five standard errors of a mean; of a variance, whose fourth moment is at most 3 × that of ±1 products
    np.testing.assert_array_less(np.abs(d.mean(axis=0) - np.diag(hessian)), 5 * np.sqrt(variance / probes))
    np.testing.assert_allclose(d.var(axis=0), variance, rtol=5 * np.sqrt(2 / probes))
    many = hutchinson_hessian_diag(jax.random.key(2), quadratic(hessian), jnp.zeros(4), num_samples=probes)
    np.testing.assert_array_less(np.abs(many - np.diag(hessian)), 5 * np.sqrt(variance / probes))


def test_spatial_average_by_hand():
    kernel = jnp.arange(-4.0, 8.0).reshape(2, 3, 2, 1)
    got = spatial_average({"k": kernel, "m": jnp.arange(6.0).reshape(2, 3), "v": jnp.array([-1.0, 2.0])}, block_size=2)
    # entries of input channel 0: -4 -2 0 2 4 6, of channel 1: -3 -1 1 3 5 7; blocks of the matrix: 01 23 45
    np.testing.assert_allclose(got["k"][..., 0, 0], 18 / 6)
    np.testing.assert_allclose(got["k"][..., 1, 0], 20 / 6, rtol=1e-6)
    np.testing.assert_array_equal(got["m"], [[0.5, 0.5, 2.5], [2.5, 4.5, 4.5]])
    np.testing.assert_array_equal(got["v"], [1.0, 2.0])
    signed = spatial_average(kernel, abs_before_average=False)
    np.testing.assert_allclose(signed[0, 0, :, 0], [1.0, 2.0])
    cube = jnp.ones((2, 2, 3)) * jnp.arange(3.0)
    np.testing.assert_array_equal(spatial_average(cube), cube)  # rank 3: blocks of one entry
    assert spatial_average(jnp.ones((0, 3)), block_size=2).shape == (0, 3)
    with pytest.raises(ValueError, match=r"block_size 4 does not divide the 6 entries of \['m'\], shape \(2, 3\)"):
        spatial_average({"m": jnp.ones((2, 3))}, block_size=4)


@pytest.mark.parametrize(
    ("options", "matrix", "kernel"),
    [
        ({"block_size": 2}, [[1.5, 1.5], [3.5, 3.5]], 2.0),
        ({"block_size": 2, "abs_before_average": False}, [[0.5, 0.5], [3.5, 3.5]], 1.0),
        ({"block_size": 2, "spatial_averaging": False}, [[1.0, 2.0], [3.0, 4.0]], [[[[1.0]]], [[[3.0]]]]),
    ],
)
def test_options_and_the_mask_of_the_decay(x64, options, matrix, kernel):
    """The first step with eps = 0 is g / |D|, and of the arrays that decay λ θ more."""
    params = {"matrix": jnp.array([[5.0, 6.0], [7.0, 8.0]]), "kernel": jnp.ones((2, 1, 1, 1))}
    diag = {"matrix": jnp.array([[1.0, -2.0], [3.0, 4.0]]), "kernel": jnp.array([1.0, -3.0]).reshape(2, 1, 1, 1)}
    tx = adahessian(0.1, eps=0.0, weight_decay=0.5, mask={"matrix": True, "kernel": False}, **options)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(grads, tx.init(params), params, hessian_diag=diag)
    np.testing.assert_allclose(updates["matrix"], -0.1 * (1 / np.array(matrix) + 0.5 * params["matrix"]), rtol=1e-14)
    np.testing.assert_allclose(updates["kernel"], np.broadcast_to(-0.1 / np.array(kernel), (2, 1, 1, 1)), rtol=1e-14)


def test_a_part_takes_its_leaves_of_the_diagonal():
    """Under optax.masked the argument still has all of them."""
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    diag = {"a": jnp.array([2.0, 4.0]), "b": jnp.full(3, jnp.nan)}
    tx = optax.with_extra_args_support(optax.masked(adahessian(1.0, b2=0.5, eps=0.0), {"a": True, "b": False}))
    updates, _ = tx.update(params, tx.init(params), params, hessian_diag=diag)
    np.testing.assert_allclose(updates["a"], [-0.5, -0.25], rtol=1e-6)  # float32
    assert updates["b"].tolist() == [1.0] * 3


def test_power_zero_is_momentum(x64):
    grads = jnp.asarray(np.random.default_rng(1).normal(size=(9, 5)))
    tx, peer = scale_by_adahessian(0.8, hessian_power=0.0, eps=0.0), optax.ema(0.8, debias=True)
    state, other = tx.init(grads[0]), peer.init(grads[0])
    for g in grads:
        u, state = tx.update(g, state, hessian_diag=g)
        want, other = peer.update(g, other)
        np.testing.assert_allclose(u, want, rtol=1e-13)  # float64


def test_rescaling_a_coordinate_rescales_its_step(x64):
    """x = c y: with the exact diagonal the trajectory in x is c times that in y (power 1, eps 0), for any c.

    With Hutchinson's estimate that holds for diagonal Hessians only: what a probe sees of H_ij scales with c_i c_j.
    """
    hessian, c = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([1.0, 1e3])
    tx = adahessian(0.1, eps=0.0)

    def trajectory(h, start):
        def step(carry, _):
            x, state = carry
            updates, state = tx.update(jnp.asarray(h) @ x, state, x, hessian_diag=jnp.asarray(np.diag(h)))
            return (optax.apply_updates(x, updates), state), x

        return jax.lax.scan(step, (start, tx.init(start)), length=20)[1]

    in_x = trajectory(hessian, jnp.array([1.0, -2.0]))
    in_y = trajectory(hessian * np.outer(c, c), jnp.array([1.0, -2.0]) / c)
    np.testing.assert_allclose(in_x, c * in_y, rtol=1e-11)  # float64, coordinates a factor 1e3 apart


@pytest.mark.parametrize("num_samples", [1, 3])
def test_the_estimate_inside_equals_the_one_given(num_samples):
    def loss(x):
        return jnp.sum(jnp.sin(x) * x**2) + x[0] * x[1]

    x, key = jnp.array([1.0, 2.0, -1.0]), jax.random.key(3)
    tx = scale_by_adahessian(num_samples=num_samples)
    diag = hutchinson_hessian_diag(key, loss, x, num_samples=num_samples)
    given, _ = tx.update(jax.grad(loss)(x), tx.init(x), x, hessian_diag=diag)
    found, _ = tx.update(jax.grad(loss)(x), tx.init(x), x, grad_fn=jax.grad(loss), key=key)
    np.testing.assert_array_equal(given, found)


def test_update_period_against_a_loop(x64):
    """Between Hessians the second moment stands still; its bias correction counts its own updates."""
    rng = np.random.default_rng(2)
    grads, diags = rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    tx = scale_by_adahessian(0.9, 0.99, 1e-4, update_period=3)
    state, m, v, hessians = tx.init(jnp.zeros(3)), 0.0, 0.0, 0
    for t, (g, d) in enumerate(zip(grads, diags, strict=True), 1):
        u, state = tx.update(jnp.asarray(g), state, hessian_diag=jnp.asarray(d))
        m = 0.9 * m + 0.1 * g
        if (t - 1) % 3 == 0:
            v, hessians = 0.99 * v + 0.01 * d**2, hessians + 1
        want = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**hessians)) + 1e-4)
        np.testing.assert_allclose(u, want, rtol=1e-12)  # float64


def test_half_precision_keeps_float32_moments():
    params = {"w": jnp.ones((4, 3), jnp.bfloat16)}
    tx = scale_by_adahessian(update_period=2, num_samples=2)
    state = tx.init(params)

    def grad_fn(p):
        return jax.grad(lambda p: jnp.sum(p["w"] ** 4))(p)

    for seed in range(3):
        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn, key=jax.random.key(seed))
    assert updates["w"].dtype == jnp.bfloat16
    assert state.mu["w"].dtype == state.nu["w"].dtype == jnp.float32
    # g = 4 w³ = 4, D = 12 w² = 12 exactly: u = 4 / (12 + 1e-4), rounded to bfloat16
    np.testing.assert_allclose(np.asarray(updates["w"], np.float32), 1 / 3, rtol=2**-8)


def test_members_of_a_grid_equal_members_alone():
    def final(lr, power, key):
        loss = quadratic(np.diag([1.0, 10.0, 100.0]) + 0.5)
        tx = adahessian(lr, hessian_power=power, update_period=2)

        def step(carry, key):
            x, state = carry
            g = jax.grad(loss)(x)
            updates, state = tx.update(g, state, x, grad_fn=jax.grad(loss), key=key)
            return (optax.apply_updates(x, updates), state), None

        return jax.lax.scan(step, (jnp.ones(3), tx.init(jnp.ones(3))), jax.random.split(key, 6))[0][0]

    lrs, powers, keys = jnp.array([0.1, 0.2]), jnp.array([1.0, 0.5]), jax.random.split(jax.random.key(0), 2)
    grid = jax.jit(jax.vmap(final))(lrs, powers, keys)
    for i in range(2):
        # float32; the Hessian of condition 100 and six steps amplify its rounding
        np.testing.assert_allclose(grid[i], jax.jit(final)(lrs[i], powers[i], keys[i]), rtol=1e-4, atol=1e-6)


def test_clear_errors():
    x = jnp.ones(3)
    tx = adahessian()
    with pytest.raises(ValueError, match="adahessian needs the Hessian's diagonal"):
        tx.update(x, tx.init(x), x)
    with pytest.raises(ValueError, match=r"adahessian: hessian_diag has shape \(2,\), the gradient \(3,\)"):
        tx.update(x, tx.init(x), x, hessian_diag=jnp.ones(2))
    with pytest.raises(ValueError, match=r"adahessian: hessian_diag lacks \['a'\], which the gradients have"):
        tx.update({"a": x}, tx.init({"a": x}), {"a": x}, hessian_diag={"b": x})
    with pytest.raises(TypeError, match="needs a typed key"):
        tx.update(x, tx.init(x), x, grad_fn=lambda p: p, key=0)
    with pytest.raises(ValueError, match=r"hessian_power must lie in \[0.0, 1.0\], got 2"):
        adahessian(hessian_power=2)
    with pytest.raises(ValueError, match=r"b2 must lie in \[0.0, 0.99.*\], got 1"):
        adahessian(b2=1.0)
    with pytest.raises(ValueError, match=r"weight_decay must lie in \[0.0, inf\], got -1"):
        adahessian(weight_decay=-1)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        hutchinson_hessian_diag(jax.random.key(0), jnp.sum, x, num_samples=0)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        adahessian(num_samples=0)
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        adahessian(block_size=0)
