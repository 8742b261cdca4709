"""AMSGrad's three readings against PyTorch, optax and a transcription; AdamNC against AdaGrad and the counter-example."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import adam_nc, amsgrad, scale_by_adam_nc, scale_by_amsgrad
from tests.optimizers._adaptive import LEAVES, difference_to_golden, falling, follow, largest_difference, start

# float64, 36 steps of size 0.1, the same operations in another order (measured: 2e-15)
ROUNDING = 1e-13


def test_after_max_equals_pytorch(x64):
    assert difference_to_golden(amsgrad(falling(0.1), bias_correction="after_max"), "amsgrad") < ROUNDING
    # the three are three methods: at this length some percent apart
    assert difference_to_golden(amsgrad(falling(0.1)), "amsgrad") > 0.05
    assert difference_to_golden(amsgrad(falling(0.1), bias_correction="before_max"), "amsgrad") > 0.005


def transcription(params, grads, rate, b1, b2, eps):
    """Algorithm 2 of the paper, in NumPy."""
    x, m, v, largest = np.array(params), 0.0, 0.0, 0.0
    iterates = []
    for t, g in enumerate(np.asarray(grads)):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        largest = np.maximum(largest, v)
        x = x - rate * (1.0 if t < 20 else 0.3) * m / (np.sqrt(largest) + eps)
        iterates.append(x)
    return np.array(iterates)


def test_without_correction_it_is_the_paper_and_optax(x64):
    params, grads = start()
    for options in ((0.9, 0.99, 1e-8), (0.8, 0.9, 1e-2)):
        ours, state = follow(amsgrad(falling(0.1), *options), params, grads)
        wanted = {name: transcription(params[name], grads[name], 0.1, *options) for name in LEAVES}
        assert largest_difference(ours, wanted) < ROUNDING
    theirs = optax.amsgrad(falling(0.1), *options, bias_correction_mu=False, bias_correction_nu=False)
    np.testing.assert_array_equal(ours["matrix"], follow(theirs, params, grads)[0]["matrix"])  # the same program
    np.testing.assert_array_less(state[0].nu["matrix"], state[0].nu_max["matrix"] + 1e-15)


def test_before_max_is_optax_by_default(x64):
    params, grads = start()
    ours, _ = follow(amsgrad(falling(0.1), bias_correction="before_max"), params, grads)
    theirs, _ = follow(optax.amsgrad(falling(0.1), b2=0.99), params, grads)
    np.testing.assert_array_equal(ours["matrix"], theirs["matrix"])


def test_fading_momentum_by_injection(x64):
    params, grads = start()
    fading = optax.chain(
        optax.inject_hyperparams(scale_by_amsgrad, static_args=("bias_correction",))(b1=lambda t: 0.9 * 0.5**t),
        optax.scale(-0.1),
    )
    ours, _ = follow(fading, params, grads)
    x, m, v, largest = np.array(params["vector"]), 0.0, 0.0, 0.0
    for t, g in enumerate(np.asarray(grads["vector"])):
        b1 = 0.9 * 0.5**t
        m, v = b1 * m + (1 - b1) * g, 0.99 * v + 0.01 * g * g
        largest = np.maximum(largest, v)
        x = x - 0.1 * m / (np.sqrt(largest) + 1e-8)
    np.testing.assert_allclose(ours["vector"][-1], x, rtol=0, atol=1e-13)  # float64, 36 steps


def test_adam_nc_keeps_the_mean_of_squares_and_is_adagrad_without_momentum(x64):
    params, grads = start()
    rate = lambda t: 0.3 / jnp.sqrt(t + 1.0)  # noqa: E731
    ours, state = follow(adam_nc(rate, b1=0.0, eps=0.0), params, grads)
    for name in LEAVES:
        np.testing.assert_allclose(state[0].nu[name], jnp.mean(grads[name] ** 2, axis=0), rtol=1e-14)  # 36 additions
    adagrad, _ = follow(optax.adagrad(0.3, initial_accumulator_value=0.0, eps=0.0), params, grads)
    assert largest_difference(ours, adagrad) < ROUNDING
    # a constant decay: Adam without its corrections
    constant, _ = follow(adam_nc(falling(0.1), b2_fn=lambda t: 0.99), params, grads)
    x, m, v = np.array(params["vector"]), 0.0, 0.0
    for t, g in enumerate(np.asarray(grads["vector"])):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        x = x - 0.1 * (1.0 if t < 20 else 0.3) * m / (np.sqrt(v) + 1e-8)
    np.testing.assert_allclose(constant["vector"][-1], x, rtol=0, atol=1e-13)  # as above


def online(tx, steps=6000, slope=3.0):
    """The paper's first counter-example on [-1, 1], from 0: the last iterate."""

    def step(carry, t):
        x, state = carry
        g = jnp.where(t % 3 == 0, slope, -1.0)
        updates, state = tx.update(g, state, x)
        return (jnp.clip(x + updates, -1.0, 1.0), state), None

    x = jnp.zeros(())
    return float(jax.jit(lambda: jax.lax.scan(step, (x, tx.init(x)), jnp.arange(steps))[0][0])())


def test_the_counter_example_of_the_paper():
    """The optimum is -1; Adam with β₂ = 1/(1 + C²) goes to the worst point, +1."""
    rate = lambda t: 0.5 / jnp.sqrt(t + 1)  # noqa: E731
    assert online(optax.chain(optax.scale_by_adam(b1=0.0, b2=0.1), optax.scale_by_learning_rate(rate))) > 0.97
    # steps of 0.5/√6000 remain
    assert online(amsgrad(rate, b1=0.0, b2=0.1)) < -0.97
    assert online(adam_nc(rate, b1=0.0)) < -0.97


def rates_fall(tx, grads, rate=0.1):
    """The least of Γ = √v_t/α_t - √v_{t-1}/α_{t-1} over the run, read from the updates of a method without momentum."""

    def step(carry, g):
        state, last = carry
        u, state = tx.update(g, state)
        now = g / u
        return (state, now), now - last

    _, gamma = jax.lax.scan(step, (tx.init(grads[0]), jnp.zeros_like(grads[0])), grads)
    return float(gamma.min())


def test_only_the_repaired_methods_have_rates_that_never_grow(x64):
    grads = start()[1]["vector"]
    by_root = optax.scale_by_learning_rate(lambda t: 0.1 / jnp.sqrt(t + 1), flip_sign=False)
    assert rates_fall(optax.chain(scale_by_amsgrad(b1=0.0), by_root), grads) >= 0
    assert rates_fall(optax.chain(scale_by_adam_nc(b1=0.0), by_root), grads) >= -1e-10  # rounding of g/u
    assert rates_fall(optax.chain(optax.scale_by_adam(b1=0.0, b2=0.5), by_root), grads) < -0.1


def test_half_precision_keeps_float32_moments():
    g = jnp.ones((2, 3), jnp.bfloat16)
    for correction in ("none", "after_max"):
        tx = scale_by_amsgrad(bias_correction=correction)
        updates, state = tx.update(g, tx.init(g))
        assert updates.dtype == jnp.bfloat16 and state.nu_max.dtype == jnp.float32
    tx = scale_by_adam_nc()
    updates, state = tx.update(g, tx.init(g))
    assert updates.dtype == jnp.bfloat16 and state.nu.dtype == jnp.float32


@pytest.mark.parametrize("correction", ["none", "before_max", "after_max"])
def test_goes_on_where_the_counter_ends(correction):
    tx = scale_by_amsgrad(b1=0.0, bias_correction=correction)
    state = tx.init(jnp.zeros(1))._replace(count=jnp.int32(2**31 - 1), nu_max=jnp.full(1, 4.0))
    # single precision: by then no correction is left
    np.testing.assert_allclose(tx.update(jnp.ones(1), state)[0], 0.5, rtol=1e-6)


def test_clear_errors():
    with pytest.raises(ValueError, match=r"b2 must lie in \[0.0, 0.99.*\], got 1.0"):
        amsgrad(0.1, b2=1.0)
    with pytest.raises(ValueError, match=r"b1 must lie in \[0.0, 0.99.*\], got 1.0"):
        adam_nc(0.1, b1=1.0)
    with pytest.raises(ValueError, match=r"eps must lie in \[0.0, inf\], got -1.0"):
        amsgrad(0.1, eps=-1.0)
    with pytest.raises(ValueError, match="bias_correction must be one of none, before_max, after_max, got 'torch'"):
        amsgrad(0.1, bias_correction="torch")
    with pytest.raises(ValueError, match=r"eps must lie in \[0.0, inf\], got -1.0"):
        adam_nc(0.1, eps=-1.0)
