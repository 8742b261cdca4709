"""CAGrad: near the mean gradient, the vector that serves the worst objective best."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.aggregation._gramians import combined, over_lengths, regular, unit_gramian, wide_gramian
from jaxtrain.aggregation._lcp import complementary
from jaxtrain.core import Number, check_finite_number


def cagrad_weights(gramian: Float[Array, "m n"], *, c: Number = 0.5, reg_eps: Number = 1e-5) -> Float[Array, " m"]:
    r"""The weights of CAGrad.

    .. math:: J^\top w = \operatorname*{argmax}_d \min_i \langle g_i, d\rangle \quad\text{with}\quad
        \|d - g_0\| \le c\,\|g_0\|, \qquad g_0 = \tfrac1m \textstyle\sum_i g_i

    0 gives the mean; the larger c, the nearer to :func:`mgda_weights` in direction; from 1 on nothing conflicts. No
    factor :math:`1/(1+c^2)`, with which the authors' code rescales the result afterwards.

    The paper's dual is a cone programme. Solved here without one: the nearest vector to :math:`g_0` with
    :math:`\langle g_i, d\rangle \ge \tau` is a projection (a few Cholesky factorisations), its distance to :math:`g_0`
    is increasing and convex in τ, and Newton's method from above finds the τ whose distance is
    :math:`c\,\|g_0\|`. Where no τ reaches it (the gradients are Pareto stationary), that is the nearest of the vectors
    that serve the worst objective best; there the paper divides zero by zero.

    Args:
      gramian: ``(m, m)`` inner products; at least single precision is used.
      c: radius relative to the mean gradient, ≥ 0; may be traced.
      reg_eps: :math:`m\,\epsilon` times the squared lengths is added to the diagonal; may be traced. Below about 1e-6 it
        is lost in single precision.

    Returns:
      ``(m,)``, ≥ 1/m, constant in differentiation.

    Raises:
      ValueError: a Gramian that is not square, a negative ``c`` or ``reg_eps``.

    Source: Liu, Liu, Jin, Stone & Liu 2021, "Conflict-Averse Gradient Descent for Multi-task Learning",
    arXiv 2110.14048.

    >>> [round(float(w), 3) for w in cagrad_weights(jnp.array([[18.0, -22.0], [-22.0, 38.0]]), c=0.5)]
    [0.704, 0.5]
    """
    check_finite_number("c", c, low=0.0)
    g = wide_gramian(gramian, where="cagrad_weights")
    cosines, lengths, _ = unit_gramian(g)
    matrix = regular(cosines, reg_eps)
    m = len(g)
    u = lengths / m
    inner = jnp.matmul(matrix, u, precision="highest")
    mean = jnp.sqrt(jnp.maximum(u @ inner, 0.0))
    radius = jnp.asarray(c, g.dtype) * mean
    zero = lengths == 0
    shortest = jnp.min(jnp.where(zero, jnp.inf, lengths))
    d = over_lengths(jnp.where(jnp.isfinite(shortest), shortest, 1.0), lengths)
    size = jnp.where(mean > 0, mean, 1.0)

    def projected(t):
        """Multiples of the unit gradients that lead from the mean to where all inner products are at least t."""
        z = size * complementary(matrix, ((inner - t * d) / size)[None])[0]
        return z, jnp.sqrt(jnp.maximum(z @ jnp.matmul(matrix, z, precision="highest"), 0.0))

    def cond(carry):
        _, _, distance, i = carry
        return (distance > radius * (1 + 8 * jnp.finfo(g.dtype).eps)) & (i < 60)

    def body(carry):
        t, _, _, i = carry
        z, distance = projected(t)
        # half the squared distance has the derivative d · z
        t = t - (distance - radius) * distance / jnp.maximum(d @ z, jnp.finfo(g.dtype).tiny)
        return t, z, distance, i + 1

    # nothing in the ball serves objective i better than its own direction does; a zero gradient is served by none
    t = jnp.min(jnp.where(zero, 0.0, (inner + radius) * over_lengths(jnp.ones_like(d), d)))
    start = (t, jnp.zeros_like(u), jnp.full_like(t, jnp.inf), 0)
    _, z, *_ = jax.lax.while_loop(cond, body, start)
    return 1 / m + over_lengths(jnp.where(radius > 0, z, 0.0 * z), lengths)


def cagrad(stacked: Any, *, c: Number = 0.5, reg_eps: Number = 1e-5, axis_name: str | None = None) -> Any:
    r"""CAGrad of a stack of gradients, see :func:`cagrad_weights`.

    Args:
      stacked: pytree, every leaf ``(m, ...)``: the gradients of m objectives.
      c: radius relative to the mean gradient, ≥ 0; may be traced.
      reg_eps: see :func:`cagrad_weights`.
      axis_name: a mapped axis that the coordinates are split over, see :func:`sharded`.

    Returns:
      The tree without the leading axis; leaves keep their dtype.

    Raises:
      ValueError: leading axes that disagree or are empty, a negative ``c`` or ``reg_eps``.

    Source: Liu, Liu, Jin, Stone & Liu 2021, arXiv 2110.14048.

    >>> [round(float(w), 2) for w in cagrad(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), c=0.5)]
    [0.18, 1.2, 1.2]
    """
    return combined(stacked, lambda g: cagrad_weights(g, c=c, reg_eps=reg_eps), where="cagrad", axis_name=axis_name)
