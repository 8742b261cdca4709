"""Negative preference optimization: unlearning whose pull fades with what has been forgotten."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, Scalar, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def _log_ratio(where: str, logp: Array, ref_logp: Array) -> Array:
    """log(pi / pi_ref), in float32 at least; the reference is a constant."""
    if logp.shape != ref_logp.shape:
        raise ValueError(f"{where}: logp {logp.shape} and ref_logp {ref_logp.shape} disagree")
    return widened(logp) - jax.lax.stop_gradient(widened(ref_logp))


def npo_loss(
    logp: Float[Array, "*batch"], ref_logp: Float[Array, "..."], *, beta: Number = 0.1
) -> Float[Array, "*batch"]:
    r"""Pushes the log-probability of what is to be forgotten down, less the further it has come.

    .. math:: \ell = -\frac2\beta \log \sigma\Big({-\beta \log\frac{\pi_\theta}{\pi_{ref}}}\Big)
       = \frac2\beta \log\Big(1 + \Big(\frac{\pi_\theta}{\pi_{ref}}\Big)^\beta\Big).

    It is :func:`dpo_loss` with nothing preferred, times :math:`2/\beta`. Its gradient is that of :math:`\log \pi_\theta`
    times :func:`npo_gradient_weight`. As :math:`\beta \to 0` it becomes gradient ascent.

    Args:
      logp: ``(...)`` log-probabilities of the examples: sums over the tokens of an answer, not means.
      ref_logp: ``(...)`` the same under the model before unlearning; constants.
      beta: how soon the pull fades, > 0; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of ``logp``.

    Raises:
      ValueError: shapes that disagree; a beta that is not positive.

    Source: Zhang, Lin, Bai, Mei (2024), arXiv 2404.05868.

    >>> loss = npo_loss(jnp.array([-1.0, -21.0]), jnp.array([-1.0, -1.0]))
    >>> [round(float(x), 4) for x in loss]  # 20 log 2, and 20 log(1 + e^-2)
    [13.8629, 2.5386]
    """
    check_finite_number("beta", beta, low=_TINY)
    z = beta * _log_ratio("npo_loss", logp, ref_logp)
    # logaddexp has slope 1/2 at 0, where every example starts
    return (2 / beta * jax.nn.softplus(z)).astype(logp.dtype)


def npo_gradient_weight(
    logp: Float[Array, "*batch"], ref_logp: Float[Array, "..."], *, beta: Number = 0.1
) -> Float[Array, "*batch"]:
    r"""What :func:`npo_loss` multiplies the gradient of the log-probability by: 1 at the reference, then towards 0.

    .. math:: W = \frac{2 \pi_\theta^\beta}{\pi_\theta^\beta + \pi_{ref}^\beta}
       = 2 \sigma\Big(\beta \log\frac{\pi_\theta}{\pi_{ref}}\Big).

    Args:
      logp: ``(...)`` log-probabilities of the examples.
      ref_logp: ``(...)`` the same under the model before unlearning.
      beta: how soon the pull fades, > 0; may be traced.

    Returns:
      ``(...)`` numbers between 0 and 2, in the dtype of ``logp``.

    Raises:
      ValueError: shapes that disagree; a beta that is not positive.

    Source: Zhang, Lin, Bai, Mei (2024), arXiv 2404.05868.

    >>> float(npo_gradient_weight(jnp.array(-3.0), jnp.array(-3.0)))
    1.0
    """
    check_finite_number("beta", beta, low=_TINY)
    return (2 * jax.nn.sigmoid(beta * _log_ratio("npo_gradient_weight", logp, ref_logp))).astype(logp.dtype)


def gradient_ascent_loss(logp: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    r"""The log-probability itself, whose descent is ascent of the cross-entropy: unlearning that never stops.

    Args:
      logp: ``(...)`` log-probabilities of what is to be forgotten.

    Returns:
      The same.

    Source: Zhang, Lin, Bai, Mei (2024), arXiv 2404.05868, as the baseline.

    >>> float(gradient_ascent_loss(jnp.array(-3.0)))
    -3.0
    """
    return logp


def npo_unlearning_objective(
    forget_logp: Float[Array, " forget"],
    forget_ref_logp: Float[Array, "..."],
    retain_term: Float[Array, "..."],
    *,
    beta: Number = 0.1,
    retain_coef: Number = 1.0,
) -> Scalar:
    r"""Forgetting and keeping in one number: the mean :func:`npo_loss` plus a mean over what is to be kept.

    With the cross-entropy of kept examples it is NPO+RT; with :math:`\mathrm{KL}(\pi_{ref} \| \pi_\theta)` on them,
    NPO+KL.

    Args:
      forget_logp: ``(forget,)`` log-probabilities of what is to be forgotten.
      forget_ref_logp: ``(forget,)`` the same under the model before unlearning.
      retain_term: losses of what is to be kept, of any shape; averaged.
      beta: as in :func:`npo_loss`.
      retain_coef: the weight of what is to be kept, ≥ 0; may be traced.

    Returns:
      A scalar, in float32 at least.

    Raises:
      ValueError: shapes that disagree; a number out of range.

    Source: Zhang, Lin, Bai, Mei (2024), arXiv 2404.05868.

    >>> logp = jnp.array([-1.0])
    >>> round(float(npo_unlearning_objective(logp, logp, jnp.array([0.5, 1.5]), beta=2.0)), 4)  # log 2 + 1
    1.6931
    """
    check_finite_number("retain_coef", retain_coef, low=0.0)
    forget = jnp.mean(npo_loss(widened(forget_logp), forget_ref_logp, beta=beta))
    return forget + retain_coef * jnp.mean(widened(retain_term))
