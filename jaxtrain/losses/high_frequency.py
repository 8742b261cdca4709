"""Losses of fine detail in images: histograms of oriented gradients (HOG), and the HR-loss of these and wavelets."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import widened
from jaxtrain.losses.wavelets import check_images, wavelet_high_frequency_loss

_TINY = float(np.finfo(np.float32).tiny)
_FLAT = 1e-15  # squares of what is above are numbers in float32


def hog_features(
    img: Float[Array, "batch h w c"],
    *,
    cell: int = 8,
    bins: int = 9,
    block: int = 1,
    signed: bool = False,
    eps: Number = 1e-2,
) -> Float[Array, "batch rows columns features"]:
    r"""Histograms of oriented gradients, with votes shared by neighbouring bins so that they can be differentiated.

    Central differences :math:`g` (0 at the border; of several channels the longest counts) have length
    :math:`|g|` and angle :math:`\theta`. A pixel's length goes to the two bins whose centres are nearest to its angle,
    in proportion; a cell's histogram is the mean of its pixels; and each block of cells is normalised:

    .. math:: h_k = \operatorname{mean}_{x} |g(x)| \max\Big(0, 1 - \Big|\frac{\theta(x)}{w} - k - \tfrac12\Big|\Big),
       \qquad v = \frac{h}{\sqrt{\|h\|^2 + \epsilon^2}},

    with bins of width :math:`w`, around the circle. No :math:`\epsilon` stands under the root of :math:`|g|`: it
    would make the slope unbounded where the image is nearly flat.

    Args:
      img: ``(batch, height, width, channels)``; pixels that do not fill a cell at the end are left out.
      cell: the side of a cell in pixels; static.
      bins: of half a turn, or a whole one if ``signed``; ≥ 2; static.
      block: the side of a block in cells; blocks overlap; static.
      signed: whether light-to-dark is another direction than dark-to-light.
      eps: contrast below which a block counts as flat, > 0; may be traced.

    Returns:
      ``(batch, rows, columns, block² bins)``, one row of features for each block.

    Raises:
      ValueError: no images, less than one block, or a number out of range.

    Source: Dalal and Triggs (2005); as a loss in Zhao, Zhou, Zhu and others (2025), arXiv 2507.19138.

    >>> ramp = jnp.broadcast_to(jnp.arange(4.0), (4, 4)).reshape(1, 4, 4, 1)  # angle 0: between the last bin and the first
    >>> hog_features(ramp, cell=4, bins=2, eps=1e-6).round(3).tolist()
    [[[[0.7070000171661377, 0.7070000171661377]]]]
    """
    cell, block = static_int("cell", cell, low=1), static_int("block", block, low=1)
    bins = static_int("bins", bins, low=2)
    check_finite_number("eps", eps, low=_TINY)
    rows, columns = (n // cell for n in img.shape[1:3]) if img.ndim == 4 else (0, 0)
    if min(rows, columns) < block:
        raise ValueError(
            f"hog_features: images of shape {img.shape} hold no block of {block} × {block} cells of {cell}"
        )
    x = widened(img)
    gy = jnp.pad(x[:, 2:] - x[:, :-2], ((0, 0), (1, 1), (0, 0), (0, 0)))
    gx = jnp.pad(x[:, :, 2:] - x[:, :, :-2], ((0, 0), (0, 0), (1, 1), (0, 0)))
    longest = jnp.argmax(gx**2 + gy**2, axis=-1, keepdims=True)
    gx, gy = (jnp.take_along_axis(g, longest, -1)[..., 0] for g in (gx, gy))
    flat = jnp.maximum(jnp.abs(gx), jnp.abs(gy)) < _FLAT
    gx = jnp.where(flat, 1.0, gx)  # anywhere but at 0, where an angle has no slope
    length = jnp.where(flat, 0.0, jnp.hypot(gx, gy))
    position = jnp.arctan2(gy, gx) / (2 * jnp.pi if signed else jnp.pi) * bins - 0.5
    away = jnp.abs(jnp.mod(position[..., None] - jnp.arange(bins) + bins / 2, bins) - bins / 2)
    votes = length[..., None] * jnp.maximum(0.0, 1 - away)
    cells = votes[:, : rows * cell, : columns * cell].reshape(len(x), rows, cell, columns, cell, bins).mean((2, 4))
    shifted = [
        cells[:, i : rows - block + 1 + i, j : columns - block + 1 + j] for i in range(block) for j in range(block)
    ]
    h = jnp.concatenate(shifted, axis=-1)
    return (h / jnp.sqrt(jnp.sum(h**2, axis=-1, keepdims=True) + eps**2)).astype(img.dtype)


def hog_loss(
    pred: Float[Array, "batch h w c"],
    target: Float[Array, "..."],
    *,
    cell: int = 8,
    bins: int = 9,
    block: int = 1,
    signed: bool = False,
    eps: Number = 1e-2,
) -> Float[Array, " batch"]:
    r"""The mean absolute difference of the histograms of oriented gradients of two images.

    .. math:: \ell = \operatorname{mean} |v(\hat x) - v(x)|.

    Args:
      pred: ``(batch, height, width, channels)``.
      target: the same.
      cell, bins, block, signed, eps: as in :func:`hog_features`.

    Returns:
      ``(batch,)``, one loss for each image, in the dtype of ``pred``.

    Raises:
      ValueError: shapes that disagree; what :func:`hog_features` raises.

    Source: Zhao, Zhou, Zhu and others (2025), arXiv 2507.19138.

    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> hog_loss(x, x + 3, cell=2).tolist()
    [0.0]
    """
    check_images("hog_loss", pred, target)
    options = {"cell": cell, "bins": bins, "block": block, "signed": signed, "eps": eps}
    difference = hog_features(widened(pred), **options) - hog_features(widened(target), **options)
    return jnp.mean(jnp.abs(difference), axis=(1, 2, 3)).astype(pred.dtype)


def hr_loss(
    pred: Float[Array, "batch h w c"],
    target: Float[Array, "..."],
    *,
    w_wave: Number,
    w_hog: Number,
    levels: int = 1,
    cell: int = 8,
) -> Float[Array, " batch"]:
    r"""What RealisVSR adds to a diffusion loss so that fine detail survives: wavelets' detail bands and HOG.

    .. math:: \ell = w_1 L_{\mathrm{wave}} + w_2 L_{\mathrm{HOG}}.

    Under flow matching the prediction is :math:`\hat x_0 = x_t - t\, \hat v`. Much noise leaves no detail to compare,
    so weights that fall with :math:`t` are sensible; they may differ between the examples.

    Args:
      pred: ``(batch, height, width, channels)`` clean images as predicted.
      target: the true ones.
      w_wave: :math:`w_1` ≥ 0, one number or ``(batch,)``; may be traced.
      w_hog: :math:`w_2` ≥ 0, likewise.
      levels: of :func:`wavelet_high_frequency_loss`, with p = 1; static.
      cell: of :func:`hog_loss`; static.

    Returns:
      ``(batch,)``, one loss for each image, in the dtype of ``pred``.

    Raises:
      ValueError: shapes that disagree; a number out of range.

    Source: Zhao, Zhou, Zhu and others (2025), arXiv 2507.19138.

    >>> x = jnp.array([[4.0, 2.0], [1.0, 1.0]]).reshape(1, 2, 2, 1)
    >>> hr_loss(x, 0 * x, w_wave=0.5, w_hog=0.0, cell=2).tolist()
    [2.0]
    """
    check_finite_number("w_wave", w_wave, low=0.0)
    check_finite_number("w_hog", w_hog, low=0.0)
    for name, weight in (("w_wave", w_wave), ("w_hog", w_hog)):
        if jnp.shape(weight) not in ((), pred.shape[:1]):
            raise ValueError(f"hr_loss: {name} of shape {jnp.shape(weight)}; give one number or {pred.shape[:1]}")
    wave = wavelet_high_frequency_loss(widened(pred), target, levels=levels)
    return (w_wave * wave + w_hog * hog_loss(widened(pred), target, cell=cell)).astype(pred.dtype)
