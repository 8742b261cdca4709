"""Joined small parameters: values as they are, on every platform; comparisons on GPUs only, and only among equals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import fuse_small_leaves
from jaxtrain.optimizers.small_leaves import _looking_at_the_first
from jaxtrain.testing import check_gradient_transformation

GRADS = {
    "b1": jnp.array([0.0, -1.5, jnp.inf]),
    "b2": jnp.array([2.0, jnp.nan, 1e-30]),
    "half": jnp.ones(3, jnp.bfloat16),
    "large": jnp.ones((4, 4)),
    "larger": jnp.ones((4, 4)),
    "count": jnp.ones(3, jnp.int32),
    "alone": jnp.ones(2),
    "empty": jnp.ones((0, 3)),
}


def _update(grads):
    return fuse_small_leaves(max_size=15).update(grads, optax.EmptyState())[0]


def _comparisons(platform):
    return jax.jit(_update).trace(GRADS).lower(lowering_platforms=(platform,)).as_text().count("stablehlo.compare")


def test_gpus_compare_equals_with_the_first_of_them():
    """b1 and b2: of one shape and dtype, floating and small. Two comparisons with b1, for both."""
    assert [_comparisons(platform) for platform in ("cpu", "tpu", "cuda", "rocm")] == [0, 0, 2, 2]


def test_values_stay():
    for first in GRADS["b1"], GRADS["b2"], jnp.full(3, 1e38):
        group = [first, GRADS["b1"], GRADS["b2"]]
        for joined in _looking_at_the_first(group), jax.jit(_looking_at_the_first)(group):
            jax.tree.map(np.testing.assert_array_equal, joined, group)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(_update)(GRADS), GRADS)


def test_keeps_the_laws():
    check_gradient_transformation(
        factory=lambda learning_rate, max_size: optax.chain(fuse_small_leaves(max_size), optax.adam(learning_rate)),
        hyperparams={"learning_rate": 0.1, "max_size": 64},
        static_args=("max_size",),
    )


def test_the_size_is_an_integer():
    with pytest.raises(ValueError, match="max_size must be at least 1, got 0"):
        fuse_small_leaves(0)
    with pytest.raises(TypeError, match="max_size"):
        fuse_small_leaves(1.5)
