"""UPGrad against torchjd, against a solver that shares nothing with it, and against its own theorems."""

from pathlib import Path

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import nnls

from jaxtrain.aggregation import as_optax, dual_cone_projection_weights, gramian, upgrad, upgrad_weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "torchjd.npz")
NAMES = [name.removeprefix("jacobian_") for name in GOLDEN.files if name.startswith("jacobian_")]
upgrad_jit = jax.jit(upgrad, static_argnames="scaling")
weights_jit = jax.jit(upgrad_weights)


def projected_by_nnls(jacobian, regular, scales):
    """π_J(g_i) averaged, by SciPy's active-set NNLS: min |J^T z + J^T u|² + r |z + u|², z ≥ 0, written from the paper."""
    m = len(jacobian)
    rows = jacobian / scales[:, None]
    stacked = np.concatenate([rows.T, np.sqrt(regular) * np.eye(m)])
    weights = np.zeros(m)
    for i in range(m):
        u = np.zeros(m)
        u[i] = scales[i] / m
        z, _ = nnls(stacked, -stacked @ u, maxiter=1000)
        weights += (u + z) / scales
    return weights


@pytest.mark.parametrize("name", NAMES)
def test_equals_torchjd_with_its_constants(name, x64):
    jacobian = jnp.asarray(GOLDEN[f"jacobian_{name}"])
    got = upgrad(jacobian, scaling="trace", norm_eps=1e-4, reg_eps=1e-4)
    # float64; torchjd's quadprog stops at about 1e-10
    np.testing.assert_allclose(got, GOLDEN[f"upgrad_{name}"], rtol=1e-8, atol=1e-9)


def test_documented_value_of_torchjd():
    got = upgrad(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), scaling="trace", norm_eps=1e-4)
    np.testing.assert_allclose(got, [0.2929, 1.9004, 1.9004], atol=5e-5)  # printed to four digits


@pytest.mark.parametrize("m, n, seed", [(1, 3, 0), (2, 5, 1), (7, 5, 2), (16, 40, 3), (40, 30, 4), (64, 200, 5)])
def test_equals_nnls_in_float64(m, n, seed, x64):
    jacobian = np.random.default_rng(seed).normal(size=(m, n)) * 10.0 ** np.random.default_rng(seed).uniform(
        -2, 2, (m, 1)
    )
    weights = weights_jit(gramian(jnp.asarray(jacobian)))
    reference = projected_by_nnls(jacobian, m * 1e-4, np.linalg.norm(jacobian, axis=1))
    # both exact up to rounding, of systems with a condition of about 1e4
    np.testing.assert_allclose(weights, reference, rtol=1e-8, atol=1e-8 * np.abs(reference).max())


def test_in_float32_it_is_as_exact_as_the_gramian():
    jacobian = np.random.default_rng(5).normal(size=(64, 200)).astype(np.float32)
    weights = weights_jit(gramian(jnp.asarray(jacobian)))
    wide = jacobian.astype(np.float64)
    reference = projected_by_nnls(wide, 64e-4, np.linalg.norm(wide, axis=1))
    # float32 eps 6e-8 times a condition of 1e4
    np.testing.assert_allclose(weights, reference, rtol=1e-3, atol=1e-3 * np.abs(reference).max())


def test_by_hand():
    # g1 = (1, 0), g2 = (−1, 1): π(g1) = (1/2, 1/2), π(g2) = (0, 1), mean (1/4, 3/4)
    got = upgrad(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), reg_eps=1e-7)
    np.testing.assert_allclose(got, [0.25, 0.75], atol=1e-5)


matrices = hypothesis.extra.numpy.arrays(
    np.float64, (5, 4), elements=hypothesis.strategies.floats(-3, 3, allow_subnormal=False).map(lambda x: round(x, 3))
)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(matrices)
def test_does_not_conflict_and_does_not_care_for_order(jacobian):
    with jax.enable_x64(True):
        result = np.asarray(upgrad_jit(jnp.asarray(jacobian)))
        sizes = np.linalg.norm(jacobian, axis=1)
        weights = np.asarray(weights_jit(jnp.asarray(jacobian @ jacobian.T)))
        # (DGD + m · 1e-4) (w / d) ≥ 0: the regularisation allows just this conflict, plus rounding
        assert (jacobian @ result >= -5e-4 * weights * sizes**2 - 1e-9 * (1 + sizes.max() ** 2)).all()
        order = np.array([3, 1, 4, 0, 2])
        np.testing.assert_allclose(upgrad_jit(jnp.asarray(jacobian[order])), result, atol=1e-9 * (1 + sizes.max()))


def test_linear_under_scaling_of_one_row(x64):
    jacobian = np.random.default_rng(7).normal(size=(4, 9))
    at = [np.asarray(upgrad_jit(jnp.asarray(jacobian * np.array([1, c, 1, 1])[:, None]))) for c in (1.0, 2.0, 3.0)]
    np.testing.assert_allclose(at[2] - at[1], at[1] - at[0], atol=1e-10)


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1e3, 1e15])
def test_scales_along_in_float32(scale):
    jacobian = np.random.default_rng(8).normal(size=(6, 10)).astype(np.float32)
    plain = np.asarray(upgrad_jit(jnp.asarray(jacobian)))
    np.testing.assert_allclose(
        upgrad_jit(jnp.asarray(jacobian * np.float32(scale))) / scale, plain, rtol=1e-3, atol=1e-5
    )


def test_badly_scaled_rows_do_not_conflict_where_torchjds_constants_do(x64):
    """Row norms from 1e-2 to 10: the catalogue's measurement, cos −0.31 for the small row after scaling by the trace."""
    rng = np.random.default_rng(3)
    worst = {"diagonal": 0.0, "trace": 0.0}
    for _ in range(20):
        jacobian = rng.normal(size=(4, 5)) * np.array([1e-2, 0.1, 1.0, 10.0])[:, None]
        for scaling in worst:
            result = np.asarray(upgrad_jit(jnp.asarray(jacobian), scaling=scaling))
            cosines = jacobian @ result / np.linalg.norm(jacobian, axis=1) / np.linalg.norm(result)
            worst[scaling] = min(worst[scaling], cosines.min())
    assert worst["diagonal"] > -5e-3 and worst["trace"] < -0.1, worst


def test_where_nothing_conflicts_it_is_the_mean():
    jacobian = jnp.abs(jax.random.normal(jax.random.key(0), (5, 8)))
    np.testing.assert_allclose(upgrad_jit(jacobian), jacobian.mean(0), rtol=1e-5)
    np.testing.assert_allclose(upgrad_jit(jnp.zeros((3, 4))), np.zeros(4))
    np.testing.assert_allclose(upgrad_jit(jacobian[:1]), jacobian[0], rtol=1e-6)
    with_zero = jnp.concatenate([jacobian, jnp.zeros((1, 8))])
    np.testing.assert_allclose(upgrad_jit(with_zero), with_zero.mean(0), rtol=1e-5)


def test_trees_preferences_vmap_dtypes_and_gradients():
    stack = {"a": jax.random.normal(jax.random.key(1), (4, 3, 2)), "b": jax.random.normal(jax.random.key(2), (4, 5))}
    flat = jnp.concatenate([stack["a"].reshape(4, -1), stack["b"]], axis=1)
    whole = upgrad(flat)
    parts = upgrad(stack)
    np.testing.assert_allclose(jnp.concatenate([parts["a"].ravel(), parts["b"]]), whole, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gramian(stack), flat @ flat.T, rtol=1e-5, atol=1e-5)
    preference = jnp.array([1.0, 0.0, 0.0, 0.0])
    one = upgrad_weights(gramian(flat), preference=preference)
    # the first gradient's projection alone; the regularisation allows a conflict of m · 1e-4 · w |g|², plus rounding
    assert bool(jnp.all(flat @ (one @ flat) >= -4e-4 * one * jnp.sum(flat**2, axis=1) - 1e-5))
    np.testing.assert_allclose(upgrad(flat, preference=preference), one @ flat, rtol=1e-4, atol=1e-5)
    many = jax.random.normal(jax.random.key(3), (6, 4, 10))
    np.testing.assert_allclose(jax.vmap(upgrad)(many)[2], upgrad(many[2]), rtol=1e-3, atol=1e-5)
    assert upgrad(flat.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    weights = np.asarray(weights_jit(gramian(flat)))
    gradient = jax.grad(lambda j: jnp.sum(upgrad(j)))(flat)  # weights are constants
    np.testing.assert_allclose(gradient, np.repeat(weights[:, None], flat.shape[1], 1), rtol=1e-4, atol=1e-6)


def test_clear_errors():
    with pytest.raises(ValueError, match=r"u of shape \(3,\) and a Gramian of shape \(2, 2\) disagree"):
        dual_cone_projection_weights(jnp.zeros(3), jnp.eye(2))
    with pytest.raises(ValueError, match=r"preference has shape \(3,\), the stack holds 2"):
        upgrad(jnp.eye(2), preference=jnp.ones(3))
    with pytest.raises(ValueError, match="stack is empty"):
        upgrad(jnp.zeros((0, 3)))
    with pytest.raises(TypeError, match="gradients are floating"):
        upgrad(jnp.zeros((2, 3), jnp.int32))
    with pytest.raises(ValueError, match="scaling must be"):
        upgrad(jnp.eye(2), scaling="rows")


def test_it_ends_where_the_conflict_is_worst(x64):
    """Nearly opposite gradients, repeated ones, and fewer dimensions than objectives: exact all the same."""
    rng = np.random.default_rng(9)
    for jacobian in (
        np.concatenate([np.eye(6), -np.eye(6) + 0.1 * rng.normal(size=(6, 6))]),
        np.repeat(rng.normal(size=(4, 3)), 3, axis=0),
        rng.normal(size=(12, 2)),
    ):
        weights = weights_jit(gramian(jnp.asarray(jacobian)))
        reference = projected_by_nnls(jacobian, len(jacobian) * 1e-4, np.linalg.norm(jacobian, axis=1))
        # condition 1/1e-4; float64
        np.testing.assert_allclose(weights, reference, rtol=0, atol=1e-10 * np.abs(reference).max())


def test_a_single_projection_meets_its_optimality_conditions(x64):
    rng = np.random.default_rng(10)
    jacobian = rng.normal(size=(5, 8))
    g = jacobian @ jacobian.T
    u = rng.normal(size=(3, 2, 5))
    w = np.asarray(dual_cone_projection_weights(jnp.asarray(u), jnp.asarray(g), reg_eps=0.0))
    # primal, dual and complementary slackness of min v'Gv over v ≥ u, to float64 rounding
    assert (w >= u - 1e-12).all() and (w @ g >= -1e-11).all()
    np.testing.assert_allclose(np.sum((w - u) * (w @ g), axis=-1), 0.0, atol=1e-11)


def test_what_is_not_a_number_comes_out_as_one_that_is_not():
    jacobian = jnp.array([[1.0, jnp.nan], [0.0, 1.0]])
    assert bool(jnp.isnan(upgrad(jacobian)).any())


def test_reg_eps_may_be_traced_and_shardings_give_the_same_values():
    jacobian = jax.random.normal(jax.random.key(4), (6, 16))
    many = jax.vmap(lambda r: upgrad(jacobian, reg_eps=r))(jnp.array([1e-4, 1e-2]))
    np.testing.assert_allclose(many[1], upgrad(jacobian, reg_eps=1e-2), rtol=1e-4, atol=1e-6)
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(jacobian, jax.NamedSharding(mesh, jax.P(None, "fsdp")))
    compiled = upgrad_jit.lower(split).compile()
    np.testing.assert_allclose(compiled(split), upgrad(jacobian), rtol=1e-4, atol=1e-6)
    # m × m inner products and m maxima travel, the gradients stay where they are
    assert "all-gather" not in compiled.as_text() and "all-to-all" not in compiled.as_text()


def test_as_optax_aggregator():
    from optax.experimental import aggregating

    tx = aggregating.process(optax.identity(), as_optax(upgrad), optax.sgd(1.0))
    assert isinstance(as_optax(upgrad), aggregating.Aggregator)
    params = {"w": jnp.zeros(2)}
    updates, _ = tx.update({"w": jnp.array([[1.0, 0.0], [-1.0, 1.0]])}, tx.init(params), params)
    # regularised by 1e-4
    np.testing.assert_allclose(updates["w"], [-0.25, -0.75], atol=1e-3)
