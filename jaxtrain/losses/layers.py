"""Images as layers: a transparent foreground over a background, and a loss where only their composite is known."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.losses._logits import widened

_CLEAR = 2e-19  # alphas of saturated sigmoids; one over the square of larger ones is a number in float32


def _check_rgba(where: str, rgba: Array) -> None:
    if rgba.ndim == 0 or rgba.shape[-1] != 4:
        raise ValueError(f"{where}: a foreground of shape {rgba.shape}; give (..., height, width, 4), alpha last")


def premultiply(rgba: Float[Array, "*pixels 4"]) -> Float[Array, "*pixels 4"]:
    r"""Colours times their alpha: :math:`(F, \alpha) \mapsto (\alpha F, \alpha)`.

    What nobody sees is 0 then, so that premultiplied layers can be compared.

    Args:
      rgba: ``(..., 4)`` colours and, last, alpha.

    Returns:
      The same shape and dtype.

    Raises:
      ValueError: not four channels.

    Source: Porter and Duff (1984); Yang, Liu, Li and others (2024), arXiv 2411.17864.

    >>> premultiply(jnp.array([1.0, 0.5, 0.0, 0.5])).tolist()
    [0.5, 0.25, 0.0, 0.5]
    """
    _check_rgba("premultiply", rgba)
    return jnp.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)


def unpremultiply(rgba: Float[Array, "*pixels 4"]) -> Float[Array, "*pixels 4"]:
    r"""The inverse of :func:`premultiply`; black where alpha is 0, or so small (2e-19) that the slope is no number.

    Args:
      rgba: ``(..., 4)`` colours times alpha and, last, alpha.

    Returns:
      The same shape and dtype.

    Raises:
      ValueError: not four channels.

    Source: Porter and Duff (1984); Yang, Liu, Li and others (2024), arXiv 2411.17864.

    >>> unpremultiply(jnp.array([[0.5, 0.25, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]])).tolist()
    [[1.0, 0.5, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]]
    """
    _check_rgba("unpremultiply", rgba)
    x = widened(rgba)
    alpha = x[..., 3:]
    clear = jnp.abs(alpha) < _CLEAR
    colour = jnp.where(clear, 0, x[..., :3] / jnp.where(clear, 1, alpha))
    return jnp.concatenate([colour, alpha], axis=-1).astype(rgba.dtype)


def alpha_composite(
    fg_rgba: Float[Array, "*batch h w 4"], bg: Float[Array, "..."], *, premultiplied: bool = False
) -> Float[Array, "*batch h w c"]:
    r"""A transparent layer over another one.

    .. math:: I = \alpha F + (1 - \alpha) B, \qquad \text{premultiplied: } I = F' + (1 - \alpha) B.

    Args:
      fg_rgba: ``(..., height, width, 4)`` the upper layer, alpha in [0, 1] last.
      bg: ``(..., height, width, 3)`` an opaque lower layer; if ``premultiplied`` also ``(..., 4)``, another such layer,
        and then what comes out is one: layers on layers, in any order of evaluation.
      premultiplied: whether colours have been multiplied by their alpha.

    Returns:
      The shape of ``bg``, the dtype of ``fg_rgba``.

    Raises:
      ValueError: shapes that disagree.

    Source: Porter and Duff (1984); Yang, Liu, Li and others (2024), arXiv 2411.17864.

    >>> fg, bg = jnp.array([[[1.0, 0.0, 0.0, 0.25]]]), jnp.array([[[0.0, 0.0, 1.0]]])
    >>> alpha_composite(fg, bg).tolist()
    [[[0.25, 0.0, 0.75]]]
    """
    _check_rgba("alpha_composite", fg_rgba)
    channels = (3, 4) if premultiplied else (3,)
    if bg.shape not in [(*fg_rgba.shape[:-1], c) for c in channels]:
        raise ValueError(
            f"alpha_composite: a foreground of shape {fg_rgba.shape} over {bg.shape}; give both alike, and the lower "
            f"layer with {' or '.join(map(str, channels))} channels"
        )
    fg, below = widened(fg_rgba), widened(bg)
    alpha, seen = fg[..., 3:], fg[..., : bg.shape[-1]]
    return ((seen if premultiplied else alpha * seen) + (1 - alpha) * below).astype(fg_rgba.dtype)


def layer_consistency_loss(
    fg_rgba: Float[Array, "batch h w 4"],
    bg: Float[Array, "..."],
    image: Float[Array, "..."],
    *,
    p: Number = 2.0,
    premultiplied: bool = False,
) -> Float[Array, " batch"]:
    r"""Layers put together again must give the image: teaches a foreground of which no truth is known.

    .. math:: \ell = \operatorname{mean} |\alpha F + (1 - \alpha) B - I|^p.

    Photographs with and without an object give background and image but no transparent foreground, shadows included.
    The whole objective is the loss of the background, plus that of the foreground times
    :func:`layer_dropout_targets`, plus :math:`\lambda` times this one for all examples.

    Args:
      fg_rgba: ``(batch, height, width, 4)`` the foreground as predicted, alpha in [0, 1] (a sigmoid's value).
      bg: ``(batch, height, width, 3)`` the background as predicted.
      image: ``(batch, height, width, 3)``.
      p: the power, ≥ 1; may be traced.
      premultiplied: as in :func:`alpha_composite`.

    Returns:
      ``(batch,)``, one loss for each image, in the dtype of ``fg_rgba``.

    Raises:
      ValueError: shapes that disagree; a power below 1.

    Source: Yang, Liu, Li and others (2024), arXiv 2411.17864.

    >>> fg, bg = jnp.array([[[[1.0, 0.0, 0.0, 0.25]]]]), jnp.array([[[[0.0, 0.0, 1.0]]]])
    >>> layer_consistency_loss(fg, bg, jnp.array([[[[0.25, 0.0, 0.0]]]])).tolist()  # 0.75² / 3
    [0.1875]
    """
    check_finite_number("p", p, low=1.0)
    if fg_rgba.ndim != 4 or image.shape != (*fg_rgba.shape[:-1], 3) or bg.shape != image.shape:
        raise ValueError(
            f"layer_consistency_loss: foreground {fg_rgba.shape}, background {bg.shape} and image {image.shape}; give "
            f"(batch, height, width, 4) and twice (batch, height, width, 3)"
        )
    found = alpha_composite(widened(fg_rgba), bg, premultiplied=premultiplied)
    return jnp.mean(jnp.abs(found - widened(image)) ** p, axis=(1, 2, 3)).astype(fg_rgba.dtype)


def layer_dropout_targets(key: Key, has_fg_gt: Bool[Array, " batch"], *, rate: Number = 0.0) -> Float[Array, " batch"]:
    r"""Weights of the examples' foreground losses: 1 where a truth is known and not withheld, else 0.

    .. math:: m_i = g_i\, b_i, \qquad b_i \sim \mathrm{Bernoulli}(1 - r).

    Withholding some makes examples with a truth learn from the composite alone, as those without one must.

    Args:
      key: decides which are withheld.
      has_fg_gt: ``(batch,)`` Booleans, whether the foreground is known.
      rate: :math:`r`, how many are withheld, in [0, 1]; may be traced.

    Returns:
      ``(batch,)`` zeros and ones, float32.

    Raises:
      TypeError: no typed key.
      ValueError: a rate out of range.

    Source: Yang, Liu, Li and others (2024), arXiv 2411.17864.

    >>> layer_dropout_targets(jax.random.key(0), jnp.array([True, False])).tolist()
    [1.0, 0.0]
    """
    check_key(key, where="layer_dropout_targets")
    check_finite_number("rate", rate, low=0.0, high=1.0)
    kept = jax.random.uniform(key, has_fg_gt.shape) >= rate
    return (has_fg_gt & kept).astype(jnp.float32)
