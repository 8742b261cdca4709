"""One pass over the leaves for what a method computes for each of them."""

from collections.abc import Callable
from typing import Any

import jax

from jaxtrain.core.types import Params


def map_leaves(step: Callable[..., tuple], outputs: int, updates: Params, *trees: Any) -> tuple[Params, ...]:
    """``step(leaf, *leaves of trees)`` for every leaf; the tuples it returns become as many trees.

    ``outputs`` is their length, which a tree without leaves could not tell.

    >>> map_leaves(lambda g, m: (g + m, g - m), 2, {"a": 3}, {"a": 1})
    ({'a': 4}, {'a': 2})
    """
    leaves, structure = jax.tree.flatten(updates)
    columns = [structure.flatten_up_to(tree) for tree in trees]
    done = [step(*row) for row in zip(leaves, *columns, strict=True)]
    return tuple(structure.unflatten([parts[i] for parts in done]) for i in range(outputs))
