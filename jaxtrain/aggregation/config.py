"""ConFIG and IMTL-G: the direction that has the same cosine with every gradient, at two lengths."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.aggregation._gramians import check_preference, combined, over_lengths, unit_gramian, wide_gramian


def _solve(cosines: Float[Array, "m m"], right: Float[Array, " m"]) -> Float[Array, " m"]:
    """The shortest least-squares solution; eigenvalues and components of the right side below rounding are zero."""
    values, vectors = jnp.linalg.eigh(cosines)
    # a cosine carries some eight roundings: those of the inner product, and of the two lengths that it is divided by
    rounding = 8 * len(values) * jnp.finfo(cosines.dtype).eps
    components = jnp.matmul(right, vectors, precision="highest")
    used = ~((values <= rounding * jnp.max(values)) | (jnp.abs(components) <= rounding * jnp.linalg.norm(right)))
    return jnp.matmul(vectors, jnp.where(used, components / jnp.where(used, values, 1.0), 0.0), precision="highest")


def config_weights(gramian: Float[Array, "m n"], *, preference: Float[Array, " k"] | None = None) -> Float[Array, " m"]:
    r"""The weights of ConFIG: a direction with the same cosine to every gradient, as long as the gradients' shadows on it.

    .. math:: A = \Big(\sum_i \langle g_i, u\rangle\Big) u, \qquad
        u = \frac{x}{\|x\|},\quad x = \hat J^{+} p, \quad \hat J_i = g_i / \|g_i\|, \quad p = 1 \text{ unless given}

    With linearly independent gradients all cosines are positive (in the ratio p). With dependent ones the cosines are
    so in the sense of least squares, and a conflict is possible. Equal gradients g give m g.

    From inner products alone, so the smallest singular value that is told from zero is about
    :math:`\sqrt{8 m\,\epsilon}` of the largest one: 2e-3 in single precision for four gradients.

    Args:
      gramian: ``(m, m)`` inner products; at least single precision is used.
      preference: ``(m,)`` the cosines' ratio.

    Returns:
      ``(m,)``, constant in differentiation; 0 for a zero gradient.

    Raises:
      ValueError: a Gramian that is not square, a preference of another length.

    Source: Liu, Chu & Thuerey 2024, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks",
    arXiv 2408.11104, equation 2.

    >>> [round(float(w), 3) for w in config_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]))]
    [0.75, 1.5]
    """
    g = wide_gramian(gramian, where="config_weights")
    p = check_preference(preference, len(g), g.dtype, where="config_weights", default=1.0)
    cosines, lengths, _ = unit_gramian(g)
    v = _solve(cosines, p)
    along = jnp.matmul(cosines, v, precision="highest")
    square = v @ along
    length = jnp.where(square > 0, (lengths @ along) / jnp.where(square > 0, square, 1.0), 0.0 * square)
    return length * over_lengths(v, lengths)


def imtl_g_weights(gramian: Float[Array, "m n"]) -> Float[Array, " m"]:
    r"""The weights of IMTL-G: the combined gradient has the same projection onto every gradient, and they sum to 1.

    .. math:: \Big\langle \frac{g_i}{\|g_i\|},\ \sum_j w_j g_j \Big\rangle \text{ equal for all } i, \qquad \sum_i w_i = 1

    Weights may be negative, and nothing keeps the common projection positive: where the gradients' lengths and angles
    make the unnormalised weights sum to less than zero, the paper's formula points *against* every gradient. Use
    :func:`config_weights` for the same direction with a sign that is right.

    Args:
      gramian: ``(m, m)`` inner products; at least single precision is used.

    Returns:
      ``(m,)``, constant in differentiation; 0 for a zero gradient, and for all where the sum is zero to rounding.

    Raises:
      ValueError: a Gramian that is not square.

    Source: Liu, Li, Kuang, Xue, Chen, Yang, Liao & Zhang 2021, "Towards Impartial Multi-task Learning", ICLR. With
    dependent gradients the equations are met in the sense of least squares, of unit gradients; torchjd 0.18 takes them
    as long as they are, and returns zero for gradients with norms above about 1e12.

    >>> [round(float(w), 3) for w in imtl_g_weights(jnp.array([[18.0, -22.0], [-22.0, 38.0]]))]
    [0.592, 0.408]
    """
    g = wide_gramian(gramian, where="imtl_g_weights")
    cosines, lengths, _ = unit_gramian(g)
    v = over_lengths(_solve(cosines, jnp.ones(len(g), g.dtype)), lengths)
    total = jnp.sum(v)
    lost = jnp.abs(total) <= len(v) * jnp.finfo(v.dtype).eps * jnp.sum(jnp.abs(v))
    return jnp.where(lost, 0.0, v / jnp.where(lost, 1.0, total))


def config(stacked: Any, *, preference: Float[Array, " k"] | None = None, axis_name: str | None = None) -> Any:
    r"""ConFIG of a stack of gradients, see :func:`config_weights`.

    Args:
      stacked: pytree, every leaf ``(m, ...)``: the gradients of m objectives.
      preference: ``(m,)`` the cosines' ratio; default equal.
      axis_name: a mapped axis that the coordinates are split over, see :func:`sharded`.

    Returns:
      The tree without the leading axis; leaves keep their dtype.

    Raises:
      ValueError: leading axes that disagree or are empty, a preference of another length.

    Source: Liu, Chu & Thuerey 2024, arXiv 2408.11104.

    >>> [round(float(w), 3) for w in config(jnp.array([[2.0, 0.0], [0.0, 1.0]]))]
    [1.5, 1.5]
    """
    return combined(stacked, lambda g: config_weights(g, preference=preference), where="config", axis_name=axis_name)


def imtl_g(stacked: Any, *, axis_name: str | None = None) -> Any:
    r"""IMTL-G of a stack of gradients, see :func:`imtl_g_weights`.

    Args:
      stacked: pytree, every leaf ``(m, ...)``: the gradients of m objectives.
      axis_name: a mapped axis that the coordinates are split over, see :func:`sharded`.

    Returns:
      The tree without the leading axis; leaves keep their dtype.

    Raises:
      ValueError: leading axes that disagree or are empty.

    Source: Liu et al. 2021, "Towards Impartial Multi-task Learning", ICLR.

    >>> [round(float(w), 3) for w in imtl_g(jnp.array([[2.0, 0.0], [0.0, 1.0]]))]
    [0.667, 0.667]
    """
    return combined(stacked, imtl_g_weights, where="imtl_g", axis_name=axis_name)
