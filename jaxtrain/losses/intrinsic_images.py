"""Intrinsic images, albedo times shading: shading as a number below one, the albedo it implies, and WHDR."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number, debug_check
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def inverse_shading(shading: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Shading from 0 without bound as a number from 1 down to 0, which a network can give.

    .. math:: D = \frac{1}{1 + S}.

    Args:
      shading: ≥ 0, of any shape.

    Returns:
      The same shape and dtype.

    Source: Careaga and Aksoy (2023), arXiv 2311.12792.

    >>> inverse_shading(jnp.array([0.0, 1.0, 3.0])).tolist()
    [1.0, 0.5, 0.25]
    """
    return (1 / (1 + widened(shading))).astype(shading.dtype)


def uninvert_shading(inverse: Float[Array, "*shape"], *, eps: Number = 1e-5) -> Float[Array, "*shape"]:
    r"""The shading of :func:`inverse_shading`.

    .. math:: S = \frac{1}{\max(D, \epsilon)} - 1.

    Args:
      inverse: between 0 and 1, of any shape.
      eps: the floor, > 0, which bounds the shading; may be traced.

    Returns:
      The same shape and dtype.

    Raises:
      ValueError: a floor that is not positive.

    Source: Careaga and Aksoy (2023), arXiv 2311.12792.

    >>> uninvert_shading(jnp.array([1.0, 0.5, 0.25])).tolist()
    [0.0, 1.0, 3.0]
    """
    check_finite_number("eps", eps, low=_TINY)
    return (1 / jnp.maximum(widened(inverse), eps) - 1).astype(inverse.dtype)


def implied_albedo(
    image: Float[Array, "*shape"], shading: Float[Array, "..."], *, eps: Number = 1e-5
) -> Float[Array, "*shape"]:
    r"""The albedo that an image has if its shading is this one.

    .. math:: A = \frac{I}{\max(S, \epsilon)}.

    Args:
      image: ``(batch, height, width)``, or with channels at the end; linear, not gamma-coded.
      shading: ``(batch, height, width)``.
      eps: the least shading, > 0; may be traced.

    Returns:
      The shape and dtype of ``image``.

    Raises:
      ValueError: shapes that disagree; a floor that is not positive.

    Source: Careaga and Aksoy (2023), arXiv 2311.12792.

    >>> implied_albedo(jnp.array([[[[1.0, 2.0]]]]), jnp.array([[[4.0]]])).tolist()
    [[[[0.25, 0.5]]]]
    """
    check_finite_number("eps", eps, low=_TINY)
    if shading.shape not in (image.shape, image.shape[:-1]):
        raise ValueError(f"implied_albedo: shading {shading.shape} is neither {image.shape} nor {image.shape[:-1]}")
    s = jnp.maximum(widened(shading), eps)
    return (widened(image) / (s if s.ndim == image.ndim else s[..., None])).astype(image.dtype)


def whdr(
    albedo: Float[Array, "batch h w"],
    points: Int[Array, "..."],
    darker: Int[Array, "..."],
    weights: Float[Array, "..."],
    *,
    delta: Number = 0.1,
) -> Float[Array, " batch"]:
    r"""Weighted human disagreement rate: how often an albedo orders two points otherwise than people did.

    A point is the darker one if the other's albedo is more than :math:`1 + \delta` times its own; else both are equal.

    Args:
      albedo: ``(batch, height, width)``, of colours the mean.
      points: ``(batch, pairs, 4)``: row and column of the first point, then of the second.
      darker: ``(batch, pairs)``: 1 or 2, which point is darker; 0: neither.
      weights: ``(batch, pairs)`` ≥ 0, the confidence in it; 0 where an image has fewer pairs.
      delta: :math:`\delta` ≥ 0; may be traced.

    Returns:
      ``(batch,)`` rates between 0 and 1; 0 without a pair.

    Raises:
      ValueError: shapes that disagree; a delta out of range; a point outside the image (traced ones move to its border,
        and :func:`jaxtrain.core.checked` raises there).

    Source: Bell, Bala and Snavely (2014); as in Careaga and Aksoy (2023), arXiv 2311.12792.

    >>> albedo = jnp.array([[[1.0, 1.05, 2.0]]])
    >>> points = jnp.array([[[0, 0, 0, 1], [0, 0, 0, 2], [0, 2, 0, 1]]])
    >>> whdr(albedo, points, jnp.array([[0, 1, 1]]), jnp.array([[1.0, 2.0, 1.0]])).tolist()
    [0.25]
    """
    check_finite_number("delta", delta, low=0.0)
    if albedo.ndim != 3 or points.shape != (*darker.shape, 4) or darker.shape != weights.shape:
        raise ValueError(
            f"whdr: albedo {albedo.shape}, points {points.shape}, darker {darker.shape} and weights {weights.shape}; "
            f"give (batch, height, width), (batch, pairs, 4) and twice (batch, pairs)"
        )
    border = np.array(albedo.shape[1:] * 2) - 1
    message = f"whdr: a point lies outside the image of {albedo.shape[1]} × {albedo.shape[2]} pixels"
    if isinstance(points, jax.core.Tracer):
        debug_check(lambda: (points >= 0) & (points <= border), message)
        points = jnp.clip(points, 0, border)
    elif np.any(np.asarray(points) < 0) or np.any(np.asarray(points) > border):
        raise ValueError(message)
    image = jnp.arange(len(albedo))[:, None]
    first, second = (jnp.maximum(widened(albedo)[image, points[..., i], points[..., i + 1]], 1e-10) for i in (0, 2))
    found = jnp.where(second > (1 + delta) * first, 1, jnp.where(first > (1 + delta) * second, 2, 0))
    w = widened(weights)
    wrong, total = jnp.sum(w * (found != darker), axis=1), jnp.sum(w, axis=1)
    return (wrong / jnp.where(total > 0, total, 1)).astype(albedo.dtype)
