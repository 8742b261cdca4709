"""From a function of a stack of gradients to optax's aggregator protocol."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from optax.experimental import aggregating

from jaxtrain.core import Key, check_key


class KeyedState(NamedTuple):
    """State of an aggregator that draws: the key of the next round."""

    key: Key


def as_optax(aggregate: Callable[..., Any], *, key: Key | None = None) -> aggregating.Aggregator:
    """Makes ``stacked -> tree`` an optax aggregator, for ``optax.experimental.aggregating.process``.

    Args:
      aggregate: takes a pytree with a leading axis of gradients, gives one without. With a key: takes a key before it.
      key: for a rule that draws (bucketing, gradient splitting, PCGrad); every round gets one of its own.

    Returns:
      A pair ``(init, update)``; its state is empty, or the key.

    Raises:
      TypeError: a key that is not typed.

    >>> import jax.numpy as jnp
    >>> from jaxtrain.aggregation import upgrad
    >>> tx = aggregating.process(optax.identity(), as_optax(upgrad), optax.sgd(1.0))
    >>> params = jnp.zeros(2)
    >>> updates, _ = tx.update(jnp.eye(2), tx.init(params), params)
    >>> updates.tolist()
    [-0.5, -0.5]
    """
    if key is None:

        def update(updates, state, params=None, **extra_args):
            del params, extra_args
            return aggregate(updates), state

        return aggregating.Aggregator(lambda params: optax.EmptyState(), update)

    check_key(key, where="as_optax")

    def update_with_key(updates, state, params=None, **extra_args):
        del params, extra_args
        now, later = jax.random.split(state.key)
        return aggregate(now, updates), KeyedState(later)

    return aggregating.Aggregator(lambda params: KeyedState(key), update_with_key)
