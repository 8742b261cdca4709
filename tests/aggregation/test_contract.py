"""The contract kit over every aggregator."""

import jax
import jax.numpy as jnp

from jaxtrain.aggregation import centered_clip, upgrad
from jaxtrain.testing import check_aggregator


def test_upgrad():
    check_aggregator(jax.jit(upgrad), linear_under_scaling=True, non_conflicting=True)


def test_centered_clip():
    def around_zero(stacked, tau):
        return centered_clip(stacked, jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), stacked), tau=tau)

    # gradients that agree but lie further than tau from the centre are clipped all the same
    check_aggregator(jax.jit(lambda x: around_zero(x, 1.0)), except_=["identical"])
    check_aggregator(jax.jit(lambda x: around_zero(x, jnp.inf)), linear_under_scaling=True)
