"""Losses of images that forgive scale and shift, and differences of neighbouring pixels at several distances."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import widened


def _prepared(where: str, pred: Array, target: Array, mask: Array | None) -> tuple[Array, Array, Array]:
    """Predictions, targets and a mask of 0 and 1, in float32 at least; what is masked out is 0, so that it may be NaN."""
    if pred.ndim < 3 or pred.shape != target.shape or (mask is not None and mask.shape != pred.shape):
        shapes = f"{pred.shape}, {target.shape} and {None if mask is None else mask.shape}"
        raise ValueError(f"{where}: pred, target and mask of shapes {shapes}; give (batch, height, width) for all")
    p, t = widened(pred), widened(target)
    if mask is None:
        return p, t, jnp.ones_like(p)
    return jnp.where(mask != 0, p, 0), jnp.where(mask != 0, t, 0), (mask != 0).astype(p.dtype)


def _mean(x: Array, mask: Array) -> Array:
    """Over the pixels of the mask, for each image; 0 where there are none. Keeps the axes."""
    axes = tuple(range(1, x.ndim))
    return jnp.sum(mask * x, axis=axes, keepdims=True) / jnp.maximum(jnp.sum(mask, axis=axes, keepdims=True), 1)


def _projected(p: Array, t: Array, mask: Array, floor: Array) -> tuple[Array, Array]:
    """The scale that brings p closest to t, and the scaled p; 0 where no p exceeds the floor.

    In units of the largest p: the square of an output of a saturated network may be too small for a number.
    """
    unit = jax.lax.stop_gradient(jnp.max(mask * jnp.abs(p), axis=tuple(range(1, p.ndim)), keepdims=True))
    varies = unit > jnp.maximum(floor, jnp.finfo(p.dtype).tiny)
    q = p / jnp.where(varies, unit, 1)
    power = jnp.where(varies, _mean(q * q, mask), 1)
    scale = jnp.where(varies, _mean(q * t, mask) / power, 0)
    return scale / jnp.where(varies, unit, 1), scale * q


def _aligned(p: Array, t: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Scale, shift and what is left: about the means, since sums of squares of large numbers would lose the shift."""
    mean_p, mean_t = _mean(p, mask), _mean(t, mask)
    # what is constant but for rounding is constant
    scale, found = _projected(p - mean_p, t - mean_t, mask, 4 * jnp.finfo(p.dtype).eps * jnp.abs(mean_p))
    return scale, mean_t - scale * mean_p, found - (t - mean_t)


def ssi_align(
    pred: Float[Array, "batch h w"], target: Float[Array, "..."], mask: Array | None = None
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    r"""The scale and shift that bring a prediction closest to its target.

    .. math:: (a, b) = \arg\min_{a, b} \sum_{x \in M} (a p(x) + b - t(x))^2.

    Args:
      pred: ``(batch, height, width)``.
      target: the same.
      mask: the same of 0 and 1 (or Booleans): which pixels count; default: all.

    Returns:
      ``(scale, shift)``, each ``(batch,)``, in float32 at least. A constant prediction has scale 0.

    Raises:
      ValueError: shapes that disagree.

    Source: Careaga and Aksoy (2023), arXiv 2311.12792; Ranftl, Lasinger, Hafner, Schindler and Koltun (2020).

    >>> [x.tolist() for x in ssi_align(jnp.array([[[1.0, 2.0, 3.0]]]), jnp.array([[[5.0, 7.0, 9.0]]]))]
    [[2.0], [3.0]]
    """
    scale, shift, _ = _aligned(*_prepared("ssi_align", pred, target, mask))
    return scale.ravel(), shift.ravel()


def scale_shift_invariant_loss(
    pred: Float[Array, "batch h w"], target: Float[Array, "..."], mask: Array | None = None
) -> Float[Array, " batch"]:
    r"""The mean squared error after the best scale and shift: only the order and the proportions of values matter.

    .. math:: \ell = \min_{a, b} \operatorname{mean}_{x \in M} (a p(x) + b - t(x))^2.

    At the minimum :math:`a` and :math:`b` have no first-order influence, so that stopping their gradient would change
    nothing. A negative scale is allowed, hence a prediction in the reverse order costs nothing either.

    Args:
      pred: ``(batch, height, width)``.
      target: the same.
      mask: which pixels count, 0 and 1; default: all. Where none does the loss is 0.

    Returns:
      ``(batch,)``, one loss for each image, in the dtype of ``pred``.

    Raises:
      ValueError: shapes that disagree.

    Source: Careaga and Aksoy (2023), arXiv 2311.12792; Ranftl, Lasinger, Hafner, Schindler and Koltun (2020).

    >>> scale_shift_invariant_loss(jnp.array([[[1.0, 2.0, 3.0]]]), jnp.array([[[6.0, 6.0, 9.0]]])).tolist()
    [0.5]
    """
    p, t, m = _prepared("scale_shift_invariant_loss", pred, target, mask)
    rest = _aligned(p, t, m)[2]
    return _mean(rest * rest, m).ravel().astype(pred.dtype)


def scale_invariant_mse(
    pred: Float[Array, "batch h w *c"], target: Float[Array, "..."], mask: Array | None = None
) -> Float[Array, " batch"]:
    r"""The mean squared error after the best scale, for what is known up to its brightness.

    .. math:: \ell = \min_a \operatorname{mean}_{x \in M} (a p(x) - t(x))^2.

    Args:
      pred: ``(batch, height, width)`` or with channels, which share their scale.
      target: the same.
      mask: the same: which entries count, 0 and 1; default: all. Where none does the loss is 0.

    Returns:
      ``(batch,)``, one loss for each image, in the dtype of ``pred``.

    Raises:
      ValueError: shapes that disagree.

    Source: Careaga and Aksoy (2023), arXiv 2311.12792.

    >>> scale_invariant_mse(jnp.array([[[1.0, 1.0]]]), jnp.array([[[5.0, 7.0]]])).tolist()
    [1.0]
    """
    p, t, m = _prepared("scale_invariant_mse", pred, target, mask)
    found = _projected(p, t, m, jnp.zeros((), p.dtype))[1]
    return _mean((found - t) ** 2, m).ravel().astype(pred.dtype)


def multi_scale_gradient_loss(
    pred: Float[Array, "batch h w"], target: Float[Array, "..."], mask: Array | None = None, *, scales: int = 4
) -> Float[Array, " batch"]:
    r"""Differences between neighbouring pixels, at one pixel's distance, two, four and so on: edges where they belong.

    .. math:: \ell = \sum_{k=0}^{K-1} \frac{1}{|M_k|} \sum_{x \in M_k} |\nabla_h R_k(x)| + |\nabla_v R_k(x)|,
       \qquad R = p - t,

    with every :math:`2^k`-th row and column of :math:`R` and of the mask, and differences only between pixels that
    both count. Of an ordinal prediction pass :math:`a p + b` with the numbers of :func:`ssi_align`.

    Args:
      pred: ``(batch, height, width)``.
      target: the same.
      mask: which pixels count, 0 and 1; default: all.
      scales: :math:`K` ≥ 1; static. Where an image has one row or column left nothing more is added.

    Returns:
      ``(batch,)``, one loss for each image, in the dtype of ``pred``.

    Raises:
      ValueError: shapes that disagree, or fewer than one scale.

    Source: Careaga and Aksoy (2023), arXiv 2311.12792; Li and Snavely (2018), arXiv 1804.00607.

    >>> x = jnp.array([[[0.0, 1.0], [0.0, 3.0]]])
    >>> multi_scale_gradient_loss(x, 0 * x, scales=1).tolist()  # (1 + 3 + 0 + 2) / 4
    [1.5]
    """
    p, t, m = _prepared("multi_scale_gradient_loss", pred, target, mask)
    total = 0.0
    for step in (2**k for k in range(static_int("scales", scales, low=1))):
        r, kept = (p - t)[:, ::step, ::step], m[:, ::step, ::step]
        across = jnp.abs(r[:, :, 1:] - r[:, :, :-1]) * kept[:, :, 1:] * kept[:, :, :-1]
        down = jnp.abs(r[:, 1:] - r[:, :-1]) * kept[:, 1:] * kept[:, :-1]
        pixels = jnp.maximum(jnp.sum(kept, axis=(1, 2)), 1)
        total += (jnp.sum(across, axis=(1, 2)) + jnp.sum(down, axis=(1, 2))) / pixels
    return total.astype(pred.dtype)
