"""Bias loss: cross-entropy that counts less where the features of an example hardly vary."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Scalar

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, surprise, widened


class BiasLossState(NamedTuple):
    """State of :func:`bias_loss`: the lowest variance of features seen so far."""

    lowest: Float[Scalar, ""]


def feature_variance(features: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    r"""The variance of all entries of each example's features: :math:`\frac{1}{m - 1} \sum_j (f_j - \bar f)^2`.

    Args:
      features: ``(batch, ...)``, the last feature map before pooling, at least two entries for each example.

    Returns:
      ``(batch,)``, in float32 at least.

    Raises:
      ValueError: fewer than two entries for each example.

    Source: Abrahamyan, Ziatchin, Chen, Deligiannis (2021), arXiv 2107.11170.

    >>> feature_variance(jnp.array([[1.0, 3.0], [2.0, 2.0]])).tolist()
    [2.0, 0.0]
    """
    entries = features.size // max(features.shape[0], 1) if features.ndim else 0
    if features.ndim < 2 or (features.shape[0] and entries < 2):
        raise ValueError(f"feature_variance: features need two entries for each example, got shape {features.shape}")
    return jnp.var(widened(features), axis=tuple(range(1, features.ndim)), ddof=1)


def bias_loss(
    logits: Float[Array, "batch n"],
    labels: Int[Array, "..."],
    features: Float[Array, "..."],
    *,
    alpha: Number = 0.3,
    beta: Number = 0.3,
    norm: str = "global",
    state: BiasLossState | None = None,
    where: Bool[Array, "..."] | None = None,
) -> tuple[Float[Array, " batch"], BiasLossState]:
    r"""Cross-entropy weighted by how much the features of the example vary, within those of its batch.

    .. math:: \ell_i = -\big(e^{\alpha s_i} - \beta\big) \log p_{y_i}, \qquad
       s_i = \frac{v_i - v_{\min}}{\max_j v_j - v_{\min}} \in [0, 1].

    Weights lie between :math:`1 - \beta` and :math:`e^\alpha - \beta`, 0.7 and 1.05 at the defaults: an example whose
    features tell little gets less say. They are constants to the gradient. Where all variances are equal
    :math:`s = 0`, and for an example whose variance is not finite, which has no influence on the others' either. The
    losses of a batch depend on each other.

    Args:
      logits: ``(batch, n)``, n ≥ 2.
      labels: ``(batch,)`` classes in ``[0, n)``.
      features: ``(batch, ...)``, the last feature map before pooling.
      alpha: :math:`\alpha` ≥ 0; may be traced.
      beta: :math:`\beta` in [0, 1]; may be traced.
      norm: :math:`v_{\min}` is the lowest variance of the batch (``"local"``) or so far in training (``"global"``).
      state: what the call before returned; none at first. One number, part of the model state.
      where: ``(batch,)``, False for padding: it has the loss 0 and no influence.

    Returns:
      ``(batch,)``, one loss for each example, in the dtype of the logits; and the state for the next batch.

    Raises:
      ValueError: shapes that disagree, an unknown norm, a label or a number out of range.

    Source: Abrahamyan, Ziatchin, Chen, Deligiannis (2021), arXiv 2107.11170.

    >>> features = jnp.array([[1.0, 1.0], [0.0, 2.0]])
    >>> losses, state = bias_loss(jnp.zeros((2, 2)), jnp.array([0, 1]), features)
    >>> [round(float(x), 4) for x in losses / jnp.log(2.0)], float(state.lowest)  # 1 - 0.3 and e^0.3 - 0.3
    ([0.7, 1.0499], 0.0)
    """
    if logits.ndim != 2 or features.shape[:1] != logits.shape[:1]:
        raise ValueError(
            f"bias_loss: logits (batch, classes) and features (batch, ...) are needed, "
            f"got {logits.shape} and {features.shape}"
        )
    labels = check_labels("bias_loss", logits, labels)
    check_finite_number("alpha", alpha, low=0.0)
    check_finite_number("beta", beta, low=0.0, high=1.0)
    if norm not in ("global", "local"):
        raise ValueError(f"bias_loss: norm must be 'global' or 'local', got {norm!r}")
    valid = jnp.ones(labels.shape, bool) if where is None else where
    if valid.shape != labels.shape:
        raise ValueError(f"bias_loss: where of shape {valid.shape} for a batch of {labels.shape[0]}")
    v = feature_variance(jax.lax.stop_gradient(features))
    before = jnp.asarray(jnp.inf, v.dtype) if state is None else jax.lax.stop_gradient(state.lowest).astype(v.dtype)
    # one overflow must not be remembered for ever
    known = valid & jnp.isfinite(v)
    batch_lowest = jnp.min(v, where=known, initial=jnp.inf)
    lowest = jnp.minimum(before, batch_lowest)
    start = lowest if norm == "global" else batch_lowest
    span = jnp.max(v, where=known, initial=-jnp.inf) - start
    # a span that is no positive number: all equal, or all padding
    flat = ~(span > 0)
    s = jnp.where(flat | ~known, 0.0, (v - start) / jnp.where(flat, 1.0, span))
    # what padding holds may be anything, NaN too, which would reach the gradient
    entropy = surprise(jnp.where(valid[:, None], logits, 0), labels)
    losses = jnp.where(valid, (jnp.exp(alpha * s) - beta) * entropy, 0.0)
    return losses.astype(logits.dtype), BiasLossState(lowest)
