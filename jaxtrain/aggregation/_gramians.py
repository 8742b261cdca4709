"""What the rules that depend on inner products only have in common: lengths, and from weights to an aggregator."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.aggregation._trees import gramian, row_scales, square_gramian
from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.tree import check_stack, weighted_sum


def wide_gramian(gramian: Float[Array, "m n"], *, where: str) -> Float[Array, "m n"]:
    """The Gramian in single precision at least, constant in differentiation; raises where it is not square."""
    # a solver's branches have no useful derivative; the weights are constants, as in the papers' implementations
    return jax.lax.stop_gradient(square_gramian(gramian, where=where))


def unit_gramian(g: Float[Array, "m m"]) -> tuple[Float[Array, "m m"], Float[Array, " m"], Float[Array, ""]]:
    """Cosines of all pairs (0 for a zero gradient), lengths relative to the longest, and the longest length."""
    squares = jnp.diagonal(g)
    longest = jnp.sqrt(jnp.max(squares))
    lengths = jnp.sqrt(squares)
    inverse = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1.0), 0.0)
    # NaN stays NaN: it is not larger than zero
    inverse = jnp.where(jnp.isnan(lengths), lengths, inverse)
    relative = jnp.where(longest > 0, lengths / jnp.where(longest > 0, longest, 1.0), lengths)
    return g * inverse[:, None] * inverse[None, :], relative, longest


def regular(cosines: Float[Array, "m m"], reg_eps: Number) -> Float[Array, "m m"]:
    r"""Cosines :math:`C` made definite: :math:`C + m\,\epsilon I`, scaled back to a unit diagonal, zero rows too."""
    check_finite_number("reg_eps", reg_eps, low=0.0)
    m = cosines.shape[0]
    diagonal = jnp.diagonal(cosines)
    off = cosines - jnp.diag(diagonal)
    return off / (1 + m * jnp.asarray(reg_eps, cosines.dtype)) + jnp.diag(jnp.where(jnp.isnan(diagonal), diagonal, 1.0))


def over_lengths(values: Array, lengths: Float[Array, " m"]) -> Float[Array, " m"]:
    """Values (or one) divided by lengths; 0 where a length is 0."""
    return jnp.where(lengths == 0, 0.0, values / jnp.where(lengths == 0, 1.0, lengths))


def largest_scale(stacked: Any, axis_name: str | None) -> Float[Array, ""]:
    """A power of two near the largest entry of all gradients."""
    return jnp.max(row_scales(stacked, axis_name=axis_name))


def scaled_gramian(stacked: Any, scale: Float[Array, ""], axis_name: str | None) -> Float[Array, "m m"]:
    """The Gramian of the gradients divided by one scale: squares of 1e30 and of 1e-30 are in range."""
    m = len(jax.tree.leaves(stacked)[0])
    return gramian(stacked, factors=jnp.full(m, 1 / scale), axis_name=axis_name)


def combined(
    stacked: Any, weights: Callable[[Float[Array, "m m"]], Float[Array, " m"]], *, where: str, axis_name: str | None
) -> Any:
    """The stack, weighted by a rule whose weights do not change when all gradients are scaled together.

    Rows shorter than the longest by more than the range of squares (1e-19 in single precision) count as zero.
    """
    check_stack(stacked, where=where)
    g = scaled_gramian(stacked, largest_scale(stacked, axis_name), axis_name)
    return weighted_sum(weights(g), stacked)


def check_preference(preference: Array | None, m: int, kind: Any, *, where: str, default: float) -> Array:
    """The factors of m objectives, or the default for each."""
    if preference is None:
        return jnp.full(m, default, kind)
    if jnp.shape(preference) != (m,):
        raise ValueError(f"{where}: preference has shape {jnp.shape(preference)} for {m} gradients; give ({m},)")
    return jax.lax.stop_gradient(jnp.asarray(preference, kind))
