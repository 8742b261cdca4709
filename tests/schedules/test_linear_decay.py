"""Linear decay and its refinement against the authors' file, SciPy's filter and the theorem's limits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.ndimage import median_filter

from jaxtrain.schedules import (
    grad_norm_history,
    last_iterate_bound,
    linear_decay_schedule,
    record_grad_norm,
    refine_schedule,
    schedule_from_array,
)
from jaxtrain.schedules.linear_decay import _median_filter

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "refined_schedules.npz")


@pytest.mark.parametrize("steps", [7, 60, 201])
def test_equals_the_official_closed_form(x64, steps):
    norms = jnp.asarray(GOLDEN[f"{steps}/norms"])
    # float64 sums of up to 201 terms
    for name, options in {"sgd": {}, "adam": {"algo": "adam"}}.items():
        got = refine_schedule(norms, smoothing=0.0, **options)
        np.testing.assert_allclose(got, GOLDEN[f"{steps}/{name}"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(refine_schedule(norms), GOLDEN[f"{steps}/smoothed"], rtol=0, atol=1e-13)


@pytest.mark.parametrize("steps, width", [(5, 5), (50, 7), (300, 31), (4, 3)])
def test_median_filter_equals_scipy(steps, width):
    x = np.random.default_rng(steps).normal(size=steps).astype(np.float32)
    padded = np.pad(x, (0, 2 * width), mode="reflect")
    want = median_filter(padded, size=width, mode="nearest")[: -2 * width]
    np.testing.assert_array_equal(_median_filter(jnp.asarray(x), width), want)


@pytest.mark.parametrize("algo", ["sgd", "adam"])
def test_constant_norms_give_linear_decay(x64, algo):
    steps = 40
    rates = refine_schedule(jnp.full(steps, 7.0), algo=algo)
    t = np.arange(1, steps + 1)
    np.testing.assert_allclose(rates, (steps - t) / (steps - 1), rtol=1e-13)  # float64
    decay = linear_decay_schedule(1.0, steps - 1)
    np.testing.assert_allclose(rates, [decay(k) for k in range(steps)], rtol=1e-13)


def test_small_and_large_norms_do_not_overflow():
    norms = jnp.asarray(GOLDEN["60/norms"], jnp.float32)
    want = refine_schedule(norms)
    for scale in (1e-30, 1e30):
        np.testing.assert_allclose(refine_schedule(norms * scale), want, rtol=1e-5)  # float32 sums of 60 terms


def test_linear_decay_table_and_traced_numbers():
    schedule = linear_decay_schedule(2.0, 8, warmup_steps=4)
    np.testing.assert_allclose([schedule(k) for k in range(10)], [0, 0.5, 1, 1.5, 2, 1.5, 1, 0.5, 0, 0], rtol=1e-6)
    want = optax.join_schedules([optax.linear_schedule(0.0, 3.0, 10), optax.linear_schedule(3.0, 0.0, 90)], [10])
    ours = linear_decay_schedule(3.0, 100, warmup_steps=10)
    counts = jnp.arange(120)
    np.testing.assert_allclose(jax.vmap(ours)(counts), jax.vmap(want)(counts), atol=1e-6)  # float32

    def at(peak, steps, warmup):
        return linear_decay_schedule(peak, steps, warmup_steps=warmup)(5)

    grid = jax.jit(jax.vmap(at))(jnp.array([1.0, 2.0]), jnp.array([10, 20]), jnp.array([0, 10]))
    np.testing.assert_allclose(grid, [0.5, 1.0], rtol=1e-6)
    # a count beyond float32's integers
    late = linear_decay_schedule(1.0, 2**26)
    assert float(late(2**26 - 1)) == 2.0**-26


def test_bound_against_sums_written_out(x64):
    rng = np.random.default_rng(0)
    etas, norms, dist = rng.uniform(0.1, 1, 9), rng.uniform(0.5, 2, 9), 1.7
    want = dist**2 / (2 * etas.sum()) + (norms**2 * etas**2).sum() / (2 * etas.sum())
    for k in range(8):
        later = etas[k + 1 :].sum()
        want += 0.5 * etas[k] / (later * (later + etas[k])) * (norms[k:] ** 2 * etas[k:] ** 2).sum()
    np.testing.assert_allclose(last_iterate_bound(etas, norms, dist), want, rtol=1e-14)


def test_the_official_minimiser_is_stationary_for_our_bound(x64):
    """L-BFGS of the released code, constant norms, 50 steps: no better rates, and nearly linear decay."""
    best = jnp.asarray(GOLDEN["numerical/constant"])
    ones = jnp.ones(50)
    gradient = jax.grad(last_iterate_bound)(best, ones, 1.0)
    # relative change of the bound for a relative change of a rate; the solver stopped at 1e-10 absolutely
    assert float(jnp.max(jnp.abs(gradient * best))) < 1e-7
    linear = (1 - jnp.arange(1, 50) / 50) / jnp.sqrt(50)
    at_best, at_linear = last_iterate_bound(best, ones, 1.0), last_iterate_bound(linear, jnp.ones(49), 1.0)
    assert float(at_best) < float(at_linear) < 1.2 * float(at_best)


def test_worst_case_of_one_dimension(x64):
    """f = |x|: linear decay ends within D/√T of the optimum, from every start not farther than D."""
    steps, dist = 100, 1.0
    iterates = steps - 1
    decay = linear_decay_schedule(dist / np.sqrt(steps) * (steps - 1) / steps, iterates)

    def last(x, rate):
        def step(x, k):
            return x - rate(k) * jnp.sign(x), None

        return jnp.abs(jax.lax.scan(step, x, jnp.arange(iterates))[0])

    starts = jnp.linspace(0.01, dist, 500)
    assert float(jax.vmap(lambda x: last(x, decay))(starts).max()) <= dist / np.sqrt(steps)


def test_recorded_norms_refine_the_next_run(x64):
    rng = np.random.default_rng(1)
    grads = {"w": jnp.asarray(rng.normal(size=(12, 3, 2))), "b": jnp.asarray(rng.normal(size=(12, 2)))}
    flat = np.concatenate([np.asarray(g).reshape(12, -1) for g in grads.values()], axis=1)
    want = {"l2": np.linalg.norm(flat, axis=1), "l1": np.abs(flat).sum(axis=1)}
    params = jax.tree.map(lambda g: g[0], grads)
    for norm, values in want.items():
        tx = optax.chain(record_grad_norm(10, norm), optax.adam(0.1))
        state = jax.lax.scan(lambda s, g, tx=tx: (tx.update(g, s, params)[1], None), tx.init(params), grads)[0]
        # kept in float32; steps beyond the ten places are dropped
        np.testing.assert_allclose(grad_norm_history(state), values[:10], rtol=1e-6)
    assert refine_schedule(grad_norm_history(state), algo="adam").shape == (10,)
    masked = optax.masked(record_grad_norm(2), {"w": True, "b": False})
    _, state = masked.update(params, masked.init(params))
    np.testing.assert_allclose(grad_norm_history(state)[0], np.linalg.norm(params["w"]), rtol=1e-6)
    assert float(record_grad_norm(1).update({}, record_grad_norm(1).init({}))[1].history[0]) == 0.0


def test_norms_of_half_precision_do_not_overflow():
    tx = record_grad_norm(1)
    big = jnp.full(10_000, 300.0, jnp.float16)  # its square and its sum are beyond float16
    _, state = tx.update(big, tx.init(big))
    np.testing.assert_allclose(state.history, [30_000.0], rtol=1e-5)


def test_schedule_from_array_works_in_a_traced_step():
    values = jnp.array([0.25, 1.0, 0.5])
    schedule = schedule_from_array(values, peak=4.0)
    np.testing.assert_array_equal(jax.jit(jax.vmap(schedule))(jnp.arange(5)), [1.0, 4.0, 2.0, 2.0, 2.0])
    stretched = schedule_from_array(values, total_steps=41)
    np.testing.assert_allclose(
        [stretched(k) for k in range(41)],
        np.interp(np.arange(41), [0, 20, 40], values),
        rtol=1e-5,  # float32
    )


def test_whole_numbers_are_rates_too():
    stretched = schedule_from_array(np.array([1, 3]), total_steps=5)
    np.testing.assert_allclose([stretched(k) for k in range(5)], [1, 1.5, 2, 2.5, 3])


def test_clear_errors():
    with pytest.raises(ValueError, match="warmup_steps must be less than total_steps, got 5 of 5"):
        linear_decay_schedule(1.0, 5, warmup_steps=5)
    with pytest.raises(ValueError, match="algo must be 'sgd' or 'adam', got 'lion'"):
        refine_schedule(jnp.ones(3), algo="lion")
    with pytest.raises(ValueError, match=r"positive and finite, got 0.0 at step 1"):
        refine_schedule(jnp.array([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match=r"at least 2 steps, got shape \(1,\)"):
        refine_schedule(jnp.ones(1))
    with pytest.raises(ValueError, match=r"an array of rates \(T,\), got shape \(0,\)"):
        schedule_from_array(jnp.ones(0))
    with pytest.raises(TypeError, match="smoothing decides the width of a filter|parameter 'smoothing'"):
        jax.jit(lambda s: refine_schedule(jnp.ones(9), smoothing=s))(0.1)
    with pytest.raises(TypeError, match="num_steps decides shapes|parameter 'num_steps'"):
        record_grad_norm(2.5)
    # where types are checked, as here, they speak first
    with pytest.raises((ValueError, TypeError), match=r"a norm for each rate, got shapes|parameter 'grad_norms'"):
        last_iterate_bound(np.ones(3), np.ones(2), 1.0)
    with pytest.raises(ValueError, match="norm must be 'l2' or 'l1', got 'max'"):
        record_grad_norm(3, "max")
    with pytest.raises(ValueError, match="holds 0 histories"):
        grad_norm_history(optax.sgd(0.1).init(jnp.ones(2)))
    twice = optax.chain(record_grad_norm(2), record_grad_norm(2, "l1"))
    with pytest.raises(ValueError, match="holds 2 histories"):
        grad_norm_history(twice.init(jnp.ones(2)))
    with pytest.raises(ValueError, match="leave out the zero at the end"):
        last_iterate_bound(jnp.array([1.0, 0.0]), jnp.ones(2), 1.0)
