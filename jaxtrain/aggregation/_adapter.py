"""From a function of a stack of gradients to optax's aggregator protocol."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array
from optax.experimental import aggregating

from jaxtrain.core import Key, check_key


class KeyedState(NamedTuple):
    """State of an aggregator that draws random numbers: the key of the next step."""

    key: Array


def as_optax(aggregate: Callable[..., Any], key: Key | None = None) -> aggregating.Aggregator:
    """Makes ``stacked -> tree`` an optax aggregator, for ``optax.experimental.aggregating.process``.

    Args:
      aggregate: takes a pytree with a leading axis of gradients, and a key if one is given here; gives one without.
      key: for an aggregator that draws (:func:`pcgrad`, :func:`graddrop`): every update splits it.

    Returns:
      A pair ``(init, update)``, without state or with a :class:`KeyedState`.

    Raises:
      TypeError: a key that is not typed.

    >>> import jax.numpy as jnp
    >>> from jaxtrain.aggregation import pcgrad, upgrad
    >>> tx = aggregating.process(optax.identity(), as_optax(upgrad), optax.sgd(1.0))
    >>> params = jnp.zeros(2)
    >>> updates, _ = tx.update(jnp.eye(2), tx.init(params), params)
    >>> updates.tolist()
    [-0.5, -0.5]
    >>> aggregator = as_optax(pcgrad, jax.random.key(0))
    >>> aggregate, state = aggregator.update(jnp.eye(2), aggregator.init(params))
    >>> aggregate.tolist()
    [1.0, 1.0]
    """
    if key is None:

        def update(updates, state, params=None, **extra_args):
            del params, extra_args
            return aggregate(updates), state

        return aggregating.Aggregator(lambda params: optax.EmptyState(), update)

    check_key(key, where="as_optax")

    def keyed_update(updates, state, params=None, **extra_args):
        del params, extra_args
        used, following = jax.random.split(state.key)
        return aggregate(updates, used), KeyedState(following)

    return aggregating.Aggregator(lambda params: KeyedState(key), keyed_update)
