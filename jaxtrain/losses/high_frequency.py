"""Losses of fine detail in images: Haar wavelets' detail bands and histograms of oriented gradients (HOG)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import widened

_SOURCE = "give (batch, height, width, channels)"
_TINY = float(np.finfo(np.float32).tiny)
_FLAT = 1e-15  # squares of what is above are numbers in float32


def check_images(where: str, pred: Array, target: Array) -> None:
    """Raises unless both are the same number of images of one size."""
    if pred.ndim != 4 or pred.shape != target.shape:
        raise ValueError(f"{where}: images of shapes {pred.shape} and {target.shape}; {_SOURCE} for both")


def haar_dwt2(
    x: Float[Array, "batch h w c"],
) -> tuple[
    Float[Array, "batch h2 w2 c"],
    Float[Array, "batch h2 w2 c"],
    Float[Array, "batch h2 w2 c"],
    Float[Array, "batch h2 w2 c"],
]:
    r"""The orthonormal Haar transform of images: means and three kinds of differences of 2 × 2 blocks.

    .. math:: \begin{pmatrix} LL \\ LH \\ HL \\ HH \end{pmatrix} = \frac12
       \begin{pmatrix} 1 & 1 & 1 & 1 \\ 1 & -1 & 1 & -1 \\ 1 & 1 & -1 & -1 \\ 1 & -1 & -1 & 1 \end{pmatrix}
       \begin{pmatrix} a \\ b \\ c \\ d \end{pmatrix}
       \quad \text{for the block} \quad \begin{matrix} a & b \\ c & d \end{matrix}.

    LH sees vertical edges (PyWavelets' cV), HL horizontal ones (cH), HH diagonals (cD). Energy is kept.

    Args:
      x: ``(batch, height, width, channels)``, height and width even.

    Returns:
      ``(ll, lh, hl, hh)``, each of half the height and width.

    Raises:
      ValueError: no images, or an odd height or width.

    Source: Zhao, Zhou, Zhu and others (2025), arXiv 2507.19138; Haar (1910).

    >>> [band.item() for band in haar_dwt2(jnp.array([[4.0, 2.0], [1.0, 1.0]]).reshape(1, 2, 2, 1))]
    [4.0, 1.0, 2.0, 1.0]
    """
    if x.ndim != 4 or x.shape[1] % 2 or x.shape[2] % 2:
        raise ValueError(f"haar_dwt2: images of shape {x.shape}; {_SOURCE}, height and width even")
    a, b, c, d = (x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
    above, below, left, right = a + b, c + d, a - b, c - d
    return 0.5 * (above + below), 0.5 * (left + right), 0.5 * (above - below), 0.5 * (left - right)


def haar_idwt2(
    ll: Float[Array, "batch h w c"], lh: Float[Array, "..."], hl: Float[Array, "..."], hh: Float[Array, "..."]
) -> Float[Array, "batch h2 w2 c"]:
    r"""The inverse of :func:`haar_dwt2`, which is its transpose.

    Args:
      ll, lh, hl, hh: the four bands, ``(batch, height, width, channels)``.

    Returns:
      ``(batch, 2 height, 2 width, channels)``.

    Raises:
      ValueError: shapes that disagree.

    Source: Zhao, Zhou, Zhu and others (2025), arXiv 2507.19138; Haar (1910).

    >>> haar_idwt2(*haar_dwt2(jnp.array([[4.0, 2.0], [1.0, 1.0]]).reshape(1, 2, 2, 1))).ravel().tolist()
    [4.0, 2.0, 1.0, 1.0]
    """
    if ll.ndim != 4 or not ll.shape == lh.shape == hl.shape == hh.shape:
        raise ValueError(
            f"haar_idwt2: bands of shapes {ll.shape}, {lh.shape}, {hl.shape}, {hh.shape}; {_SOURCE} for each"
        )
    above = jnp.stack([ll + lh + hl + hh, ll - lh + hl - hh], axis=3)
    below = jnp.stack([ll + lh - hl - hh, ll - lh - hl + hh], axis=3)
    n, h, w, c = ll.shape
    return 0.5 * jnp.stack([above, below], axis=2).reshape(n, 2 * h, 2 * w, c)


def wavelet_high_frequency_loss(
    pred: Float[Array, "batch h w c"], target: Float[Array, "..."], *, levels: int = 1, p: Number = 1.0
) -> Float[Array, " batch"]:
    r"""The difference of two images in the detail bands of Haar wavelets; brightness and smooth shapes do not count.

    .. math:: \ell = \sum_{l=1}^{L} \sum_{b \in \{LH, HL, HH\}} \operatorname{mean} |b_l(\hat x) - b_l(x)|^p,

    where level :math:`l + 1` transforms the LL band of level :math:`l`.

    Args:
      pred: ``(batch, height, width, channels)``; both sizes multiples of ``2**levels``.
      target: the same.
      levels: :math:`L` ≥ 1; static.
      p: the power, ≥ 1; may be traced.

    Returns:
      ``(batch,)``, one loss for each image, in the dtype of ``pred``.

    Raises:
      ValueError: shapes that disagree or cannot be halved so often; a number out of range.

    Source: Zhao, Zhou, Zhu and others (2025), arXiv 2507.19138.

    >>> x = jnp.array([[4.0, 2.0], [1.0, 1.0]]).reshape(1, 2, 2, 1)
    >>> wavelet_high_frequency_loss(x, jnp.zeros_like(x)).tolist(), wavelet_high_frequency_loss(x, x + 7).tolist()
    ([4.0], [0.0])
    """
    check_images("wavelet_high_frequency_loss", pred, target)
    check_finite_number("p", p, low=1.0)
    unit = 2 ** static_int("levels", levels, low=1)
    if pred.shape[1] % unit or pred.shape[2] % unit:
        raise ValueError(
            f"wavelet_high_frequency_loss: {levels} levels need sizes that are multiples of {unit}, got {pred.shape}"
        )
    rest, total = widened(pred) - widened(target), 0.0  # the transform is linear
    for _ in range(levels):
        rest, *details = haar_dwt2(rest)
        total += sum(jnp.mean(jnp.abs(band) ** p, axis=(1, 2, 3)) for band in details)
    return total.astype(pred.dtype)


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
    wave = wavelet_high_frequency_loss(widened(pred), target, levels=levels)
    return (w_wave * wave + w_hog * hog_loss(widened(pred), target, cell=cell)).astype(pred.dtype)
