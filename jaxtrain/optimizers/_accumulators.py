"""A transformation of optax with its state in single precision at least."""

import jax
import optax

from jaxtrain.core.numerics import accumulator_dtype
from jaxtrain.core.types import Params


def _wide(tree: Params) -> Params:
    return jax.tree.map(lambda x: x.astype(accumulator_dtype(x)), tree)


def in_accumulators(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """``tx`` on gradients and parameters in float32 at least; updates come back in the dtype of the gradients.

    optax keeps moments in the dtype of the parameters, where bfloat16 loses increments below 1/256 of a moment.

    >>> import jax.numpy as jnp
    >>> half = jnp.ones(2, jnp.bfloat16)
    >>> tx = in_accumulators(optax.scale_by_adam())
    >>> updates, state = tx.update(half, tx.init(half))
    >>> updates.dtype.name, state.nu.dtype.name
    ('bfloat16', 'float32')
    """

    def init(params):
        return tx.init(_wide(params))

    def update(updates, state, params=None):
        new, state = tx.update(_wide(updates), state, None if params is None else _wide(params))
        return jax.tree.map(lambda n, g: n.astype(g.dtype), new, updates), state

    return optax.GradientTransformation(init, update)
