"""Small pytree helpers that ``optax.tree`` lacks."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core.types import Params, Scalar


def safe_norm(tree: Params) -> Scalar:
    r"""The Euclidean norm of all leaves together, without overflow or underflow; its gradient at zero is zero.

    :math:`\|x\| = c\,\|x / c\|` with :math:`c = \max_i |x_i|`, computed in float32 at least.

    >>> round(float(safe_norm({"a": jnp.array([3e30]), "b": jnp.array([4e30])})) / 1e30, 5)
    5.0
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.size(leaf)]
    if not leaves:
        return jnp.zeros(())
    dtype = jnp.promote_types(jnp.result_type(*leaves), jnp.float32)
    leaves = [leaf.astype(dtype) for leaf in leaves]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    largest = jax.lax.stop_gradient(largest)
    usable = (largest > 0) & jnp.isfinite(largest)
    scale = jnp.where(usable, largest, 1)
    squares = sum(jnp.sum(jnp.square(leaf / scale)) for leaf in leaves)
    # the inner where keeps the gradient of the square root finite at zero
    return scale * jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), squares)


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
