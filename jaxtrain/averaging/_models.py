"""What the mergers share: stacks of finished models, and the checks on them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import Number, Params, check_leading_axes, compare_leaves, describe_leaves


def stack_models(models: Sequence[Params]) -> Params:
    """A list of models as one stack: the tree of each, its leaves with a leading axis of members.

    What an ensemble returns is such a stack already. Works under ``jit``.

    Args:
      models: trees of one structure, with the same shapes and dtypes; at least one.

    Returns:
      The tree with leaves ``(member, ...)``.

    Raises:
      ValueError: no model, or one that differs from the first; the paths that differ are named.

    >>> stack_models([{"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 4.0])}])["w"].tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    >>> stack_models([{"w": jnp.zeros(2)}, {"w": jnp.zeros(3)}])
    Traceback (most recent call last):
    ValueError: stack_models: model 1 against model 0: the trees differ: ['w'] is float32[3], expected float32[2]
    """
    models = list(models)
    if not models:
        raise ValueError("stack_models: there is no model to stack")
    for i, model in enumerate(models[1:], start=1):
        check_alike(models[0], model, where=f"stack_models: model {i} against model 0")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)


def check_alike(expected: Params, got: Params, *, where: str) -> None:
    """Raises, naming the first paths, unless two trees agree in shapes, dtypes and containers."""
    compare_leaves(describe_leaves(expected), describe_leaves(got), where=where)
    if jax.tree.structure(expected) != jax.tree.structure(got):
        raise ValueError(
            f"{where}: the leaves agree, their containers do not: {jax.tree.structure(got)}, "
            f"expected {jax.tree.structure(expected)}"
        )


def check_models(stacked: Params, *, where: str, at_least: int = 1) -> int:
    """How many models a stack holds; raises where they are too few, or leaves disagree or are not floating."""
    count = check_leading_axes(stacked, where=where, axis_name="stack of models")
    for path, leaf in jax.tree_util.tree_leaves_with_path(stacked):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            name = jax.tree_util.keystr(path) or "the stack"
            raise TypeError(
                f"{where}: {name} has dtype {leaf.dtype}; parameters are floating. Leave counters and other "
                "bookkeeping out of the tree"
            )
    if count < at_least:
        raise ValueError(f"{where} needs at least {at_least} models, the stack holds {count}")
    return count


def check_base(base: Params, stacked: Params, *, where: str, at_least: int = 1, name: str = "base") -> int:
    """The same for a stack and the model it goes with, which has its shapes without the leading axis."""
    count = check_models(stacked, where=where, at_least=at_least)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stacked)
    check_alike(one, base, where=f"{where}: the {name} against one model of the stack")
    return count


def member_weights(weights: Any, count: int, *, where: str, name: str = "weights") -> Float[Array, " member"]:
    """One number for every model, from one for all or from ``(member,)``, in single precision at least."""
    weights = jnp.asarray(weights)
    if weights.shape not in ((), (count,)):
        raise ValueError(
            f"{where}: {name} has shape {weights.shape}, the stack holds {count} models; give one number or ({count},)"
        )
    weights = weights.astype(jnp.promote_types(weights.dtype, jnp.float32))
    return jnp.broadcast_to(weights, (count,))


def wide(x: Array) -> Array:
    """At least single precision: in what sums over members are computed."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def along_members(weights: Float[Array, " member"], x: Array) -> Array:
    """The weights, shaped to be multiplied with a leaf ``(member, ...)``, in the leaf's wide dtype."""
    return weights.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(-1, *[1] * (x.ndim - 1))


def deltas(stacked: Params, base: Params) -> Params:
    """What each model differs by from the base, in single precision at least."""
    return jax.tree.map(lambda x, b: wide(x) - wide(b), stacked, base)


def interpolate(base: Params, other: Params, weight: Number | Array) -> Params:
    """``(1 - weight) base + weight other`` in the dtypes of the base; exact at 0 and 1."""

    def of_leaf(b: Array, o: Array) -> Array:
        # cast where it is used: a bare number and an array of float32 mean the same for a model in float64
        t = jnp.asarray(weight).astype(jnp.promote_types(b.dtype, jnp.float32))
        return ((1 - t) * wide(b) + t * wide(o)).astype(b.dtype)

    return jax.tree.map(of_leaf, base, other)
