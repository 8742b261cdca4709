"""Small pytree helpers that ``optax.tree`` lacks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core.types import Params, Scalar


def safe_norm(tree: Params, *others: Params, of: Callable[..., Array] | None = None) -> Scalar:
    r"""The Euclidean norm of all leaves together, without overflow or underflow; its gradient at zero is zero.

    :math:`\|x\| = c\,\|x / c\|` with :math:`c = \max_i |x_i|`, computed in float32 at least. With ``of`` it is the norm of
    ``of(leaf, *leaves of others)``, which is computed twice rather than stored between.

    >>> round(float(safe_norm({"a": jnp.array([3e30]), "b": jnp.array([4e30])})) / 1e30, 5)
    5.0
    >>> float(safe_norm(jnp.array([4.0]), jnp.array([1.0]), of=lambda a, b: a - b))
    3.0
    """
    rows = [row for row in zip(*map(jax.tree.leaves, (tree, *others)), strict=True) if jnp.size(row[0])]
    if not rows:
        return jnp.zeros(())

    def computed() -> list[Array]:
        leaves = [row[0] if of is None else of(*row) for row in rows]
        dtype = jnp.promote_types(jnp.result_type(*leaves), jnp.float32)
        return [leaf.astype(dtype) for leaf in leaves]

    if of is not None:  # else the compiler would share with the caller what both compute, and store it
        rows = jax.lax.optimization_barrier(rows)
    leaves = computed()
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    largest = jax.lax.stop_gradient(largest)
    usable = (largest > 0) & jnp.isfinite(largest)
    scale = jnp.where(usable, largest, 1)
    if of is not None:
        rows = jax.lax.optimization_barrier(rows)
        leaves = computed()
    squares = sum(jnp.sum(jnp.square(leaf / scale)) for leaf in leaves)
    # the inner where keeps the gradient of the square root finite at zero
    return scale * jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), squares)


def cosine(a: Params, b: Params) -> Scalar:
    """Of the angle between two trees, all leaves together, in float32 at least; 0 where either is zero.

    >>> round(float(cosine({"x": jnp.array([3e-30, 0.0])}, {"x": jnp.array([3e30, 4e30])})), 5)
    0.6
    """
    a_norm, b_norm = safe_norm(a), safe_norm(b)

    def unit(x, norm):
        # divided first: no product of large entries overflows
        return x.astype(norm.dtype) / jnp.where(norm == 0, 1, norm)

    products = jax.tree.map(lambda x, y: jnp.sum(unit(x, a_norm) * unit(y, b_norm)), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros((), jnp.result_type(a_norm, b_norm)))


def check_stack(stack: Any, *, where: str) -> int:
    """The common leading size of a stacked tree of gradients; raises where there is none or leaves are not floating."""
    from jaxtrain.core.checks import check_leading_axes

    size = check_leading_axes(stack, where=where, axis_name="stack")
    for path, leaf in jax.tree_util.tree_leaves_with_path(stack):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = jax.tree_util.keystr(path) or "the stack"
            raise TypeError(f"{where}: {name} has dtype {leaf.dtype}; gradients are floating")
    return size


def weighted_sum(weights: Float[Array, " m"], stack: Params) -> Params:
    r""":math:`\sum_i w_i x_i` over the leading axis of a stacked tree, in its dtypes.

    >>> weighted_sum(jnp.array([1.0, 10.0]), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [31.0, 42.0]
    """

    def of_leaf(x: Array) -> Array:
        dtype = jnp.promote_types(x.dtype, weights.dtype)
        # accelerators would multiply in less than the precision of the parameters
        precise = jax.lax.Precision.HIGHEST
        return jnp.tensordot(weights.astype(dtype), x.astype(dtype), axes=1, precision=precise).astype(x.dtype)

    return jax.tree.map(of_leaf, stack)
