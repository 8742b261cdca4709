"""Aligned-MTL: the gradients, made orthogonal and equally long."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.aggregation._gramians import check_preference, combined, wide_gramian


def aligned_mtl_weights(
    gramian: Float[Array, "m n"],
    *,
    preference: Float[Array, " k"] | None = None,
    scale_mode: str = "min",
) -> Float[Array, " m"]:
    r"""The weights of Aligned-MTL: the nearest gradients of condition number 1 are averaged instead.

    .. math:: J = U \Sigma V^\top, \qquad A = \sigma\, (p^\top U) V^\top = J^\top w, \quad
        w = \sigma\, U \Sigma^{-1} U^\top p

    over the singular values that are not zero, those above :math:`\sqrt{m\,\epsilon}` of the largest (1e-3 in single
    precision: inner products hold their squares). σ is the smallest of them, so one gradient that nearly depends on the
    others shortens the result.

    Args:
      gramian: ``(m, m)`` inner products; at least single precision is used.
      preference: ``(m,)`` factors p; default 1/m.
      scale_mode: σ² is the ``"min"``, the ``"median"`` (the lower one of an even number) or the mean (``"rmse"``, as in
        the authors' code) of the squared singular values that are used.

    Returns:
      ``(m,)``, constant in differentiation; p where all gradients are zero.

    Raises:
      ValueError: a Gramian that is not square, a preference of another length, an unknown mode.

    Source: Senushkin, Patakin, Kuznetsov & Konushin 2023, "Independent Component Alignment for Multi-Task Learning",
    arXiv 2305.19000.

    >>> [round(float(w), 3) for w in aligned_mtl_weights(jnp.array([[18.0, -22.0], [-22.0, 38.0]]))]
    [0.559, 0.408]
    """
    if scale_mode not in ("min", "median", "rmse"):
        raise ValueError(f"scale_mode must be 'min', 'median' or 'rmse', got {scale_mode!r}")
    g = wide_gramian(gramian, where="aligned_mtl_weights")
    m = len(g)
    p = check_preference(preference, m, g.dtype, where="aligned_mtl_weights", default=1 / m)
    largest = jnp.max(jnp.diagonal(g))
    values, vectors = jnp.linalg.eigh(g / jnp.where(largest > 0, largest, 1.0))  # ascending
    used = ~(values <= m * jnp.finfo(g.dtype).eps * values[-1])
    rank = jnp.sum(used)
    if scale_mode == "rmse":
        square = jnp.sum(jnp.where(used, values, 0.0)) / jnp.maximum(rank, 1)
    else:
        square = values[jnp.minimum(m - rank + (0 if scale_mode == "min" else (rank - 1) // 2), m - 1)]
    factors = jnp.where(used, jnp.sqrt(square / jnp.where(used, values, 1.0)), 0.0)
    return jnp.where(rank == 0, p, jnp.matmul(vectors, factors * (p @ vectors), precision="highest"))


def aligned_mtl(
    stacked: Any,
    *,
    preference: Float[Array, " k"] | None = None,
    scale_mode: str = "min",
    axis_name: str | None = None,
) -> Any:
    r"""Aligned-MTL of a stack of gradients, see :func:`aligned_mtl_weights`.

    Args:
      stacked: pytree, every leaf ``(m, ...)``: the gradients of m objectives.
      preference: ``(m,)`` factors; default 1/m.
      scale_mode: see :func:`aligned_mtl_weights`.
      axis_name: a mapped axis that the coordinates are split over, see :func:`sharded`.

    Returns:
      The tree without the leading axis; leaves keep their dtype.

    Raises:
      ValueError: leading axes that disagree or are empty, a preference of another length, an unknown mode.

    Source: Senushkin et al. 2023, arXiv 2305.19000.

    >>> [round(float(w), 3) for w in aligned_mtl(jnp.array([[2.0, 0.0], [0.0, 1.0]]))]
    [0.5, 0.5]
    """

    def weights(g):
        return aligned_mtl_weights(g, preference=preference, scale_mode=scale_mode)

    return combined(stacked, weights, where="aligned_mtl", axis_name=axis_name)
