"""AdEMAMix and its schedules against the authors' code, optax and AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import ademamix, ademamix_alpha_schedule, ademamix_b3_schedule
from tests.optimizers._adaptive import difference_to_golden, falling, follow, largest_difference, start

# float64, 36 steps of size 0.1, the same operations in another order (measured: 3e-16)
ROUNDING = 1e-13


def test_equals_the_official_code(x64):
    assert difference_to_golden(ademamix(falling(0.1), weight_decay=0.1), "ademamix") < ROUNDING


def test_schedules_equal_the_official_ones(x64):
    """The official half-life has 1e-8 added to both decays, but not after the warm-up."""
    shifted = ademamix_b3_schedule(0.999 + 1e-8, 0.9 + 1e-8, 30)
    official = lambda count: jnp.where(count + 1 < 30, shifted(count), 0.999)  # noqa: E731
    tx = ademamix(falling(0.1), 0.9, 0.99, official, ademamix_alpha_schedule(8.0, 25))
    # the official 0.5^(1/(f + 1)) is the same number by other roundings
    assert difference_to_golden(tx, "ademamix_warmup") < 1e-12
    # without that addition, as in the paper: a few parts in a million
    paper = ademamix(falling(0.1), 0.9, 0.99, ademamix_b3_schedule(0.999, 0.9, 30), ademamix_alpha_schedule(8.0, 25))
    assert 1e-7 < difference_to_golden(paper, "ademamix_warmup") < 1e-5


def test_half_lives_grow_linearly_from_one_decay_to_the_other(x64):
    schedule = jax.jit(jax.vmap(ademamix_b3_schedule(0.9999, 0.9, 1000)))
    b3 = schedule(jnp.arange(-1, 1010))  # the counter -1 stands for t = 0
    np.testing.assert_allclose([b3[0], b3[1000], b3[-1]], [0.9, 0.9999, 0.9999], rtol=1e-14)  # endpoints in float64
    half_life = np.log(0.5) / np.log(np.asarray(b3[:1001]))
    ends = np.log(0.5) / np.log(0.9), np.log(0.5) / np.log(0.9999)
    # near 1 a rounding of β is 1e-12 of its logarithm
    np.testing.assert_allclose(half_life, np.linspace(*ends, 1001), rtol=1e-10)
    # no momentum: from one step's memory; and to it
    assert 0 < float(ademamix_b3_schedule(0.999, 0.0, 100)(0)) < 0.999
    down = [float(ademamix_b3_schedule(0.0, 0.9, 4)(count)) for count in range(5)]
    assert 0.9 > down[0] > down[1] > down[2] > down[3] == down[4] == 0.0


def test_schedules_stay_where_the_counter_ends():
    last = jnp.int32(2**31 - 1)
    assert float(ademamix_alpha_schedule(8.0, 10)(last)) == 8.0
    assert ademamix_b3_schedule(0.5, 0.25, 10)(last) == 0.5


def test_one_warmup_gives_both_schedules(x64):
    params, grads = start()
    ours, _ = follow(ademamix(falling(0.1), 0.8, 0.99, 0.999, 8.0, 1e-2, warmup_steps=30), params, grads)
    schedules = ademamix_b3_schedule(0.999, 0.8, 30), ademamix_alpha_schedule(8.0, 30)
    theirs = optax.contrib.ademamix(falling(0.1), 0.8, 0.99, *schedules, eps=1e-2)
    assert largest_difference(ours, follow(theirs, params, grads)[0]) < 1e-15  # the same program


def test_without_the_slow_mean_it_is_adamw(x64):
    params, grads = start()
    mask = {"matrix": True, "vector": False, "scalar": True}
    ours, _ = follow(ademamix(falling(0.1), alpha=0.0, weight_decay=0.3, mask=mask), params, grads)
    theirs, _ = follow(optax.adamw(falling(0.1), weight_decay=0.3, mask=mask), params, grads)
    assert largest_difference(ours, theirs) < ROUNDING


def test_half_precision_keeps_float32_moments():
    """optax's bfloat16 slow mean stops where an increment of 1e-4 is below half of its last digit."""
    params, grads = jnp.zeros(2, jnp.bfloat16), jnp.ones((2000, 2), jnp.bfloat16)
    iterates, state = follow(ademamix(1e-4), params, grads)
    _, other = follow(optax.contrib.ademamix(1e-4), params, grads)
    assert iterates.dtype == jnp.bfloat16 and state[0].nu.dtype == jnp.float32
    wanted = 1 - 0.9999**2000
    np.testing.assert_allclose(state[0].m2, wanted, rtol=1e-3)  # single precision, 2,000 increments
    assert float(other[0].m2[0]) < 0.3 * wanted


def test_clear_errors():
    with pytest.raises(TypeError, match="warmup_steps makes the schedules of b3 and alpha: give numbers for both"):
        ademamix(0.1, b3=ademamix_b3_schedule(0.999, 0.9, 10), warmup_steps=10)
    with pytest.raises(ValueError, match=r"warmup_steps must lie in \[1, inf\], got 0"):
        ademamix(0.1, warmup_steps=0)
    with pytest.raises(ValueError, match=r"b3 must lie in \[0.0, 0.99.*\], got 1.0"):
        ademamix(0.1, b3=1.0)
    with pytest.raises(ValueError, match=r"b2 must lie in \[0.0, 0.99.*\], got 1.0"):
        ademamix(0.1, b2=1.0)
    with pytest.raises(ValueError, match=r"b1 must lie in \[0.0, 0.99.*\], got 1.0"):
        ademamix_b3_schedule(0.9, 1.0, 10)
    for name in ("eps", "alpha", "weight_decay"):
        with pytest.raises(ValueError, match=name + r" must lie in \[0.0, inf\], got -1.0"):
            ademamix(0.1, **{name: -1.0})
    with pytest.raises(ValueError, match=r"alpha must lie in \[0.0, inf\], got -1.0"):
        ademamix_alpha_schedule(-1.0, 10)
