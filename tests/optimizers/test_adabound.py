"""AdaBound and AMSBound against the authors' package, and their limits: Adam, and SGD with momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import adabound, adabound_bounds, amsbound, scale_by_adabound
from tests.optimizers._adaptive import LEAVES, difference_to_golden, falling, follow, largest_difference, start

# float64, 36 steps of size 0.1, the same operations in another order (measured: 4e-16)
ROUNDING = 1e-13


def test_equals_the_official_package(x64):
    assert difference_to_golden(adabound(falling(0.1), 0.5, gamma=0.1, weight_decay=0.1), "adabound") < ROUNDING
    assert difference_to_golden(amsbound(falling(0.1), 0.05, 0.9, 0.9, 0.01), "amsbound") < ROUNDING
    decoupled = optax.chain(adabound(falling(0.1), 0.5, gamma=0.1), optax.add_decayed_weights(-0.02))
    assert difference_to_golden(decoupled, "adabound_w") < ROUNDING


def test_wide_bounds_are_adam(x64):
    params, grads = start()
    ours, _ = follow(adabound(falling(0.1), 1.0, gamma=1e-12, eps=0.0), params, grads)
    assert largest_difference(ours, follow(optax.adam(falling(0.1), eps=0.0), params, grads)[0]) < ROUNDING


def test_closed_bounds_are_sgd_with_momentum(x64):
    params, grads = start()
    ours, _ = follow(adabound(falling(0.1), 0.5, gamma=1e14), params, grads)
    theirs, _ = follow(optax.chain(optax.ema(0.9, debias=False), optax.sgd(falling(0.5))), params, grads)
    assert largest_difference(ours, theirs) < 1e-12  # the bounds are 1e-14 apart at t = 1


def test_rates_lie_between_the_bounds_which_close(x64):
    grads = start()[1]
    tx = scale_by_adabound(b1=0.0, final=1.0, gamma=0.05)
    state = tx.init({name: g[0] for name, g in grads.items()})
    rates = []
    for t in range(36):
        g = {name: x[t] for name, x in grads.items()}
        u, state = tx.update(g, state)
        rates.append(np.concatenate([np.ravel(u[name] / g[name]) for name in LEAVES]))
    low, high = (np.asarray(b)[:, None] for b in adabound_bounds(np.arange(1, 37), 1.0, 0.05))
    rates = np.array(rates)
    assert (rates >= low * (1 - 1e-12)).all() and (rates <= high * (1 + 1e-12)).all()  # rounding of u/g
    assert (np.diff(low[:, 0]) > 0).all() and (np.diff(high[:, 0]) < 0).all()
    # both bounds are met, and ever more often
    met = np.isclose(rates, low) | np.isclose(rates, high)
    assert np.isclose(rates, low).any() and np.isclose(rates, high).any()
    assert met[:6].mean() < 0.5 < met[-6:].mean()


def test_bounds_are_the_formula_and_exact_for_small_steps():
    low, high = adabound_bounds(np.array([1, 10, 10**6]), 0.1, 1e-3)
    t = np.array([1, 10, 10**6], np.float64)
    # single precision: three operations
    np.testing.assert_allclose(low, 0.1 * (1 - 1 / (1e-3 * t + 1)), rtol=5e-7)
    np.testing.assert_allclose(high, 0.1 * (1 + 1 / (1e-3 * t)), rtol=5e-7)


def test_a_schedule_that_starts_at_zero_needs_its_peak(x64):
    warm = optax.linear_schedule(0.0, 0.1, 5)
    with pytest.raises(ValueError, match="base learning rate, which must be positive, got 0.0; for a schedule"):
        adabound(warm)
    params, grads = start()
    ours, _ = follow(adabound(warm, 0.5, gamma=0.1, base_learning_rate=0.1), params, grads)
    np.testing.assert_array_equal(ours["vector"][0], params["vector"])  # the first rate is zero
    late = scale_by_adabound(final=5.0, gamma=0.1)
    by_hand, _ = follow(optax.chain(late, optax.scale_by_learning_rate(warm)), params, grads)
    assert largest_difference(ours, by_hand) < 1e-15  # the same program


def test_amsbound_hands_every_number_on(x64):
    params, grads = start()
    numbers = (falling(0.1), 0.2, 0.8, 0.9, 0.02, 1e-2, 0.1)
    ours, _ = follow(amsbound(*numbers, base_learning_rate=0.3), params, grads)
    other, _ = follow(adabound(*numbers, base_learning_rate=0.3, amsbound=True), params, grads)
    assert largest_difference(ours, other) == 0.0  # the same program
    by_hand = optax.chain(
        optax.add_decayed_weights(0.1),
        scale_by_adabound(0.8, 0.9, 0.2 / 0.3, 0.02, 1e-2, amsbound=True),
        optax.scale_by_learning_rate(falling(0.1)),
    )
    assert largest_difference(ours, follow(by_hand, params, grads)[0]) == 0.0


def test_half_precision_keeps_float32_moments():
    g = jnp.ones((2, 3), jnp.bfloat16)
    tx = amsbound(0.1)
    updates, state = tx.update(g, tx.init(g))
    assert updates.dtype == jnp.bfloat16
    assert {x.dtype.name for x in jax.tree.leaves(state[1][1:])} == {"float32"}


def test_clear_errors():
    with pytest.raises(ValueError, match="adabound: the bounds are relative to the base learning rate"):
        adabound(0.0)
    with pytest.raises(ValueError, match=r"b2 must lie in \[0.0, 0.99.*\], got 1.0"):
        amsbound(b2=1.0)
    with pytest.raises(ValueError, match=r"eps must lie in \[0.0, inf\], got -1.0"):
        adabound(eps=-1.0)
    with pytest.raises(ValueError, match=r"final must lie in \[0.0, inf\], got -1.0"):
        scale_by_adabound(final=-1.0)
    with pytest.raises(ValueError, match=r"gamma must lie in \[1.17.*e-38, inf\], got 0.0"):
        adabound(gamma=0.0)
    with pytest.raises(ValueError, match=r"final_learning_rate must lie in \[0.0, inf\], got -1.0"):
        adabound(final_learning_rate=-1.0)
    with pytest.raises(ValueError, match=r"weight_decay must lie in \[0.0, inf\], got -1.0"):
        adabound(weight_decay=-1.0)
