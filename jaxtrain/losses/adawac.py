"""AdaWAC: every training example moves its weight between its labels and the consistency of its augmentations."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, widened


def _check_pair(where: str, weights: Array, ce: Array, consistency: Array) -> None:
    if consistency.shape != ce.shape:
        raise ValueError(f"{where}: ce {ce.shape} and consistency {consistency.shape} disagree")
    if weights.shape != (*ce.shape, 2):
        raise ValueError(f"{where}: weights {weights.shape} for losses {ce.shape}; give {(*ce.shape, 2)}")


def adawac_update_weights(
    weights: Float[Array, "*batch 2"],
    ce: Float[Array, "..."],
    consistency: Float[Array, "..."],
    *,
    lr: Number = 1.0,
) -> Float[Array, "*batch 2"]:
    r"""A step of exponentiated gradient ascent on the weights of each example, before the step of the model.

    .. math:: \beta \leftarrow \frac{(\beta_{1} e^{\eta \ell_{ce}},\; \beta_{2} e^{\eta \ell_{ac}})}
       {\beta_{1} e^{\eta \ell_{ce}} + \beta_{2} e^{\eta \ell_{ac}}}

    The weights play against the model: the larger loss gains weight. Begin with 1/2 for both and all examples, keep an
    array ``(examples, 2)``, and write ``weights.at[index].set(...)``. Computed from logarithms, so that losses of a few
    hundred do not overflow; a weight that has vanished in floating point can come back.

    Args:
      weights: ``(..., 2)``, for the labels and for the consistency; rows that sum to 1.
      ce: ``(...)`` losses of the labels.
      consistency: ``(...)`` losses of the consistency.
      lr: :math:`\eta` ≥ 0, in inverse units of the losses; may be traced.

    Returns:
      Shaped like ``weights``, in their dtype, without gradient.

    Raises:
      ValueError: shapes that disagree, or ``lr`` out of range.

    Source: Dong, Xie, Ward (2022), arXiv 2210.01891.

    >>> even = jnp.array([[0.5, 0.5]])
    >>> adawac_update_weights(even, jnp.log(jnp.array([3.0])), jnp.zeros(1)).round(4).tolist()
    [[0.75, 0.25]]
    """
    check_finite_number("lr", lr, low=0.0)
    _check_pair("adawac_update_weights", weights, ce, consistency)
    w, losses = jax.lax.stop_gradient((widened(weights), jnp.stack([widened(ce), widened(consistency)], axis=-1)))
    gain = lr * (losses - jnp.max(losses, axis=-1, keepdims=True))
    return jax.nn.softmax(jnp.log(jnp.maximum(w, jnp.finfo(w.dtype).tiny)) + gain).astype(weights.dtype)


def adawac_loss(
    ce: Float[Array, "*batch"],
    consistency: Float[Array, "..."],
    weights: Float[Array, "..."],
    *,
    dice: Float[Array, "..."] | None = None,
    dice_ratio: Number = 0.5,
) -> Float[Array, "*batch"]:
    r"""Each example's mixture of its supervised loss and its consistency, weights held constant.

    .. math:: \rho\, \ell_{dice} + (1 - \rho) (\beta_1 \ell_{ce} + \beta_2 \ell_{ac})

    and without a Dice loss only the parenthesis. Examples with many labels end up supervised, those with few
    contribute their consistency.

    Args:
      ce: ``(...)``, of segmentations the mean over pixels and over the two augmented views.
      consistency: ``(...)``, see :func:`augmentation_consistency`.
      weights: ``(..., 2)`` after :func:`adawac_update_weights`.
      dice: ``(...)`` or None, the mean over the two views.
      dice_ratio: :math:`\rho` in [0, 1]; may be traced.

    Returns:
      ``(...)``, in the dtype of ``ce``.

    Raises:
      ValueError: shapes that disagree, or a ratio out of range.

    Source: Dong, Xie, Ward (2022), arXiv 2210.01891, and its released code.

    >>> adawac_loss(jnp.array([2.0]), jnp.array([4.0]), jnp.array([[0.75, 0.25]])).tolist()
    [2.5]
    """
    check_finite_number("dice_ratio", dice_ratio, low=0.0, high=1.0)
    _check_pair("adawac_loss", weights, ce, consistency)
    w = jax.lax.stop_gradient(widened(weights))
    mixed = w[..., 0] * widened(ce) + w[..., 1] * widened(consistency)
    if dice is None:
        return mixed.astype(ce.dtype)
    if dice.shape != ce.shape:
        raise ValueError(f"adawac_loss: dice {dice.shape} and ce {ce.shape} disagree")
    return (dice_ratio * widened(dice) + (1 - dice_ratio) * mixed).astype(ce.dtype)


def augmentation_consistency(
    feat1: Float[Array, "batch ..."], feat2: Float[Array, "..."], *, coef: Number = 2.0
) -> Float[Array, " batch"]:
    r"""How far the encoder's features of two augmentations are apart: :math:`\lambda\,\mathrm{mean}(z_1 - z_2)^2`.

    Args:
      feat1: ``(batch, ...)`` of one view.
      feat2: of the other, of the same shape.
      coef: :math:`\lambda` ≥ 0; 2 in the authors' runs; may be traced.

    Returns:
      ``(batch,)``, in the dtype of ``feat1``; the gradient flows into both.

    Raises:
      ValueError: shapes that disagree, or ``coef`` out of range.

    Source: Dong, Xie, Ward (2022), arXiv 2210.01891, and its released code.

    >>> augmentation_consistency(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 0.0]])).tolist()
    [1.0]
    """
    check_finite_number("coef", coef, low=0.0)
    if feat2.shape != feat1.shape or feat1.ndim < 1:
        raise ValueError(f"augmentation_consistency: feat1 {feat1.shape} and feat2 {feat2.shape} disagree")
    square = (widened(feat1) - widened(feat2)) ** 2
    return (coef * square.mean(axis=tuple(range(1, square.ndim)))).astype(feat1.dtype)


def soft_dice_loss(
    logits: Float[Array, "batch *space n"],
    labels: Int[Array, "..."],
    *,
    smooth: Number = 1e-5,
    over_batch: bool = False,
) -> Float[Array, " batch"]:
    r"""One minus the Dice coefficient of probabilities and labels, averaged over classes; squares below.

    .. math:: 1 - \frac1n \sum_k \frac{2 \sum_x p_k t_k + \epsilon}{\sum_x p_k^2 + \sum_x t_k^2 + \epsilon}

    Args:
      logits: ``(batch, ..., n)``, the class axis last.
      labels: ``(batch, ...)`` classes in ``[0, n)``.
      smooth: :math:`\epsilon` > 0: a class that neither appears nor is predicted costs 0; may be traced.
      over_batch: sums over the batch too, as the release does: one value for all examples, coupled, and much milder
        where an image lacks a class (alone it costs almost 1 as long as any of it is predicted).

    Returns:
      ``(batch,)``, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, a label or ``smooth`` out of range.

    Source: Dong, Xie, Ward (2022), arXiv 2210.01891, released code; squares after Milletari, Navab, Ahmadi (2016).

    >>> sure = jnp.array([[[100.0, 0.0], [100.0, 0.0]]])
    >>> round(float(soft_dice_loss(sure, jnp.array([[0, 1]]))[0]), 4)  # 1 - (2/3 + 0) / 2
    0.6667
    """
    check_finite_number("smooth", smooth, low=float(np.finfo(np.float32).tiny))
    labels = check_labels("soft_dice_loss", logits, labels)
    p = jax.nn.softmax(widened(logits))
    t = jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype)
    axes = tuple(range(0 if over_batch else 1, p.ndim - 1))
    both, size = jnp.sum(p * t, axis=axes), jnp.sum(p**2, axis=axes) + jnp.sum(t, axis=axes)
    loss = 1 - jnp.mean((2 * both + smooth) / (size + smooth), axis=-1)
    return jnp.broadcast_to(loss, len(p)).astype(logits.dtype)
