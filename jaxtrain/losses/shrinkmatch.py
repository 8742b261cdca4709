"""FixMatch and ShrinkMatch: learning from pseudo-labels, and from the classes left when what competes is taken away."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxtrain.core import Number, Scalar, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def _check_threshold(threshold: Number) -> None:
    check_finite_number("threshold", threshold, low=0.0, high=1.0)


def _check_same(where: str, strong_logits: Array, weak_probs: Array) -> None:
    if strong_logits.shape != weak_probs.shape:
        raise ValueError(f"{where}: strong_logits {strong_logits.shape} and weak_probs {weak_probs.shape} disagree")
    if strong_logits.shape[-1] < 2:
        raise ValueError(f"{where}: logits of shape {strong_logits.shape} have one class; at least 2 are needed")


class ShrunkSpace(NamedTuple):
    """What :func:`shrink_class_space` finds for each example."""

    mask: Bool[Array, "*batch n"]
    sub_confidence: Float[Array, "*batch"]
    reached: Bool[Array, "*batch"]


def shrink_class_space(probs: Float[Array, "*batch n"], *, threshold: Number = 0.95) -> ShrunkSpace:
    r"""Takes away the classes next to the top one until, among those left, it is certain.

    With :math:`p_{(0)} \ge p_{(1)} \ge \dots`, the ranks :math:`1 \dots c - 1` go, for the smallest :math:`c` in
    :math:`2 \dots n - 1` with

    .. math:: \frac{p_{(0)}}{p_{(0)} + \sum_{j \ge c} p_{(j)}} \ge \tau,

    or :math:`n - 1` if there is none: at least the runner-up goes, and one other class stays. Where the top class is
    certain at once, :math:`p_{(0)} \ge \tau`, or there are but two classes, all classes stay. Equal probabilities rank in
    the order of their classes.

    Args:
      probs: ``(..., n)`` distributions, n ≥ 2; of the weakly augmented view.
      threshold: :math:`\tau` in [0, 1]; may be traced.

    Returns:
      ``(mask, sub_confidence, reached)``: ``(..., n)``, True for the classes that stay; ``(...)``, the fraction above
      with the classes that stay; and whether it is at least the threshold.

    Raises:
      ValueError: one class alone, or a threshold out of range.

    Source: Yang, Zhao, Qi, Qiao, Shi, Zhao (2023), arXiv 2308.06777.

    >>> space = shrink_class_space(jnp.array([[0.6, 0.35, 0.02, 0.03]]))
    >>> space.mask[0].tolist(), round(float(space.sub_confidence[0]), 4)  # 0.6 / 0.62: 0.6 / 0.65 is not enough
    ([True, False, True, False], 0.9677)
    """
    if probs.shape[-1] < 2:
        raise ValueError(f"shrink_class_space: probabilities of shape {probs.shape} have one class; give 2 at least")
    _check_threshold(threshold)
    p, n = jax.lax.stop_gradient(widened(probs)), probs.shape[-1]
    order = jnp.argsort(-p, axis=-1)
    ranked = jnp.take_along_axis(p, order, axis=-1)
    top = ranked[..., :1]
    # rest[c]: what is left beside the top one when the ranks 1 … c - 1 are gone
    rest = jnp.cumsum(ranked[..., ::-1], axis=-1)[..., ::-1]
    enough = top / (top + rest) >= threshold
    c = jnp.arange(n)
    first = jnp.argmax(enough & (c >= 2) | (c == n - 1), axis=-1, keepdims=True)
    whole = (top >= threshold) | (n == 2)
    first = jnp.where(whole, 1, first)
    stays = jnp.take_along_axis((c == 0) | (c >= first), jnp.argsort(order, axis=-1), axis=-1)
    left = jnp.take_along_axis(rest, first, axis=-1)
    confidence = jnp.where(top > 0, top / jnp.where(top > 0, top + left, 1.0), 0.0)[..., 0]
    return ShrunkSpace(stays, confidence.astype(probs.dtype), confidence >= threshold)


def fixmatch_loss(
    strong_logits: Float[Array, "*batch n"], weak_probs: Float[Array, "..."], *, threshold: Number = 0.95
) -> Float[Array, "*batch"]:
    r"""Cross-entropy of the strongly augmented view with the prediction of the weak one, where that is certain.

    .. math:: -1[\max_c p_c \ge \tau] \sum_c p_c \log \mathrm{softmax}(z)_c

    The pseudo-label is soft, as in the code of ShrinkMatch; ``jax.nn.one_hot`` of its argument of the maximum gives
    FixMatch's hard one. Average over the whole batch, uncertain examples included.

    Args:
      strong_logits: ``(..., n)``, the class axis last, n ≥ 2.
      weak_probs: ``(..., n)`` distributions of the weakly augmented view; constants.
      threshold: :math:`\tau` in [0, 1]; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, or a threshold out of range.

    Source: Sohn et al. (2020), arXiv 2001.07685; Yang, Zhao, Qi, Qiao, Shi, Zhao (2023), arXiv 2308.06777.

    >>> loss = fixmatch_loss(jnp.zeros((2, 2)), jnp.array([[0.99, 0.01], [0.6, 0.4]]))
    >>> [round(float(x), 4) for x in loss]
    [0.6931, 0.0]
    """
    _check_same("fixmatch_loss", strong_logits, weak_probs)
    _check_threshold(threshold)
    p = jax.lax.stop_gradient(widened(weak_probs))
    # a class without mass counts for nothing, also where its logit is -inf
    log_q = jax.nn.log_softmax(widened(strong_logits))
    entropy = -jnp.sum(p * jnp.where(p > 0, log_q, 0.0), axis=-1)
    return jnp.where(p.max(axis=-1) >= threshold, entropy, 0.0).astype(strong_logits.dtype)


def shrinkmatch_uncertain_loss(
    strong_logits: Float[Array, "*batch n"], weak_probs: Float[Array, "..."], *, threshold: Number = 0.95
) -> Float[Array, "*batch"]:
    r"""What uncertain examples still teach: the top class against those that it certainly beats.

    With the classes :math:`S` that :func:`shrink_class_space` leaves and the top class :math:`t` of the weak view,

    .. math:: -p_t \, 1[p_t < \tau]\, 1[\text{reached}] \; \log \frac{e^{z_t}}{\sum_{c \in S} e^{z_c}}.

    It is 0 for certain examples and two classes. In ShrinkMatch the logits are those of an auxiliary head on the shared
    trunk, and the mean over the batch is multiplied by :func:`certain_ratio_ema`.

    Args:
      strong_logits: ``(..., n)``, the class axis last, n ≥ 2.
      weak_probs: ``(..., n)`` distributions of the weakly augmented view; constants.
      threshold: :math:`\tau` in [0, 1]; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, or a threshold out of range.

    Source: Yang, Zhao, Qi, Qiao, Shi, Zhao (2023), arXiv 2308.06777.

    >>> loss = shrinkmatch_uncertain_loss(jnp.zeros((1, 4)), jnp.array([[0.6, 0.35, 0.02, 0.03]]))
    >>> round(float(loss[0]), 4)  # 0.6 log 2
    0.4159
    """
    _check_same("shrinkmatch_uncertain_loss", strong_logits, weak_probs)
    p, z = jax.lax.stop_gradient(widened(weak_probs)), widened(strong_logits)
    space = shrink_class_space(p, threshold=threshold)
    top = jnp.argmax(p, axis=-1, keepdims=True)
    # log(1 + sum of the others') and no difference of large numbers; the top class itself is the 1
    margins = z - jnp.take_along_axis(z, top, axis=-1)
    others = space.mask & (jnp.arange(z.shape[-1]) != top)
    # far below and not -inf, at which logsumexp has no slope where all are: removed here or masked out by the logits
    margins = jnp.where(others & ~jnp.isneginf(z), margins, jnp.finfo(z.dtype).min)
    entropy = jax.nn.softplus(jax.nn.logsumexp(margins, axis=-1))
    best = p.max(axis=-1)
    counts = (best < threshold) & space.reached & (z.shape[-1] > 2)
    return jnp.where(counts, best * entropy, 0.0).astype(strong_logits.dtype)


def distribution_alignment(
    probs: Float[Array, "*batch n"], queue_mean: Float[Array, "..."]
) -> Float[Array, "*batch n"]:
    r"""Predictions divided by what is predicted on average, so that no class is preferred: :math:`p_c / \bar p_c`, renormalised.

    Args:
      probs: ``(..., n)`` distributions.
      queue_mean: ``(n,)``, the mean prediction, in ShrinkMatch over the last 32 batches, this one included.

    Returns:
      ``(..., n)`` distributions without gradient, in the dtype of ``probs``.

    Raises:
      ValueError: shapes that disagree.

    Source: Yang, Zhao, Qi, Qiao, Shi, Zhao (2023), arXiv 2308.06777; Berthelot et al. (2020), arXiv 1911.09785.

    >>> distribution_alignment(jnp.array([[0.75, 0.25]]), jnp.array([0.75, 0.25])).tolist()
    [[0.5, 0.5]]
    """
    if queue_mean.shape != probs.shape[-1:]:
        raise ValueError(
            f"distribution_alignment: queue_mean of shape {queue_mean.shape} for probabilities {probs.shape}"
        )
    p, mean = jax.lax.stop_gradient((widened(probs), widened(queue_mean)))
    # a class that is never predicted has nothing to divide by
    aligned = p / jnp.maximum(mean, _TINY)
    return (aligned / jnp.sum(aligned, axis=-1, keepdims=True)).astype(probs.dtype)


def certain_ratio_ema(prev: Number | None, mask: Array, *, decay: Number = 0.999) -> Scalar:
    """The part of examples that are certain, averaged along the run: the weight of the uncertain ones.

    Args:
      prev: the value before, or None for the first batch, whose part it becomes.
      mask: which examples of the batch are certain: ``weak_probs.max(-1) >= threshold``.
      decay: in [0, 1]; may be traced.

    Returns:
      A float32 scalar.

    Raises:
      ValueError: decay out of range.

    Source: Yang, Zhao, Qi, Qiao, Shi, Zhao (2023), arXiv 2308.06777.

    >>> first = certain_ratio_ema(None, jnp.array([True, False]))
    >>> float(first), float(certain_ratio_ema(first, jnp.array([True, True]), decay=0.5))
    (0.5, 0.75)
    """
    check_finite_number("decay", decay, low=0.0, high=1.0)
    now = jnp.mean(mask, dtype=jnp.float32)
    return now if prev is None else decay * jnp.asarray(prev, jnp.float32) + (1 - decay) * now
