"""AdaBelief against the authors' package and optax, and its first steps by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import adabelief, scale_by_adabelief
from tests.optimizers._adaptive import LEAVES, difference_to_golden, falling, follow, largest_difference, start

# float64, 36 steps of size 0.1, the same operations in another order (measured: 4e-16)
ROUNDING = 1e-13
CASES = {
    "adabelief": {"weight_decay": 0.1},
    "adabelief_l2": {"eps": 1e-3, "weight_decay": 0.1, "decouple": False},
    "adabelief_rectified": {"b2": 0.99, "eps": 1e-8, "rectify": True},
    "adabelief_amsgrad": {"b2": 0.8, "eps": 1e-8, "amsgrad": True},
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_official_package(x64, case):
    assert difference_to_golden(adabelief(falling(0.1), **CASES[case]), case) < ROUNDING


def test_equals_optax_with_one_epsilon(x64):
    params, grads = start()
    for eps in (1e-16, 1e-3):
        ours, _ = follow(adabelief(falling(0.1), eps=eps), params, grads)
        theirs, _ = follow(optax.adabelief(falling(0.1), eps=eps, eps_root=eps), params, grads)
        assert largest_difference(ours, theirs) < ROUNDING
    # what optax's docstring calls the paper's epsilons, none inside, is another method once gradients stand still
    still = {name: jnp.broadcast_to(g[0], g.shape) for name, g in grads.items()}
    outside, _ = follow(optax.adabelief(0.1, eps=1e-8, eps_root=0.0), params, still)
    ours, _ = follow(adabelief(0.1, eps=1e-8), params, still)
    assert largest_difference(outside, ours) > 0.01


def test_first_steps_by_hand(x64):
    """m = (1 - β₁) g, g - m = β₁ g: the first step is sign(g)/β₁."""
    grads = start()[1]
    tx = scale_by_adabelief(eps=0.0)
    u, state = tx.update({name: g[0] for name, g in grads.items()}, tx.init({name: g[0] for name, g in grads.items()}))
    for name in LEAVES:
        np.testing.assert_allclose(u[name], jnp.sign(grads[name][0]) / 0.9, rtol=1e-14)  # one float64 step
    # the inner epsilon is added at every step: t steps of zero gradients leave ε (1 - β₂ᵗ)/(1 - β₂)
    tx = scale_by_adabelief(b2=0.9, eps=1e-3)
    _, state = follow(tx, jnp.zeros(2), jnp.zeros((25, 2)))
    np.testing.assert_allclose(state.nu, 1e-3 * (1 - 0.9**25) / 0.1, rtol=1e-14)  # 25 float64 sums


def test_rectified_steps_are_momentum_until_the_variance_is_known(x64):
    """β₂ = 0.999: ρ₅ < 5 ≤ ρ₆, as in RAdam."""
    grads = start()[1]["vector"]
    params = jnp.zeros(3)
    rectified, _ = follow(adabelief(0.1, rectify=True), params, grads)
    momentum, _ = follow(optax.chain(optax.ema(0.9), optax.scale(-0.1)), params, grads)
    equal = np.abs(np.asarray(rectified - momentum)).max(axis=1) < 1e-14
    assert equal.tolist()[:7] == [True] * 5 + [False] * 2


def test_rectification_in_single_precision():
    """β₂ = 0.9999: with a difference of numbers near 20,000 single precision gave ρ₂ = 6.3 in place of 2."""

    def steps(dtype):
        grads = start(dtype)[1]["vector"]
        return follow(scale_by_adabelief(b2=0.9999, rectify=True), jnp.zeros(3, dtype), grads)[0][:12]

    single = steps(jnp.float32)
    with jax.enable_x64(True):
        double = steps(jnp.float64)
    # the root of 1 - β₂ᵗ, a difference from 1 of 6e-4 and more at the sixth step
    np.testing.assert_allclose(np.diff(single, axis=0), np.diff(double, axis=0), rtol=3e-4)


def test_the_largest_variance_is_used_where_steps_are_rectified(x64):
    params, grads = jnp.zeros(3), start()[1]["vector"]
    with_max, state = follow(adabelief(0.1, b2=0.8, rectify=True, amsgrad=True), params, grads)
    without, _ = follow(adabelief(0.1, b2=0.8, rectify=True), params, grads)
    # the package computes the maximum there and leaves it aside
    assert float(jnp.abs(with_max[-1] - without[-1]).max()) > 0.01
    assert bool((state[0].nu_max >= state[0].nu).all())
    assert follow(adabelief(0.1), params, grads)[1][0].nu_max is None


def test_half_precision_keeps_float32_moments():
    g = jnp.ones((2, 3), jnp.bfloat16)
    tx = adabelief(0.1, weight_decay=0.1, amsgrad=True)
    updates, state = tx.update(g, tx.init(g), g)
    assert updates.dtype == jnp.bfloat16
    assert {x.dtype.name for x in jax.tree.leaves(state[0][1:])} == {"float32"}


def test_clear_errors():
    with pytest.raises(ValueError, match=r"b1 must lie in \[0.0, 0.99.*\], got -0.1"):
        adabelief(b1=-0.1)
    with pytest.raises(ValueError, match=r"b2 must lie in \[0.0, 0.99.*\], got 1.0"):
        adabelief(b2=1.0, rectify=True)
    with pytest.raises(ValueError, match=r"b2 with rectify must lie in \[0.66.*, inf\], got 0.65"):
        adabelief(b2=0.65, rectify=True)
    with pytest.raises(ValueError, match=r"eps must lie in \[0.0, inf\], got -1.0"):
        adabelief(eps=-1.0)
    with pytest.raises(ValueError, match=r"weight_decay must lie in \[0.0, inf\], got -1.0"):
        adabelief(weight_decay=-1.0)
