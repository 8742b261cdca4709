"""GEDI: clustering without labels and an energy-based density from one network's logits, and Langevin sampling for it."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, Scalar, check_finite_number
from jaxtrain.losses._logits import check_same_logits, over_temperature, widened

_TINY = float(np.finfo(np.float32).tiny)


def _tempered(caller: str, logits: Array, temperature: Number) -> Array:
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{caller}: logits of shape {logits.shape}; give (..., clusters), 1 cluster at least")
    check_finite_number("temperature", temperature, low=_TINY)
    return over_temperature(widened(logits), temperature)


def jem_log_density(logits: Float[Array, "..."], *, temperature: Number = 1.0) -> Float[Array, "..."]:
    r"""The logarithm of the density that a classifier's logits stand for, up to a constant.

    .. math:: \log \tilde p(x) = \log \sum_y e^{f_y(x) / \tau}

    Args:
      logits: ``(..., clusters)``, f.
      temperature: :math:`\tau` > 0; may be traced.

    Returns:
      ``(...)`` in the dtype of the logits. Its negative is the energy.

    Raises:
      ValueError: logits without an axis, or a temperature out of range.

    Source: Sansone, Manhaeve (2024), arXiv 2401.00873; Grathwohl et al. (2020), arXiv 1912.03263.

    >>> round(float(jem_log_density(jnp.log(jnp.array([1.0, 2.0, 5.0])))), 4)  # log 8
    2.0794
    """
    return jax.nn.logsumexp(_tempered("jem_log_density", logits, temperature), axis=-1).astype(logits.dtype)


def gedi_invariance_loss(
    logits_a: Float[Array, "*batch n"], logits_b: Float[Array, "..."], *, temperature: Number = 1.0
) -> Float[Array, "*batch"]:
    r"""Cross-entropy from the clusters of one view of an example to those of another.

    .. math:: -\sum_y p_y \log q_y, \qquad p = \mathrm{softmax}(a / \tau),\ q = \mathrm{softmax}(b / \tau)

    It is 0 only where both are one-hot and agree. Gradients flow to both views. Clusters masked out by -inf do not count.

    Args:
      logits_a: ``(..., n)``, a.
      logits_b: ``(..., n)``, b, of the same examples.
      temperature: :math:`\tau` > 0; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of ``logits_a``.

    Raises:
      ValueError: shapes that disagree, or a temperature out of range.

    Source: Sansone, Manhaeve (2024), arXiv 2401.00873.

    >>> round(float(gedi_invariance_loss(jnp.zeros((1, 2)), jnp.log(jnp.array([[1.0, 3.0]])))[0]), 4)  # log(16/3) / 2
    0.837
    """
    check_same_logits("gedi_invariance_loss", "logits_b", logits_a, logits_b)
    a, b = (_tempered("gedi_invariance_loss", x, temperature) for x in (logits_a, logits_b))
    p = jax.nn.softmax(a)
    return -jnp.sum(p * jnp.where(p > 0, jax.nn.log_softmax(b), 0.0), axis=-1).astype(logits_a.dtype)


def gedi_prior_loss(
    logits: Float[Array, "batch n"],
    *,
    prior: Float[Array, "..."] | None = None,
    temperature: Number = 1.0,
    axis_name: Hashable | tuple[Hashable, ...] | None = None,
) -> Scalar:
    r"""Cross-entropy from the wanted sizes of the clusters to those of the batch.

    .. math:: -\sum_y \pi_y \log\Big(\frac1N \sum_i p(y | x_i)\Big)

    Its least value is the entropy of the prior. A cluster that nothing is in costs as much as it is far away, not infinity.
    The examples of a batch are coupled; there is no value for one.

    Args:
      logits: ``(batch, n)``.
      prior: ``(n,)`` wanted shares with the sum 1; a cluster with 0 may be masked out by -inf. Default: equal.
      temperature: > 0; may be traced.
      axis_name: mesh axes over which the global batch is spread, inside ``shard_map`` (or ``vmap``).

    Returns:
      A scalar in float32 at least.

    Raises:
      ValueError: shapes that disagree, or a temperature out of range.

    Source: Sansone, Manhaeve (2024), arXiv 2401.00873.

    >>> round(float(gedi_prior_loss(jnp.array([[-1e4, 1e4], [1e4, -1e4]]))), 4)  # log 2
    0.6931
    >>> float(gedi_prior_loss(jnp.array([[-1e4, 1e4], [-1e4, 1e4]])))
    10000.0
    """
    log_p = jax.nn.log_softmax(_tempered("gedi_prior_loss", logits, temperature))
    if logits.ndim != 2 or logits.shape[0] == 0 or (prior is not None and prior.shape != logits.shape[1:]):
        raise ValueError(
            f"gedi_prior_loss: logits {logits.shape} and prior {None if prior is None else prior.shape}; give (batch, n), "
            f"and (n,) or nothing"
        )
    share = jnp.full(logits.shape[1], 1 / logits.shape[1], log_p.dtype) if prior is None else widened(prior)
    log_p = jnp.where(share > 0, log_p, 0.0)
    if axis_name is None:
        log_mean = jax.nn.logsumexp(log_p, axis=0) - jnp.log(len(log_p))
    else:
        top = jax.lax.pmax(jax.lax.stop_gradient(log_p.max(0)), axis_name)
        total = jax.lax.psum(jnp.exp(log_p - top).sum(0), axis_name)
        log_mean = top + jnp.log(total) - jnp.log(jax.lax.psum(len(log_p), axis_name))
    return -jnp.sum(share * log_mean)


def gedi_generative_loss(
    logits: Float[Array, "batch n"], neg_logits: Float[Array, "m n"], *, temperature: Number = 1.0
) -> Float[Array, " batch"]:
    r"""Contrastive divergence: raises the density at data, lowers it at samples of the model.

    .. math:: -\log \tilde p(x_i) + \frac1m \sum_j \log \tilde p(x^-_j)

    Its gradient, not its value, is that of the negative log-likelihood where the :math:`x^-` follow the model's density.

    Args:
      logits: ``(batch, n)`` of data.
      neg_logits: ``(m, n)`` of samples, as :func:`sgld_sample` gives them.
      temperature: > 0; may be traced.

    Returns:
      ``(batch,)``, one value for each example of the data; the second term is common to all.

    Raises:
      ValueError: logits that disagree, no samples, or a temperature out of range.

    Source: Sansone, Manhaeve (2024), arXiv 2401.00873; Hinton (2002) for contrastive divergence.

    >>> gedi_generative_loss(jnp.zeros((1, 2)), jnp.ones((3, 2))).tolist()
    [1.0]
    """
    if neg_logits.shape[-1:] != logits.shape[-1:] or not neg_logits.size:
        raise ValueError(
            f"gedi_generative_loss: logits {logits.shape} and neg_logits {neg_logits.shape}; give (batch, n) and (m, n), "
            f"1 sample at least"
        )
    up = jem_log_density(widened(logits), temperature=temperature)
    down = jem_log_density(widened(neg_logits), temperature=temperature)
    return (jnp.mean(down) - up).astype(logits.dtype)


def gedi_loss(
    logits: Float[Array, "batch n"],
    view_logits: Float[Array, "..."],
    neg_logits: Float[Array, "m n"],
    *,
    weights: tuple[Number, Number, Number] = (1.0, 1.0, 1.0),
    prior: Float[Array, "..."] | None = None,
    temperature: Number = 1.0,
    axis_name: Hashable | tuple[Hashable, ...] | None = None,
) -> Float[Array, " batch"]:
    r"""All three: a density, clusters that do not change with the view, and clusters of the wanted sizes.

    .. math:: L_i = w_1 L^{gen}_i + w_2 L^{inv}_i + w_3 L^{prior}

    The last two together are at least the entropy of the prior, and attain it only where clusters are one-hot, the same in
    both views and of the wanted sizes: that rules out the collapse of all examples into one cluster or one representation.
    Descent can stop at one-hot clusters of other sizes, where all gradients vanish.

    Args:
      logits: ``(batch, n)`` of data.
      view_logits: ``(batch, n)`` of another view of each.
      neg_logits: ``(m, n)`` of samples of the model.
      weights: :math:`w_1, w_2, w_3` ≥ 0; may be traced.
      prior: as in :func:`gedi_prior_loss`.
      temperature: > 0; may be traced.
      axis_name: as in :func:`gedi_prior_loss`.

    Returns:
      ``(batch,)``, one value for each example, in which the prior's term is common to all.

    Raises:
      ValueError: shapes that disagree, or a number out of range.

    Source: Sansone, Manhaeve (2024), arXiv 2401.00873.

    >>> sure = jnp.array([[1e4, 0.0], [0.0, 1e4]])
    >>> [round(float(x), 4) for x in gedi_loss(sure, sure, sure, weights=(0.0, 1.0, 1.0))]
    [0.6931, 0.6931]
    """
    for name, w in zip(("gen", "inv", "prior"), weights, strict=True):
        check_finite_number(f"weights: w_{name}", w, low=0.0)
    generative = gedi_generative_loss(widened(logits), neg_logits, temperature=temperature)
    invariance = gedi_invariance_loss(widened(logits), widened(view_logits), temperature=temperature)
    balance = gedi_prior_loss(logits, prior=prior, temperature=temperature, axis_name=axis_name)
    return (weights[0] * generative + weights[1] * invariance + weights[2] * balance).astype(logits.dtype)
