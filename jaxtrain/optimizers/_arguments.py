"""Extra arguments that are trees like the parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.core.types import Params


def leaves_like(where: str, updates: Params, tree: Any) -> Params:
    """Of an extra argument the leaves that the updates have: under optax.masked and optax.partition those lack the others.

    Raises where one is missing or has another shape.

    >>> leaves_like("diag", {"a": jnp.ones(2), "b": None}, {"a": jnp.zeros(2), "b": jnp.zeros(3)})
    {'a': Array([0., 0.], dtype=float32), 'b': None}
    >>> leaves_like("diag", {"a": jnp.ones(2)}, {"a": jnp.zeros(3)})
    Traceback (most recent call last):
    ValueError: diag['a'] has shape (3,), the gradient (2,)
    """
    known = dict(jax.tree_util.tree_leaves_with_path(tree))

    def find(path, g):
        name = jax.tree_util.keystr(path)
        if path not in known:
            raise ValueError(f"{where} lacks {name or 'the array'}, which the gradients have")
        if jnp.shape(known[path]) != jnp.shape(g):
            raise ValueError(f"{where}{name} has shape {jnp.shape(known[path])}, the gradient {jnp.shape(g)}")
        return known[path]

    return jax.tree_util.tree_map_with_path(find, updates)
