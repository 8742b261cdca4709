"""Where the arrays of a run lie: a mesh with named axes and a short list of path patterns."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtrain.training.state import TrainState

AXES = ("member", "data", "fsdp", "tensor")

Rule: TypeAlias = tuple[str, PartitionSpec | Callable[[tuple[int, ...], Mesh], PartitionSpec]]
"""A regular expression for the path of a parameter (``"layers/0/kernel"``) and how it is laid out."""


def make_mesh(
    *, member: int = 1, data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh with the axes ``member``, ``data``, ``fsdp`` and ``tensor``.

    Members of an ensemble are spread over ``member``; a batch over ``data`` and ``fsdp``; parameters, by rules, over
    ``fsdp`` and ``tensor``. One axis may be -1: the devices that the others leave.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.

    >>> dict(make_mesh(data=-1, devices=jax.devices()[:1]).shape)
    {'member': 1, 'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = dict(zip(AXES, (member, data, fsdp, tensor), strict=True))
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ValueError(f"only one axis of a mesh may be -1, got {' and '.join(open_axes)}")
    if wrong := {axis: size for axis, size in sizes.items() if size < 1 and size != -1}:
        raise ValueError(f"the axes of a mesh are at least 1 (or -1 for one of them), got {wrong}")
    taken = math.prod(size for size in sizes.values() if size != -1)
    if open_axes:
        sizes[open_axes[0]] = len(devices) // taken
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"a mesh of {' x '.join(f'{axis}={size}' for axis, size in sizes.items())} has "
            f"{math.prod(sizes.values())} places, but there are {len(devices)} devices"
        )
    # Auto: XLA propagates shardings through whatever model the user wrote. Explicit axes would ask for an
    # out_sharding at every ambiguous operation inside it.
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def fsdp(shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """A rule: the largest dimension that the ``fsdp`` axis divides is spread over it; none: replicated.

    >>> fsdp((3, 8), jax.sharding.AbstractMesh((1, 1, 4, 1), AXES))
    P(None, 'fsdp')
    """
    size = mesh.shape["fsdp"]
    fitting = [axis for axis, n in enumerate(shape) if n % size == 0 and n >= size]
    if size == 1 or not fitting:
        return PartitionSpec()
    largest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * largest, "fsdp")


def path_name(path: Any) -> str:
    """``layers/0/kernel`` for a path of ``jax.tree_util``; what rules match against."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _check_divides(name: str, shape: Sequence[int], spec: PartitionSpec, mesh: Mesh) -> None:
    if len(spec) > len(shape):
        raise ValueError(f"{name} has shape {tuple(shape)}, too few dimensions for the layout {spec}")
    for axis, names in enumerate(spec):
        names = () if names is None else (names,) if isinstance(names, str) else names
        if unknown := [n for n in names if n not in mesh.shape]:
            raise ValueError(f"{name}: the layout {spec} names {unknown[0]!r}; the mesh has {', '.join(mesh.shape)}")
        size = math.prod(mesh.shape[n] for n in names)
        if shape[axis] % size:
            raise ValueError(
                f"dimension {axis} of {name}, shape {tuple(shape)}, is not divisible by the {size} places of the mesh "
                f"axis {'×'.join(names)}; change the mesh, the rule or the shape"
            )


def param_specs(mesh: Mesh, rules: Sequence[Rule], params: Any) -> Any:
    """The layout of every parameter: that of the first rule whose pattern is found in its path, else replicated.

    Raises:
      ValueError: a layout does not divide a dimension, or names an axis that the mesh does not have.
    """

    def spec_of(path: Any, leaf: Any) -> PartitionSpec:
        name = path_name(path)
        for pattern, layout in rules:
            if re.search(pattern, name):
                spec = layout(tuple(leaf.shape), mesh) if callable(layout) else layout
                _check_divides(name or "the parameter", leaf.shape, spec, mesh)
                return spec
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec_of, params)


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def _like_params(state: Any, params: Any, specs: Any) -> Any:
    """Layouts for an optimizer state: whatever in it is shaped like the parameters lies as they do."""
    shapes, structure = jax.tree.flatten(params)
    flat_specs = jax.tree.leaves(specs, is_leaf=_is_spec)

    def of_leaf(leaf: Any, like: Any, spec: PartitionSpec) -> PartitionSpec:
        shape = getattr(leaf, "shape", None)
        if shape == like.shape:
            return spec
        # several of them on a leading axis, such as a ring of past parameters
        return PartitionSpec(None, *spec) if shape is not None and shape[1:] == like.shape else PartitionSpec()

    def walk(node: Any) -> Any:
        try:
            parts = structure.flatten_up_to(node)
        except (ValueError, TypeError):
            parts = None
        if parts is not None:
            # one entry for each parameter: an array of its shape, a hole left by a mask, or what a method keeps of it
            laid = [
                jax.tree.map(lambda leaf, like=like, spec=spec: of_leaf(leaf, like, spec), part)
                for part, like, spec in zip(parts, shapes, flat_specs, strict=True)
            ]
            return structure.unflatten(laid)
        children, rest = jax.tree.flatten(node, is_leaf=lambda x: x is not node)
        if len(children) == 1 and children[0] is node:
            return PartitionSpec()
        return rest.unflatten([walk(child) for child in children])

    return walk(state)


def state_shardings(mesh: Mesh, rules: Sequence[Rule], abstract: TrainState, *, members: bool = False) -> TrainState:
    """Shardings for a training state, in its own structure.

    The parameters follow the rules. The state of the optimizer and of the averages follows the parameters by the
    structure of its trees, whatever the chain: what has the parameters' structure (up to leaves masked out) and shapes
    lies as they do, also behind a leading axis; all else is replicated, as are model state, step and key.

    Args:
      mesh: from :func:`make_mesh`.
      rules: ``(pattern, layout)`` pairs.
      abstract: the state or its ``jax.eval_shape``; with ``members``, that of an ensemble.
      members: every array has a leading axis, spread over the ``member`` axis of the mesh.

    Raises:
      ValueError: the mesh does not divide a dimension.
    """
    if members:
        solo = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), abstract)
        count = jax.tree.leaves(abstract)[0].shape[0]
        _check_divides("the ensemble", (count,), PartitionSpec("member"), mesh)
    else:
        solo = abstract
    specs = param_specs(mesh, rules, solo.params)
    # the spec trees hold a spec for every leaf: rest of the state is replicated
    whole = jax.tree.map(lambda _: PartitionSpec(), solo)
    whole = whole.replace(params=specs, opt_state=_like_params(solo.opt_state, solo.params, specs))
    lead = ("member",) if members else ()
    return jax.tree.map(lambda spec: NamedSharding(mesh, PartitionSpec(*lead, *spec)), whole, is_leaf=_is_spec)


def batch_shardings(mesh: Mesh, batch: Any, *, members: bool = False) -> Any:
    """Shardings for a batch: its examples over ``data`` and ``fsdp``, a leading member axis over ``member``.

    Raises:
      ValueError: the mesh does not divide the batch.
    """
    spec = PartitionSpec(*(("member",) if members else ()), ("data", "fsdp"))

    def of_leaf(path: Any, leaf: Any) -> NamedSharding:
        _check_divides(f"the batch ({path_name(path) or 'array'})", np.shape(leaf), spec, mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(of_leaf, batch)


def put_batch(mesh: Mesh | None, batch: Any, *, members: bool = False) -> Any:
    """Puts a host batch onto the mesh; of several processes each gives the whole batch and keeps its own part."""
    if mesh is None:
        return jax.device_put(batch)
    shardings = batch_shardings(mesh, batch, members=members)
    if jax.process_count() == 1:
        return jax.device_put(batch, shardings)

    def of_leaf(x: Any, sharding: NamedSharding) -> jax.Array:
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(of_leaf, batch, shardings)


def placed(abstract: Any) -> Any:
    """An abstract tree whose every leaf has a sharding: the first device, where it has none of its own.

    NumPy arrays stay what they are: they ask for the host.
    """
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def of_leaf(x: Any) -> jax.ShapeDtypeStruct | np.ndarray:
        if isinstance(x, np.ndarray):
            return x
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or first)

    return jax.tree.map(of_leaf, abstract)


def bytes_per_device(tree: Any) -> dict[str, int]:
    """Bytes that each addressable device holds of a tree of arrays.

    >>> bytes_per_device({"w": jax.numpy.zeros((2, 3))})
    {'cpu:0': 24}
    """
    held: dict[Any, int] = {}
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            raw = jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
            for shard in raw.addressable_shards:
                held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return {f"{device.platform}:{device.id}": held[device] for device in sorted(held, key=lambda device: device.id)}


_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def count_collectives(compiled_text: str) -> dict[str, int]:
    """How often each collective stands in the text of a compiled program, ``jitted.lower(…).compile().as_text()``.

    >>> count_collectives("%a = f32[2] all-reduce(%b), %c = f32[4] all-gather-start(%d)")
    {'all-reduce': 1, 'all-gather': 1}
    """
    counts = {name: len(re.findall(rf" {name}(?:-start)?\(", compiled_text)) for name in _COLLECTIVES}
    return {name: n for name, n in counts.items() if n}
