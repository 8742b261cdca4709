"""The scores of CoLiDE: how badly a graph and the noise of its nodes explain data, and how cyclic the graph is."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, Scalar, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def _check_square(where: str, w: Array, cov: Array | None = None) -> None:
    if w.ndim != 2 or w.shape[0] != w.shape[1]:
        raise ValueError(f"{where}: weights of shape {w.shape}; give (nodes, nodes)")
    if cov is not None and cov.shape != w.shape:
        raise ValueError(f"{where}: weights {w.shape} and cov {cov.shape} disagree")


def logdet_acyclicity(weights: Float[Array, "..."], *, s: Number = 1.0) -> Scalar:
    r"""0 for a graph without cycles, positive for one with: smooth in the weights.

    .. math:: h_s(W) = d \log s - \log\det(s I - W \circ W), \qquad \nabla h_s = 2 W \circ (s I - W \circ W)^{-\top}

    It says so only where :math:`s I - W \circ W` is an M-matrix, that is where all eigenvalues of :math:`W \circ W` are
    smaller than s in modulus, as around 0 (and for every acyclic graph). Elsewhere it is a number without meaning.

    Args:
      weights: ``(d, d)``.
      s: how large weights may be, > 0; may be traced.

    Returns:
      A scalar, in the dtype of the weights.

    Raises:
      ValueError: weights that are not square; an s that is not positive.

    Source: Bello, Aragam, Ravikumar (2022), arXiv 2209.08037, as used by Saboksayr, Mateos, Tepper (2024), arXiv 2310.02895.

    >>> bool(logdet_acyclicity(jnp.array([[0.0, 5.0], [0.0, 0.0]])) == 0)
    True
    >>> round(float(logdet_acyclicity(jnp.array([[0.0, 0.5], [1.0, 0.0]]))), 4)  # -log(1 - 0.5² 1²)
    0.2877
    """
    check_finite_number("s", s, low=_TINY)
    _check_square("logdet_acyclicity", weights)
    w = widened(weights)
    # of I - W∘W / s: no difference of two large numbers
    return (-jnp.linalg.slogdet(jnp.eye(len(w), dtype=w.dtype) - w * w / s)[1]).astype(weights.dtype)


def residual(weights: Array, cov: Array) -> tuple[Array, Array]:
    """cov (I - W), and the variance of what each node leaves unexplained: the diagonal of (I - W)' cov (I - W)."""
    rest = jnp.eye(len(weights), dtype=weights.dtype) - weights
    pulled = jnp.matmul(cov, rest, precision="highest")
    return pulled, jnp.sum(rest * pulled, axis=0)


def _root(variance: Array) -> Array:
    """0, without a slope, where nothing is left unexplained, which rounding makes negative as well."""
    left = variance > 0
    return jnp.where(left, jnp.sqrt(jnp.where(left, variance, 1)), 0 * variance)


def colide_ev_score(weights: Float[Array, "..."], cov: Float[Array, "..."], sigma: Number) -> Scalar:
    r"""How badly weights and one noise level for all nodes explain the data; convex in both together.

    .. math:: S(W, \sigma) = \frac{1}{2\sigma} \mathrm{tr}\big((I - W)^\top \Sigma (I - W)\big) + \frac{d\, \sigma}{2}

    Args:
      weights: ``(d, d)``, ``[i, j]`` that of the edge from i to j.
      cov: ``(d, d)`` covariance :math:`\Sigma` of the data.
      sigma: the standard deviation of the noise, > 0; may be traced.

    Returns:
      A scalar, in the dtype of the weights; without a penalty on their size.

    Raises:
      ValueError: shapes that disagree; a sigma that is not positive.

    Source: Saboksayr, Mateos, Tepper (2024), arXiv 2310.02895.

    >>> float(colide_ev_score(jnp.zeros((2, 2)), 4 * jnp.eye(2), 2.0))  # (4 + 4) / (2 · 2) + 2
    4.0
    """
    check_finite_number("sigma", sigma, low=_TINY)
    _check_square("colide_ev_score", weights, cov)
    variances = residual(widened(weights), widened(cov))[1]
    return (variances.sum() / (2 * sigma) + len(weights) * jnp.asarray(sigma) / 2).astype(weights.dtype)


def colide_nv_score(weights: Float[Array, "..."], cov: Float[Array, "..."], sigma_vec: Float[Array, "..."]) -> Scalar:
    r"""How badly weights and a noise level for each node explain the data; convex in both together.

    .. math:: S(W, \sigma) = \frac12 \sum_j \frac{\big[(I - W)^\top \Sigma (I - W)\big]_{jj}}{\sigma_j} + \frac12 \sum_j \sigma_j

    Args:
      weights: ``(d, d)``, ``[i, j]`` that of the edge from i to j.
      cov: ``(d, d)`` covariance :math:`\Sigma` of the data.
      sigma_vec: ``(d,)`` standard deviations of the noise, > 0.

    Returns:
      A scalar, in the dtype of the weights; without a penalty on their size.

    Raises:
      ValueError: shapes that disagree; a sigma that is not positive.

    Source: Saboksayr, Mateos, Tepper (2024), arXiv 2310.02895.

    >>> float(colide_nv_score(jnp.zeros((2, 2)), jnp.diag(jnp.array([4.0, 9.0])), jnp.array([2.0, 3.0])))
    5.0
    """
    check_finite_number("sigma_vec", sigma_vec, low=_TINY)
    _check_square("colide_nv_score", weights, cov)
    if sigma_vec.shape != weights.shape[:1]:
        raise ValueError(f"colide_nv_score: sigma_vec of shape {sigma_vec.shape}; give {weights.shape[:1]}")
    variances, sigma = residual(widened(weights), widened(cov))[1], widened(sigma_vec)
    return (jnp.sum(variances / sigma + sigma) / 2).astype(weights.dtype)


def colide_ev_sigma(weights: Float[Array, "..."], cov: Float[Array, "..."]) -> Scalar:
    r"""The noise that minimises :func:`colide_ev_score`: :math:`\sqrt{\mathrm{tr}((I - W)^\top \Sigma (I - W)) / d}`.

    Args:
      weights: ``(d, d)``.
      cov: ``(d, d)`` covariance of the data.

    Returns:
      A scalar, in the dtype of the weights; 0, without a slope, where nothing is left unexplained.

    Raises:
      ValueError: shapes that disagree.

    Source: Saboksayr, Mateos, Tepper (2024), arXiv 2310.02895.

    >>> float(colide_ev_sigma(jnp.zeros((2, 2)), jnp.diag(jnp.array([1.0, 7.0]))))
    2.0
    """
    _check_square("colide_ev_sigma", weights, cov)
    return _root(residual(widened(weights), widened(cov))[1].mean()).astype(weights.dtype)


def colide_nv_sigma(weights: Float[Array, "..."], cov: Float[Array, "..."]) -> Float[Array, " nodes"]:
    r"""The noise that minimises :func:`colide_nv_score`: the roots of the diagonal of :math:`(I - W)^\top \Sigma (I - W)`.

    Args:
      weights: ``(d, d)``.
      cov: ``(d, d)`` covariance of the data.

    Returns:
      ``(d,)``, in the dtype of the weights; 0, without a slope, where nothing is left unexplained.

    Raises:
      ValueError: shapes that disagree.

    Source: Saboksayr, Mateos, Tepper (2024), arXiv 2310.02895.

    >>> colide_nv_sigma(jnp.zeros((2, 2)), jnp.diag(jnp.array([1.0, 4.0]))).tolist()
    [1.0, 2.0]
    """
    _check_square("colide_nv_sigma", weights, cov)
    return _root(residual(widened(weights), widened(cov))[1]).astype(weights.dtype)
