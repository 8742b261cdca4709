"""Softmax over angles: the cosine itself, or the density of a wrapped Cauchy distribution, one width for each class."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, cosines, surprise, widened


def _cosines(where: str, features: Array, class_weights: Array) -> Array:
    if features.ndim < 1:
        raise ValueError(f"{where}: features need shape (..., d), got a scalar")
    if class_weights.ndim != 2 or class_weights.shape[-1] != features.shape[-1]:
        raise ValueError(
            f"{where}: class_weights need shape (classes, {features.shape[-1]}), one row for each class, "
            f"got {class_weights.shape}"
        )
    return cosines(features, class_weights)


def _scale(scale_raw: Array | Number, scale: Number | None) -> Array:
    if scale is None:
        return 1 + jax.nn.softplus(widened(jnp.asarray(scale_raw, jnp.result_type(float, scale_raw))))
    check_finite_number("scale", scale, low=float(np.finfo(np.float32).tiny))
    return jnp.asarray(scale)


def cosine_softmax_logits(
    features: Float[Array, "*batch d"],
    class_weights: Float[Array, "..."],
    scale_raw: Array | Number = 0.0,
    *,
    scale: Number | None = None,
) -> Float[Array, "*batch n"]:
    r"""Logits from angles alone: :math:`z_k = s \cos\theta_k`, the baseline of :func:`wrapped_cauchy_logits`.

    Args:
      features: ``(..., d)``, of any length; a row of zeros has cosine 0 with all.
      class_weights: ``(n, d)``, one row for each class, of any length.
      scale_raw: learned; :math:`s = 1 + \mathrm{softplus}(\text{scale\_raw})`.
      scale: :math:`s` > 0 itself instead; may be traced.

    Returns:
      ``(..., n)``, in the dtype of the features; computed in float32 at least.

    Raises:
      ValueError: shapes that disagree, or a scale out of range.

    Source: Han (2023), WCDAS (baseline); Wang et al. (2018), arXiv 1801.05599.

    >>> cosine_softmax_logits(jnp.array([[3.0, 4.0]]), jnp.array([[2.0, 0.0], [0.0, 1.0]]), scale=10.0).round(4).tolist()
    [[6.0, 8.0]]
    """
    cos = _cosines("cosine_softmax_logits", features, class_weights)
    return (_scale(scale_raw, scale) * cos).astype(features.dtype)


def wrapped_cauchy_logits(
    features: Float[Array, "*batch d"],
    class_weights: Float[Array, "..."],
    gamma_raw: Float[Array, "..."],
    scale_raw: Array | Number = 0.0,
    *,
    scale: Number | None = None,
) -> Float[Array, "*batch n"]:
    r"""Logits that are the density of a wrapped Cauchy distribution at the angle between features and class.

    .. math:: z_k = \frac{s}{2\pi} \frac{1 - \gamma_k^2}{1 + \gamma_k^2 - 2 \gamma_k \cos\theta_k}, \qquad
       \gamma_k = \sigma(g_k), \qquad s = 1 + \mathrm{softplus}(\text{scale\_raw}).

    It is the density, not its logarithm. A :math:`\gamma` near 1 makes a sharp peak at angle 0, one near 0 makes all
    logits alike; they lie between :math:`\frac{s}{2\pi}\frac{1 - \gamma}{1 + \gamma}` and
    :math:`\frac{s}{2\pi}\frac{1 + \gamma}{1 - \gamma}`. The denominator is computed as
    :math:`(1 - \gamma)^2 + 2 \gamma (1 - \cos\theta)`, which does not cancel where both are close to 1.

    Args:
      features: ``(..., d)``, of any length; a row of zeros has cosine 0 with all.
      class_weights: ``(n, d)``, one row for each class, of any length.
      gamma_raw: ``(n,)``, :math:`g`, learned; starts at -1, 0 or 1 in the paper's runs; clipped to [-15, 15].
      scale_raw: learned; starts at 0.
      scale: :math:`s` > 0 itself instead; 250 in one of the paper's runs; may be traced.

    Returns:
      ``(..., n)``, in the dtype of the features; computed in float32 at least.

    Raises:
      ValueError: shapes that disagree, or a scale out of range.

    Source: Han (2023), Wrapped Cauchy Distributed Angular Softmax for Long-Tailed Visual Recognition.

    >>> logits = wrapped_cauchy_logits(jnp.array([[2.0, 0.0]]), jnp.eye(2), jnp.zeros(2), scale=2 * jnp.pi)
    >>> [round(x, 4) for x in logits[0].tolist()]  # 0.75 / 0.25 and 0.75 / 1.25
    [3.0, 0.6]
    """
    where = "wrapped_cauchy_logits"
    cos = _cosines(where, features, class_weights)
    if gamma_raw.shape != class_weights.shape[:1]:
        raise ValueError(f"{where}: gamma_raw of shape {gamma_raw.shape} for {class_weights.shape[0]} classes")
    g = jnp.clip(widened(gamma_raw), -15.0, 15.0)
    gamma, rest = jax.nn.sigmoid(g), jax.nn.sigmoid(-g)
    # rounding may bring the cosine above 1
    density = rest * (1 + gamma) / (rest**2 + 2 * gamma * jnp.maximum(1 - cos, 0.0)) / (2 * jnp.pi)
    return (_scale(scale_raw, scale) * density).astype(features.dtype)


def wcdas_loss(
    features: Float[Array, "*batch d"],
    labels: Int[Array, "..."],
    class_weights: Float[Array, "..."],
    gamma_raw: Float[Array, "..."],
    scale_raw: Array | Number = 0.0,
    *,
    scale: Number | None = None,
) -> Float[Array, "*batch"]:
    r"""Cross-entropy of :func:`wrapped_cauchy_logits`, which learn how sharp each class is.

    Args:
      features: ``(..., d)``.
      labels: ``(...)`` classes in ``[0, n)``.
      class_weights: ``(n, d)``, n ≥ 2.
      gamma_raw: ``(n,)``.
      scale_raw: learned scale.
      scale: a fixed one instead.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the features.

    Raises:
      ValueError: shapes that disagree, a label or a scale out of range.

    Source: Han (2023), Wrapped Cauchy Distributed Angular Softmax for Long-Tailed Visual Recognition.

    >>> loss = wcdas_loss(jnp.array([[2.0, 0.0]]), jnp.array([0]), jnp.eye(2), jnp.zeros(2), scale=2 * jnp.pi)
    >>> round(float(loss[0]), 4)  # log(1 + e^-2.4)
    0.0868
    """
    logits = wrapped_cauchy_logits(widened(features), class_weights, gamma_raw, scale_raw, scale=scale)
    labels = check_labels("wcdas_loss", logits, labels)
    return surprise(logits, labels).astype(features.dtype)
