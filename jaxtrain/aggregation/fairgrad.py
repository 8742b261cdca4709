"""Nash-MTL and FairGrad: weights from a bargain between the objectives."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.aggregation._gramians import (
    largest_scale,
    over_lengths,
    regular,
    scaled_gramian,
    unit_gramian,
    wide_gramian,
)
from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.tree import check_stack, weighted_sum


def fairgrad_weights(
    gramian: Float[Array, "m n"], *, alpha: Number = 1.0, reg_eps: Number = 1e-5
) -> Float[Array, " m"]:
    r"""The weights of FairGrad: those of α-fair utilities of the objectives' improvements.

    .. math:: G w = w^{-1/\alpha}, \quad w > 0, \qquad \text{the minimiser of }
        \tfrac12 w^\top G w - \sum_i \int^{w_i} s^{-1/\alpha}\,ds

    α = 1 is proportional fairness, :func:`nash_mtl_weights`; α = 2 minimises the potential delay; α → ∞ is max-min
    fairness. All inner products with the combined gradient are positive as long as the regularisation does not matter,
    that is away from Pareto stationarity.

    Newton's method on this convex function, in the lengths of the gradients as units, with the longest step that is
    sure to descend: no host callback, ``jit`` and ``vmap``. 5 to 30 factorisations of O(m³); 200 are the bound.

    Args:
      gramian: ``(m, m)`` inner products; at least single precision is used.
      alpha: > 0; may be traced.
      reg_eps: :math:`m\,\epsilon` times the squared lengths is added to the diagonal: where the gradients are Pareto
        stationary there is no solution without it. May be traced.

    Returns:
      ``(m,)``, > 0, and 0 for a zero gradient, which would ask for an infinite one. Constant in differentiation.

    Raises:
      ValueError: a Gramian that is not square, an ``alpha`` that is not positive, a negative ``reg_eps``.

    Source: Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning", arXiv 2402.15638, equation 4.

    >>> [round(float(w), 3) for w in fairgrad_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]), alpha=1.0)]
    [0.5, 1.0]
    """
    if not isinstance(alpha, jax.core.Tracer) and not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}; for 0, uniform weights, use the mean")
    check_finite_number("alpha", alpha)
    g = wide_gramian(gramian, where="fairgrad_weights")
    cosines, lengths, longest = unit_gramian(g)
    matrix = regular(cosines, reg_eps)
    kind = g.dtype
    p = 1 / jnp.asarray(alpha, kind)
    zero = lengths == 0
    # b = w |g| solves C b = a b^-p
    a = jnp.where(zero, 1.0, jnp.power(jnp.where(zero, 1.0, lengths), p - 1))

    def newton(b):
        pull = a * jnp.power(b, -p)
        gradient = jnp.matmul(matrix, b, precision="highest") - pull
        hessian = matrix + jnp.diag(p * pull / b)
        scale = 1 / jnp.sqrt(jnp.diagonal(hessian))  # the entries differ by the lengths' ratio
        factor = jax.scipy.linalg.cho_factor(hessian * scale[:, None] * scale[None, :], lower=True)
        return -scale * jax.scipy.linalg.cho_solve(factor, scale * gradient) / b

    def cond(carry):
        _, relative, i = carry
        # quadratic: what was left after that step is the square of it
        return (jnp.max(jnp.abs(relative)) > 0.3 * jnp.sqrt(jnp.finfo(kind).eps)) & (i < 200)

    def body(carry):
        b, _, i = carry
        relative = newton(b)
        # along b (1 + s r) the second derivative is at most that at s = 0 times (1 - s d)^(-p-1), d = max(-r):
        # the function falls as long as ((1 - s d)^-p - 1) / (p d) ≤ 1
        down = jnp.maximum(jnp.max(-relative), 0.0)
        safe = jnp.where(down > 0, down, 1.0)
        # and no entry shrinks by more than ten times, which rounding would take for zero
        step = jnp.where(down > 1e-3, jnp.minimum(1 - jnp.power(1 + p * safe, -1 / p), 0.9) / safe, 1.0)
        return b * (1 + step * relative), relative, i + 1

    b = jnp.power(a, 1 / (1 + p))
    b, *_ = jax.lax.while_loop(cond, body, (b, jnp.full_like(b, jnp.inf), 0))
    # in units of the longest length L: w = L^(-2 / (1 + p)) b / (|g| / L)
    unit = jnp.power(jnp.where(longest > 0, longest, 1.0), -2 / (1 + p))
    return unit * over_lengths(jnp.where(zero & ~jnp.isnan(b), 0.0, b), lengths)


def nash_mtl_weights(gramian: Float[Array, "m n"], *, reg_eps: Number = 1e-5) -> Float[Array, " m"]:
    r"""The weights of Nash-MTL: the Nash bargaining solution, :math:`G w = 1 / w` with :math:`w > 0`.

    The combined gradient :math:`J^\top w` has the norm :math:`\sqrt m` whatever the lengths of the gradients, and does
    not change when one of them is scaled. The minimiser of :math:`\tfrac12 w^\top G w - \sum_i \log w_i`, exact by
    Newton's method, see :func:`fairgrad_weights`.

    Args:
      gramian: ``(m, m)`` inner products; at least single precision is used.
      reg_eps: see :func:`fairgrad_weights`.

    Returns:
      ``(m,)``, > 0, and 0 for a zero gradient. Constant in differentiation.

    Raises:
      ValueError: a Gramian that is not square, a negative ``reg_eps``.

    Source: Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik & Fetaya 2022, "Multi-Task Learning as a Bargaining
    Game", arXiv 2202.01017. torchjd 0.18 linearises the authors' way and stops at up to 20 cone programmes, far from the
    solution where the lengths of the gradients differ.

    >>> [round(float(w), 3) for w in nash_mtl_weights(jnp.array([[4.0, 0.0], [0.0, 1e-6]]))]
    [0.5, 1000.0]
    """
    return fairgrad_weights(gramian, alpha=1.0, reg_eps=reg_eps)


def fairgrad(
    stacked: Any,
    *,
    alpha: Number = 1.0,
    max_norm: Number | None = None,
    reg_eps: Number = 1e-5,
    axis_name: str | None = None,
) -> Any:
    r"""FairGrad of a stack of gradients: :math:`\sum_i w_i g_i`, see :func:`fairgrad_weights`.

    Gradients that are all scaled by c give :math:`c^{(1-\alpha)/(1+\alpha)}` times the result.

    Args:
      stacked: pytree, every leaf ``(m, ...)``: the gradients of m objectives.
      alpha: > 0; may be traced.
      max_norm: a longer result is scaled down to this norm; ``None``: it is left. May be traced.
      reg_eps: see :func:`fairgrad_weights`.
      axis_name: a mapped axis that the coordinates are split over, see :func:`sharded`.

    Returns:
      The tree without the leading axis; leaves keep their dtype.

    Raises:
      ValueError: leading axes that disagree or are empty, an ``alpha`` that is not positive, a negative number.

    Source: Ban & Ji 2024, arXiv 2402.15638.

    >>> [round(float(w), 2) for w in fairgrad(jnp.array([[2.0, 0.0], [0.0, 1.0]]), alpha=2.0)]
    [0.79, 1.0]
    """
    return _bargained(stacked, alpha, max_norm, reg_eps, axis_name, where="fairgrad")


def nash_mtl(
    stacked: Any, *, max_norm: Number | None = None, reg_eps: Number = 1e-5, axis_name: str | None = None
) -> Any:
    r"""Nash-MTL of a stack of gradients: :math:`\sum_i w_i g_i`, see :func:`nash_mtl_weights`.

    Args:
      stacked: pytree, every leaf ``(m, ...)``: the gradients of m objectives.
      max_norm: a longer result is scaled down to this norm: with 1, as in the authors' experiments, every result has the
        norm 1. ``None``: it is left at :math:`\sqrt m`. May be traced.
      reg_eps: see :func:`fairgrad_weights`.
      axis_name: a mapped axis that the coordinates are split over, see :func:`sharded`.

    Returns:
      The tree without the leading axis; leaves keep their dtype.

    Raises:
      ValueError: leading axes that disagree or are empty, a negative number.

    Source: Navon et al. 2022, arXiv 2202.01017.

    >>> [round(float(w), 2) for w in nash_mtl(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), max_norm=1.0)]
    [0.05, 0.71, 0.71]
    """
    return _bargained(stacked, 1.0, max_norm, reg_eps, axis_name, where="nash_mtl")


def _bargained(stacked, alpha, max_norm, reg_eps, axis_name, *, where):
    check_stack(stacked, where=where)
    scale = largest_scale(stacked, axis_name)
    g = scaled_gramian(stacked, scale, axis_name)
    weights = fairgrad_weights(g, alpha=alpha, reg_eps=reg_eps)
    # G w = w^-p for gradients that are not divided by the scale
    p = 1 / jnp.asarray(alpha, weights.dtype)
    factor = jnp.power(scale, -2 / (1 + p))
    if max_norm is not None:
        check_finite_number("max_norm", max_norm, low=0.0)
        norm = scale * factor * jnp.sqrt(jnp.maximum(weights @ jnp.matmul(g, weights, precision="highest"), 0.0))
        factor = factor * jnp.where(norm > max_norm, max_norm / jnp.where(norm > max_norm, norm, 1.0), 1.0)
    return weighted_sum(factor.astype(weights.dtype) * weights, stacked)
