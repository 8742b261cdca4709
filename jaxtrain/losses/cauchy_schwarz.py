"""Cauchy-Schwarz divergences by kernels, and the information bottleneck for regression made of them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, Scalar, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def _rows(where: str, name: str, x: Array, like: Array | None = None) -> Array:
    """As (samples, features), in float32 at least; a row of numbers is one feature."""
    if x.ndim not in (1, 2):
        raise ValueError(f"{where}: {name} must be (samples,) or (samples, features), got {x.shape}")
    if like is not None and len(x) != len(like):
        raise ValueError(f"{where}: {name} has {len(x)} samples, others {len(like)}")
    return widened(x if x.ndim == 2 else x[:, None])


def _log_gram(x: Array, y: Array, bandwidth: Number) -> Array:
    """-|x_i - y_j|^2 / (2 bandwidth^2), without an array of all the differences."""
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"{x.shape[-1]} and {y.shape[-1]} features cannot be compared")
    middle = jax.lax.stop_gradient(jnp.mean(y, axis=0))  # distances do not see it, cancellation does
    x, y = (x - middle) / bandwidth, (y - middle) / bandwidth
    cross = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.minimum(cross - 0.5 * (x**2).sum(-1)[:, None] - 0.5 * (y**2).sum(-1), 0.0)


def gaussian_gram(
    x: Float[Array, "n ..."], y: Float[Array, "m ..."], *, bandwidth: Number
) -> Float[Array, "n m"]:  # fmt: skip
    r"""Gaussian kernels of all pairs: :math:`\exp(-\|x_i - y_j\|^2 / (2 \sigma^2))`.

    Args:
      x: ``(n,)`` or ``(n, features)``.
      y: ``(m,)`` or ``(m, features)``.
      bandwidth: :math:`\sigma` > 0, in the unit of the features; may be traced.

    Returns:
      ``(n, m)``, in float32 at least.

    Raises:
      ValueError: shapes that disagree; a bandwidth that is not positive.

    Source: Yu et al. (2024), arXiv 2404.17951.

    >>> round(float(gaussian_gram(jnp.array([0.0]), jnp.array([2.0]), bandwidth=1.0)[0, 0]), 4)  # e^-2
    0.1353
    """
    check_finite_number("bandwidth", bandwidth, low=_TINY)
    x, y = _rows("gaussian_gram", "x", x), _rows("gaussian_gram", "y", y)
    return jnp.exp(_log_gram(x, y, bandwidth))


def cs_divergence(x: Float[Array, "n ..."], y: Float[Array, "m ..."], *, bandwidth: Number) -> Scalar:
    r"""How far two samples' kernel densities are apart, by the inequality of Cauchy and Schwarz.

    .. math:: D(p; q) = \log \int p^2 + \log \int q^2 - 2 \log \int p q \ge 0,

    for densities of Gaussian kernels of standard deviation :math:`\sigma / \sqrt 2`, exactly.

    Args:
      x: ``(n,)`` or ``(n, features)``, a sample of p.
      y: ``(m,)`` or ``(m, features)``, a sample of q.
      bandwidth: :math:`\sigma` > 0; may be traced.

    Returns:
      A scalar ≥ 0 up to rounding, in nats.

    Raises:
      ValueError: shapes that disagree; a bandwidth that is not positive.

    Source: Yu et al. (2024), arXiv 2404.17951.

    >>> float(cs_divergence(jnp.array([0.0]), jnp.array([2.0]), bandwidth=1.0))  # 2 · 2^2 / 2
    4.0
    """
    check_finite_number("bandwidth", bandwidth, low=_TINY)
    x, y = _rows("cs_divergence", "x", x), _rows("cs_divergence", "y", y)
    xx, yy, xy = (_log_mean(_log_gram(a, b, bandwidth)) for a, b in ((x, x), (y, y), (x, y)))
    return xx + yy - 2 * xy


def _log_mean(logs: Array) -> Array:
    return jax.nn.logsumexp(logs) - np.log(logs.size)


def conditional_cs_divergence(
    x: Float[Array, "n ..."],
    y: Float[Array, "n ..."],
    y_hat: Float[Array, "n ..."],
    *,
    bandwidth_x: Number,
    bandwidth_y: Number,
) -> Scalar:
    r"""How far predictions are from targets, both given the input: :math:`D(p(y|x); q(\hat y|x))`.

    With kernels :math:`K` of inputs, :math:`L` of targets, :math:`\hat L` of predictions and :math:`M_{ji}` of a
    prediction and a target,

    .. math:: \log \sum_j \frac{\sum_i K_{ji} L_{ji}}{(\sum_i K_{ji})^2}
       + \log \sum_j \frac{\sum_i K_{ji} \hat L_{ji}}{(\sum_i K_{ji})^2}
       - 2 \log \sum_j \frac{\sum_i K_{ji} M_{ji}}{(\sum_i K_{ji})^2}.

    It is 0 where the predictions are the targets; as an estimate it may fall below 0 elsewhere. Sums are of logarithms:
    far predictions give a large number and no infinity.

    Args:
      x: ``(n,)`` or ``(n, features)`` inputs.
      y: ``(n,)`` or ``(n, outputs)`` targets.
      y_hat: like ``y``, predictions.
      bandwidth_x: of the kernel of inputs, > 0; may be traced.
      bandwidth_y: of the kernel of outputs, > 0; may be traced.

    Returns:
      A scalar in nats; it belongs to the batch.

    Raises:
      ValueError: shapes that disagree; a bandwidth that is not positive.

    Source: Yu et al. (2024), arXiv 2404.17951.

    >>> x, y = jnp.array([0.0, 1.0, 2.0]), jnp.array([1.0, 2.0, 4.0])
    >>> float(conditional_cs_divergence(x, y, y, bandwidth_x=1.0, bandwidth_y=1.0))
    0.0
    """
    check_finite_number("bandwidth_x", bandwidth_x, low=_TINY)
    check_finite_number("bandwidth_y", bandwidth_y, low=_TINY)
    where = "conditional_cs_divergence"
    x = _rows(where, "x", x)
    y, y_hat = _rows(where, "y", y, x), _rows(where, "y_hat", y_hat, x)
    k = _log_gram(x, x, bandwidth_x)
    k = k - 2 * jax.nn.logsumexp(k, axis=1, keepdims=True)
    real, found, mixed = (
        jax.nn.logsumexp(k + _log_gram(a, b, bandwidth_y)) for a, b in ((y, y), (y_hat, y_hat), (y_hat, y))
    )
    return real + found - 2 * mixed


def cs_qmi(x: Float[Array, "n ..."], t: Float[Array, "n ..."], *, bandwidth_x: Number, bandwidth_t: Number) -> Scalar:
    r"""Mutual information by the divergence of the joint kernel density from the product of its marginals.

    .. math:: I(x; t) = \log \Big(\frac1{N^2} \sum_{ij} K_{ij} Q_{ij}\Big)
       + \log \Big(\frac1{N^4} \sum_{ij} K_{ij} \sum_{ij} Q_{ij}\Big)
       - 2 \log \Big(\frac1{N^3} \sum_i \sum_j K_{ij} \sum_k Q_{ik}\Big).

    Args:
      x: ``(n,)`` or ``(n, features)``.
      t: ``(n,)`` or ``(n, units)``.
      bandwidth_x: of the kernel :math:`K`, > 0; may be traced.
      bandwidth_t: of the kernel :math:`Q`, > 0; may be traced.

    Returns:
      A scalar ≥ 0 up to rounding, in nats; it belongs to the batch.

    Raises:
      ValueError: shapes that disagree; a bandwidth that is not positive.

    Source: Yu et al. (2024), arXiv 2404.17951.

    >>> x = jnp.array([0.0, 1.0, 5.0])
    >>> abs(float(cs_qmi(x, jnp.ones(3), bandwidth_x=1.0, bandwidth_t=1.0))) < 1e-6  # a constant tells nothing
    True
    """
    check_finite_number("bandwidth_x", bandwidth_x, low=_TINY)
    check_finite_number("bandwidth_t", bandwidth_t, low=_TINY)
    x = _rows("cs_qmi", "x", x)
    t = _rows("cs_qmi", "t", t, x)
    k, q = _log_gram(x, x, bandwidth_x), _log_gram(t, t, bandwidth_t)
    of_row = jax.nn.logsumexp(k, axis=1) + jax.nn.logsumexp(q, axis=1)
    mixed = jax.nn.logsumexp(of_row) - 3 * np.log(len(x))
    return _log_mean(k + q) + _log_mean(k) + _log_mean(q) - 2 * mixed


def cs_ib_loss(
    x: Float[Array, "n ..."],
    t: Float[Array, "n ..."],
    y: Float[Array, "n ..."],
    y_hat: Float[Array, "n ..."],
    *,
    beta: Number = 0.01,
    bandwidth_x: Number = 1.0,
    bandwidth_t: Number = 1.0,
    bandwidth_y: Number = 1.0,
) -> Scalar:
    r"""Information bottleneck for regression: predict, by a code that knows little of the input.

    .. math:: D(p(y|x); q(\hat y|x)) + \beta\, I(x; t),

    by :func:`conditional_cs_divergence` and :func:`cs_qmi`. The code t is usually sampled, mean plus noise.

    Args:
      x: ``(n,)`` or ``(n, features)`` inputs.
      t: ``(n,)`` or ``(n, units)`` codes.
      y: ``(n,)`` or ``(n, outputs)`` targets.
      y_hat: like ``y``, predictions.
      beta: the price of information, ≥ 0; may be traced.
      bandwidth_x: of the kernel of inputs, > 0; may be traced. So are the others.
      bandwidth_t: of the kernel of codes.
      bandwidth_y: of the kernel of outputs.

    Returns:
      A scalar; it belongs to the batch and cannot be told apart by example.

    Raises:
      ValueError: shapes that disagree; a number out of range.

    Source: Yu et al. (2024), arXiv 2404.17951.

    >>> x, y = jnp.array([0.0, 1.0, 2.0]), jnp.array([1.0, 2.0, 4.0])
    >>> float(cs_ib_loss(x, x, y, y, beta=0.0))
    0.0
    """
    check_finite_number("beta", beta, low=0.0)
    fit = conditional_cs_divergence(x, y, y_hat, bandwidth_x=bandwidth_x, bandwidth_y=bandwidth_y)
    return fit + beta * cs_qmi(x, t, bandwidth_x=bandwidth_x, bandwidth_t=bandwidth_t)
