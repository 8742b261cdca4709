"""MGDA: the shortest vector in the convex hull of the gradients."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.aggregation._gramians import combined, over_lengths, regular, unit_gramian, wide_gramian
from jaxtrain.aggregation._lcp import complementary
from jaxtrain.core import Number


def mgda_weights(gramian: Float[Array, "m n"], *, reg_eps: Number = 1e-5) -> Float[Array, " m"]:
    r"""The weights of MGDA: the point of smallest norm in the convex hull of the gradients.

    .. math:: w = \operatorname*{argmin}_{w \ge 0,\ \sum_i w_i = 1} w^\top G w

    The combined gradient has an inner product of at least its own squared norm with every gradient; it is zero exactly
    where some convex combination of the gradients is (Pareto stationarity). Scaling up one gradient lowers its weight:
    MGDA follows the shortest ones.

    Solved exactly, not by Frank-Wolfe steps: with :math:`d_i = 1/\|g_i\|` the conditions of this problem are, up to a
    factor of the solution, those of the linear complementarity problem
    :math:`z \ge 0,\ (DGD + dd^\top)z - d \ge 0`, which block principal pivoting solves in a few Cholesky
    factorisations. No host callback: it runs under ``jit`` and ``vmap``. Cost: O(m³) a factorisation.

    Args:
      gramian: ``(m, m)`` inner products, symmetric positive semi-definite; at least single precision is used.
      reg_eps: :math:`m\,\epsilon \sum_i w_i^2 \|g_i\|^2` is added to the squared norm, so that the weights are unique; may
        be traced. Below about 1e-6 it is lost in single precision.

    Returns:
      ``(m,)``, ≥ 0 with sum 1, constant in differentiation; the zero gradients share the weight where there are any.

    Raises:
      ValueError: a Gramian that is not square, a negative ``reg_eps``.

    Source: Désidéri 2012, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", C. R. Math. 350;
    Sener & Koltun 2018, arXiv 1810.04650. torchjd 0.18 stops after 100 Frank-Wolfe steps at a longer vector.

    >>> [round(float(w), 3) for w in mgda_weights(jnp.array([[18.0, -22.0], [-22.0, 38.0]]))]
    [0.6, 0.4]
    """
    g = wide_gramian(gramian, where="mgda_weights")
    cosines, lengths, _ = unit_gramian(g)
    zero = lengths == 0
    # relative to the shortest: between 0 and 1
    shortest = jnp.min(jnp.where(zero, jnp.inf, lengths))
    d = over_lengths(jnp.where(jnp.isfinite(shortest), shortest, 1.0), lengths)
    z = complementary(regular(cosines, reg_eps) + jnp.outer(d, d), -d[None])[0]
    w = z * d
    w = w / jnp.where(jnp.sum(w) == 0, 1.0, jnp.sum(w))
    return jnp.where(zero.any(), zero / jnp.maximum(jnp.sum(zero), 1), w)


def mgda(stacked: Any, *, reg_eps: Number = 1e-5, axis_name: str | None = None) -> Any:
    r"""MGDA of a stack of gradients: :math:`\sum_i w_i g_i`, the shortest vector in their convex hull.

    Args:
      stacked: pytree, every leaf ``(m, ...)``: the gradients of m objectives.
      reg_eps: see :func:`mgda_weights`.
      axis_name: a mapped axis that the coordinates are split over, see :func:`sharded`.

    Returns:
      The tree without the leading axis; leaves keep their dtype.

    Raises:
      ValueError: leading axes that disagree or are empty, a negative ``reg_eps``.

    Source: Désidéri 2012; Sener & Koltun 2018, arXiv 1810.04650.

    >>> [abs(round(float(w), 2)) for w in mgda(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))]
    [0.0, 1.0, 1.0]
    """
    return combined(stacked, lambda g: mgda_weights(g, reg_eps=reg_eps), where="mgda", axis_name=axis_name)
