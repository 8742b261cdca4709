"""What is a layer of a tree of parameters: the one answer for all methods that go layer by layer."""

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import jax
from jaxtyping import Array

from jaxtrain.core import Params

Granularity: TypeAlias = str | Callable[[str], Hashable]
"""``layer``, ``model``, or a function from the path of a leaf to the component that it belongs to."""


def grouped(tree: Params, granularity: Granularity) -> dict[Hashable, list[tuple[Any, Array]]]:
    """The leaves, with their paths, by component. A layer is what hangs from one node of the tree."""
    groups: dict[Hashable, list[tuple[Any, Array]]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if callable(granularity):
            name = granularity(jax.tree_util.keystr(path))
        else:
            name = "" if granularity == "model" else jax.tree_util.keystr(path[:-1])
        groups.setdefault(name, []).append((path, leaf))
    return groups
