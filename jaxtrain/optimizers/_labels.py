"""Labels of parameters: a tree like them, or like a prefix of them, or a function that makes one."""

from typing import Any

import jax
import optax

from jaxtrain.core.types import Params

Labels = Any
"""A tree of labels, or of a prefix of the parameters', or a function ``params -> labels``."""


def is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def label_leaves(labels: Labels, tree: Params) -> Params:
    """One label for each leaf of a tree, masked ones kept as they are.

    >>> label_leaves({"a": 1, "b": 2}, {"a": {"x": 0.5, "y": optax.MaskedNode()}, "b": optax.MaskedNode()})
    {'a': {'x': 1, 'y': MaskedNode()}, 'b': MaskedNode()}
    """
    found = labels(tree) if callable(labels) else labels
    return jax.tree.map(
        lambda label, part: (
            part if is_masked(part) else jax.tree.map(lambda x: x if is_masked(x) else label, part, is_leaf=is_masked)
        ),
        found,
        tree,
        is_leaf=is_masked,
    )
