"""Temporal-difference errors under a generalized normal distribution whose shape is learned."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)
_EPS = 1e-8
BETA_LOW, BETA_HIGH = 0.1, 5.0


def ggd_nll(
    errors: Float[Array, "*batch"], beta: Float[Array, "..."] | Number, *, alpha: Number = 1.0
) -> Float[Array, "*batch"]:
    r"""Negative log-likelihood of errors under a generalized normal distribution of mean 0.

    .. math:: \ell = \Big(\frac{|e|}\alpha\Big)^\beta - \log\frac{\beta}{2 \alpha} + \log\Gamma(1/\beta).

    The shape 1 is Laplace's distribution, 2 the normal one with variance :math:`\alpha^2/2`. For a shape below 1 the
    gradient grows without bound towards an error of 0; below :math:`10^{-8} \alpha` it is taken as 0 and the power as
    constant.

    Args:
      errors: ``(...)`` errors :math:`e`.
      beta: shapes > 0, that broadcast against the errors; may be traced, and learned.
      alpha: the scale, > 0; may be traced.

    Returns:
      ``(...)``, one number for each error, in the dtype of the errors.

    Raises:
      ValueError: a shape or scale that is not positive.

    Source: Kim et al. (2024), arXiv 2408.02295; :math:`\alpha = 1` there.

    >>> nll = ggd_nll(jnp.array([2.0, 2.0]), jnp.array([1.0, 2.0]))
    >>> [round(float(x), 4) for x in nll]  # 2 + log 2, and 4 + log sqrt(pi)
    [2.6931, 4.5724]
    """
    check_finite_number("beta", beta, low=_TINY)
    check_finite_number("alpha", alpha, low=_TINY)
    size = jnp.abs(widened(errors)) / alpha
    b = widened(jnp.asarray(beta, jnp.result_type(float, beta)))
    power = jnp.where(size < _EPS, _EPS, size) ** b
    return (power - jnp.log(b / (2 * alpha)) + jax.lax.lgamma(1 / b)).astype(errors.dtype)


def ggd_variance(alpha: Float[Array, "..."] | Number, beta: Float[Array, "..."] | Number) -> Float[Array, "..."]:
    r"""Variance of the generalized normal distribution: :math:`\alpha^2\, \Gamma(3/\beta) / \Gamma(1/\beta)`.

    With the scale fixed it falls with the shape: it is what a learned shape says of the noise (aleatoric uncertainty).

    Args:
      alpha: scales > 0.
      beta: shapes > 0; ``(...)`` that broadcast.

    Returns:
      ``(...)``, in float32 at least.

    Raises:
      ValueError: a shape or scale that is not positive.

    Source: Kim et al. (2024), arXiv 2408.02295.

    >>> [round(float(ggd_variance(1.0, beta)), 4) for beta in (1.0, 2.0)]
    [2.0, 0.5]
    """
    check_finite_number("alpha", alpha, low=_TINY)
    check_finite_number("beta", beta, low=_TINY)
    b = widened(jnp.asarray(beta, jnp.result_type(float, beta)))
    return jnp.square(alpha) * jnp.exp(jax.lax.lgamma(3 / b) - jax.lax.lgamma(1 / b))


def ggd_excess_kurtosis(beta: Float[Array, "..."] | Number) -> Float[Array, "..."]:
    r"""Excess kurtosis of the generalized normal distribution, 0 at shape 2 and 3 at shape 1.

    .. math:: \kappa = \frac{\Gamma(5/\beta)\, \Gamma(1/\beta)}{\Gamma(3/\beta)^2} - 3.

    Args:
      beta: ``(...)`` shapes > 0.

    Returns:
      ``(...)``, in float32 at least; infinite below shapes of about 0.1, where float32 overflows.

    Raises:
      ValueError: a shape that is not positive.

    Source: Kim et al. (2024), arXiv 2408.02295.

    >>> round(float(ggd_excess_kurtosis(1.0)), 3)
    3.0
    """
    check_finite_number("beta", beta, low=_TINY)
    b = widened(jnp.asarray(beta, jnp.result_type(float, beta)))
    return jnp.exp(jax.lax.lgamma(5 / b) + jax.lax.lgamma(1 / b) - 2 * jax.lax.lgamma(3 / b)) - 3


def mbbe_variance(
    samples: Float[Array, "..."], *, axis: int = -1, kurtosis: Float[Array, "..."] | Number | None = None
) -> Float[Array, "..."]:
    r"""The multiple of the unbiased sample variance with the least mean squared error.

    .. math:: \hat\sigma^2 = \frac{s^2}{\frac{n + 1}{n - 1} + \frac\kappa n},

    since :math:`\operatorname{Var} s^2 = \sigma^4 (\frac2{n-1} + \frac\kappa n)`. For normal samples it divides the sum
    of squares by :math:`n + 1`.

    Args:
      samples: values, ``n`` of them along ``axis``: 2 at least, and 4 without ``kurtosis``.
      axis: of the samples.
      kurtosis: the excess :math:`\kappa`, ≥ -2, broadcast against the result. Default: the unbiased estimate from the
        samples, not below what it can be, :math:`-2`; taken as 0 where all are equal.

    Returns:
      The shape without ``axis``, in float32 at least.

    Raises:
      ValueError: too few samples; a kurtosis out of range.

    Source: Kim et al. (2024), arXiv 2408.02295; Searls, Intarapanich (1990) for the estimator.

    >>> float(mbbe_variance(jnp.array([-1.0, 0.0, 1.0]), kurtosis=0.0))  # 2 / (3 + 1)
    0.5
    """
    x = widened(samples)
    n = x.shape[axis]
    if n < (4 if kurtosis is None else 2):
        raise ValueError(
            f"mbbe_variance: {n} samples along axis {axis}; 2 at least are needed, and 4 to estimate the kurtosis"
        )
    centred = x - jnp.mean(x, axis=axis, keepdims=True)
    m2 = jnp.mean(centred**2, axis=axis)
    if kurtosis is None:
        flat = m2 == 0
        ratio = jnp.mean((centred / jnp.where(flat, 1, jnp.sqrt(m2))[_along(x.ndim, axis)]) ** 4, axis=axis)
        found = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * ratio - 3 * (n - 1))
        kurtosis = jnp.where(flat, 0.0, jnp.maximum(found, -2.0))
    else:
        check_finite_number("kurtosis", kurtosis, low=-2.0)
    return m2 * n / (n - 1) / ((n + 1) / (n - 1) + kurtosis / n)


def _along(ndim: int, axis: int) -> tuple:
    """The index that puts ``axis`` back with size 1."""
    return tuple(None if k == axis % ndim else slice(None) for k in range(ndim))


def biev_weights(variance: Float[Array, " batch"], *, min_batch_fraction: Number = 0.5) -> Float[Array, " batch"]:
    r"""Weights of a batch against the variance of the errors, spread over enough examples.

    .. math:: w_i \propto \frac1{V_i + \xi}, \qquad
       \xi = \min\Big\{\xi \ge 0 : \frac{(\sum_i w_i)^2}{\sum_i w_i^2} \ge f B\Big\}.

    :math:`\xi` is found by bisection. No gradient flows through.

    Args:
      variance: ``(batch,)`` variances ≥ 0, as :func:`mbbe_variance` of the errors of an ensemble gives them.
      min_batch_fraction: :math:`f` in [0, 1), the least effective share of the batch; may be traced.

    Returns:
      ``(batch,)`` weights with mean 1, in float32 at least.

    Raises:
      ValueError: a fraction out of range.

    Source: Kim et al. (2024), arXiv 2408.02295; Mai et al. (2022), arXiv 2201.01666, for :math:`\xi`.

    >>> [round(float(w), 4) for w in biev_weights(jnp.array([1.0, 3.0]))]
    [1.5, 0.5]
    """
    check_finite_number("min_batch_fraction", min_batch_fraction, low=0.0, high=0.9999)
    v = jax.lax.stop_gradient(widened(variance))
    largest = jnp.max(v)
    # in units of the largest; an example without variance takes a weight of 1e6 at most
    v = jnp.maximum(v / jnp.where(largest > 0, largest, 1.0), 1e-6)

    def weights(log_xi):
        w = 1 / (v + jnp.exp(log_xi))
        return w / jnp.mean(w)

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        enough = 1 / jnp.mean(weights(middle) ** 2) >= min_batch_fraction
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    # exp(-40) is nothing beside 1e-6, exp(12) makes all alike to within 1e-5
    low, high = jnp.full((), -40.0, v.dtype), jnp.full((), 12.0, v.dtype)
    plain = weights(jnp.full((), -jnp.inf, v.dtype))
    _, log_xi = jax.lax.fori_loop(0, 40, halve, (low, high))
    return jnp.where(1 / jnp.mean(plain**2) >= min_batch_fraction, plain, weights(log_xi))


def gg_td_loss(
    td_errors: Float[Array, "batch members"],
    beta_logits: Float[Array, "batch members"],
    *,
    lam: Number = 1.0,
    min_batch_fraction: Number = 0.5,
) -> Float[Array, " batch"]:
    r"""Learned shape of the error's distribution, averse to risk, plus absolute errors weighted by what is known.

    With :math:`\beta = \operatorname{clip}(\operatorname{softplus}(h), 0.1, 5)`,

    .. math:: \ell_b = \sum_i \frac{\beta_{bi}}{\sum_j \beta_{bj}} \operatorname{nll}(e_{bi}; \beta_{bi})
       + \lambda\, w_b \sum_i |e_{bi}|,

    :math:`w` from :func:`biev_weights` of :func:`mbbe_variance` of the errors over the members. Both kinds of weights
    are constants to the gradient. The second term couples the examples of a batch, and needs 4 members; with
    ``lam=0`` (a Python number) it is left out.

    Args:
      td_errors: ``(batch, members)``, value minus target of each member of the ensemble.
      beta_logits: ``(batch, members)`` the outputs of the shape's head.
      lam: the weight of the second term, ≥ 0; may be traced.
      min_batch_fraction: as in :func:`biev_weights`.

    Returns:
      ``(batch,)``, to be averaged, in the dtype of the errors.

    Raises:
      ValueError: too few members; a number out of range.

    Source: Kim et al. (2024), arXiv 2408.02295.

    >>> loss = gg_td_loss(jnp.ones((1, 1)), jnp.full((1, 1), 0.541325), lam=0.0)
    >>> round(float(loss[0]), 4)  # shape 1: 1 + log 2
    1.6931
    """
    check_finite_number("lam", lam, low=0.0)
    e = widened(td_errors)
    beta = jnp.clip(jax.nn.softplus(widened(beta_logits)), BETA_LOW, BETA_HIGH)
    share = jax.lax.stop_gradient(beta / jnp.sum(beta, axis=-1, keepdims=True))
    loss = jnp.sum(share * ggd_nll(e, beta), axis=-1)
    if isinstance(lam, int | float) and lam == 0:
        return loss.astype(td_errors.dtype)
    weight = biev_weights(mbbe_variance(jax.lax.stop_gradient(e)), min_batch_fraction=min_batch_fraction)
    return (loss + lam * weight * jnp.sum(jnp.abs(e), axis=-1)).astype(td_errors.dtype)
