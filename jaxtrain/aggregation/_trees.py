"""Stacked trees: pytrees whose leaves have one leading axis of gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core.tree import check_stack


def _wide(x: Array) -> Array:
    """At least single precision, for sums."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def gramian(stacked: Any, *, axis_name: str | None = None) -> Float[Array, "m m"]:
    r"""Inner products of all pairs of gradients, :math:`G_{ij} = \langle g_i, g_j \rangle`, over all leaves.

    Leaf after leaf, without a concatenated Jacobian: sharded leaves stay where they are and only m × m numbers travel.
    Summed in single precision at least.

    Args:
      stacked: pytree, every leaf ``(m, ...)``.
      axis_name: a mapped axis that the coordinates of the gradients are split over (see :func:`sharded`): the inner
        products are summed over it.

    Returns:
      ``(m, m)``.

    Raises:
      ValueError: the leading axes disagree or are empty.

    >>> gramian({"a": jnp.array([[1.0, 2.0], [0.0, 1.0]]), "b": jnp.array([3.0, 1.0])}).tolist()
    [[14.0, 5.0], [5.0, 2.0]]
    """
    check_stack(stacked, where="gramian")

    def one(x: Array) -> Array:
        # contracting every axis but the first, instead of reshaping, leaves the sharding of the axes alone
        axes = tuple(range(1, x.ndim))
        kind = jnp.promote_types(x.dtype, jnp.float32)
        return jax.lax.dot_general(
            x, x, ((axes, axes), ((), ())), precision=jax.lax.Precision.HIGHEST, preferred_element_type=kind
        )

    total = sum(one(x) for x in jax.tree.leaves(stacked))
    return total if axis_name is None else jax.lax.psum(total, axis_name)


def row_scales(stacked: Any, *, axis_name: str | None = None) -> Float[Array, " m"]:
    """For every gradient a power of two near its largest entry; 1 for a zero or a non-finite one.

    Divided by it, no square of an entry overflows, and none that matters underflows.
    """

    def largest(x: Array) -> Array:
        return jnp.max(jnp.abs(_wide(x)).reshape(x.shape[0], -1), axis=1, initial=0.0)

    top = jax.lax.stop_gradient(jax.tree.reduce(jnp.maximum, jax.tree.map(largest, stacked)))
    if axis_name is not None:
        top = jax.lax.pmax(top, axis_name)
    usable = (top > 0) & jnp.isfinite(top)
    _, exponent = jnp.frexp(jnp.where(usable, top, 1.0))
    # capped, so that the inverse of the power is a normal number too
    return jnp.where(usable, jnp.ldexp(jnp.ones_like(top), jnp.minimum(exponent - 1, 125)), 1.0)


def scale_rows(stacked: Any, factors: Float[Array, " m"]) -> Any:
    """Each gradient times its factor; leaves keep their dtype."""

    def one(x: Array) -> Array:
        kind = jnp.promote_types(x.dtype, factors.dtype)
        return (x.astype(kind) * factors.astype(kind).reshape(-1, *[1] * (x.ndim - 1))).astype(x.dtype)

    return jax.tree.map(one, stacked)
