"""Aggregation of a stack whose gradients lie on different devices."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxtrain.core.tree import check_stack


def sharded(aggregate: Callable[..., Any], axis_name: str, *, coordinatewise: bool = False) -> Callable[..., Any]:
    r"""An aggregator for the inside of ``jax.shard_map``, where each device along an axis holds some of the gradients.

    Devices hold equally many; the result, on every device, is that of the whole stack in the order of the devices.
    By what the aggregator says of itself:

    - it has an argument ``axis_name`` (every rule of this package that depends on inner products): one ``all_to_all``
      gives each device all gradients in its part of the coordinates, the rule sums inner products over the axis, and
      one ``all_gather`` joins the parts of the result. Each device holds, sends and works on its share.
    - ``coordinatewise=True`` (median, trimmed mean, mean): the same without sums.
    - else: an ``all_gather`` of the stack, which every device then aggregates whole. Right for every aggregator; costs
      the whole stack in memory and all work on every device.

    Collectives are one for each dtype of the gradients, not one for each leaf.

    Args:
      aggregate: ``(stacked, ...) -> tree``; further positional arguments (a key) must be the same on all devices.
      axis_name: of the mesh that the stack is split over.
      coordinatewise: every coordinate of the result depends on this coordinate of the gradients alone.

    Returns:
      ``(local_stack, ...) -> tree``: leaves ``(m / devices, ...)`` to leaves without the leading axis.

    Raises:
      ValueError: while tracing, leading axes that disagree or are empty.

    >>> from jaxtrain.aggregation import mgda
    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> over_workers = jax.shard_map(
    ...     sharded(mgda, "data"), mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P()
    ... )
    >>> [round(float(w), 3) for w in over_workers(jnp.array([[1.0, 0.0], [0.0, 2.0]]))]
    [0.8, 0.4]
    """
    sums = "axis_name" in inspect.signature(aggregate).parameters
    if sums and coordinatewise:
        raise ValueError("sharded: an aggregator with an argument axis_name is not coordinatewise")

    def whole(stacked: Any, *args: Any) -> Any:
        check_stack(stacked, where="sharded")
        if not sums and not coordinatewise:
            gathered = [jax.lax.all_gather(x, axis_name, tiled=True, to="invarying") for x in jax.tree.leaves(stacked)]
            return aggregate(jax.tree.unflatten(jax.tree.structure(stacked), gathered), *args)
        columns = _columns(stacked, axis_name)
        part = aggregate(columns, *args, axis_name=axis_name) if sums else aggregate(columns, *args)
        return _joined(part, stacked, axis_name)

    return whole


def _by_dtype(tree: Any) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for i, x in enumerate(jax.tree.leaves(tree)):
        found.setdefault(x.dtype, []).append(i)
    return found


def _columns(stacked: Any, axis_name: str) -> Any:
    """From leaves ``(m / devices, ...)`` to ``(m, coordinates / devices)``, padded with zeros."""
    devices = jax.lax.axis_size(axis_name)
    leaves, structure = jax.tree.flatten(stacked)

    def pieces(x: Array) -> Array:
        flat = x.reshape(len(x), -1)
        return jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % devices))).reshape(len(x), devices, -1)

    columns: list[Any] = [None] * len(leaves)
    for members in _by_dtype(stacked).values():
        cut = [pieces(leaves[i]) for i in members]
        packed = jax.lax.all_to_all(jnp.concatenate(cut, axis=2), axis_name, split_axis=1, concat_axis=0, tiled=True)
        packed = packed.reshape(packed.shape[0], -1)
        ends = np.cumsum([c.shape[2] for c in cut])[:-1]
        for i, part in zip(members, jnp.split(packed, ends, axis=1), strict=True):
            columns[i] = part
    return jax.tree.unflatten(structure, columns)


def _joined(part: Any, stacked: Any, axis_name: str) -> Any:
    """From the devices' parts of the coordinates to the leaves without the leading axis."""
    parts, leaves = jax.tree.leaves(part), jax.tree.leaves(stacked)
    joined: list[Any] = [None] * len(leaves)
    for members in _by_dtype(part).values():
        packed = jnp.concatenate([parts[i] for i in members])
        gathered = jax.lax.all_gather(packed, axis_name, to="invarying")
        ends = np.cumsum([parts[i].shape[0] for i in members])[:-1]
        for i, piece in zip(members, jnp.split(gathered, ends, axis=1), strict=True):
            shape = leaves[i].shape[1:]
            joined[i] = piece.reshape(-1)[: int(np.prod(shape))].reshape(shape)
    return jax.tree.unflatten(jax.tree.structure(stacked), joined)
