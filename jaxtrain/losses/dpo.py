"""Direct preference optimization: a pair's log-probabilities moved apart, measured from a reference."""

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def dpo_loss(
    logp_w: Float[Array, "*batch"],
    logp_l: Float[Array, "..."],
    ref_logp_w: Float[Array, "..."],
    ref_logp_l: Float[Array, "..."],
    *,
    beta: Number = 0.1,
    label_smoothing: Number = 0.0,
) -> Float[Array, "*batch"]:
    r"""Logistic loss of how much more than the reference a model prefers the winner of a pair.

    .. math:: \ell = -(1 - \epsilon) \log \sigma(z) - \epsilon \log \sigma(-z), \qquad
       z = \beta \Big(\log\frac{\pi_\theta(w)}{\pi_{ref}(w)} - \log\frac{\pi_\theta(l)}{\pi_{ref}(l)}\Big).

    :math:`\beta \log(\pi_\theta / \pi_{ref})` is the reward that the model implies; z is the margin between two.

    Args:
      logp_w: ``(...)`` log-probabilities of the winners: sums over their tokens, not means.
      logp_l: ``(...)`` of the losers.
      ref_logp_w: ``(...)`` of the winners under the reference; constants.
      ref_logp_l: ``(...)`` of the losers under the reference; constants.
      beta: how dear it is to leave the reference, > 0; may be traced.
      label_smoothing: the share :math:`\epsilon` of pairs whose order is taken to be wrong, in [0, 1]; may be traced.

    Returns:
      ``(...)``, one loss for each pair, in the dtype of ``logp_w``.

    Raises:
      ValueError: shapes that disagree; a number out of range.

    Source: Rafailov et al. (2023), arXiv 2305.18290; used by arXiv 2504.02949 on tokens of images.

    >>> import jax.numpy as jnp
    >>> same, up = jnp.array([-3.0]), jnp.array([-2.0])
    >>> [round(float(dpo_loss(w, same, same, same, beta=1.0)[0]), 4) for w in (same, up)]
    [0.6931, 0.3133]
    """
    check_finite_number("beta", beta, low=_TINY)
    check_finite_number("label_smoothing", label_smoothing, low=0.0, high=1.0)
    for name, x in (("logp_l", logp_l), ("ref_logp_w", ref_logp_w), ("ref_logp_l", ref_logp_l)):
        if x.shape != logp_w.shape:
            raise ValueError(f"dpo_loss: logp_w {logp_w.shape} and {name} {x.shape} disagree")
    ref_w, ref_l = (jax.lax.stop_gradient(widened(x)) for x in (ref_logp_w, ref_logp_l))
    z = beta * ((widened(logp_w) - ref_w) - (widened(logp_l) - ref_l))
    # softplus by logaddexp has slope 1/2 at 0, where training starts
    loss = (1 - label_smoothing) * jax.nn.softplus(-z) + label_smoothing * jax.nn.softplus(z)
    return loss.astype(logp_w.dtype)
