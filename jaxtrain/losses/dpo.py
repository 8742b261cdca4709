"""Direct preference optimization: a pair's log-probabilities moved apart, measured from a reference."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

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


def dpo_with_sft_loss(
    logp_w: Float[Array, "*batch"],
    logp_l: Float[Array, "..."],
    ref_logp_w: Float[Array, "..."],
    ref_logp_l: Float[Array, "..."],
    length_w: Float[Array, "..."] | Int[Array, "..."] | Number,
    *,
    sft_weight: Number,
    beta: Number = 0.1,
    label_smoothing: Number = 0.0,
) -> Float[Array, "*batch"]:
    r""":func:`dpo_loss` plus the winner's cross-entropy for each token, against winners that become unlikely too.

    .. math:: \ell = \ell_{DPO} - \frac{w}{|y_w|} \log \pi_\theta(y_w).

    Args:
      logp_w: ``(...)`` log-probabilities of the winners: sums over their tokens.
      logp_l: ``(...)`` of the losers.
      ref_logp_w: ``(...)`` of the winners under the reference; constants.
      ref_logp_l: ``(...)`` of the losers under the reference; constants.
      length_w: how many tokens each winner has, > 0; broadcasts.
      sft_weight: the weight w ≥ 0 of the second term; may be traced.
      beta: as in :func:`dpo_loss`.
      label_smoothing: as in :func:`dpo_loss`.

    Returns:
      ``(...)``, one loss for each pair, in the dtype of ``logp_w``.

    Raises:
      ValueError: shapes that disagree; a number out of range.

    Source: Zhuang et al. (2025), arXiv 2504.02949.

    >>> import jax.numpy as jnp
    >>> logp = jnp.array([-3.0])
    >>> round(float(dpo_with_sft_loss(logp, logp, logp, logp, 6, sft_weight=1.0)[0]), 4)  # log 2 + 3/6
    1.1931
    """
    check_finite_number("sft_weight", sft_weight, low=0.0)
    check_finite_number("length_w", length_w, low=_TINY)
    pair = dpo_loss(widened(logp_w), logp_l, ref_logp_w, ref_logp_l, beta=beta, label_smoothing=label_smoothing)
    return (pair - sft_weight * widened(logp_w) / length_w).astype(logp_w.dtype)


class TuningStage(NamedTuple):
    """A part of :func:`iterative_tuning_schedule`: steps from ``start`` up to ``stop``, which is the next one's start."""

    kind: str
    resolution: int
    start: int
    stop: int


def iterative_tuning_schedule(resolutions: Sequence[int], *, sft_steps: int, dpo_steps: int) -> tuple[TuningStage, ...]:
    """Instruction tuning and preference tuning by turns, once at each resolution, from the lowest.

    Args:
      resolutions: increasing sides of the images.
      sft_steps: steps of each instruction tuning, ≥ 1.
      dpo_steps: steps of each preference tuning, ≥ 1.

    Returns:
      Two stages for each resolution, of kinds ``"sft"`` and ``"dpo"``.

    Raises:
      ValueError: resolutions that do not increase; too few steps.

    Source: Zhuang et al. (2025), arXiv 2504.02949.

    >>> for stage in iterative_tuning_schedule((256, 512), sft_steps=100, dpo_steps=20)[1:3]:
    ...     print(stage)
    TuningStage(kind='dpo', resolution=256, start=100, stop=120)
    TuningStage(kind='sft', resolution=512, start=120, stop=220)
    """
    if not resolutions or any(b <= a for a, b in itertools.pairwise(resolutions)):
        raise ValueError(f"resolutions must increase, got {tuple(resolutions)}")
    if min(sft_steps, dpo_steps) < 1:
        raise ValueError(f"stages need at least 1 step, got {sft_steps} and {dpo_steps}")
    stages, start = [], 0
    for resolution in resolutions:
        for kind, steps in (("sft", sft_steps), ("dpo", dpo_steps)):
            stages.append(TuningStage(kind, int(resolution), start, start + steps))
            start += steps
    return tuple(stages)
