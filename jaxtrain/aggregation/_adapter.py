"""From a function of a stack of gradients to optax's aggregator protocol."""

from collections.abc import Callable
from typing import Any

import optax
from optax.experimental import aggregating


def as_optax(aggregate: Callable[[Any], Any]) -> aggregating.Aggregator:
    """Makes ``stacked -> tree`` an optax aggregator, for ``optax.experimental.aggregating.process``.

    Args:
      aggregate: takes a pytree with a leading axis of gradients, gives one without.

    Returns:
      A pair ``(init, update)`` without state.

    >>> import jax.numpy as jnp
    >>> from jaxtrain.aggregation import upgrad
    >>> tx = aggregating.process(optax.identity(), as_optax(upgrad), optax.sgd(1.0))
    >>> params = jnp.zeros(2)
    >>> updates, _ = tx.update(jnp.eye(2), tx.init(params), params)
    >>> updates.tolist()
    [-0.5, -0.5]
    """

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        return aggregate(updates), state

    return aggregating.Aggregator(lambda params: optax.EmptyState(), update)
