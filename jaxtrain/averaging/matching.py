"""Hidden units have no order: permuting one model's so that its weights come to lie on another's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.averaging._models import check_alike, wide
from jaxtrain.core import Key, Params, check_key

PermutationSpec: TypeAlias = Any
"""A tree like the parameters; each leaf a tuple with, for every axis, the name of the permutation along it or None."""

Permutations: TypeAlias = dict[str, Int[Array | np.ndarray, " units"]]
"""Name → the unit that stands in each place."""


def sequential_permutation_spec(params: Params, order: Sequence[Any] | None = None) -> PermutationSpec:
    """The permutations of a network whose layers follow one another: every layer's outputs but the last's.

    Follows Flax's layout: the last axis of a kernel holds outputs and the one before it inputs; vectors (biases, scales
    of normalisations) belong to the outputs of the kernel before them. For networks with skip connections write the
    tree by hand: branches that are added share a name.

    Args:
      params: a list, or a dictionary of layers.
      order: the layers' keys in the order of the data; needed for a dictionary.

    Returns:
      A tree for :func:`weight_matching`; permutations are named after the layer that makes the units.

    Raises:
      ValueError: an order that does not name every layer once.

    >>> params = {"conv": {"kernel": jnp.ones((3, 3, 1, 4))}, "norm": {"scale": jnp.ones(4)}, "head": {"kernel": jnp.ones((16, 2))}}
    >>> spec = sequential_permutation_spec(params, ["conv", "norm", "head"])
    >>> spec["conv"]["kernel"], spec["norm"]["scale"], spec["head"]["kernel"]
    ((None, None, None, 'conv'), ('conv',), ('conv', None))
    """
    keys = list(params) if isinstance(params, Mapping) else list(range(len(params)))
    if order is None:
        if isinstance(params, Mapping):
            raise ValueError(
                f"sequential_permutation_spec: say in which order the data pass {', '.join(map(str, keys))}"
            )
        order = keys
    if sorted(map(str, order)) != sorted(map(str, keys)):
        raise ValueError(f"sequential_permutation_spec: order {list(order)} does not name each of {keys} once")
    kernels = [key for key in order if any(jnp.ndim(x) > 1 for x in jax.tree.leaves(params[key]))]
    found, before, here = {}, None, None
    for key in order:
        if key in kernels:
            before, here = here, None if key == kernels[-1] else str(key)

        def of_leaf(x: Any, before: str | None = before, here: str | None = here) -> tuple[str | None, ...]:
            if jnp.ndim(x) < 2:
                return (here,) * jnp.ndim(x)
            return (*[None] * (jnp.ndim(x) - 2), before, here)

        found[key] = jax.tree.map(of_leaf, params[key])
    return type(params)(found) if isinstance(params, Mapping) else type(params)(found[key] for key in keys)


def _axes(params: Params, spec: PermutationSpec, where: str) -> tuple[list[tuple], dict[str, int]]:
    """The spec's leaves, and how many units each permutation has."""
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    try:
        names = structure.flatten_up_to(spec)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: the spec is no tree like the parameters: {error}") from None
    sizes: dict[str, list[tuple[str, int]]] = {}
    for (path, leaf), axes in zip(paths, names, strict=True):
        name = jax.tree_util.keystr(path)
        if not isinstance(axes, tuple) or len(axes) != jnp.ndim(leaf):
            raise ValueError(f"{where}: {name} has {jnp.ndim(leaf)} axes, its spec is {axes!r}")
        used = [p for p in axes if p is not None]
        if len(set(used)) < len(used):
            raise ValueError(f"{where}: {name} carries a permutation twice ({axes}); that is no linear assignment")
        for p, size in zip(axes, jnp.shape(leaf), strict=True):
            if p is not None:
                sizes.setdefault(p, []).append((name, size))
    units = {p: min(size for _, size in found) for p, found in sizes.items()}
    for p, found in sizes.items():
        for name, size in found:
            if size % units[p]:
                raise ValueError(f"{where}: '{p}' permutes {units[p]} units, the axis of {name} has {size}")
    return names, units


def _along(x: Array, axis: int, units: int) -> Array:
    """An axis of m · units split into (m, units): what flattening channels-last images leaves."""
    return x.reshape(*x.shape[:axis], x.shape[axis] // units, units, *x.shape[axis + 1 :])


def _permuted(
    x: Array, axes: tuple, permutations: Permutations, units: Mapping[str, int], skip: str | None = None
) -> Array:
    for axis, p in enumerate(axes):
        if p is not None and p != skip:
            x = jnp.take(_along(x, axis, units[p]), permutations[p], axis=axis + 1).reshape(x.shape)
    return x


def apply_permutation(permutations: Permutations, params: Params, spec: PermutationSpec) -> Params:
    r"""Puts the units of a network in another order; the function that it computes stays the same.

    Running statistics go along, with a spec of their own.

    Args:
      permutations: name → order, as :func:`weight_matching` gives them: place i gets unit ``order[i]``.
      params: one model.
      spec: where each permutation acts. An axis m times as long as the permutation is m positions of so many
        channels, the channels innermost, as flattening leaves an image.

    Returns:
      The permuted model.

    Raises:
      ValueError: a spec that does not fit (names the path), or a permutation that is missing.

    >>> params = [{"w": jnp.array([[1.0, 2.0]])}, {"w": jnp.array([[3.0], [4.0]])}]
    >>> apply_permutation({"0": jnp.array([1, 0])}, params, sequential_permutation_spec(params))[1]["w"].tolist()
    [[4.0], [3.0]]
    """
    names, units = _axes(params, spec, "apply_permutation")
    for p, n in units.items():
        if p not in permutations or jnp.shape(permutations[p]) != (n,):
            got = jnp.shape(permutations[p]) if p in permutations else "none"
            raise ValueError(f"apply_permutation: '{p}' needs a permutation of {n} units, got {got}")
    leaves, structure = jax.tree.flatten(params)
    return structure.unflatten([_permuted(x, axes, permutations, units) for x, axes in zip(leaves, names, strict=True)])


def weight_matching(
    key: Key, params_a: Params, params_b: Params, spec: PermutationSpec, *, max_sweeps: int = 100, solver: str = "optax"
) -> Permutations:
    r"""The permutations of ``params_b`` that bring its weights close to those of ``params_a`` (Git Re-Basin).

    .. math:: \max_{P_1, P_2, \dots} \sum_l \langle A_l, P_l B_l P_{l-1}^\top \rangle

    by coordinate descent: with the others fixed, each permutation is a linear assignment. A sweep solves them all once,
    in a random order, and accepts an assignment where it raises the sum; sweeps end when none does. The sum never
    falls, and the result is optimal in each permutation, not in all together.

    Args:
      key: the order of each sweep.
      params_a: the model that stays.
      params_b: the model that will be permuted by :func:`apply_permutation`.
      spec: where each permutation acts, see there; :func:`sequential_permutation_spec` writes it for plain networks.
      max_sweeps: at most so many.
      solver: ``optax`` works under ``jit`` and ``vmap``; ``scipy`` is much faster for many units, outside of them.

    Returns:
      Name → order. Where weights are not finite, the order is left as it was.

    Raises:
      ValueError: trees that differ, a spec that does not fit, a permutation twice in one array, an unknown solver.

    Cost: a sweep takes a product of (n, parameters of the layer) matrices and an O(n³) assignment for every layer.

    Source: Ainsworth, Hayase, Srinivasa (2022), arXiv 2209.04836, algorithm 1.

    >>> a = [{"w": jnp.array([[1.0, 2.0, 3.0]])}, {"w": jnp.array([[1.0], [5.0], [2.0]])}]
    >>> spec = sequential_permutation_spec(a)
    >>> b = apply_permutation({"0": jnp.array([2, 0, 1])}, a, spec)
    >>> found = weight_matching(jax.random.key(0), a, b, spec)
    >>> apply_permutation(found, b, spec)[0]["w"].tolist()
    [[1.0, 2.0, 3.0]]
    """
    where = "weight_matching"
    check_key(key, where=where)
    check_alike(params_a, params_b, where=f"{where}: params_b against params_a")
    if solver not in ("optax", "scipy"):
        raise ValueError(f"{where}: solver must be 'optax' or 'scipy', got {solver!r}")
    if max_sweeps < 1:
        raise ValueError(f"{where}: max_sweeps must be at least 1, got {max_sweeps}")
    names, units = _axes(params_a, spec, where)
    pairs = list(zip(jax.tree.leaves(params_a), jax.tree.leaves(params_b), names, strict=True))
    which = sorted(units)
    start = {p: jnp.arange(units[p]) for p in which}
    if not which:
        return start

    def similarity(p: str, permutations: Permutations) -> Float[Array, "n n"]:
        """How much unit j of b is like unit i of a, the other permutations applied."""
        total = jnp.zeros((units[p], units[p]))

        def rows(x: Array, axis: int) -> Array:
            return jnp.moveaxis(_along(wide(x), axis, units[p]), axis + 1, 0).reshape(units[p], -1)

        for a, b, axes in pairs:
            if p in axes:
                other = _permuted(b, axes, permutations, units, skip=p)
                axis = axes.index(p)
                total = total + jnp.matmul(rows(a, axis), rows(other, axis).T, precision="highest")
        return jnp.where(jnp.isfinite(total).all(), total, 0)

    def improved(p: str, permutations: Permutations, assignment: Any) -> tuple[Permutations, Array]:
        table = similarity(p, permutations)
        rows, columns = assignment(-table)
        new, old = jnp.zeros(units[p], int).at[rows].set(columns), permutations[p]
        place = jnp.arange(units[p])
        before, after = table[place, old], table[place, new]
        # what rounding may make of equal sums is no progress
        slack = 8 * jnp.finfo(table.dtype).eps * jnp.sum(jnp.abs(before) + jnp.abs(after))
        better = jnp.sum(after) > jnp.sum(before) + slack
        return permutations | {p: jnp.where(better, new, old)}, better

    def order(sweep: int | Array) -> Array:
        return jax.random.permutation(jax.random.fold_in(key, sweep), len(which))

    if solver == "scipy":
        return _by_hand(start, which, order, improved, max_sweeps)
    steps = [lambda perms, p=p: improved(p, perms, optax.assignment.hungarian_algorithm) for p in which]

    def sweep(carry: tuple) -> tuple:
        number, permutations, _ = carry

        def one(carry: tuple, i: Array) -> tuple:
            permutations, progress = carry
            permutations, better = jax.lax.switch(i, steps, permutations)
            return (permutations, progress | better), None

        (permutations, progress), _ = jax.lax.scan(one, (permutations, jnp.array(False)), order(number))
        return number + 1, permutations, progress

    _, found, _ = jax.lax.while_loop(
        lambda carry: carry[2] & (carry[0] < max_sweeps), sweep, (0, start, jnp.array(True))
    )
    return found


def _by_hand(
    permutations: Permutations, which: Sequence[str], order: Callable, improved: Callable, max_sweeps: int
) -> Permutations:
    """The same sweeps outside of ``jit``, assignments by SciPy."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise ImportError("solver='scipy' needs SciPy: pip install scipy, or take solver='optax'") from None

    def assignment(cost: Array) -> tuple[Array, Array]:
        return tuple(jnp.asarray(index) for index in linear_sum_assignment(np.asarray(cost, np.float64)))

    for sweep in range(max_sweeps):
        progress = False
        for i in np.asarray(order(sweep)):
            permutations, better = improved(which[i], permutations, assignment)
            progress = progress or bool(better)
        if not progress:
            break
    return permutations
