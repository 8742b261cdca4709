"""Decoupled decay against PyTorch, optax and a transcription of the paper's algorithms; its schedule and its scale."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import adam_l2, adamw_original, normalized_weight_decay, sgdw
from jaxtrain.schedules import cosine_restarts
from tests.optimizers._adaptive import LEAVES, difference_to_golden, falling, follow, largest_difference, start

# float64, 36 steps of size 0.1, the same operations in another order (measured: 1e-15)
ROUNDING = 1e-13
ETA = falling(1.0)


def test_equals_pytorch_with_the_decay_converted(x64):
    # λ = α λ'
    assert difference_to_golden(adamw_original(0.1, weight_decay=0.03, schedule=ETA), "adamw") < ROUNDING
    assert difference_to_golden(adam_l2(falling(0.1), l2=0.3), "adam_l2") < ROUNDING
    params, grads = start()
    ours, _ = follow(adamw_original(0.1, weight_decay=0.03, schedule=ETA), params, grads)
    theirs, _ = follow(optax.adamw(falling(0.1), weight_decay=0.3), params, grads)
    assert largest_difference(ours, theirs) < ROUNDING
    adam = {"b1": 0.8, "b2": 0.95, "eps": 1e-2}
    ours, _ = follow(adamw_original(0.1, weight_decay=0.03, schedule=ETA, **adam), params, grads)
    theirs, _ = follow(optax.adamw(falling(0.1), weight_decay=0.3, **adam), params, grads)
    assert largest_difference(ours, theirs) < ROUNDING
    ours, _ = follow(adam_l2(falling(0.1), l2=0.3, **adam), params, grads)
    theirs, _ = follow(optax.chain(optax.add_decayed_weights(0.3), optax.adam(falling(0.1), **adam)), params, grads)
    assert largest_difference(ours, theirs) < ROUNDING
    # and without decay it is Adam
    ours, _ = follow(adamw_original(0.1, schedule=ETA), params, grads)
    assert largest_difference(ours, follow(optax.adam(falling(0.1)), params, grads)[0]) < ROUNDING


def test_another_step_size_is_the_same_decay(x64):
    """A parameter without gradient decays by (1 - λ)ⁿ, whatever α; optax's by (1 - αλ)ⁿ."""
    zero = jnp.zeros((10, 2))
    for rate in (0.1, 0.5):
        for tx in (adamw_original(rate, weight_decay=0.1), sgdw(rate, weight_decay=0.1)):
            iterates, _ = follow(tx, jnp.ones(2), zero)
            np.testing.assert_allclose(iterates[-1], 0.9**10, rtol=1e-14)  # ten float64 products
        iterates, _ = follow(optax.adamw(rate, weight_decay=0.1), jnp.ones(2), zero)
        np.testing.assert_allclose(iterates[-1], (1 - 0.1 * rate) ** 10, rtol=1e-14)


def test_sgdw_is_the_first_algorithm_of_the_paper(x64):
    params, grads = start()
    ours, _ = follow(
        sgdw(0.1, 0.9, 0.03, schedule=ETA, mask={name: name != "scalar" for name in LEAVES}), params, grads
    )
    for name, decay in {"matrix": 0.03, "vector": 0.03, "scalar": 0.0}.items():
        x, m = np.array(params[name]), 0.0
        for t, g in enumerate(np.asarray(grads[name])):
            eta = 1.0 if t < 20 else 0.3
            m = 0.9 * m + eta * 0.1 * g
            x = x - m - eta * decay * x
            np.testing.assert_allclose(ours[name][t], x, rtol=0, atol=1e-13)  # float64, 36 steps
    # without momentum: SGD of the loss with L2 of λ/α
    ours, _ = follow(sgdw(0.1, 0.0, 0.03, schedule=ETA), params, grads)
    theirs, _ = follow(optax.chain(optax.add_decayed_weights(0.3), optax.sgd(falling(0.1))), params, grads)
    assert largest_difference(ours, theirs) < ROUNDING


def test_l2_in_adam_decays_parameters_with_large_gradients_less():
    """Two parameters with the same value; the noise of one's gradient is 100 times that of the other."""
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(300, 2)), jnp.float32) * jnp.array([1.0, 100.0])
    noise = noise - noise.mean(axis=0)
    with_l2, _ = follow(adam_l2(0.01, l2=1.0), jnp.full(2, 5.0), noise)
    decoupled, _ = follow(adamw_original(0.01, weight_decay=0.01), jnp.full(2, 5.0), noise)
    lost = 5.0 - with_l2[-1]
    assert lost[0] > 5 * lost[1]
    # decoupled: the same share of both, up to the noise of 300 steps of 0.01
    assert abs(float(decoupled[-1, 0] - decoupled[-1, 1])) < 0.4


@pytest.mark.parametrize(("period", "mult"), [(4, 2.0), (5, 1.0), (3, 1.5), (10, 3.0)])
def test_restarts_equal_joined_cosines(x64, period, mult):
    lengths = [period * mult**i for i in range(5)]
    wanted, now, i = [], 0.0, 0
    for _ in range(150):
        wanted.append(0.5 + 0.5 * np.cos(np.pi * now / lengths[min(i, 4)]))
        now += 1
        while i < 4 and now >= lengths[i] - 1e-9:
            now, i = now - lengths[i], i + 1
    known = min(150, int(sum(lengths)) - 1)
    got = jax.jit(jax.vmap(cosine_restarts(period, mult=mult)))(jnp.arange(known))
    # float64; the start of a period is a quotient of powers
    np.testing.assert_allclose(got, wanted[:known], rtol=0, atol=1e-11)


def test_restarts_equal_optax_where_it_ends():
    """In single precision too the number of the period is right at every restart."""
    cycles = [
        {"init_value": 1.0, "peak_value": 1.0, "warmup_steps": 0, "decay_steps": 7 * 2**i, "end_value": 0.0}
        for i in range(6)
    ]
    counts = jnp.arange(7 * 63)
    theirs = jax.vmap(optax.sgdr_schedule(cycles))(counts)
    # cosines in single precision of arguments that differ by a rounding
    np.testing.assert_allclose(jax.vmap(cosine_restarts(7))(counts), theirs, rtol=0, atol=2e-6)


def test_normalized_decay():
    value = normalized_weight_decay(0.025, batch_size=128, num_train=50_000, epochs=100)
    np.testing.assert_allclose(value, 0.025 * np.sqrt(128 / 5e6), rtol=1e-6)  # single precision
    four_times = normalized_weight_decay(0.025, batch_size=128, num_train=50_000, epochs=400)
    np.testing.assert_allclose(value / four_times, 2.0, rtol=1e-6)


def test_half_precision_keeps_float32_moments():
    g = jnp.ones((2, 3), jnp.bfloat16)
    for tx in (adamw_original(0.1, weight_decay=0.1), sgdw(0.1, weight_decay=0.1), adam_l2(0.1, l2=0.1)):
        updates, state = tx.update(g, tx.init(g), g)
        assert updates.dtype == jnp.bfloat16
        assert {x.dtype.name for x in jax.tree.leaves(state) if x.ndim} == {"float32"}


def test_clear_errors():
    for make in (adamw_original, sgdw):
        with pytest.raises(TypeError, match="learning_rate is the base step size, which the decay does not follow"):
            make(optax.constant_schedule(0.1))
        with pytest.raises(ValueError, match=r"weight_decay must lie in \[0.0, inf\], got -1.0"):
            make(0.1, weight_decay=-1.0)
    with pytest.raises(ValueError, match=r"l2 must lie in \[0.0, inf\], got -0.1"):
        adam_l2(l2=-0.1)
    for make in (adamw_original, adam_l2):
        with pytest.raises(ValueError, match=r"b1 must lie in \[0.0, 0.99.*\], got 1.0"):
            make(b1=1.0)
        with pytest.raises(ValueError, match=r"eps must lie in \[0.0, inf\], got -1.0"):
            make(eps=-1.0)
    with pytest.raises(ValueError, match=r"learning_rate must lie in \[0.0, inf\], got -1.0"):
        sgdw(-1.0)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0.0, 1.0\], got 2"):
        sgdw(momentum=2)
    with pytest.raises(ValueError, match=r"epochs must lie in \[1.17.*e-38, inf\], got 0"):
        normalized_weight_decay(0.1, batch_size=1, num_train=10, epochs=jnp.array(0))
    with pytest.raises(ValueError, match=r"norm_decay must lie in \[0.0, inf\], got -1"):
        normalized_weight_decay(-1, batch_size=1, num_train=10, epochs=1)
    with pytest.raises(ValueError, match=r"mult must lie in \[1.0, inf\], got 0.5"):
        cosine_restarts(10, mult=0.5)
