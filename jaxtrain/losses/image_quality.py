"""How alike two images are: PSNR and SSIM."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import widened
from jaxtrain.losses.wavelets import check_images

_TINY = float(np.finfo(np.float32).tiny)
_SIGMA, _SIDE = 1.5, 11


def psnr(
    pred: Float[Array, "batch h w c"], target: Float[Array, "..."], *, data_range: Number = 1.0
) -> Float[Array, " batch"]:
    r"""Peak signal-to-noise ratio.

    .. math:: 10 \log_{10} \frac{R^2}{\operatorname{mean} (\hat x - x)^2}.

    Args:
      pred: ``(batch, height, width, channels)``.
      target: the same.
      data_range: :math:`R` > 0, the largest value less the smallest; may be traced.

    Returns:
      ``(batch,)`` decibels; infinite, without a slope, where both agree.

    Raises:
      ValueError: shapes that disagree; a range that is not positive.

    Source: as in Zhao, Zhou, Zhu and others (2025), arXiv 2507.19138.

    >>> psnr(jnp.zeros((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), 100.0), data_range=1000.0).tolist()
    [20.0]
    """
    check_images("psnr", pred, target)
    check_finite_number("data_range", data_range, low=_TINY)
    error = jnp.mean((widened(pred) - widened(target)) ** 2, axis=(1, 2, 3))
    agree = error == 0
    db = 20 * jnp.log10(data_range) - 10 * jnp.log10(jnp.where(agree, 1, error))
    return jnp.where(agree, jnp.inf, db).astype(pred.dtype)


def ssim(
    pred: Float[Array, "batch h w c"], target: Float[Array, "..."], *, data_range: Number = 1.0
) -> Float[Array, " batch"]:
    r"""Structural similarity: means, variances and covariance in windows, compared.

    .. math:: \operatorname{mean}\;
       \frac{(2 \mu_{\hat x} \mu_x + c_1)(2 \sigma_{\hat x x} + c_2)}
       {(\mu_{\hat x}^2 + \mu_x^2 + c_1)(\sigma_{\hat x}^2 + \sigma_x^2 + c_2)},
       \qquad c_1 = (0.01 R)^2,\; c_2 = (0.03 R)^2,

    over all Gaussian windows of 11 × 11 pixels (:math:`\sigma = 1.5`) that lie inside, and over the channels. One less
    it is a loss.

    Args:
      pred: ``(batch, height, width, channels)``, both sizes at least 11.
      target: the same.
      data_range: :math:`R` > 0, the largest value less the smallest; may be traced.

    Returns:
      ``(batch,)`` numbers up to 1, in the dtype of ``pred``.

    Raises:
      ValueError: shapes that disagree, images that are too small, or a range that is not positive.

    Source: Wang, Bovik, Sheikh and Simoncelli (2004); as in Zhao, Zhou, Zhu and others (2025), arXiv 2507.19138.

    >>> x = jnp.arange(121.0).reshape(1, 11, 11, 1) / 121
    >>> ssim(x, x).round(5).tolist()
    [1.0]
    """
    check_images("ssim", pred, target)
    check_finite_number("data_range", data_range, low=_TINY)
    if min(pred.shape[1:3]) < _SIDE:
        raise ValueError(f"ssim: images of shape {pred.shape} hold no window of {_SIDE} × {_SIDE} pixels")
    bell = np.exp(-0.5 * ((np.arange(_SIDE) - _SIDE // 2) / _SIGMA) ** 2)
    bell /= bell.sum()

    def blurred(x):
        for shape in ((_SIDE, 1), (1, _SIDE)):
            kernel = jnp.asarray(bell, x.dtype).reshape(1, 1, *shape)
            x = jax.lax.conv(x, kernel, (1, 1), "VALID", precision=jax.lax.Precision.HIGHEST)
        return x

    def alone(x):
        """Every channel of every image by itself."""
        return jnp.moveaxis(x, -1, 1).reshape(-1, 1, *x.shape[1:3])

    a, b = alone(widened(pred)), alone(widened(target))
    # about one level for both: variances are differences of squares, which lose digits far from 0
    level = jnp.mean(b, axis=(2, 3), keepdims=True)
    a0, b0 = a - level, b - level
    mean_a, mean_b, square_a, square_b, product = (blurred(x) for x in (a0, b0, a0 * a0, b0 * b0, a0 * b0))
    both = product - mean_a * mean_b
    either = square_a - mean_a**2 + square_b - mean_b**2
    mean_a, mean_b = mean_a + level, mean_b + level
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (either + c2))
    return jnp.mean(found.reshape(len(pred), pred.shape[-1], *found.shape[2:]), axis=(1, 2, 3)).astype(pred.dtype)
