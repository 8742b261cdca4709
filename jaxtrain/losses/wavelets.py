"""Haar wavelets of images, and a loss of their detail bands."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import widened

_WANTED = "give (batch, height, width, channels)"


def check_images(where: str, pred: Array, target: Array) -> None:
    """Raises unless both are the same number of images of one size."""
    if pred.ndim != 4 or pred.shape != target.shape:
        raise ValueError(f"{where}: images of shapes {pred.shape} and {target.shape}; {_WANTED} for both")


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
        raise ValueError(f"haar_dwt2: images of shape {x.shape}; {_WANTED}, height and width even")
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
            f"haar_idwt2: bands of shapes {ll.shape}, {lh.shape}, {hl.shape}, {hh.shape}; {_WANTED} for each"
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
