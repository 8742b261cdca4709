"""Cooldown schedules and window means against the authors' files; branches against runs that planned their end."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.averaging import averaged_params, lawa, window_average
from jaxtrain.schedules import branching_steps, cooldown_from_step, wsd_schedule

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "cooldown.npz")
SHAPES = ("one_minus_sqrt", "linear", "cosine", "mirror_cosine", "square", "exp")


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_official_schedule(x64, shape):
    schedule = wsd_schedule(
        1.0, 100, warmup_steps=10, cooldown_fraction=0.3, shape=shape, final_factor=0.05, init_factor=0.01
    )
    got = jax.vmap(schedule)(jnp.arange(105))
    np.testing.assert_allclose(got, GOLDEN[f"wsd/{shape}"], rtol=1e-14)  # a few roundings in float64


@pytest.mark.parametrize(
    "shape, at_quarter, at_half",
    [
        ("one_minus_sqrt", 0.5, 1 - np.sqrt(0.5)),
        ("linear", 0.75, 0.5),
        ("cosine", (2 + np.sqrt(2)) / 4, 0.5),
        ("mirror_cosine", (4 - np.sqrt(2)) / 4, 0.5),
        ("square", 15 / 16, 0.75),
    ],
)
def test_shapes_by_hand(shape, at_quarter, at_half):
    schedule = cooldown_from_step(3.0, 8, 4, shape=shape)
    got = jnp.stack([schedule(k) for k in (0, 7, 8, 9, 10, 12, 13)])
    np.testing.assert_allclose(
        got, 3.0 * np.array([1, 1, 1, at_quarter, at_half, 0, 0]), rtol=1e-6, atol=1e-6
    )  # float32


def test_linear_shape_is_optaxs_pieces_joined():
    ours = jax.vmap(wsd_schedule(0.3, 50, warmup_steps=5, cooldown_fraction=0.4, shape="linear"))
    pieces = [optax.linear_schedule(0.0, 0.3, 5), optax.constant_schedule(0.3), optax.linear_schedule(0.3, 0.0, 20)]
    np.testing.assert_allclose(
        ours(jnp.arange(60)), jax.vmap(optax.join_schedules(pieces, [5, 30]))(jnp.arange(60)), atol=1e-7
    )  # float32


def test_a_branch_ends_where_the_planned_run_ends():
    """Resumed from the checkpoint at N - c of a constant run: the same parameters, bit for bit."""
    grads = jnp.asarray(np.random.default_rng(0).normal(size=(40, 3)), jnp.float32)

    def run(schedule, params, state, grads):
        tx = optax.adam(schedule)

        def step(carry, g):
            updates, state = tx.update(g, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.jit(lambda c, g: jax.lax.scan(step, c, g)[0])((params, state), grads)

    start = jnp.ones(3), optax.adam(lambda k: 0.0).init(jnp.ones(3))
    planned, _ = run(wsd_schedule(0.1, 40, warmup_steps=4, cooldown_fraction=0.25), *start, grads)
    # the constant run plans a later end
    trunk = run(wsd_schedule(0.1, 400, warmup_steps=4, cooldown_fraction=0.25), *start, grads[:30])
    branch, _ = run(cooldown_from_step(0.1, 30, 10), *trunk, grads[30:])
    np.testing.assert_array_equal(branch, planned)


def test_numbers_may_be_traced():
    def at(peak, steps, warmup, fraction, count):
        return wsd_schedule(peak, steps, warmup_steps=warmup, cooldown_fraction=fraction, shape="linear")(count)

    grid = jax.jit(jax.vmap(at))(
        jnp.array([1.0, 2.0, 1.0]),
        jnp.array([10, 20, 100]),
        jnp.array([0, 4, 0]),
        jnp.array([0.2, 0.5, 0.29]),
        jnp.array([9, 15, 71]),
    )
    # the last: 29 steps of cooldown and not 28, which int(0.29 * 100) would give
    np.testing.assert_allclose(grid, [0.5, 1.0, 1.0], rtol=1e-6)
    assert float(wsd_schedule(1.0, 100, cooldown_fraction=0.29, shape="linear")(72)) == pytest.approx(28 / 29)
    # counts beyond float32's integers: one step of ten, not zero or two
    late = cooldown_from_step(1.0, 2**26, 10, shape="linear")
    assert float(late(2**26 + 1)) == pytest.approx(0.9)
    # no cooldown: the peak up to the last step, the final rate from N on
    none = wsd_schedule(1.0, 5, cooldown_fraction=0.0)
    assert [float(none(k)) for k in range(6)] == [1, 1, 1, 1, 1, 0]


def test_window_average_equals_the_official_one(x64):
    walk = jnp.asarray(GOLDEN["walk"])
    tx, sliding = window_average(6, 2), lawa(3, 2, start_step=1)
    start = jnp.zeros_like(walk[0])

    def step(carry, after):
        params, one, other = carry
        _, one = tx.update(after - params, one, params)
        _, other = sliding.update(after - params, other, params)
        return (after, one, other), (averaged_params(one, after), averaged_params(other, after))

    _, (got, slid) = jax.lax.scan(step, (start, tx.init(start), sliding.init(start)), walk)
    # running means in float64, in another order of operations
    np.testing.assert_allclose(got[5:], GOLDEN["means"], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(got[:5], walk[:5])  # nothing complete yet: the live parameters
    np.testing.assert_allclose(got[5::6], slid[5::6], rtol=1e-12, atol=1e-12)


def test_savings_by_hand():
    got = branching_steps([1000, 2000, 4000], cooldown_fraction=0.2)
    # a trunk of 3200 steps and cooldowns of 200, 400 and 800
    np.testing.assert_allclose(list(got.values()), [7000, 4600, 1 - 46 / 70], rtol=1e-6)
    assert float(branching_steps([50])["saved"]) == 0.0


def test_clear_errors():
    with pytest.raises(ValueError, match="shape must be one of one_minus_sqrt, .*, exp, got 'sqrt'"):
        wsd_schedule(1.0, 10, shape="sqrt")
    with pytest.raises(ValueError, match="never ends at 0: give final_factor"):
        cooldown_from_step(1.0, 0, 10, shape="exp")
    with pytest.raises(ValueError, match=r"warm-up \(5\) and cooldown \(6\) are longer than the run \(10\)"):
        wsd_schedule(1.0, 10, warmup_steps=5, cooldown_fraction=0.6)
    with pytest.raises(ValueError, match="cooldown_fraction must lie in"):
        wsd_schedule(1.0, 10, cooldown_fraction=1.2)
    with pytest.raises(ValueError, match="cooldown_steps must lie in"):
        cooldown_from_step(1.0, 10, 0)
    with pytest.raises(ValueError, match="give the lengths of the runs"):
        branching_steps([])
    with pytest.raises(ValueError, match="window must be a multiple of period, got 5 and 2"):
        window_average(5, 2)
    with pytest.raises(ValueError, match="window_average averages parameters"):
        window_average(2).update(jnp.ones(2), window_average(2).init(jnp.ones(2)))
