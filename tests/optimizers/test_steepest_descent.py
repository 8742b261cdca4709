"""Dual norms and maps against NumPy, SciPy's matrix powers, random search, optax's sign descent and its Muon."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

from jaxtrain.optimizers import (
    dual_map,
    dual_norm,
    modular_norm,
    newton_schulz_orthogonalize,
    norms_by_role,
    rms_to_rms_scale,
    scale_by_steepest_descent,
    steepest_descent,
)

RNG = np.random.default_rng(0)
# the norms themselves, of W acting as W x
NUMPY = {
    "linf": lambda w: np.abs(w).max(),
    "l2": lambda w: np.linalg.norm(w),
    "spectral": lambda w: np.linalg.norm(w, 2),
    "row_l2": lambda w: np.linalg.norm(w, axis=1).max(),
    "col_l2": lambda w: np.linalg.norm(w, axis=0).max(),
}


@pytest.mark.parametrize("norm", NUMPY)
def test_direction_and_dual_norm_belong_together(norm, x64):
    for shape in ((5, 3), (3, 6), (4, 4)):
        g = RNG.normal(size=shape)
        t, size = dual_map(jnp.asarray(g), norm=norm), dual_norm(jnp.asarray(g), norm=norm)
        # float64
        np.testing.assert_allclose(NUMPY[norm](np.asarray(t)), 1.0, rtol=1e-12)
        np.testing.assert_allclose(np.sum(g * t), size, rtol=1e-12)
        # nothing in the unit ball does better: 2,000 random points of it, half of them near the claimed best
        tries = RNG.normal(size=(2000, *shape)) + np.where(np.arange(2000) % 2, 0, 20)[:, None, None] * np.asarray(t)
        values = [np.sum(g * w) / NUMPY[norm](w) for w in tries]
        assert max(values) <= float(size) * (1 + 1e-12)
        assert max(values) > 0.9 * float(size)  # and the search came close


def test_the_spectral_map_is_shampoo_without_sums(x64):
    g = RNG.normal(size=(4, 4))
    power = scipy.linalg.fractional_matrix_power
    shampoo = np.real(power(g @ g.T, -0.25) @ g @ power(g.T @ g, -0.25))
    np.testing.assert_allclose(dual_map(jnp.asarray(g), norm="spectral"), shampoo, rtol=0, atol=1e-9)  # SciPy's roots
    u, _, vh = np.linalg.svd(g)
    np.testing.assert_allclose(dual_map(jnp.asarray(g), norm="spectral"), u @ vh, rtol=0, atol=1e-13)


def test_where_it_is_not_unique_it_is_zero():
    for norm in NUMPY:
        np.testing.assert_array_equal(dual_map(jnp.zeros((3, 2)), norm=norm), np.zeros((3, 2)))
        assert float(dual_norm(jnp.zeros((3, 2)), norm=norm)) == 0.0
    low = jnp.outer(jnp.array([3.0, 4.0, 0.0]), jnp.array([0.0, 2.0]))
    wanted = np.outer([0.6, 0.8, 0.0], [0.0, 1.0])
    np.testing.assert_allclose(dual_map(low, norm="spectral"), wanted, rtol=0, atol=1e-6)  # float32


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_gradients_of_any_size_keep_their_direction(size):
    """In float32, where their squares vanish or overflow."""
    g = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
    for norm in NUMPY:
        # two roundings more
        np.testing.assert_allclose(dual_map(size * g, norm=norm), dual_map(g, norm=norm), rtol=0, atol=1e-6)
        np.testing.assert_allclose(dual_norm(size * g, norm=norm) / size, dual_norm(g, norm=norm), rtol=1e-6)
        np.testing.assert_allclose(modular_norm(size * g, norm) / size, modular_norm(g, norm), rtol=1e-6)
    # five steps of Newton-Schulz double the rounding of small singular values
    near = newton_schulz_orthogonalize(size * g)
    np.testing.assert_allclose(near, newton_schulz_orthogonalize(g), rtol=0, atol=1e-4)
    # a constant is added to the norm of the gradient itself
    half = newton_schulz_orthogonalize(g, num_steps=0, eps=float(jnp.linalg.norm(g)))
    np.testing.assert_allclose(half, g / jnp.linalg.norm(g) / 2, rtol=1e-6)


def test_newton_schulz_orthogonalizes(x64):
    # singular values down to a fiftieth of the Frobenius norm: each cubic step multiplies small ones by 1.5
    u, v = (np.linalg.qr(RNG.normal(size=(5, 5)))[0] for _ in range(2))
    g = jnp.asarray(u @ np.diag([3.0, 2.0, 1.0, 0.3, 0.1]) @ v.T)
    cubic = newton_schulz_orthogonalize(g, num_steps=20, coefficients=(1.5, -0.5, 0.0))
    np.testing.assert_allclose(cubic, u @ v.T, rtol=0, atol=1e-10)
    quintic = newton_schulz_orthogonalize(g)
    values = np.linalg.svd(quintic, compute_uv=False)
    assert values.min() > 0.68 and values.max() < 1.22  # Jordan: about [0.7, 1.2]
    tall = jnp.concatenate([g, 2 * g])
    np.testing.assert_allclose(newton_schulz_orthogonalize(tall.T), newton_schulz_orthogonalize(tall).T, atol=1e-13)
    both = newton_schulz_orthogonalize(jnp.stack([g, 5 * g.T]))
    np.testing.assert_allclose(both, jnp.stack([quintic, quintic.T]), rtol=0, atol=1e-12)


def _run(tx, params, grads):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), grads)[1])()


def test_equals_sign_descent_and_muon():
    params = {"w": jnp.zeros((6, 4)), "v": jnp.zeros((3, 5))}
    grads = {k: jnp.asarray(RNG.normal(size=(30, *p.shape)), jnp.float32) for k, p in params.items()}
    ours, theirs = _run(steepest_descent(0.125, "sign"), params, grads), _run(optax.sign_sgd(0.125), params, grads)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    ours = _run(steepest_descent(0.1, "spectral", b1=0.95), params, grads)
    # its default for weight_dimension_numbers, None, fails on a tree with more than one array (optax 0.2.8)
    dims = jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), params)
    muon = optax.contrib.scale_by_muon(nesterov=False, weight_dimension_numbers=dims)
    theirs = _run(optax.chain(muon, optax.scale(-0.1)), params, grads)
    # 30 float32 steps of size 0.1 (measured: 1e-5); the quintic triples small singular values and their rounding each time
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-4), ours, theirs)


def test_roles_are_norms_of_flax_kernels(x64):
    """A kernel (in, out) takes a row of ones to outputs of the same size; a table gives each token a unit vector."""
    params = {
        "embed": jnp.zeros((7, 4)),
        "kernel": jnp.zeros((4, 9)),
        "conv": jnp.zeros((2, 3, 4)),
        "bias": jnp.zeros(9),
    }
    assert norms_by_role(params) == {"embed": "embedding", "kernel": "linear", "conv": "linear", "bias": "rms"}
    assert norms_by_role({"text": {"embed": jnp.zeros((2, 2))}}) == {"text": {"embed": "embedding"}}
    grads = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape)), params)
    tx = scale_by_steepest_descent(num_steps=None)
    updates, _ = tx.update(grads, tx.init(params))
    rms = lambda x, axis=None: np.sqrt(np.mean(np.square(x), axis=axis))  # noqa: E731
    np.testing.assert_allclose(rms(updates["embed"], 1), np.ones(7), rtol=1e-12)
    np.testing.assert_allclose(rms(updates["bias"]), 1.0, rtol=1e-12)
    for k in ("kernel", "conv"):
        w = np.asarray(updates[k]).reshape(-1, updates[k].shape[-1])
        x = np.linalg.svd(w)[0][:, 0]  # the input that is enlarged most
        np.testing.assert_allclose(rms(x @ w) / rms(x), 1.0, rtol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(w, 2), rms_to_rms_scale(w.shape), rtol=1e-12)
    np.testing.assert_allclose(modular_norm(updates), 1.0, rtol=1e-12)


def test_max_combines_to_the_minimum_of_the_model(x64):
    """<g, d> + λ/2 ‖d‖² at our step is -‖g‖*²/(2λ), and random steps are above it."""
    params = {"embed": jnp.zeros((5, 3)), "kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}
    grads = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape)), params)
    sharpness = 1.7
    tx = scale_by_steepest_descent(combine="max", sharpness=sharpness, num_steps=None)
    updates, _ = tx.update(grads, tx.init(params))
    best = jax.tree.map(jnp.negative, updates)
    model = jax.jit(lambda d: optax.tree.vdot(grads, d) + 0.5 * sharpness * modular_norm(d) ** 2)
    u, t = grads["kernel"], 1.0
    dual = float(
        t * jnp.linalg.svd(u, compute_uv=False).sum() * rms_to_rms_scale((3, 4))
        + jnp.linalg.norm(grads["embed"], axis=1).sum() * np.sqrt(3)
        + jnp.linalg.norm(grads["bias"]) * 2
    )
    np.testing.assert_allclose(model(best), -(dual**2) / (2 * sharpness), rtol=1e-12)
    for scale in (0.3, 0.03):
        for _ in range(20):
            near = jax.tree.map(lambda d, scale=scale: d + scale * jnp.asarray(RNG.normal(size=d.shape)), best)
            assert float(model(near)) > float(model(best))


def test_the_dual_norm_of_newton_schulz_is_about_the_nuclear_one():
    # singular values become 0.7 to 1.2 instead of 1, and so does their sum
    g = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
    tx = scale_by_steepest_descent("spectral", combine="max")
    updates, _ = tx.update(g, tx.init(g))
    direction = newton_schulz_orthogonalize(g)
    size = float(jnp.sum(g * direction))
    np.testing.assert_allclose(updates, size * direction, rtol=1e-5)
    assert 0.68 < size / float(dual_norm(g, norm="spectral")) < 1.22


def test_weights_decay_where_the_mask_says_so():
    params = {"a": jnp.array([3.0, -0.5]), "b": jnp.array([2.0])}
    tx = steepest_descent(0.5, "sign", weight_decay=0.25, mask={"a": True, "b": False})
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], [-0.5 * (1 + 0.75), 0.5 * (1 + 0.125)], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-0.5], rtol=1e-6)


def test_stacked_layers_have_directions_of_their_own(x64):
    g = jnp.asarray(RNG.normal(size=(3, 5, 4)))
    bias = jnp.asarray(RNG.normal(size=(3, 4)))
    tx = scale_by_steepest_descent({"w": "linear", "b": "rms"}, stacked_axes=1, num_steps=None, combine="max")
    updates, _ = tx.update({"w": g, "b": bias}, tx.init({"w": g, "b": bias}))
    apart = {f"w{i}": g[i] for i in range(3)} | {f"b{i}": bias[i] for i in range(3)}
    names = {k: "linear" if k[0] == "w" else "rms" for k in apart}
    alone = scale_by_steepest_descent(names, num_steps=None, combine="max")
    wanted, _ = alone.update(apart, alone.init(apart))
    one, _ = scale_by_steepest_descent("rms", stacked_axes=1).update(jnp.array(-2.0), tx.init({"w": g, "b": bias}))
    assert float(one) == -1.0  # nothing is stacked in a number
    for i in range(3):
        np.testing.assert_allclose(updates["w"][i], wanted[f"w{i}"], rtol=1e-10)
        np.testing.assert_allclose(updates["b"][i], wanted[f"b{i}"], rtol=1e-10)


def test_names_may_be_of_a_prefix_and_some_parameters_another_optimizers():
    params = {"mlp": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "head": jnp.array([[3.0, -4.0]])}
    tx = scale_by_steepest_descent({"mlp": "sign", "head": "l2"})
    updates, _ = tx.update(params, tx.init(params))
    np.testing.assert_allclose(updates["head"], [[0.6, -0.8]], rtol=1e-6)
    np.testing.assert_array_equal(updates["mlp"]["bias"], [1, 1])
    # the others' places are masked, where the names still stand
    labels = {"mlp": {"kernel": "ours", "bias": "theirs"}, "head": "ours"}
    names = {"mlp": {"kernel": "spectral", "bias": "sign"}, "head": "l2"}
    tx = optax.partition({"ours": scale_by_steepest_descent(names), "theirs": optax.identity()}, labels)
    updates, _ = tx.update(params, tx.init(params))
    np.testing.assert_allclose(updates["head"], [[0.6, -0.8]], rtol=1e-6)


def test_clear_errors():
    with pytest.raises(ValueError, match="b1 must lie in .* got 1.0"):
        scale_by_steepest_descent(b1=1.0)
    with pytest.raises(ValueError, match="norm must be one of linf, l2, spectral, row_l2, col_l2, got 'l3'"):
        dual_map(jnp.ones((2, 2)), norm="l3")
    with pytest.raises(ValueError, match=r"the norm 'spectral' is of matrices, got shape \(2,\)"):
        dual_norm(jnp.ones(2), norm="spectral")
    with pytest.raises(ValueError, match=r"'linear' is of matrices, and a parameter has shape \(3,\)"):
        scale_by_steepest_descent("linear").init(jnp.ones(3))
    with pytest.raises(ValueError, match="norms: expected one of linf, .*, got 'muon'"):
        scale_by_steepest_descent("muon").init(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="combine must be 'none' or 'max', got 'sum'"):
        scale_by_steepest_descent(combine="sum")
    with pytest.raises(ValueError, match="needs three coefficients, got 2"):
        newton_schulz_orthogonalize(jnp.eye(2), coefficients=(1.5, -0.5))
    with pytest.raises(ValueError, match=r"rms_to_rms_scale needs the shape .* got \(3,\)"):
        rms_to_rms_scale((3,))
    with pytest.raises(ValueError, match=r"rms_to_rms_scale needs the shape .* got \(0, 3\)"):
        rms_to_rms_scale((0, 3))
