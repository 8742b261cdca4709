"""Images as tokens of growing resolution: their log-probability, cross-entropy weighted by scale, and a prior kept."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, check_same_logits, tempered_kl, widened


def _scale_of_tokens(where: str, patch_nums: Sequence[int]) -> np.ndarray:
    """The number of each token's scale, from 0."""
    sides = [int(p) for p in patch_nums]
    if not sides or min(sides) < 1:
        raise ValueError(f"{where}: patch_nums are side lengths ≥ 1, got {tuple(patch_nums)}")
    return np.repeat(np.arange(len(sides)), np.square(sides))


def _log_p(
    where: str, logits: Array, targets: Array, patch_nums: Sequence[int], mask: Array | None
) -> tuple[Array, np.ndarray]:
    """Log-probabilities of tokens, 0 where they do not count, and the tokens' scales."""
    scale = _scale_of_tokens(where, patch_nums)
    if logits.ndim != 3 or logits.shape[1] != len(scale):
        raise ValueError(
            f"{where}: scales of {tuple(patch_nums)} patches have {len(scale)} tokens; the logits {logits.shape} must be "
            "(batch, tokens, vocabulary)"
        )
    targets = check_labels(where, logits, targets)
    if mask is not None and mask.shape != targets.shape:
        raise ValueError(f"{where}: where {mask.shape} for targets {targets.shape}")
    log_p = jnp.take_along_axis(jax.nn.log_softmax(widened(logits)), targets[..., None], axis=-1)[..., 0]
    return (log_p if mask is None else jnp.where(mask, log_p, 0.0)), scale


def multiscale_token_logprob(
    logits: Float[Array, "batch tokens vocabulary"],
    targets: Int[Array, "..."],
    patch_nums: Sequence[int],
    *,
    where: Bool[Array, "..."] | None = None,
    per_scale: bool = False,
) -> Float[Array, "batch *scales"]:
    r"""Log-probability of an image made scale by scale: a sum over scales and positions.

    .. math:: \log \pi(r_1 \ldots r_K) = \sum_{k=1}^K \sum_{i=1}^{p_k^2} \log p(r_{k,i} \mid r_1 \ldots r_{k-1}).

    The logits come from one pass in which each scale sees those before it.

    Args:
      logits: ``(batch, tokens, vocabulary)``, the scales one after the other.
      targets: ``(batch, tokens)`` the image's tokens.
      patch_nums: side lengths :math:`p_k` of the scales; their squares add up to the tokens.
      where: ``(batch, tokens)`` which tokens count; default all.
      per_scale: a sum for each scale instead of one for the image.

    Returns:
      ``(batch,)`` or ``(batch, scales)``, in the dtype of the logits; summed in float32 at least.

    Raises:
      ValueError: scales that are not as many tokens, shapes that disagree, a token out of range.

    Source: Zhuang et al. (2025), arXiv 2504.02949; Tian et al. (2024), arXiv 2404.02905, for the scales.

    >>> logits, targets = jnp.zeros((1, 5, 2)), jnp.zeros((1, 5), int)
    >>> [round(float(x), 4) for x in multiscale_token_logprob(logits, targets, (1, 2), per_scale=True)[0]]
    [-0.6931, -2.7726]
    """
    log_p, scale = _log_p("multiscale_token_logprob", logits, targets, patch_nums, where)
    if not per_scale:
        return jnp.sum(log_p, axis=1).astype(logits.dtype)
    parts = jnp.split(log_p, np.flatnonzero(np.diff(scale)) + 1, axis=1)
    return jnp.stack([jnp.sum(part, axis=1) for part in parts], axis=1).astype(logits.dtype)


def scale_weights(
    patch_nums: Sequence[int], *, kind: str = "coarse", decay: Number = 0.5, coarse: int | None = None
) -> Float[Array, " tokens"]:
    r"""A weight for each token of an image by its scale, for :func:`scale_weighted_token_loss`.

    ======================  =================================================================================
    ``kind``                weight of a token of scale k = 0 … K - 1
    ======================  =================================================================================
    ``"coarse"``            1 in the first ``coarse`` scales, ``decay`` in the finer ones: the authors' runs
    ``"geometric"``         ``decay`` to the power k
    ``"scales"``            tokens / (K · tokens of the scale): every scale counts alike, however many tokens
    ``"tokens"``            1: the ordinary loss, nearly all of which are the finest scales
    ======================  =================================================================================

    Args:
      patch_nums: side lengths of the scales, the coarsest first.
      kind: as above.
      decay: ≥ 0; may be traced.
      coarse: how many scales are coarse, ≥ 1; default the authors' 8 of 13 in proportion, rounded.

    Returns:
      ``(tokens,)`` in float32; not normalised.

    Raises:
      ValueError: an unknown kind, or a number out of range.

    Source: Chung et al. (2025), arXiv 2504.02612, and its released code.

    >>> scale_weights((1, 2), coarse=1).tolist()
    [1.0, 0.5, 0.5, 0.5, 0.5]
    """
    check_finite_number("decay", decay, low=0.0)
    scale = _scale_of_tokens("scale_weights", patch_nums)
    scales = len(patch_nums)
    coarse = max(1, round(8 * scales / 13)) if coarse is None else coarse
    if not 1 <= coarse <= scales:
        raise ValueError(f"scale_weights: coarse must be one of the {scales} scales, got {coarse}")
    if kind == "coarse":
        weights = jnp.where(scale < coarse, 1.0, decay)
    elif kind == "geometric":
        weights = jnp.power(jnp.asarray(decay, jnp.float32), scale)
    elif kind == "scales":
        weights = len(scale) / (scales * np.bincount(scale)[scale])
    elif kind == "tokens":
        weights = np.ones(len(scale))
    else:
        raise ValueError(f"scale_weights: kind must be 'coarse', 'geometric', 'scales' or 'tokens', got {kind!r}")
    return jnp.asarray(weights, jnp.float32)


def scale_weighted_token_loss(
    logits: Float[Array, "batch tokens vocabulary"],
    targets: Int[Array, "..."],
    patch_nums: Sequence[int],
    weights: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, " batch"]:
    r"""Cross-entropy of an image's tokens, weighted by scale: :math:`-\frac1n \sum_{k,i} w_{k,i} \log p(r_{k,i} \mid r_{<k})`.

    The mean is over the tokens, not over their weights, as in the release. Weights of 1 give the ordinary loss,
    :func:`multiscale_token_logprob` over minus the number of tokens.

    Args:
      logits: ``(batch, tokens, vocabulary)``, the scales one after the other.
      targets: ``(batch, tokens)`` the image's tokens.
      patch_nums: side lengths of the scales; their squares add up to the tokens.
      weights: ``(tokens,)`` as from :func:`scale_weights`, or ``(scales,)``.
      where: ``(batch, tokens)`` which tokens count; default all.

    Returns:
      ``(batch,)``, in the dtype of the logits; 0 for an image without tokens that count.

    Raises:
      ValueError: shapes that disagree, a token out of range.

    Source: Chung et al. (2025), arXiv 2504.02612, and its released code.

    >>> logits, targets = jnp.zeros((1, 5, 2)), jnp.zeros((1, 5), int)
    >>> round(float(scale_weighted_token_loss(logits, targets, (1, 2), jnp.array([1.0, 0.5]))[0]), 4)  # 3/5 log 2
    0.4159
    """
    name = "scale_weighted_token_loss"
    log_p, scale = _log_p(name, logits, targets, patch_nums, where)
    if weights.shape not in ((len(scale),), (len(patch_nums),)):
        raise ValueError(f"{name}: weights {weights.shape}; give {(len(scale),)} or {(len(patch_nums),)}")
    w = widened(weights)
    w = w if len(w) == len(scale) else w[scale]
    counted = len(scale) if where is None else jnp.maximum(jnp.sum(where, axis=1), 1)
    return (-jnp.sum(w * log_p, axis=1) / counted).astype(logits.dtype)


def prior_distillation_loss(
    logits: Float[Array, "batch tokens vocabulary"],
    frozen_logits: Float[Array, "..."],
    *,
    weight: Number = 0.5,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, " batch"]:
    r"""What keeps a model that is tuned on a subject at what it knew of the class: :math:`\mu\,\mathrm{mean}\,\mathrm{KL}(p_0 \| p)`.

    Both see the prompt of the class and tokens that the frozen model sampled for it, so that no images are stored. The
    mean is over tokens. The authors take a step on the subject and then one on this, with an optimizer step each.

    Args:
      logits: ``(batch, tokens, vocabulary)`` of the model that is tuned.
      frozen_logits: of the model before, on the same tokens; constants.
      weight: :math:`\mu` ≥ 0; may be traced.
      where: ``(batch, tokens)`` which tokens count; default all.

    Returns:
      ``(batch,)``, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, or a weight out of range.

    Source: Chung et al. (2025), arXiv 2504.02612, and its released code.

    >>> even, sure = jnp.zeros((1, 1, 2)), jnp.array([[[0.0, 50.0]]])
    >>> round(float(prior_distillation_loss(even, sure, weight=1.0)[0]), 4)  # log 2
    0.6931
    """
    name = "prior_distillation_loss"
    check_finite_number("weight", weight, low=0.0)
    check_same_logits(name, "frozen_logits", logits, frozen_logits)
    if where is not None and where.shape != logits.shape[:-1]:
        raise ValueError(f"{name}: where {where.shape} for logits {logits.shape}; give {logits.shape[:-1]}")
    kl = tempered_kl(jax.lax.stop_gradient(frozen_logits), logits)
    if where is None:
        return (weight * kl.mean(axis=1)).astype(logits.dtype)
    mean = jnp.sum(jnp.where(where, kl, 0.0), axis=1) / jnp.maximum(jnp.sum(where, axis=1), 1)
    return (weight * mean).astype(logits.dtype)
