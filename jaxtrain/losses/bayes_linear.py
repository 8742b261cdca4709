"""The best that any predictor can do on linear tasks whose noise is uncertain: Bayes' rule over several noise levels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.numerics import over_matrices
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


class BayesPredictive(NamedTuple):
    """What is to be expected of a target, its variance (noise included), and the expected variance of the noise."""

    mean: Array
    var: Array
    noise_var: Array


def check_noise(where: str, noise_grid: Array, noise_weights: Array | None, prior_var: Number) -> None:
    """Raises unless there are levels > 0 with as many weights, one of them positive, and a variance > 0."""
    if noise_grid.ndim != 1 or (noise_weights is not None and noise_weights.shape != noise_grid.shape):
        shape = None if noise_weights is None else noise_weights.shape
        raise ValueError(f"{where}: noise_grid {noise_grid.shape} and noise_weights {shape}; give (levels,) for both")
    check_finite_number("prior_var", prior_var, low=_TINY)
    check_finite_number("noise_grid", noise_grid, low=_TINY)
    if noise_weights is not None:
        check_finite_number("noise_weights", noise_weights, low=0.0)
        if not isinstance(noise_weights, jax.core.Tracer) and not np.any(np.asarray(noise_weights) > 0):
            raise ValueError(f"{where}: all noise_weights are 0; give at least one level a probability")


def log_weights(noise_grid: Array, noise_weights: Array | None) -> Array:
    if noise_weights is None:
        return jnp.zeros_like(widened(noise_grid))
    w = widened(noise_weights)
    # a level that is left out has no slope: that of log 0 would be NaN for all
    return jnp.where(w > 0, jnp.log(jnp.where(w > 0, w, 1)), -jnp.inf)


def _check_data(where: str, x: Array, y: Array) -> None:
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"{where}: x of shape {x.shape} and y {y.shape}; give (pairs, dim) and (pairs,)")


def _whitened(cov: Array, y: Array) -> tuple[Array, Array]:
    """Cholesky factors of a stack of covariances, and y in their units."""
    factors = over_matrices(jnp.linalg.cholesky)(cov)
    targets = jnp.broadcast_to(y, cov.shape[:-1])[..., None]
    return factors, jax.scipy.linalg.solve_triangular(factors, targets, lower=True)[..., 0]


def _mixed(log_w: Array, mean: Array, var: Array, noise: Array) -> BayesPredictive:
    """The mixture over noise levels, which lie along the first axis."""
    w = jax.nn.softmax(log_w, axis=0)
    centre = jnp.sum(w * mean, axis=0)
    levels = jnp.broadcast_to(noise.reshape(-1, *[1] * (mean.ndim - 1)) ** 2, mean.shape)
    return BayesPredictive(
        mean=centre, var=jnp.sum(w * (var + (mean - centre) ** 2), axis=0), noise_var=jnp.sum(w * levels, axis=0)
    )


def bayes_linear_regression_predictive(
    x: Float[Array, "..."],
    y: Float[Array, "..."],
    x_query: Float[Array, "*queries dim"],
    *,
    prior_var: Number,
    noise_grid: Float[Array, "..."],
    noise_weights: Float[Array, "..."] | None = None,
    where: Bool[Array, "..."] | None = None,
) -> BayesPredictive:
    r"""The best prediction from pairs: linear with normal weights, and one of several noise levels.

    With :math:`C_k = v X X^\top + \sigma_k^2 I`, the level :math:`k` has the probability :math:`w_k \propto p_k\,
    \mathcal N(y; 0, C_k)` and predicts :math:`\mu_k = v\, q^\top X^\top C_k^{-1} y` with the variance :math:`s_k = v\, |q|^2
    - v^2 q^\top X^\top C_k^{-1} X q + \sigma_k^2`;

    .. math:: \mu = \sum_k w_k \mu_k, \qquad \sigma^2 = \sum_k w_k \big(s_k + (\mu_k - \mu)^2\big).

    In float32 digits go as :math:`v \|X\|^2 / \sigma_k^2` grows: above about 1e6 take float64, else the factor of
    :math:`C_k` may fail and all be NaN.

    Args:
      x: ``(n, d)`` inputs :math:`X`.
      y: ``(n,)`` targets.
      x_query: ``(..., d)`` inputs :math:`q` whose targets are wanted.
      prior_var: :math:`v` > 0, variance of each weight before the pairs; may be traced.
      noise_grid: ``(K,)`` standard deviations :math:`\sigma_k` > 0.
      noise_weights: ``(K,)`` their probabilities :math:`p_k`, up to a factor; None: all alike.
      where: ``(n,)``, the pairs that count.

    Returns:
      :class:`BayesPredictive` of ``(...)``, in float32 at least.

    Raises:
      ValueError: shapes that disagree; a number out of range; weights that are all 0.

    Source: Liu, Cai, Chen, Li (2024), arXiv 2405.15115.

    >>> grid = jnp.array([1.0])  # one pair, x = 1 and y = 2: half of the way, and half of the prior's variance is left
    >>> found = bayes_linear_regression_predictive(jnp.ones((1, 1)), jnp.full(1, 2.0), jnp.ones(1), prior_var=1, noise_grid=grid)
    >>> round(float(found.mean), 4), round(float(found.var), 4), float(found.noise_var)
    (1.0, 1.5, 1.0)
    """
    name = "bayes_linear_regression_predictive"
    check_noise(name, noise_grid, noise_weights, prior_var)
    _check_data(name, x, y)
    if x_query.shape[-1:] != x.shape[1:]:
        raise ValueError(f"{name}: x_query of shape {x_query.shape} for inputs of {x.shape[1]} features")
    where = jnp.ones(y.shape, bool) if where is None else where
    if where.shape != y.shape:
        raise ValueError(f"{name}: where of shape {where.shape} for {y.shape} targets")
    # what does not count is a pair of its own with variance 1 and value 0: it adds nothing to the evidence
    x, y = jnp.where(where[:, None], widened(x), 0), jnp.where(where, widened(y), 0)
    q, noise = widened(x_query), widened(noise_grid)
    gram = prior_var * jnp.matmul(x, x.T, precision="highest")
    cov = gram + jnp.where(where, noise[:, None] ** 2, 1.0)[:, :, None] * jnp.eye(len(y), dtype=gram.dtype)
    factors, z = _whitened(cov, y)
    log_w = log_weights(noise, noise_weights)
    log_w -= jnp.sum(0.5 * z**2 + jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)), axis=1)
    flat = q.reshape(-1, x.shape[1])
    cross = prior_var * jnp.matmul(x, flat.T, precision="highest")
    pulled = jax.scipy.linalg.solve_triangular(factors, jnp.broadcast_to(cross, (len(noise), *cross.shape)), lower=True)
    mean = jnp.einsum("knq,kn->kq", pulled, z, precision="highest")
    # a difference that rounding makes negative, but no less than nothing is known of the function
    var = jnp.maximum(prior_var * jnp.sum(flat**2, axis=1) - jnp.sum(pulled**2, axis=1), 0) + noise[:, None] ** 2
    found = _mixed(log_w[:, None], mean, var, noise)
    return jax.tree.map(lambda a: a.reshape(q.shape[:-1]), found)


def bayes_linear_regression_online(
    x: Float[Array, "..."],
    y: Float[Array, "..."],
    *,
    prior_var: Number,
    noise_grid: Float[Array, "..."],
    noise_weights: Float[Array, "..."] | None = None,
) -> BayesPredictive:
    r"""Every target of a sequence predicted by :func:`bayes_linear_regression_predictive` from the pairs before it.

    One Cholesky factor :math:`L` for each noise level holds all of them: with :math:`z = L^{-1} y` the prediction of
    :math:`y_t` is :math:`y_t - L_{tt} z_t` with the variance :math:`L_{tt}^2`.

    Args:
      x: ``(n, d)`` inputs.
      y: ``(n,)`` targets.
      prior_var: variance of each weight before the pairs, > 0; may be traced.
      noise_grid: ``(K,)`` standard deviations of the noise, > 0.
      noise_weights: ``(K,)`` their probabilities, up to a factor; None: all alike.

    Returns:
      :class:`BayesPredictive` of ``(n,)``, in float32 at least.

    Raises:
      ValueError: shapes that disagree; a number out of range; weights that are all 0.

    Source: Liu, Cai, Chen, Li (2024), arXiv 2405.15115.

    >>> found = bayes_linear_regression_online(jnp.ones((2, 1)), jnp.array([2.0, 7.0]), prior_var=1, noise_grid=jnp.ones(1))
    >>> [round(float(m), 4) for m in found.mean], [round(float(v), 4) for v in found.var]
    ([0.0, 1.0], [2.0, 1.5])
    """
    check_noise("bayes_linear_regression_online", noise_grid, noise_weights, prior_var)
    _check_data("bayes_linear_regression_online", x, y)
    x, y, noise = widened(x), widened(y), widened(noise_grid)
    gram = prior_var * jnp.matmul(x, x.T, precision="highest")
    factors, z = _whitened(gram + noise[:, None, None] ** 2 * jnp.eye(len(y), dtype=gram.dtype), y)
    scale = jnp.diagonal(factors, axis1=1, axis2=2)
    gained = -0.5 * z**2 - jnp.log(scale)
    before = jnp.cumsum(gained, axis=1) - gained
    return _mixed(log_weights(noise, noise_weights)[:, None] + before, y - scale * z, scale**2, noise)
