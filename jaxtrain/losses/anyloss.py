"""AnyLoss: metrics of a confusion matrix as losses, by a threshold that is soft."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Scalar, check_finite_number
from jaxtrain.losses._logits import widened

METRICS = ("accuracy", "f1", "fbeta", "gmean", "balanced_accuracy", "mcc")


class SoftConfusion(NamedTuple):
    """Counts in the order of scikit-learn's flattened matrix; add them up over shards before the metric is formed.

    Attributes:
      tn: true negatives.
      fp: false positives.
      fn: false negatives.
      tp: true positives.
    """

    tn: Scalar
    fp: Scalar
    fn: Scalar
    tp: Scalar


def soft_threshold(p: Float[Array, "*shape"], *, L: Number = 73.0) -> Float[Array, "*shape"]:
    r"""Probabilities pushed to 0 and 1, with a derivative: :math:`A(p) = 1 / (1 + e^{-L(p - 1/2)})`.

    Args:
      p: probabilities, any shape.
      L: steepness > 0; 73 in the paper, the largest at which A stays below 1 in double precision. May be traced.

    Returns:
      Shaped like ``p``. Its slope is :math:`L A (1 - A)`: next to none further than 0.2 from 1/2.

    Raises:
      ValueError: L is not positive.

    Source: Han, Moniz, Chawla (2024), arXiv 2405.14745.

    >>> [round(float(a), 3) for a in soft_threshold(jnp.array([0.4, 0.5, 0.6]))]
    [0.001, 0.5, 0.999]
    """
    check_finite_number("L", L, low=float(np.finfo(np.float32).tiny))
    return jax.nn.sigmoid(L * (widened(p) - 0.5)).astype(p.dtype)


def soft_confusion_matrix(
    p: Float[Array, " batch"],
    labels: Int[Array, "..."],
    *,
    L: Number = 73.0,
    weights: Float[Array, "..."] | None = None,
) -> SoftConfusion:
    r"""The four counts of a batch with soft decisions: :math:`TP = \sum_i y_i A(p_i)` and so on.

    Args:
      p: ``(batch,)`` probabilities of class 1.
      labels: ``(batch,)`` of 0 and 1.
      L: steepness of :func:`soft_threshold`.
      weights: ``(batch,)`` ≥ 0, how much each example counts; 0 masks it.

    Returns:
      Four numbers, in float32 at least.

    Raises:
      ValueError: shapes that disagree, labels other than 0 and 1, L out of range.

    Source: Han, Moniz, Chawla (2024), arXiv 2405.14745.

    >>> counts = soft_confusion_matrix(jnp.array([0.9, 0.8, 0.1]), jnp.array([1, 0, 0]))
    >>> [round(float(count), 3) for count in counts]
    [1.0, 1.0, 0.0, 1.0]
    """
    check_finite_number("L", L, low=float(np.finfo(np.float32).tiny))
    return _counts("soft_confusion_matrix", L * (widened(p) - 0.5), labels, weights)


def anyloss_from_counts(counts: SoftConfusion, *, metric: str = "f1", beta: Number = 1.0, eps: Number = 1e-7) -> Scalar:
    r"""1 less a metric of a confusion matrix.

    .. math:: F_\beta = \frac{(1 + \beta^2) TP}{(1 + \beta^2) TP + \beta^2 FN + FP}, \qquad
       G = \sqrt{TPR \cdot TNR}, \qquad B = \frac{TPR + TNR}2, \qquad
       M = \frac{TP \cdot TN - FP \cdot FN}{\sqrt{(TP + FP)(TP + FN)(TN + FP)(TN + FN)}}

    with :math:`TPR = TP/(TP + FN)` and :math:`TNR = TN/(TN + FP)`.

    Args:
      counts: of a batch, or added up over several.
      metric: ``accuracy``, ``f1``, ``fbeta``, ``gmean``, ``balanced_accuracy`` or ``mcc``.
      beta: of ``fbeta``, > 0: recall counts :math:`\beta` times as much as precision. May be traced.
      eps: the least denominator (of the share of the examples for ``mcc``, squared): without positives their rate is 0.

    Returns:
      A number in [0, 1], in [0, 2] for ``mcc``.

    Raises:
      ValueError: an unknown metric, a number out of range.

    Source: Han, Moniz, Chawla (2024), arXiv 2405.14745.

    >>> counts = SoftConfusion(*map(jnp.array, (90.0, 5.0, 2.0, 3.0)))
    >>> round(float(anyloss_from_counts(counts, metric="f1")), 4)  # 1 - 6/13
    0.5385
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {METRICS}, got {metric!r}")
    check_finite_number("beta", beta, low=float(np.finfo(np.float32).tiny))
    check_finite_number("eps", eps, low=1e-15)
    tn, fp, fn, tp = counts
    if metric == "accuracy":
        return (fp + fn) / jnp.maximum(tn + fp + fn + tp, eps)
    if metric in ("f1", "fbeta"):
        b2 = 1.0 if metric == "f1" else beta**2
        # a sum of errors instead of 1 - F: nothing cancels where the model is right
        errors = b2 * fn + fp
        whole = (1 + b2) * tp + errors
        return jnp.where(whole > eps, errors / jnp.maximum(whole, eps), 1.0 - (1 + b2) * tp / eps)
    if metric == "mcc":
        n = jnp.maximum(tn + fp + fn + tp, eps)
        tn, fp, fn, tp = tn / n, fp / n, fn / n, tp / n
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return 1 - (tp * tn - fp * fn) / jnp.sqrt(jnp.maximum(product, eps**2))
    tpr, tnr = tp / jnp.maximum(tp + fn, eps), tn / jnp.maximum(tn + fp, eps)
    if metric == "balanced_accuracy":
        return 1 - 0.5 * (tpr + tnr)
    positive = tpr * tnr > 0  # a square root of 0 has no derivative
    return 1 - jnp.where(positive, jnp.sqrt(jnp.where(positive, tpr * tnr, 1)), 0)


def anyloss(
    p: Float[Array, " batch"],
    labels: Int[Array, "..."],
    *,
    metric: str = "f1",
    beta: Number = 1.0,
    L: Number = 73.0,
    eps: Number = 1e-7,
    weights: Float[Array, "..."] | None = None,
) -> Scalar:
    """1 less a metric of the soft decisions on a batch: one number, as the metric has no value for one example.

    The average over shards or microbatches is another loss: add up :func:`soft_confusion_matrix` and use
    :func:`anyloss_from_counts`. Batches should be large enough to hold both classes.

    Args:
      p: ``(batch,)`` probabilities of class 1. Start them near 1/2: elsewhere the gradient vanishes.
      labels: ``(batch,)`` of 0 and 1.
      metric: see :func:`anyloss_from_counts`.
      beta: of ``fbeta``.
      L: steepness of :func:`soft_threshold`.
      eps: the least denominator.
      weights: ``(batch,)`` ≥ 0; 0 masks an example.

    Returns:
      A number, in the dtype of ``p``; computed in float32 at least.

    Raises:
      ValueError: shapes that disagree, labels other than 0 and 1, an unknown metric, a number out of range.

    Source: Han, Moniz, Chawla (2024), arXiv 2405.14745.

    >>> p, labels = jnp.array([0.9, 0.8, 0.1]), jnp.array([1, 0, 0])
    >>> round(float(anyloss(p, labels, metric="f1")), 4)  # one of two found is right: F1 is 2/3
    0.3333
    """
    counts = soft_confusion_matrix(p, labels, L=L, weights=weights)
    return anyloss_from_counts(counts, metric=metric, beta=beta, eps=eps).astype(p.dtype)


def anyloss_from_logits(
    logits: Float[Array, " batch"],
    labels: Int[Array, "..."],
    *,
    metric: str = "f1",
    beta: Number = 1.0,
    L: Number = 73.0,
    eps: Number = 1e-7,
    weights: Float[Array, "..."] | None = None,
) -> Scalar:
    """:func:`anyloss` of the sigmoid of logits.

    Args:
      logits: ``(batch,)``, one number for each example.
      labels: ``(batch,)`` of 0 and 1.
      metric: see :func:`anyloss_from_counts`.
      beta: of ``fbeta``.
      L: steepness of :func:`soft_threshold`.
      eps: the least denominator.
      weights: ``(batch,)`` ≥ 0; 0 masks an example.

    Returns:
      A number, in the dtype of the logits; computed in float32 at least.

    Raises:
      ValueError: as :func:`anyloss`.

    Source: Han, Moniz, Chawla (2024), arXiv 2405.14745.

    >>> round(float(anyloss_from_logits(jnp.array([3.0, 2.0, -4.0]), jnp.array([1, 0, 0]))), 4)
    0.3333
    """
    check_finite_number("L", L, low=float(np.finfo(np.float32).tiny))
    # sigmoid(z) - 1/2 without the difference
    centred = 0.5 * jnp.tanh(0.5 * widened(logits))
    counts = _counts("anyloss_from_logits", L * centred, labels, weights)
    return anyloss_from_counts(counts, metric=metric, beta=beta, eps=eps).astype(logits.dtype)


def _counts(where, x, labels, weights):
    """The matrix of decisions sigmoid(x)."""
    if labels.shape != x.shape or (weights is not None and weights.shape != x.shape):
        of = "" if weights is None else f" and weights {weights.shape}"
        raise ValueError(f"{where}: predictions {x.shape}, labels {labels.shape}{of} disagree; give one of each")
    check_finite_number("labels", labels, low=0, high=1)
    w = jnp.ones_like(x) if weights is None else weights.astype(x.dtype)
    y, yes, no = labels.astype(x.dtype), jax.nn.sigmoid(x), jax.nn.sigmoid(-x)
    positive, negative = w * y, w * (1 - y)
    return SoftConfusion(*(jnp.sum(a) for a in (negative * no, negative * yes, positive * no, positive * yes)))
