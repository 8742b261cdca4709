"""Losses for classes of very unequal size: adjusted and scaled logits, margins wider for rare classes, weights."""

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


def adjusted_logits(where: str, logits: Array, class_counts: Array | np.ndarray, tau: Array | Number) -> Array:
    """z + tau log n, in float32 at least; a tau for each row may stand in an array."""
    z = widened(logits)
    return z + (tau * _log_counts(where, class_counts, z)).astype(z.dtype)


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
    labels = check_labels("logit_adjusted_loss", logits, labels)
    check_finite_number("tau", tau)
    return surprise(adjusted_logits("logit_adjusted_loss", logits, class_counts, tau), labels).astype(logits.dtype)


def vs_loss(
    logits: Float[Array, "*batch n"],
    labels: Int[Array, "..."],
    class_counts: Array | np.ndarray,
    *,
    gamma: Number = 0.3,
    tau: Number = 1.0,
) -> Float[Array, "*batch"]:
    r"""Vector scaling: logits are divided by a factor for each class as well as adjusted, in training only.

    .. math:: \ell = -\log \mathrm{softmax}_y\Big(\frac{z_k}{\Delta_k} + \tau \log \pi_k\Big), \qquad
       \Delta_k = \Big(\frac{\max_j n_j}{n_k}\Big)^\gamma, \quad \pi_k = \frac{n_k}{\sum_j n_j}.

    The factor goes on working where training fits every example and the sum no longer matters. At :math:`\gamma = 0` it
    is :func:`logit_adjusted_loss`.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      labels: ``(...)`` classes in ``[0, n)``.
      class_counts: ``(n,)``, > 0: examples of each class in training.
      gamma: :math:`\gamma` ≥ 0; may be traced.
      tau: :math:`\tau`; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, a label or a number out of range.

    Source: Kini, Paraskevas, Oymak, Thrampoulidis (2021), arXiv 2103.01550.

    >>> loss = vs_loss(jnp.log(jnp.array([[3.0, 4.0]])), jnp.array([1]), jnp.array([4, 1]), gamma=0.5, tau=1.0)
    >>> round(float(loss[0]), 4)  # of 3 · 4 against 4^(1/2): log 7
    1.9459
    """
    labels = check_labels("vs_loss", logits, labels)
    check_finite_number("gamma", gamma, low=0.0)
    check_finite_number("tau", tau)
    z = widened(logits)
    log_counts = _log_counts("vs_loss", class_counts, z)
    shrunk = z * jnp.exp(gamma * (log_counts - jnp.max(log_counts))).astype(z.dtype)
    return surprise(shrunk + (tau * log_counts).astype(z.dtype), labels).astype(logits.dtype)


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
      ``(...)``, one loss for each example, in the dtype of ``cosines``. The paper's deferred re-weighting is
      :func:`deferred_reweight`.

    Raises:
      ValueError: shapes that disagree, a label or a number out of range.

    Source: Cao, Wei, Gaidon, Arechiga, Ma (2019), arXiv 1906.07413.

    >>> loss = ldam_loss(jnp.array([[0.5, 0.0]]), jnp.array([0]), jnp.array([1, 16]), scale=1.0)
    >>> round(float(loss[0]), 4)  # log 2: the margin takes all of the lead
    0.6931
    """
    labels = check_labels("ldam_loss", cosines, labels)
    check_finite_number("max_margin", max_margin, low=0.0)
    check_finite_number("scale", scale, low=float(np.finfo(np.float32).tiny))
    z = widened(cosines)
    log_counts = _log_counts("ldam_loss", class_counts, z)
    margins = (max_margin * jnp.exp(0.25 * (jnp.min(log_counts) - log_counts))).astype(z.dtype)
    own = jax.nn.one_hot(labels, z.shape[-1], dtype=bool)
    return surprise(scale * jnp.where(own, z - margins, z), labels).astype(cosines.dtype)


def deferred_reweight(
    class_counts: Array | np.ndarray, step: Array | Number, *, start: Array | Number, beta: Number = 0.9999
) -> Float[Array, " n"]:
    r"""Weights of classes by their effective number of examples, from some step on; 1 before.

    .. math:: w_k \propto \frac{1 - \beta}{1 - \beta^{n_k}}, \qquad \sum_k w_k = n.

    At :math:`\beta = 0` all weights are 1, towards 1 they become :math:`\propto 1 / n_k`. An example's loss is multiplied
    by the weight of its label; divide the sum over a batch by the sum of these weights to have PyTorch's weighted mean.

    Args:
      class_counts: ``(n,)``, > 0: examples of each class in training.
      step: of training; may be traced.
      start: the first step with weights; the last fifth of training in the paper.
      beta: :math:`\beta` in [0, 1); may be traced. A Python number keeps its digits: 0.9999 in single precision is off by
        1e-8, which is 2e-4 of 1 - 0.9999.

    Returns:
      ``(n,)`` in float32 at least.

    Raises:
      ValueError: counts that are no vector, or counts or beta out of range.

    Sources: Cui, Jia, Lin, Song, Belongie (2019), arXiv 1901.05555; Cao, Wei, Gaidon, Arechiga, Ma (2019), arXiv 1906.07413.

    >>> rows = [deferred_reweight(jnp.array([2, 1]), step, start=10, beta=0.5) for step in (9, 10)]
    >>> [[round(float(w), 4) for w in row] for row in rows]  # 1 / (1 - 1/4) against 1 / (1 - 1/2)
    [[1.0, 1.0], [0.8, 1.2]]
    """
    if np.ndim(class_counts) != 1:
        raise ValueError(f"deferred_reweight: class_counts need shape (n,), got {np.shape(class_counts)}")
    check_finite_number("class_counts", class_counts, low=float(np.finfo(np.float32).tiny))
    check_finite_number("beta", beta, low=0.0, high=1 - 1e-7)
    counts = jnp.asarray(class_counts, jnp.result_type(float))
    if isinstance(beta, jax.Array):
        log_beta = jnp.log(beta)
    else:
        with np.errstate(divide="ignore"):  # 0: all numbers are 1
            log_beta = np.log(beta)
    # 1 - beta^n without cancellation; the factor 1 - beta is the same for all
    weights = -1 / jnp.expm1(counts * log_beta)
    weights = weights * (len(weights) / jnp.sum(weights))
    return jnp.where(jnp.asarray(step) >= start, weights, 1.0)
