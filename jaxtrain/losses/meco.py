"""Models known up to a factor: likelihood with an averaged partition function, and contrast against noise."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Params, Scalar, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)
LogUnnormFn = Callable[[Params, Array], Array]
LogProbFn = Callable[[Array], Array]


class MecoState(NamedTuple):
    """The logarithm of the averaged partition function, and how many batches are in it."""

    log_u: Float[Array, ""]
    count: Int[Array, ""]


def importance_log_partition(log_unnorm: Float[Array, "m"], noise_log_prob: Float[Array, "..."]) -> Scalar:
    r"""The logarithm of an importance estimate of the partition function, from samples of the noise.

    .. math:: \log \hat Z = \log \frac1m \sum_i \frac{e^{f(z_i)}}{q(z_i)}, \qquad z_i \sim q.

    :math:`\hat Z` is unbiased, its logarithm is too low on average.

    Args:
      log_unnorm: ``(m,)`` values :math:`f(z_i)`.
      noise_log_prob: ``(m,)`` values :math:`\log q(z_i)`.

    Returns:
      A scalar, in float32 at least.

    Raises:
      ValueError: shapes that disagree.

    Source: Jiang et al. (2023), arXiv 2306.07485.

    >>> float(importance_log_partition(jnp.array([1.0, 1.0]), jnp.array([0.5, 0.5])))
    0.5
    """
    if log_unnorm.shape != noise_log_prob.shape:
        raise ValueError(
            f"importance_log_partition: log_unnorm {log_unnorm.shape} and noise_log_prob {noise_log_prob.shape} disagree"
        )
    return jax.nn.logsumexp(widened(log_unnorm) - widened(noise_log_prob)) - np.log(log_unnorm.shape[0])


def meco_loss_and_state(
    params: Params,
    log_unnorm_fn: LogUnnormFn,
    data: Array,
    noise: Array,
    noise_log_prob: LogProbFn,
    state: MecoState | None,
    *,
    gamma: Number = 0.1,
) -> tuple[Scalar, MecoState]:
    r"""Negative log-likelihood of a model without its factor, with an average over steps for the partition function.

    With :math:`\hat g` the estimate of :func:`importance_log_partition` from this step's noise (not its logarithm),

    .. math:: u \leftarrow (1 - \gamma) u + \gamma \hat g, \qquad
       v = -\frac1n \sum_i \nabla f(x_i) + \frac{\nabla \hat g}{u}.

    The value is :math:`-\frac1n \sum_i f(x_i) + \log u`; its gradient is v. All is kept in logarithms, and
    :math:`\hat g / u \le 1/\gamma`, so nothing overflows.

    Args:
      params: of the model.
      log_unnorm_fn: ``(params, samples) -> (count,)``, :math:`f`.
      data: samples of the data, ``(n, ...)``.
      noise: samples of the noise, ``(m, ...)``.
      noise_log_prob: ``samples -> (count,)``, :math:`\log q`.
      state: of the step before; ``None`` starts with :math:`u = \hat g`.
      gamma: the share of this step, in (0, 1]; may be traced. At 1 it is plain importance sampling.

    Returns:
      The value and the new state.

    Raises:
      ValueError: gamma out of range.

    Source: Jiang et al. (2023), arXiv 2306.07485.

    >>> f = lambda theta, x: -0.5 * (x - theta) ** 2
    >>> q = lambda z: jnp.full(z.shape, -jnp.log(8.0))  # even on [-4, 4]
    >>> loss, state = meco_loss_and_state(0.0, f, jnp.zeros(3), jnp.linspace(-4.0, 4.0, 1000), q, None)
    >>> round(float(loss), 2)  # log sqrt(2 pi)
    0.92
    """
    check_finite_number("gamma", gamma, low=_TINY, high=1.0)
    log_g = importance_log_partition(log_unnorm_fn(params, noise), noise_log_prob(noise))
    now = jax.lax.stop_gradient(log_g)
    if state is None:
        state = MecoState(jnp.zeros_like(now), jnp.zeros((), jnp.int32))
    averaged = jnp.logaddexp(jnp.log1p(-gamma) + state.log_u, jnp.log(gamma) + now)
    log_u = jnp.where(state.count == 0, now, averaged).astype(now.dtype)
    ratio = jnp.exp(log_g - log_u)
    value = -jnp.mean(widened(log_unnorm_fn(params, data))) + log_u + ratio - jax.lax.stop_gradient(ratio)
    return value, MecoState(log_u, state.count + 1)


def nce_loss(
    params: Params,
    log_unnorm_fn: LogUnnormFn,
    data: Array,
    noise: Array,
    noise_log_prob: LogProbFn,
    *,
    log_z: Float[Array, ""] | Number,
    ratio: Number = 1.0,
) -> Scalar:
    r"""Noise-contrastive estimation: logistic regression of data against noise, with the factor as a parameter.

    With :math:`G(x) = f(x) - \log Z - \log q(x) - \log \nu`,

    .. math:: -\mathbb E_x \log \sigma(G(x)) - \nu\, \mathbb E_z \log \sigma(-G(z)).

    Args:
      params: of the model.
      log_unnorm_fn: ``(params, samples) -> (count,)``, :math:`f`.
      data: samples of the data.
      noise: samples of the noise.
      noise_log_prob: ``samples -> (count,)``, :math:`\log q`.
      log_z: :math:`\log Z`, learned along with the parameters.
      ratio: :math:`\nu` > 0, how much noise there is for each example; may be traced.

    Returns:
      A scalar, in float32 at least.

    Raises:
      ValueError: a ratio that is not positive.

    Source: Gutmann, Hyvärinen (2010); the baseline of arXiv 2306.07485.

    >>> q = lambda z: jnp.zeros(z.shape)
    >>> loss = nce_loss(0.0, lambda p, x: p * x, jnp.ones(2), jnp.ones(2), q, log_z=0.0)
    >>> round(float(loss), 4)  # 2 log 2
    1.3863
    """
    check_finite_number("ratio", ratio, low=_TINY)

    def lead(x):
        return widened(log_unnorm_fn(params, x)) - log_z - widened(noise_log_prob(x)) - jnp.log(ratio)

    return jnp.mean(jax.nn.softplus(-lead(data))) + ratio * jnp.mean(jax.nn.softplus(lead(noise)))


def meco_gradient_momentum(beta: float) -> optax.GradientTransformation:
    r"""The average of gradients along the run that MECO descends: :math:`m \leftarrow (1 - \beta) m + \beta v`.

    ``optax.ema`` with the bias of the first steps taken out.

    Args:
      beta: the share of this step's gradient, in (0, 1]; a Python number.

    Returns:
      A transformation whose state is one tree like the parameters.

    Raises:
      ValueError: beta out of range.

    Source: Jiang et al. (2023), arXiv 2306.07485.

    >>> tx = meco_gradient_momentum(0.5)
    >>> updates, _ = tx.update(jnp.array(2.0), tx.init(jnp.array(0.0)))
    >>> float(updates)
    2.0
    """
    check_finite_number("beta", beta, low=_TINY, high=1.0)
    return optax.ema(1 - beta, debias=True)
