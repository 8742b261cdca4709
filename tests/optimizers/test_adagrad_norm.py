"""AdaGrad-Norm against a transcription of its equations, and where it equals what is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import adagrad_norm, scale_by_adagrad_norm
from tests.optimizers.trajectories import flat, random_tree, run

STEPS = 40
RATES = np.where(np.arange(STEPS) < 25, 0.3, 0.05)


def schedule(t):
    return jnp.where(t < 25, 0.3, 0.05)


@pytest.mark.parametrize("b0, decay, current", [(1e-8, 0.0, True), (2.0, 0.1, True), (2.0, 0.1, False)])
def test_equals_the_equations(x64, b0, decay, current):
    """arXiv 2302.08783, eq. (1), in NumPy: a flat vector, one step size."""
    params, grads = random_tree(0), random_tree(1, (STEPS,))
    x, total, expected = flat(params), b0**2, []
    for g, rate in zip(flat(grads, 1), RATES, strict=True):
        before, total = total, total + g @ g
        x = x - rate * (g / np.sqrt(total if current else before) + decay * x)
        expected.append(x)
    tx = optax.chain(
        scale_by_adagrad_norm(b0, include_current=current),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(schedule),
    )
    iterates, state = run(tx, params, grads)
    # float64, sums in another order over 40 steps
    np.testing.assert_allclose(iterates, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(state[0].sum_of_squares, total, rtol=1e-13)
    if current:
        alias, _ = run(adagrad_norm(schedule, b0, decay), params, grads)
        np.testing.assert_array_equal(alias, iterates)


def test_of_one_number_it_is_adagrad(x64):
    grads = np.random.default_rng(2).normal(size=STEPS)
    ours, _ = run(adagrad_norm(schedule, b0=0.3), np.float64(1.0), grads)
    adagrad, _ = run(optax.adagrad(schedule, initial_accumulator_value=0.3**2, eps=0.0), np.float64(1.0), grads)
    # float64, the same sums; the root's inverse is rounded apart
    np.testing.assert_allclose(ours, adagrad, rtol=1e-13)


def test_constant_gradients_give_the_harmonic_roots(x64):
    """‖g‖ constant: the t-th step has length η/√t, whatever ‖g‖ is."""
    grads = {"a": np.full((9, 2), 7e5), "b": np.zeros((9, 3))}
    iterates, _ = run(adagrad_norm(1.0, b0=0.0), {"a": np.zeros(2), "b": np.zeros(3)}, grads)
    lengths = np.cumsum(1 / np.sqrt(np.arange(1, 10)))
    np.testing.assert_allclose(np.linalg.norm(iterates, axis=1), lengths, rtol=1e-14)


def test_multiplying_the_loss_changes_nothing(x64):
    params, grads = random_tree(3), random_tree(4, (STEPS,))
    # a power of two multiplies without rounding, hence the same bits
    loud = jax.tree.map(lambda g: g * 2.0**20, grads)
    np.testing.assert_array_equal(
        run(adagrad_norm(b0=0.0), params, grads)[0], run(adagrad_norm(b0=0.0), params, loud)[0]
    )


def test_half_precision_sums_in_float32_and_zeros_wait():
    tx = scale_by_adagrad_norm(0.0)
    g = {"half": jnp.full(4096, 0.5, jnp.bfloat16), "empty": jnp.zeros((0, 2))}
    nothing, state = tx.update(jax.tree.map(jnp.zeros_like, g), tx.init(g))
    assert float(jnp.abs(nothing["half"]).max()) == 0.0 and float(state.sum_of_squares) == 0.0
    u, state = tx.update(g, state)
    # bfloat16 sums would have stopped at 256 quarters
    assert state.sum_of_squares.dtype == jnp.float32 and float(state.sum_of_squares) == 1024.0
    assert u["half"].dtype == jnp.bfloat16 and float(u["half"][0]) == 0.5 / 32


def test_it_stops_where_the_sum_overflows():
    tx = adagrad_norm()
    g = jnp.ones(2)
    first, state = tx.update(1e30 * g, tx.init(g))
    then, _ = tx.update(g, state)
    assert first.tolist() == then.tolist() == [0.0, 0.0]


def test_decay_takes_its_share_of_the_parameters():
    params = {"a": jnp.array([2.0]), "b": jnp.array([2.0])}
    tx = adagrad_norm(0.5, weight_decay=0.25, mask={"a": True, "b": False})
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert (updates["a"].tolist(), updates["b"].tolist()) == ([-0.25], [0.0])  # 0.5 · 0.25 · 2


def test_clear_errors():
    with pytest.raises(ValueError, match=r"b0 must lie in \[0.0, inf\], got -1"):
        adagrad_norm(b0=-1)
    with pytest.raises(ValueError, match="b0 must lie in"):
        scale_by_adagrad_norm(float("nan"))
