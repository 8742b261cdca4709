"""StableMax: a softmax that grows like a line, whose cross-entropy does not vanish by rounding."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxtrain.core import Scalar
from jaxtrain.losses._logits import check_labels, widened


@jax.custom_jvp
def _s(x: Array) -> Array:
    """x + 1 above 0 and 1 / (1 - x) below."""
    d = 1 + jnp.abs(x)
    return jnp.where(x >= 0, d, 1 / d)


@_s.defjvp
def _s_jvp(primals, tangents):
    # that of |x| at 0 is 0, where s has the derivative 1
    s = _s(primals[0])
    return s, tangents[0] * jnp.where(primals[0] >= 0, 1, s * s)


def _log_s(x: Array) -> Array:
    """log of s(x) = x + 1 above 0 and 1 / (1 - x) below, in float32 at least; its derivative is 1 / (1 + |x|)."""
    x = widened(x)
    above = x >= 0
    # each branch sees only what it is for: no tie at 0, whose gradient would be halved
    return jnp.where(above, jnp.log1p(jnp.where(above, x, 0)), -jnp.log1p(-jnp.where(above, 0, x)))


def stablemax(logits: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    r"""Probabilities in proportion to a function that grows like a line instead of an exponential.

    .. math:: p_i = \frac{s(x_i)}{\sum_j s(x_j)}, \qquad
       s(x) = \begin{cases} x + 1 & x \ge 0 \\ \frac1{1 - x} & x < 0. \end{cases}

    It is the softmax of :math:`\log s(x) = \operatorname{sign}(x) \log(1 + |x|)`.

    Args:
      logits: ``(..., n)``, the class axis last.

    Returns:
      ``(..., n)``, in the dtype of the logits.

    Source: Prieto, Barsbey, Mediano, Birdal (2025), arXiv 2501.04697.

    >>> stablemax(jnp.array([2.0, 0.0])).round(6).tolist()
    [0.75, 0.25]
    """
    return jax.nn.softmax(_log_s(logits), axis=-1).astype(logits.dtype)


def log_stablemax(logits: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    r"""The logarithm of :func:`stablemax`, finite where that underflows.

    Args:
      logits: ``(..., n)``, the class axis last.

    Returns:
      ``(..., n)``, in the dtype of the logits.

    Source: Prieto, Barsbey, Mediano, Birdal (2025), arXiv 2501.04697.

    >>> jnp.exp(log_stablemax(jnp.array([2.0, 0.0]))).round(6).tolist()
    [0.75, 0.25]
    """
    return jax.nn.log_softmax(_log_s(logits), axis=-1).astype(logits.dtype)


def stablemax_cross_entropy(logits: Float[Array, "*batch n"], labels: Int[Array, "..."]) -> Float[Array, "*batch"]:
    r"""Cross-entropy of :func:`stablemax`: :math:`-\log p_y`.

    Computed from the others' share, :math:`\log\big(1 + \sum_{j \ne y} s(x_j)/s(x_y)\big)`, so that neither it nor its
    gradient is rounded to zero for sure and right predictions. The gradient falls like :math:`1/x_y^2`, where that of
    softmax falls like :math:`e^{-x_y}`; therefore trained logits are larger.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      labels: ``(...)`` classes in ``[0, n)``.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits; computed in float32 at least.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, a label out of range.

    Source: Prieto, Barsbey, Mediano, Birdal (2025), arXiv 2501.04697.

    >>> loss = stablemax_cross_entropy(jnp.array([[20.0, 0.0]]), jnp.array([0]))
    >>> round(float(loss[0]), 6)  # log(22 / 21)
    0.04652
    """
    labels = check_labels("stablemax_cross_entropy", logits, labels)
    x = widened(logits)
    own = jax.lax.broadcasted_iota(labels.dtype, x.shape, x.ndim - 1) == labels[..., None]
    others = jnp.where(own, -jnp.inf, x)
    # relative to the largest of them, so that no sum overflows; s itself and not its logarithm: no transcendental
    # function for each of the classes
    best = _s(jax.lax.stop_gradient(jnp.max(others, axis=-1, keepdims=True)))
    alone = best == 0  # all others are masked out by -inf: nothing to divide by, and nothing to lose
    best = jnp.where(alone, 1, best)
    total = jnp.where(alone[..., 0], 1, jnp.sum(_s(others) * (1 / best), axis=-1))
    share = jnp.log(total) + jnp.log(best[..., 0])
    x_y = jnp.take_along_axis(x, labels[..., None], axis=-1)[..., 0]
    loss = jnp.where(alone[..., 0], 0, jax.nn.softplus(share - _log_s(x_y)))
    return loss.astype(logits.dtype)


def softmax_collapse_fraction(
    logits: Float[Array, "*batch n"], labels: Int[Array, "..."], *, dtype: DTypeLike = jnp.float32
) -> Scalar:
    r"""The share of examples that teach nothing more, as their softmax cross-entropy is rounded to exactly zero.

    So it is where the label has the largest logit and :math:`\sum_j e^{x_j - x_y}` is 1 in ``dtype``: with one
    competitor, for a lead of more than :math:`24 \log 2 \approx 16.6` in float32, 8.3 in float16 and 6.2 in bfloat16.
    The sum is taken in float32 at least and then rounded, whatever its order on the device.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      labels: ``(...)`` classes in ``[0, n)``.
      dtype: of the softmax in question, any floating one; float64 needs logits of it.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: shapes that disagree, fewer than two classes, a label out of range.
      TypeError: ``dtype`` is not floating.

    Source: Prieto, Barsbey, Mediano, Birdal (2025), arXiv 2501.04697.

    >>> logits, labels = jnp.array([[16.0, 0.0], [17.0, 0.0], [0.0, 17.0]]), jnp.array([0, 0, 0])
    >>> round(float(softmax_collapse_fraction(logits, labels)), 3)  # the second
    0.333
    """
    labels = check_labels("softmax_collapse_fraction", logits, labels)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"softmax_collapse_fraction: dtype must be floating, got {jnp.dtype(dtype)}")
    x = widened(logits.astype(dtype))
    lead = x - jnp.max(x, axis=-1, keepdims=True)
    kind = jnp.finfo(dtype)
    total = jax.lax.reduce_precision(jnp.sum(jnp.exp(lead), axis=-1), kind.nexp, kind.nmant)
    own = jnp.take_along_axis(lead, labels[..., None], axis=-1)[..., 0]
    return jnp.mean((own == 0) & (total == 1), dtype=jnp.float32)
