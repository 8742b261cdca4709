"""Stacked trees: pytrees whose leaves have one leading axis of gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core.tree import check_stack


def _wide(x: Array) -> Array:
    """At least single precision, for sums."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def gramian(
    stacked: Any, *, factors: Float[Array, " m"] | None = None, axis_name: str | None = None
) -> Float[Array, "m m"]:
    r"""Inner products of all pairs of gradients, :math:`G_{ij} = \langle g_i, g_j \rangle`, over all leaves.

    Leaf after leaf, without a concatenated Jacobian: sharded leaves stay where they are and only m × m numbers travel.
    Summed in single precision at least.

    Args:
      stacked: pytree, every leaf ``(m, ...)``.
      factors: each gradient is multiplied by its factor first, leaf by leaf. Where XLA makes all these products before
        it sums the first (it does on CPUs), this takes the memory of another stack.
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

    total = sum(one(x if factors is None else scale_rows(x, factors)) for x in jax.tree.leaves(stacked))
    return total if axis_name is None else jax.lax.psum(total, axis_name)


def square_gramian(gramian: Array, *, where: str) -> Float[Array, "m m"]:
    """The Gramian in single precision at least; raises where it is not square, empty or not floating."""
    if gramian.ndim != 2 or gramian.shape[0] != gramian.shape[1] or gramian.shape[0] == 0:
        raise ValueError(f"{where}: a Gramian of inner products has the shape (m, m) with m ≥ 1, got {gramian.shape}")
    if not jnp.issubdtype(gramian.dtype, jnp.floating):
        raise TypeError(f"{where}: the Gramian has dtype {gramian.dtype}; give a floating one")
    return _wide(gramian)


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


def each_leaf(rule: Callable[[Array], Array], stacked: Any) -> Any:
    """Applied in single precision at least; leaves keep their dtype."""

    def one(x: Array) -> Array:
        return rule(x.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(x.dtype)

    return jax.tree.map(one, stacked)


def combine(weights: Float[Array, "*k m"], stacked: Any) -> Any:
    r""":math:`\sum_i w_i x_i` in the dtypes of the rows; a row without weight is not read, whatever it holds.

    With a matrix of weights, one sum for each of its rows: a stack again.
    """
    used = jnp.any(weights != 0, axis=tuple(range(weights.ndim - 1)))

    def one(x: Array) -> Array:
        kind = jnp.promote_types(x.dtype, weights.dtype)
        rows = jnp.where(used.reshape(-1, *[1] * (x.ndim - 1)), x.astype(kind), 0)
        return jnp.tensordot(weights.astype(kind), rows, axes=1, precision=jax.lax.Precision.HIGHEST).astype(x.dtype)

    return jax.tree.map(one, stacked)


def largest_entries(stacked: Any) -> Float[Array, " m"]:
    """The largest magnitude in each row; infinite where the row holds a NaN or an infinity."""

    def largest(x: Array) -> Array:
        return jnp.max(jnp.abs(_wide(x)).reshape(x.shape[0], -1), axis=1, initial=0.0)

    top = jax.tree.reduce(jnp.maximum, jax.tree.map(largest, stacked))
    return jnp.where(jnp.isfinite(top), top, jnp.inf)


class Relative(NamedTuple):
    """What :func:`relative_gramian` gives.

    Attributes:
      gramian: ``(m, m)``; a row and column of NaN for each row of the stack that is not finite.
      middle: number of the row that the others are taken relative to.
      factors: ``(m,)``, below 1 for rows that were drawn in, 0 for those that are not finite.
    """

    gramian: Float[Array, "m m"]
    middle: Int[Array, ""]
    factors: Float[Array, " m"]


FAR = 2.0**20
"""In units of the median distance: further out rows are drawn in, so that no square overflows or drowns the others."""


def relative_gramian(stacked: Any) -> Relative:
    """The Gramian of the differences to a row of median size, in units of their median size.

    What depends on distances only is the same for it, but now single precision suffices: neither does a part that all
    rows share cancel (models that differ in their fourth digit), nor does a row of 1e30 overflow: rows further than
    :data:`FAR` units are drawn in to that distance, in their direction. While fewer than half of the rows are arbitrary, row and unit
    lie within what the others span.
    """
    top = largest_entries(stacked)
    m = top.shape[0]
    middle = jnp.argsort(top)[(m - 1) // 2]
    sound = jnp.isfinite(top[middle])
    differences = jax.tree.map(lambda x: _wide(x) - jnp.where(sound, _wide(x[middle]), 0), stacked)
    size = largest_entries(differences)
    finite = jnp.isfinite(size)
    half = jnp.sort(size)[m // 2]
    # where most rows agree, the largest finite difference is the unit
    unit = jnp.where((half > 0) & jnp.isfinite(half), half, jnp.max(jnp.where(finite, size, 0)))
    _, exponent = jnp.frexp(jnp.where(unit > 0, unit, 1.0))
    unit = jnp.ldexp(jnp.ones_like(unit), jnp.clip(exponent, -120, 120))
    factors = jnp.where(finite, jnp.minimum(1.0, FAR * (unit / jnp.where(size > 0, size, 1))), 0)
    scaled = jax.tree.map(
        lambda x: jnp.where(
            finite.reshape(-1, *[1] * (x.ndim - 1)),
            x * (1 / unit).astype(x.dtype) * factors.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1)),
            jnp.nan,
        ),
        differences,
    )
    return Relative(gramian(scaled), middle, factors)


def squared_distances(gramian: Float[Array, "m n"]) -> Float[Array, "m n"]:
    r""":math:`\|g_i - g_j\|^2` from inner products; infinite from and to rows whose inner products are not finite.

    What is within rounding of zero is zero: equal rows are at no distance, in whatever order a matrix product sums.

    >>> squared_distances(jnp.array([[1.0, 0.0], [0.0, 4.0]])).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    g = square_gramian(gramian, where="squared_distances")
    lengths = jnp.diagonal(g)
    both = lengths[:, None] + lengths[None, :]
    found = both - 2 * g
    found = jnp.where(found <= 32 * jnp.finfo(g.dtype).eps * both, 0, found)
    found = jnp.where(jnp.eye(len(g), dtype=bool) & jnp.isfinite(lengths), 0, found)
    return jnp.where(jnp.isfinite(found), found, jnp.inf)


def check_byzantine(n: int, f: int, *, where: str, needed: int, formula: str) -> None:
    """Raises unless f Byzantine among n workers are what a rule can bear."""
    if isinstance(f, bool) or not isinstance(f, int | np.integer):
        raise TypeError(f"{where}: num_byzantine is a number of workers, a Python int, got {type(f).__name__}")
    if f < 0:
        raise ValueError(f"{where}: num_byzantine must be at least 0, got {f}")
    if n < needed:
        raise ValueError(f"{where} needs n ≥ {formula} workers, {needed} for f = {f} Byzantine ones, got n = {n}")
