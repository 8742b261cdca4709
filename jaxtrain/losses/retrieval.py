"""Retrieval where many targets fit a query: a loss that starts coarse, with jittered targets, and ends fine."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def _check_pairs(where: str, queries: Array, **others: Array) -> None:
    if queries.ndim != 2:
        raise ValueError(f"{where}: queries of shape {queries.shape}; give (batch, features)")
    for name, other in others.items():
        if other.shape != queries.shape:
            raise ValueError(f"{where}: queries {queries.shape} and {name} {other.shape} disagree")


def batch_classification_loss(
    queries: Float[Array, "..."], targets: Float[Array, "..."], *, scale: Number = 1.0
) -> Float[Array, " batch"]:
    r"""Cross-entropy of each query choosing its own target among those of the batch.

    .. math:: -\log \frac{\exp(c\, q_i^\top t_i)}{\sum_j \exp(c\, q_i^\top t_j)}

    The examples of a batch are coupled: each is a wrong answer to the others. The embeddings are taken as they are;
    normalise them before, and let ``scale`` or their length be the inverse temperature.

    Args:
      queries: ``(batch, features)``.
      targets: ``(batch, features)``; row :math:`i` is the answer to query :math:`i`.
      scale: :math:`c` > 0; may be traced.

    Returns:
      ``(batch,)``, one loss for each query.

    Raises:
      ValueError: shapes that disagree, or ``scale`` out of range.

    Source: Chen, Zheng, Ji, Qu, Chua (2024), arXiv 2211.07394.

    >>> batch_classification_loss(jnp.zeros((4, 2)), jnp.ones((4, 2)))[0] == jnp.log(4.0)
    Array(True, dtype=bool)
    """
    check_finite_number("scale", scale, low=_TINY)
    _check_pairs("batch_classification_loss", queries, targets=targets)
    scores = scale * jnp.matmul(widened(queries), widened(targets).T, precision="highest")
    labels = jnp.arange(len(scores))
    return optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels).astype(queries.dtype)


def feature_jitter(
    key: Key, features: Float[Array, "..."], *, alpha_scale: Number = 1.0, beta_scale: Number = 1.0
) -> Float[Array, "batch features"]:
    r"""Embeddings spread out by noise as strong as their own entries vary: targets for coarse matching.

    With :math:`\mu, \sigma` the mean and standard deviation (:math:`d - 1` in the denominator) of one embedding's
    :math:`d` entries, and :math:`\bar f` the embedding normalised (with :math:`d`, and :math:`10^{-5}` added to the
    variance),

    .. math:: \tilde f = \alpha \odot \bar f + \beta, \qquad
       \alpha_k \sim a\, \mathcal N(1, \sigma^2), \quad \beta_k \sim b\, \mathcal N(\mu, \sigma^2).

    No gradient flows through :math:`\alpha` and :math:`\beta`.

    Args:
      key: decides the noise.
      features: ``(batch, d)``, d ≥ 2.
      alpha_scale: :math:`a` ≥ 0; may be traced.
      beta_scale: :math:`b` ≥ 0; may be traced.

    Returns:
      ``(batch, d)``, in the dtype of the features.

    Raises:
      TypeError: a key that is not one.
      ValueError: features without the two axes, one feature alone, or a scale out of range.

    Source: Chen, Zheng, Ji, Qu, Chua (2024), arXiv 2211.07394.

    >>> feature_jitter(jax.random.key(0), jnp.full((1, 3), 2.0)).tolist()  # nothing varies
    [[2.0, 2.0, 2.0]]
    """
    check_key(key, where="feature_jitter")
    check_finite_number("alpha_scale", alpha_scale, low=0.0)
    check_finite_number("beta_scale", beta_scale, low=0.0)
    if features.ndim != 2 or features.shape[1] < 2:
        raise ValueError(f"feature_jitter: features of shape {features.shape}; give (batch, features), 2 at least")
    f = widened(features)
    mean, variance = f.mean(1, keepdims=True), f.var(1, keepdims=True)
    normed = (f - mean) / jnp.sqrt(variance + 1e-5)
    d = f.shape[1]
    mu, sigma = jax.lax.stop_gradient(mean), jnp.sqrt(jax.lax.stop_gradient(variance) * d / (d - 1))
    noise = jax.random.normal(key, (2, *f.shape), f.dtype)
    alpha, beta = alpha_scale * (1 + sigma * noise[0]), beta_scale * (mu + sigma * noise[1])
    return (alpha * normed + beta).astype(features.dtype)


def uncertainty_regularized_retrieval_loss(
    queries: Float[Array, "..."],
    targets: Float[Array, "..."],
    jittered: Float[Array, "..."],
    *,
    progress: Number,
    gamma_scale: Number = 1.0,
) -> Float[Array, " batch"]:
    r"""From matching jittered targets, discounted by their spread, to matching the targets themselves.

    With :math:`\ell` the :func:`batch_classification_loss` and :math:`s` the standard deviation of all entries of the
    jittered targets of the batch (less one in the denominator),

    .. math:: L_i = \frac{\gamma}{2} \big(e^{-s}\, \ell_i(Q, \tilde F) + s\big) + (1 - \gamma)\, \ell_i(Q, F), \qquad
       \gamma = e^{-g\, t}.

    The examples of a batch are coupled. At the end, with :math:`g = 1`, the coarse part still has the weight 0.37.

    Args:
      queries: ``(batch, features)``.
      targets: ``(batch, features)``; row :math:`i` is the answer to query :math:`i`.
      jittered: ``(batch, features)``, :func:`feature_jitter` of the targets.
      progress: :math:`t`, the part of the epochs that is over, in [0, 1]; may be traced.
      gamma_scale: :math:`g` ≥ 0; may be traced.

    Returns:
      ``(batch,)``, one loss for each query.

    Raises:
      ValueError: shapes that disagree, or a number out of range.

    Source: Chen, Zheng, Ji, Qu, Chua (2024), arXiv 2211.07394.

    >>> zeros = jnp.zeros((4, 2))  # a spread of 0, and four equal answers: log 4 with weight 1/2
    >>> round(float(uncertainty_regularized_retrieval_loss(zeros, zeros, zeros, progress=0.0)[0]), 4)
    0.6931
    """
    check_finite_number("progress", progress, low=0.0, high=1.0)
    check_finite_number("gamma_scale", gamma_scale, low=0.0)
    _check_pairs("uncertainty_regularized_retrieval_loss", queries, targets=targets, jittered=jittered)
    q, f, noisy = widened(queries), widened(targets), widened(jittered)
    variance = jnp.var(noisy, ddof=1)
    # a square root of 0 has no gradient
    s = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    coarse = 0.5 * (jnp.exp(-s) * batch_classification_loss(q, noisy) + s)
    gamma = jnp.exp(-gamma_scale * jnp.asarray(progress, q.dtype))
    return (gamma * coarse + (1 - gamma) * batch_classification_loss(q, f)).astype(queries.dtype)


def recall_at_k(scores: Float[Array, "queries items"], targets: Int[Array, "..."], *, k: int) -> Float[Array, ""]:
    """The fraction of queries whose target is among the ``k`` best; ties count as ranked above it.

    Args:
      scores: ``(queries, items)``, higher is better.
      targets: ``(queries,)``, the item that answers each.
      k: 1 or more; static.

    Returns:
      A scalar in [0, 1].

    Raises:
      ValueError: shapes that disagree, or ``k`` below 1.

    Source: Chen, Zheng, Ji, Qu, Chua (2024), arXiv 2211.07394.

    >>> scores = jnp.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.1]])
    >>> [float(recall_at_k(scores, jnp.array([2, 1]), k=k)) for k in (1, 2)]
    [0.5, 1.0]
    """
    k = static_int("k", k, low=1)
    if targets.shape != scores.shape[:-1]:
        raise ValueError(f"recall_at_k: targets of shape {targets.shape} for scores {scores.shape}")
    own = jnp.take_along_axis(scores, targets[:, None], axis=1)
    return jnp.mean(jnp.sum(scores >= own, axis=1) <= k, dtype=jnp.float32)
