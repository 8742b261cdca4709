"""Norms of weights, their duals, and the directions of steepest descent under them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import Number, Scalar
from jaxtrain.core.numerics import accumulator_dtype, entry_scale, static_int, zero_after

HIGHEST = jax.lax.Precision.HIGHEST
CUBIC = (1.5, -0.5, 0.0)
QUINTIC = (3.4445, -4.7750, 2.0315)
NORMS = ("linf", "l2", "spectral", "row_l2", "col_l2")
# of these the axes whose entries make one length
LENGTHS = {"l2": slice(None), "row_l2": slice(1, None), "col_l2": slice(1)}
ROLES = ("linear", "embedding", "rms", "sign")


def newton_schulz_orthogonalize(
    g: Float[Array, "*layers m n"],
    *,
    num_steps: int = 5,
    coefficients: Sequence[float] = QUINTIC,
    eps: Number = 0.0,
) -> Float[Array, "*layers m n"]:
    r"""About :math:`U V^\top` of :math:`G = U S V^\top`, by matrix products alone.

    From :math:`X_0 = G / (\|G\|_F + \epsilon)`:

    .. math:: X \leftarrow a X + (b A + c A^2) X, \quad A = X X^\top .

    ``QUINTIC`` brings singular values within some 30 % of 1 in five steps, where they began above a thousandth of the
    largest, and no closer with more; ``CUBIC`` (1.5, -0.5, 0) converges, slowly where they are small: as a rule 12 to 25
    steps.

    Args:
      g: matrices, in the last two axes.
      num_steps: a Python integer.
      coefficients: :math:`(a, b, c)`.
      eps: :math:`\epsilon` ≥ 0.

    Returns:
      Shaped like ``g``, in its dtype; computed in float32 at least. Zero stays zero.

    Raises:
      ValueError: a negative number of steps, or not three coefficients.

    Source: Bernstein, Newhouse (2024), arXiv 2409.20325; the quintic is Jordan's (Muon, 2024).

    >>> G = jnp.array([[3.0, 0.0], [0.0, -4.0]])
    >>> newton_schulz_orthogonalize(G, num_steps=12, coefficients=(1.5, -0.5, 0.0)).round(5).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    static_int("num_steps", num_steps, low=0)
    if len(coefficients) != 3:
        raise ValueError(f"newton_schulz_orthogonalize needs three coefficients, got {len(coefficients)}")
    a, b, c = coefficients
    x = g.astype(accumulator_dtype(g))
    tall = x.shape[-2] > x.shape[-1]
    if tall:  # the smaller of the two products
        x = jnp.swapaxes(x, -1, -2)
    x, norm, scale = _scaled(x, (x.ndim - 2, x.ndim - 1))
    x = _over(x, norm + eps / scale).astype(x.dtype)

    def product(p, q):
        return jnp.matmul(p, q, precision=HIGHEST)

    def step(_, x):
        square = product(x, jnp.swapaxes(x, -1, -2))
        return a * x + product(b * square + c * product(square, square), x)

    x = jax.lax.fori_loop(0, num_steps, step, x)
    return (jnp.swapaxes(x, -1, -2) if tall else x).astype(g.dtype)


def _scaled(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """``x / c``, its Euclidean norm over ``axes``, and c: gradients of any size keep their direction."""
    scale = entry_scale(x, axes)
    x = x / scale
    return x, jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True)), scale


def _over(x: Array, norm: Array) -> Array:
    return x / jnp.where(norm == 0, 1, norm)


def norm_over(x: Array, axes: tuple[int, ...]) -> Array:
    """The Euclidean norm over ``axes``, without overflow or underflow."""
    _, norm, scale = _scaled(x, axes)
    return jnp.squeeze(norm * scale, axes)


class DualPair(NamedTuple):
    """What steepest descent needs of a gradient: the unit direction, the dual norm (one for each matrix of a stack), and
    a zero that is known when both are (see :func:`jaxtrain.core.numerics.zero_after`)."""

    direction: Array
    norm: Array
    wait: Array


def dual_pair(g: Array, norm: str, *, num_axes: int, num_steps: int | None, wait: Array | None = None) -> DualPair:
    """Direction and dual norm over the last ``num_axes`` axes; the axes before stack layers.

    ``num_steps`` of Newton-Schulz, None: a singular value decomposition. Everything stays in g's dtype.
    """
    wait = jnp.zeros((), g.dtype) if wait is None else wait.astype(g.dtype)
    axes = tuple(range(g.ndim - num_axes, g.ndim))
    if norm == "linf":
        return DualPair(jnp.sign(g), jnp.sum(jnp.abs(g), axis=axes), wait)
    if norm in LENGTHS:
        x, size, scale = _scaled(g, axes[LENGTHS[norm]])
        return DualPair(_over(x, size), jnp.sum(size * scale, axis=axes), wait)
    if num_steps is not None:
        x = newton_schulz_orthogonalize(g, num_steps=num_steps)
        return DualPair(x, jnp.sum(x * g, axis=axes), wait)
    u, s, vh = jnp.linalg.svd(g + wait, full_matrices=False)
    # the null space has no direction of its own: nothing there, and zero for a gradient of zero
    kept = s > max(g.shape[-2:]) * jnp.finfo(g.dtype).eps * jnp.max(s, axis=-1, keepdims=True, initial=0)
    # not a product with 0: NaN must stay NaN
    kept = jnp.where(jnp.isnan(s), s, kept.astype(s.dtype))
    return DualPair(jnp.matmul(u * kept[..., None, :], vh, precision=HIGHEST), jnp.sum(s, axis=-1), zero_after(u))


def _checked(g: Array, norm: str, where: str) -> int:
    if norm not in NORMS:
        raise ValueError(f"{where}: norm must be one of {', '.join(NORMS)}, got {norm!r}")
    if norm not in ("linf", "l2") and g.ndim != 2:
        raise ValueError(f"{where}: the norm {norm!r} is of matrices, got shape {g.shape}")
    return g.ndim


def dual_map(g: Float[Array, "..."], *, norm: str) -> Float[Array, "..."]:
    r"""The direction of a norm's unit ball in which a gradient points: :math:`\arg\max_{\|t\| = 1} \langle g, t\rangle`.

    ================  =======================================================  ==================================
    ``norm``          of :math:`W`, which acts as :math:`W x`                  the direction
    ================  =======================================================  ==================================
    ``"linf"``        largest entry (of a matrix: from l1 to l-infinity)       sign of each entry
    ``"l2"``          Euclidean, Frobenius                                     :math:`g / \|g\|`
    ``"spectral"``    largest singular value (from l2 to l2)                   :math:`U V^\top`
    ``"row_l2"``      longest row (from l2 to l-infinity)                      each row over its length
    ``"col_l2"``      longest column (from l1 to l2)                           each column over its length
    ================  =======================================================  ==================================

    Args:
      g: an array; for the last three a matrix, taken as it is.
      norm: which.

    Returns:
      Shaped like ``g``, in its dtype. Where it is not unique (zero entries, rows, singular values) it is zero there.

    Raises:
      ValueError: an unknown norm, or not a matrix.

    Source: Bernstein, Newhouse (2024), arXiv 2409.20325.

    >>> dual_map(jnp.array([[3.0, 0.0], [0.0, -4.0]]), norm="spectral").round(5).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    axes = _checked(g, norm, "dual_map")
    wide = g.astype(accumulator_dtype(g))
    return dual_pair(wide, norm, num_axes=axes, num_steps=None).direction.astype(g.dtype)


def dual_norm(g: Float[Array, "..."], *, norm: str) -> Scalar:
    r"""The norm dual to a norm of weights: :math:`\max_{\|t\| = 1} \langle g, t\rangle`.

    The sum of absolute entries (``"linf"``), of singular values (``"spectral"``), of lengths of rows or columns
    (``"row_l2"``, ``"col_l2"``), and the Euclidean norm itself (``"l2"``).

    Args:
      g: as in :func:`dual_map`.
      norm: which.

    Returns:
      A number, in float32 at least.

    Raises:
      ValueError: an unknown norm, or not a matrix.

    Source: Bernstein, Newhouse (2024), arXiv 2409.20325.

    >>> round(float(dual_norm(jnp.array([[3.0, 0.0], [0.0, -4.0]]), norm="spectral")), 5)
    7.0
    """
    axes = _checked(g, norm, "dual_norm")
    return dual_pair(g.astype(accumulator_dtype(g)), norm, num_axes=axes, num_steps=None).norm


def rms_to_rms_scale(shape: Sequence[int]) -> float:
    r"""What makes a matrix of singular values 1 keep the root mean square: :math:`\sqrt{d_{out} / d_{in}}`.

    Args:
      shape: of a kernel, (…, in, out) as flax has it.

    Raises:
      ValueError: fewer than two axes.

    Source: Bernstein, Newhouse (2024), arXiv 2409.20325.

    >>> rms_to_rms_scale((16, 64))
    2.0
    """
    if len(shape) < 2 or not all(shape):
        raise ValueError(f"rms_to_rms_scale needs the shape (…, in, out) of a kernel, got {tuple(shape)}")
    return math.sqrt(shape[-1] / shape[-2])


def base_and_scale(role: str, shape: Sequence[int]) -> tuple[str, float]:
    r"""The norm behind a role and the factor s in :math:`\|W\| = s\,\|W\|_{base}`."""
    if role in NORMS:
        return role, 1.0
    if role == "linear":
        return "spectral", 1 / rms_to_rms_scale(shape)
    if role == "embedding":
        return "row_l2", 1 / math.sqrt(shape[-1])
    return ("linf", 1.0) if role == "sign" else ("l2", 1 / math.sqrt(math.prod(shape)))
