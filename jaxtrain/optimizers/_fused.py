"""One pass over the leaves for what a method computes for each of them."""

from collections.abc import Callable
from typing import Any

import jax

from jaxtrain.core.types import Params


def map_leaves(step: Callable[..., tuple], outputs: int, updates: Params, *trees: Any) -> tuple[Params, ...]:
    """``step(leaf, *leaves of trees)`` for every leaf; the tuples it returns become as many trees.

    ``outputs`` is their length, which a tree without leaves could not tell. They are the updates and what becomes of the
    trees, in their order: where a state is None, ``step`` is given None and what it returns there is None as a whole.

    >>> map_leaves(lambda g, m, most: (g + m, g - m, most), 3, {"a": 3}, {"a": 1}, None)
    ({'a': 4}, {'a': 2}, None)
    """
    leaves, structure = jax.tree.flatten(updates)
    columns = [[None] * len(leaves) if tree is None else structure.flatten_up_to(tree) for tree in trees]
    done = [step(*row) for row in zip(leaves, *columns, strict=True)]
    absent = [False, *(tree is None for tree in trees)]
    return tuple(
        None if i < len(absent) and absent[i] else structure.unflatten([parts[i] for parts in done])
        for i in range(outputs)
    )
