"""UPGrad: the aggregator of Jacobian descent, and the projection onto the dual cone that it rests on."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.aggregation._lcp import complementary
from jaxtrain.aggregation._trees import gramian, row_scales
from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.tree import check_stack, weighted_sum


def dual_cone_projection_weights(
    u: Float[Array, "*batch k"],
    gramian: Float[Array, "m n"],
    *,
    scaling: str = "diagonal",
    reg_eps: Number = 1e-4,
    norm_eps: Number = 0.0,
) -> Float[Array, "*batch k"]:
    r"""Weights of the projections of :math:`J^\top u` onto the dual cone :math:`\{x : Jx \ge 0\}`.

    .. math:: \pi_J(J^\top u) = J^\top w, \qquad w = \operatorname*{argmin}_{v \ge u} v^\top G v, \qquad G = JJ^\top

    Only the Gramian is needed. Every row of ``u`` is one problem; all are solved together by block principal pivoting:
    guess which constraints are active, solve the linear equations of the others (one batched Cholesky
    factorisation), exchange the constraints that came out on the wrong side, and, where their number stops falling,
    exchange only the last one, which cannot cycle. The solution is exact to rounding as soon as no constraint is on
    the wrong side, in practice after 2 to 8 factorisations; 50 + 2 m are the bound. No host callback: it runs under
    ``jit`` and ``vmap``. Cost: a factorisation is O(m³) a row.

    Scaling. ``"diagonal"`` works on :math:`DGD/m + \epsilon I` with :math:`D = \operatorname{diag}(1/\|g_i\|)`, so that
    a gradient's length does not decide how much the regularisation hurts it. ``"trace"`` works on
    :math:`G/\operatorname{tr} G + \epsilon I`, and on :math:`\epsilon I` below a trace of ``norm_eps``: with 1e-4 twice
    this is torchjd's, which turns into the plain mean when gradients get small and lets small gradients conflict.

    Args:
      u: ``(..., m)``; the projected vector is :math:`J^\top u`.
      gramian: ``(m, m)``, symmetric positive semi-definite; at least single precision is used.
      scaling: ``"diagonal"`` or ``"trace"``.
      reg_eps: regularisation, > 0 where the Gramian is singular; may be traced. Below about 1e-6 it is lost in single
        precision.
      norm_eps: smallest trace that is not taken for zero; only with ``"trace"``.

    Returns:
      ``w``, shaped like ``u``, constant in differentiation. NaN where the Gramian has a NaN.

    Raises:
      ValueError: shapes that disagree, an unknown scaling, a negative number.

    Source: Quinton & Rey 2024, "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232, proposition 1.
    Block principal pivoting: Júdice & Pires 1994.

    >>> G = jnp.array([[1.0, -1.0], [-1.0, 2.0]])  # of the gradients (1, 0) and (-1, 1)
    >>> dual_cone_projection_weights(jnp.eye(2), G, reg_eps=0.0).round(5).tolist()
    [[1.0, 0.5], [1.0, 1.0]]
    """
    m = gramian.shape[-1]
    if u.shape[-1:] != (m,) or gramian.shape != (m, m):
        raise ValueError(f"u of shape {u.shape} and a Gramian of shape {gramian.shape} disagree; give (..., m), (m, m)")
    if scaling not in ("diagonal", "trace"):
        raise ValueError(f"scaling must be 'diagonal' or 'trace', got {scaling!r}")
    check_finite_number("reg_eps", reg_eps, low=0.0)
    check_finite_number("norm_eps", norm_eps, low=0.0)
    kind = jnp.promote_types(jnp.result_type(u, gramian), jnp.float32)
    # a solver's branches have no useful derivative; the weights are constants, as in the paper's implementation
    u, g = jax.lax.stop_gradient((u.astype(kind), gramian.astype(kind)))
    diagonal = jnp.diagonal(g)
    if scaling == "diagonal":
        lengths = jnp.where(diagonal > 0, jnp.sqrt(diagonal), 1.0)
        g = g / lengths[:, None] / lengths[None, :] / m
    else:
        lengths = jnp.ones_like(diagonal)
        trace = jnp.sum(diagonal)
        used = (trace >= norm_eps) & (trace > 0) | jnp.isnan(trace)
        g = jnp.where(used, g / jnp.where(used, trace, 1.0), 0.0)
    eps = jnp.asarray(reg_eps, kind)
    # a zero gradient without regularisation would make the matrix singular; it takes part in nothing
    g = g + jnp.diag(jnp.where((jnp.diagonal(g) == 0) & (eps == 0), 1.0, eps))
    # the solver sees a unit diagonal, which its tolerances are made for
    to_unit = jnp.sqrt(jnp.diagonal(g))
    g = g / to_unit[:, None] / to_unit[None, :]
    rows = (u * (lengths * to_unit)).reshape(-1, m)
    # each problem is homogeneous in u: solved for u of size 1
    size = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    size = jnp.where(size > 0, size, 1.0)
    w = rows + size * complementary(g, jnp.matmul(rows / size, g, precision="highest"))
    return (w / (lengths * to_unit)).reshape(u.shape)


def upgrad_weights(
    gramian: Float[Array, "m m"],
    *,
    preference: Float[Array, " k"] | None = None,
    scaling: str = "diagonal",
    reg_eps: Number = 1e-4,
    norm_eps: Number = 0.0,
) -> Float[Array, " m"]:
    r"""The weights of UPGrad: each gradient is projected onto the dual cone of all, then they are averaged.

    .. math:: A(J) = J^\top w = \sum_i p_i\, \pi_J(g_i), \qquad p_i = \tfrac1m \text{ unless given}

    The combined gradient conflicts with no objective (:math:`J A(J) \ge 0` up to the regularisation), is linear in
    the length of each gradient, and is the mean where no two gradients conflict.

    Args:
      gramian: ``(m, m)`` inner products, from :func:`gramian`.
      preference: ``(m,)`` non-negative factors :math:`p_i`.
      scaling: see :func:`dual_cone_projection_weights`.
      reg_eps: see there; may be traced.
      norm_eps: see there.

    Returns:
      ``(m,)``, constant in differentiation.

    Raises:
      ValueError: shapes that disagree, an unknown scaling, a negative number.

    Source: Quinton & Rey 2024, arXiv 2406.16232. Equal to torchjd 0.18 with ``scaling="trace", norm_eps=1e-4``.

    >>> upgrad_weights(jnp.array([[1.0, -1.0], [-1.0, 2.0]]), reg_eps=0.0).round(5).tolist()
    [1.0, 0.75]
    """
    m = gramian.shape[0]
    kind = jnp.promote_types(gramian.dtype, jnp.float32)
    if preference is None:
        preference = jnp.full(m, 1 / m, kind)
    elif preference.shape != (m,):
        raise ValueError(f"preference has shape {preference.shape}, the Gramian is of {m} gradients; give ({m},)")
    u = jnp.diag(preference.astype(kind))
    w = dual_cone_projection_weights(u, gramian, scaling=scaling, reg_eps=reg_eps, norm_eps=norm_eps)
    return jnp.sum(w, axis=0)


def upgrad(
    stacked: Any,
    *,
    preference: Float[Array, " k"] | None = None,
    scaling: str = "diagonal",
    reg_eps: Number = 1e-4,
    norm_eps: Number = 0.0,
    axis_name: str | None = None,
) -> Any:
    r"""UPGrad of a stack of gradients: :math:`\sum_i p_i\, \pi_J(g_i)`, see :func:`upgrad_weights`.

    With ``scaling="diagonal"`` the gradients are brought to similar lengths before their inner products are taken, so
    lengths from 1e-30 to 1e30 neither overflow nor vanish. The Gramian is summed leaf by leaf: sharded leaves are not moved. Cost besides
    the gradients: O(m² n) for the Gramian of n parameters, and the solver's O(m⁴) for a factorisation of all rows.

    Args:
      stacked: pytree, every leaf ``(m, ...)``: the gradients of m objectives.
      preference: ``(m,)`` non-negative factors :math:`p_i`; default 1/m.
      scaling: see :func:`dual_cone_projection_weights`.
      reg_eps: see there; may be traced.
      norm_eps: see there.
      axis_name: a mapped axis that the coordinates are split over, see :func:`sharded`.

    Returns:
      The tree without the leading axis; leaves keep their dtype.

    Raises:
      ValueError: leading axes that disagree or are empty, a preference of another length.

    Source: Quinton & Rey 2024, arXiv 2406.16232.

    >>> upgrad(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), reg_eps=0.0).round(5).tolist()
    [0.25, 0.75]
    """
    m = check_stack(stacked, where="upgrad")
    if preference is not None and preference.shape != (m,):
        raise ValueError(f"preference has shape {preference.shape}, the stack holds {m} gradients; give ({m},)")
    factors = None
    if scaling == "diagonal":
        # Jᵀu = (J/s)ᵀ(s u): the lengths move into the preference
        scales = row_scales(stacked, axis_name=axis_name)
        preference = scales / m if preference is None else preference * scales
        factors = 1 / scales
    g = gramian(stacked, factors=factors, axis_name=axis_name)
    weights = upgrad_weights(g, preference=preference, scaling=scaling, reg_eps=reg_eps, norm_eps=norm_eps)
    # powers of two: the weights of the scaled gradients become those of the gradients exactly
    return weighted_sum(weights if factors is None else weights * factors, stacked)
