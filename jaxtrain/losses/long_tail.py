"""Losses for classes of very unequal size: adjusted logits, and margins that are wider for rare classes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, surprise, widened


def _log_counts(where: str, class_counts: Array | np.ndarray, z: Array) -> Array:
    """The logarithms of the counts, checked, in the dtype of the logits."""
    if class_counts.shape != z.shape[-1:]:
        raise ValueError(f"{where}: class_counts of shape {class_counts.shape} for {z.shape[-1]} classes")
    check_finite_number("class_counts", class_counts, low=float(np.finfo(np.float32).tiny))
    return jnp.log(jnp.asarray(class_counts, z.dtype))


def logit_adjusted_loss(
    logits: Float[Array, "*batch n"], labels: Int[Array, "..."], class_counts: Array | np.ndarray, *, tau: Number = 1.0
) -> Float[Array, "*batch"]:
    r"""Cross-entropy of logits to which the log frequency of each class is added, in training only.

    .. math:: -\log \frac{n_y^\tau e^{z_y}}{\sum_k n_k^\tau e^{z_k}}

    The frequencies explain what the sizes of the classes explain, so that the logits themselves rank classes as if all
    were of one size. At :math:`\tau = 1` it is balanced softmax; :math:`\tau < 0` favours the large classes even more.
    For a model trained with plain cross-entropy ``logits - tau * log(class_counts)`` does the same afterwards.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      labels: ``(...)`` classes in ``[0, n)``.
      class_counts: ``(n,)``, > 0: examples of each class in training, or their frequencies, which give the same loss.
      tau: :math:`\tau`; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, a label, a count or tau out of range.

    Source: Menon et al. (2020), arXiv 2007.07314; Ren et al. (2020), arXiv 2007.10740 at tau 1.

    >>> loss = logit_adjusted_loss(jnp.zeros((1, 2)), jnp.array([1]), jnp.array([3, 1]))
    >>> round(float(loss[0]), 4)  # log 4
    1.3863
    """
    check_labels("logit_adjusted_loss", logits, labels)
    check_finite_number("tau", tau)
    z = widened(logits)
    log_counts = _log_counts("logit_adjusted_loss", class_counts, z)
    return surprise(z + (tau * log_counts).astype(z.dtype), labels).astype(logits.dtype)


def ldam_loss(
    cosines: Float[Array, "*batch n"],
    labels: Int[Array, "..."],
    class_counts: Array | np.ndarray,
    *,
    max_margin: Number = 0.5,
    scale: Number = 30.0,
) -> Float[Array, "*batch"]:
    r"""Label-distribution-aware margins: the right class must lead by more, the rarer it is.

    .. math:: -\log \frac{e^{s (z_y - m_y)}}{e^{s (z_y - m_y)} + \sum_{k \ne y} e^{s z_k}}, \qquad
       m_k = m \Big(\frac{\min_j n_j}{n_k}\Big)^{1/4}.

    Args:
      cosines: ``(..., n)`` of the features with the weights of the classes, which both have length 1.
      labels: ``(...)`` classes in ``[0, n)``.
      class_counts: ``(n,)``, > 0: examples of each class in training.
      max_margin: :math:`m` ≥ 0, the margin of the rarest class; may be traced.
      scale: :math:`s` > 0; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of ``cosines``. The deferred re-weighting of the paper is a weight
      for each example, times this.

    Raises:
      ValueError: shapes that disagree, a label or a number out of range.

    Source: Cao, Wei, Gaidon, Arechiga, Ma (2019), arXiv 1906.07413.

    >>> loss = ldam_loss(jnp.array([[0.5, 0.0]]), jnp.array([0]), jnp.array([1, 16]), scale=1.0)
    >>> round(float(loss[0]), 4)  # log 2: the margin takes all of the lead
    0.6931
    """
    check_labels("ldam_loss", cosines, labels)
    check_finite_number("max_margin", max_margin, low=0.0)
    check_finite_number("scale", scale, low=float(np.finfo(np.float32).tiny))
    z = widened(cosines)
    log_counts = _log_counts("ldam_loss", class_counts, z)
    margins = (max_margin * jnp.exp(0.25 * (jnp.min(log_counts) - log_counts))).astype(z.dtype)
    own = jax.nn.one_hot(labels, z.shape[-1], dtype=bool)
    return surprise(scale * jnp.where(own, z - margins, z), labels).astype(cosines.dtype)
