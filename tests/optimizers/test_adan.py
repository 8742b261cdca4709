"""Adan against the authors' file, and how far optax's is from it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import adan, scale_by_adan
from tests.optimizers._adaptive import LEAVES, difference_to_golden, falling, follow, largest_difference, start

# float64, 36 steps of size 0.1, the same operations in another order (measured: 3e-15)
ROUNDING = 1e-13
OTHER = {"b1": 0.9, "b2": 0.8, "b3": 0.95, "eps": 1e-3}


def test_equals_the_official_code(x64):
    assert difference_to_golden(adan(falling(0.1), weight_decay=0.3), "adan") < ROUNDING
    assert (
        difference_to_golden(adan(falling(0.1), weight_decay=0.3, proximal=False, **OTHER), "adan_no_prox") < ROUNDING
    )
    # the file divides by the norm + ε, optax by the norm: a part in 1e8
    clipped = optax.chain(optax.clip_by_global_norm(1.0), adan(falling(0.1), weight_decay=0.3))
    assert difference_to_golden(clipped, "adan_clipped") < 1e-7


def test_optax_has_another_weight_for_the_difference(x64):
    theirs = optax.adan(falling(0.1), weight_decay=0.3, eps_root=0.0, b1=0.9, b2=0.8, b3=0.95, eps=1e-3)
    distance = difference_to_golden(theirs, "adan_no_prox")
    assert 0.05 < distance < 0.5
    # with the weights exchanged in our own rule, it is theirs
    params, grads = start()
    theirs, _ = follow(optax.adan(0.1, eps_root=0.0, b2=0.5, weight_decay=0.0), params, grads)
    ours, _ = follow(adan(0.1, b2=0.5), params, grads)  # 1 - β₂ = β₂
    assert largest_difference(ours, theirs) < ROUNDING


def test_constant_gradients_have_no_difference(x64):
    """Then it is Adam with bias-corrected means: steps of the sign."""
    g = {name: jnp.broadcast_to(x[0], x.shape) for name, x in start()[1].items()}
    tx = scale_by_adan(eps=0.0)
    state = tx.init({name: x[0] for name, x in g.items()})
    for t in range(3):
        u, state = tx.update({name: x[t] for name, x in g.items()}, state)
    for name in LEAVES:
        np.testing.assert_array_equal(state.diff[name], jnp.zeros_like(g[name][0]))
        np.testing.assert_allclose(u[name], jnp.sign(g[name][0]), rtol=1e-14)  # three float64 steps
        np.testing.assert_array_equal(state.previous[name], g[name][0])


def test_without_the_difference_it_is_adam(x64):
    params, grads = start()
    ours, _ = follow(adan(0.1, b1=0.9, b2=0.0, b3=0.99), params, grads)
    assert largest_difference(ours, follow(optax.adam(0.1, b1=0.9, b2=0.99), params, grads)[0]) < ROUNDING


def test_masked_parameters_do_not_decay_and_zero_gradients_divide(x64):
    params = {"a": jnp.full(2, 4.0), "b": jnp.full(2, 4.0)}
    zero = jax.tree.map(lambda p: jnp.zeros((3, *p.shape)), params)
    iterates, _ = follow(adan(0.5, weight_decay=2.0, mask={"a": True, "b": False}), params, zero)
    np.testing.assert_array_equal(iterates["a"][:, 0], [2.0, 1.0, 0.5])  # divided by 1 + 0.5 · 2
    np.testing.assert_array_equal(iterates["b"], jnp.full((3, 2), 4.0))


def test_half_precision_keeps_float32_moments():
    g = jnp.ones((2, 3), jnp.bfloat16)
    tx = adan(0.1, weight_decay=0.1)
    updates, state = tx.update(g, tx.init(g), g)
    assert updates.dtype == jnp.bfloat16
    assert {x.dtype.name for x in jax.tree.leaves(state[0][1:])} == {"float32"}


def test_clear_errors():
    with pytest.raises(ValueError, match=r"b3 must lie in \[0.0, 0.99.*\], got 1.0"):
        adan(b3=1.0)
    with pytest.raises(ValueError, match=r"eps must lie in \[0.0, inf\], got -1.0"):
        adan(eps=-1.0)
    with pytest.raises(ValueError, match=r"weight_decay must lie in \[0.0, inf\], got -0.1"):
        adan(weight_decay=-0.1)
    with pytest.raises(ValueError, match="adan decays the parameters: call tx.update"):
        adan().update(jnp.ones(2), adan().init(jnp.ones(2)))
