"""Which layers tuning changes most, and a mask that tunes only them."""

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.core import Params, check_same_structure

_EPS = 1e-18


def _group(path: tuple, group: Callable[[str], str | None] | None) -> str | None:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name if group is None else group(name)


def select_layers_by_change(
    params_before: Params,
    params_after: Params,
    *,
    group: Callable[[str], str | None] | None = None,
    measure: str = "elements",
) -> list[tuple[str, float]]:
    r"""Layers in the order of how much they changed, relative to their size; tune the first of them.

    The change of an array is the mean of :math:`|w' - w| / |w|` over its elements, that of a group the mean over its arrays.
    An element that began at 0 has a quotient without bound (the release adds :math:`10^{-18}` below, and so does this):
    ``measure="norm"``, :math:`\|w' - w\| / \|w\|`, suffers only if all of an array did. The authors tune all layers once,
    find most of the change in cross-attention and feed-forward layers, and from then on tune these.

    Args:
      params_before: a tree of arrays, not traced.
      params_after: the same tree after tuning.
      group: from the path of an array (``"blocks/0/attention/w"``) to the name of its layer, or None to leave it out;
        default: every array is a layer.
      measure: ``"elements"`` or ``"norm"``.

    Returns:
      Pairs of name and change, the largest change first; ties by name.

    Raises:
      ValueError: trees that differ, an unknown measure.

    Source: Chung et al. (2025), arXiv 2504.02612, and its released code.

    >>> before = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([10.0])}
    >>> select_layers_by_change(before, {"a": jnp.array([2.0, 2.0]), "b": jnp.array([11.0])})
    [('a', 0.5), ('b', 0.1)]
    """
    check_same_structure(params_before, params_after, where="select_layers_by_change")
    if measure not in ("elements", "norm"):
        raise ValueError(f"select_layers_by_change: measure must be 'elements' or 'norm', got {measure!r}")
    found: dict[str, list[float]] = {}
    before = jax.tree_util.tree_leaves_with_path(params_before)
    for (path, old), new in zip(before, jax.tree.leaves(params_after), strict=True):
        name = _group(path, group)
        if name is None or not jnp.size(old):
            continue
        old, change = np.asarray(old, np.float64), np.asarray(new, np.float64) - np.asarray(old, np.float64)
        if measure == "elements":
            value = np.mean(np.abs(change) / (np.abs(old) + _EPS))
        else:
            value = np.linalg.norm(change) / (np.linalg.norm(old) + _EPS)
        found.setdefault(name, []).append(float(value))
    return sorted(((name, float(np.mean(v))) for name, v in found.items()), key=lambda pair: (-pair[1], pair[0]))


def layer_mask(params: Params, layers: Collection[str], *, group: Callable[[str], str | None] | None = None) -> Params:
    """A tree of bools, True for the arrays of the named layers.

    ``optax.masked`` alone hands the gradients of the others on as they are; ``optax.partition`` by this mask freezes them:
    ``optax.partition({True: tx, False: optax.set_to_zero()}, mask)``.

    Args:
      params: a tree of arrays.
      layers: names, such as the first of :func:`select_layers_by_change`.
      group: as there.

    Returns:
      A tree like ``params`` of Python bools.

    Raises:
      ValueError: a layer that there is not.

    Source: Chung et al. (2025), arXiv 2504.02612.

    >>> layer_mask({"a": {"w": 1.0, "b": 0.0}, "c": 1.0}, ["a"], group=lambda path: path.split("/")[0])
    {'a': {'b': True, 'w': True}, 'c': False}
    """
    if isinstance(layers, str):
        raise ValueError(f"layer_mask: layers must be a collection of names, got the string {layers!r}")
    names = jax.tree_util.tree_map_with_path(lambda path, _: _group(path, group) or "", params)
    known = set(jax.tree.leaves(names)) - {""}
    missing = sorted(set(layers) - known)
    if missing:
        raise ValueError(f"layer_mask: no layer is named {', '.join(missing)}; there are {', '.join(sorted(known))}")
    return jax.tree.map(lambda name: name in layers, names)
