"""Inverse roots of symmetric positive semidefinite matrices."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, over_matrices, static_int

HIGHEST = jax.lax.Precision.HIGHEST
METHODS = ("eigh", "newton")


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=HIGHEST)


def _power(a: Array, exponent: int) -> Array:
    """By squaring, in full precision."""
    result = None
    while exponent:
        if exponent & 1:
            result = a if result is None else _product(result, a)
        exponent >>= 1
        if exponent:
            a = _product(a, a)
    return result


def _by_eigh(a: Array, root: Number, epsilon: Number) -> Array:
    values, vectors = jnp.linalg.eigh(a)
    # rounding may leave eigenvalues below zero: first up to zero, then by epsilon, which large ones do not absorb
    values = values - jnp.minimum(values[0], 0) + epsilon
    return _product(vectors * values ** (-1 / root), vectors.T)


def _by_newton(a: Array, root: int, epsilon: Number, max_steps: int) -> Array:
    identity = jnp.eye(len(a), dtype=a.dtype)
    ridge = a + epsilon * identity
    norm = jnp.linalg.norm(ridge)
    z = (root + 1) / (2 * jnp.where(norm == 0, 1, norm))
    m = z * ridge
    tolerance = 4 * jnp.finfo(a.dtype).eps

    def error(m):
        return jnp.max(jnp.abs(m - identity))

    def unfinished(carry):
        step, _, _, now, before = carry
        # stagnation at the level of rounding ends it too
        return (step < max_steps) & (now > tolerance) & ((now < before) | (now > 0.1))

    def refine(carry):
        step, x, m, now, _ = carry
        inner = identity + (identity - m) / root
        m = _product(_power(inner, root), m)
        return step + 1, _product(x, inner), m, error(m), now

    start = (jnp.zeros((), jnp.int32), z ** (1 / root) * identity, m, error(m), jnp.full((), jnp.inf, a.dtype))
    return jax.lax.while_loop(unfinished, refine, start)[1]


def matrix_inverse_root(
    a: Float[Array, "..."],
    *,
    root: Number,
    epsilon: Number = 0.0,
    method: str = "eigh",
    max_steps: Number = 100,
) -> Float[Array, "..."]:
    r""":math:`(A + \epsilon I)^{-1/r}` of a symmetric positive semidefinite matrix.

    ``"eigh"``: :math:`Q\,(\Lambda - \min(\lambda_{\min}, 0) + \epsilon)^{-1/r}\,Q^\top`, which mends eigenvalues below
    zero. ``"newton"``: matrix products alone, the coupled iteration from
    :math:`M = z (A + \epsilon I), X = z^{1/r} I, z = \frac{r + 1}{2\|A + \epsilon I\|_F}`:

    .. math:: N = I + \tfrac1r (I - M), \qquad X \leftarrow X N, \qquad M \leftarrow N^r M .

    It needs about :math:`\log(\text{condition})` steps and :math:`\epsilon` above the rounding of the largest eigenvalue.

    Args:
      a: matrices, in the last two axes.
      root: :math:`r` > 0; for ``"newton"`` a Python integer.
      epsilon: ≥ 0; in float32 some 1e-6 of the largest eigenvalue keeps small ones meaningful.
      method: ``"eigh"`` or ``"newton"``.
      max_steps: of ``"newton"``.

    Returns:
      Shaped like ``a``, in its dtype; computed in float32 at least. A singular matrix without epsilon has no such root: what
      comes is not a number, or (``"newton"``) large.

    Raises:
      ValueError: not square, a number out of range, or an unknown method.
      TypeError: ``root`` is no integer for ``"newton"``.

    Source: Shi, Lee, Iwasaki, Gallego-Posada, Li, Rangadurai, Mudigere, Rabbat (2023), arXiv 2309.06497.

    >>> matrix_inverse_root(jnp.diag(jnp.array([4.0, 25.0])), root=2).round(5).tolist()
    [[0.5, 0.0], [0.0, 0.19999998807907104]]
    """
    check_finite_number("root", root, low=1e-6)
    check_finite_number("epsilon", epsilon, low=0.0)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"matrix_inverse_root needs square matrices, got shape {a.shape}")
    wide = a.astype(accumulator_dtype(a))
    batch = a.ndim - 2
    if method == "newton":
        order, steps = static_int("root", root, low=1), static_int("max_steps", max_steps, low=1)
        return over_matrices(lambda a: _by_newton(a, order, epsilon, steps), batch_axes=batch)(wide).astype(a.dtype)
    return over_matrices(lambda a: _by_eigh(a, root, epsilon), batch_axes=batch)(wide).astype(a.dtype)
