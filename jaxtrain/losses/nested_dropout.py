"""Nested dropout: features in order of importance, so that a few of them carry the class and not the wrong labels."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)
_POWERS = {"uniform": 0, "geometric": 1, "half_normal": 2}


def _check_features(where: str, x: Array) -> None:
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"{where}: features of shape {x.shape}; give (..., d) with d at least 1")


def _survival(d: int, dist: str, scale: Number, dtype: jnp.dtype) -> Float[Array, " d"]:
    """P(b ≥ j) for j = 1 … d."""
    j = jnp.arange(d, dtype=dtype)
    # b^p less the first one's: the largest exponent is 0, however small the scale is
    falls = {0: 0 * j, 1: j / scale, 2: j * (j + 2) / scale / scale}[_POWERS[dist]]
    tail = jnp.cumsum(jnp.exp(-falls)[::-1])[::-1]
    return tail / tail[0]


def nested_dropout(
    key: Key,
    x: Float[Array, "..."],
    *,
    dist: str = "half_normal",
    scale: Number,
    rescale: bool = False,
    shared: bool = False,
) -> Float[Array, "..."]:
    r"""Keeps the first :math:`b` features of each example and sets the rest to zero, with a random :math:`b`.

    .. math:: y_j = x_j \, 1[j \le b], \qquad P(b) \propto \begin{cases} e^{-(b / s)^2} & \texttt{half\_normal} \\
       e^{-b / s} & \texttt{geometric} \\ 1 & \texttt{uniform} \end{cases}, \qquad b = 1 \dots d.

    The first feature is always kept, and the later ones learn what those before them leave. For a linear autoencoder the
    features become the principal components, in order. ``s`` of the half-normal is that of the release, whose standard
    deviation is :math:`s / \sqrt 2`. At test use :func:`truncate_features` with the number that is best on clean
    validation data, or all.

    Args:
      key: decides the numbers kept.
      x: ``(..., d)`` features, before the classifier.
      dist: ``half_normal``, ``geometric`` or ``uniform``.
      scale: :math:`s` > 0, in features; not used by ``uniform``; may be traced.
      rescale: divide each feature by the probability that it is kept, so that its mean stays. Not done in the paper.
      shared: one number for all examples, as the release does, instead of one for each.

    Returns:
      ``(..., d)``, in the dtype of ``x``.

    Raises:
      TypeError: a key that is not one.
      ValueError: features without an axis, an unknown distribution, or a scale that is not positive.

    Source: Chen, Hu, Shen, Ai, Suykens (2022), arXiv 2206.13140; Rippel, Gelbart, Adams (2014), arXiv 1402.0915.

    >>> y = nested_dropout(jax.random.key(0), jnp.ones((500, 4)), dist="uniform", scale=1.0)
    >>> [bool(((0 < y.mean(0)[j]) & (y[:, j] <= y[:, j - 1]).all())) for j in (1, 2, 3)]
    [True, True, True]
    """
    check_key(key, where="nested_dropout")
    _check_features("nested_dropout", x)
    if dist not in _POWERS:
        raise ValueError(f"nested_dropout: dist must be one of {', '.join(sorted(_POWERS))}, got {dist!r}")
    check_finite_number("scale", scale, low=_TINY)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    survival = _survival(x.shape[-1], dist, scale, dtype)
    # uniform numbers come in steps of 2^-23: what is rarer cannot be drawn rightly, nor rescaled
    survival = jnp.where(survival < 2.0**-22, 0.0, survival)
    u = jax.random.uniform(key, (1,) * (x.ndim - 1) if shared else x.shape[:-1], dtype)
    kept = u[..., None] < survival
    if rescale:
        x = (widened(x) / jnp.where(survival > 0, survival, 1.0)).astype(x.dtype)
    return jnp.where(kept, x, jnp.zeros((), x.dtype))


def truncate_features(x: Float[Array, "..."], k: Number) -> Float[Array, "..."]:
    """The first ``k`` features, and zeros for the rest: how a model trained with :func:`nested_dropout` is used.

    Args:
      x: ``(..., d)`` features.
      k: how many to keep, 1 … d; may be traced, and then vmapped to try all.

    Returns:
      ``(..., d)``, in the dtype of ``x``.

    Raises:
      ValueError: features without an axis, or ``k`` out of range.
      TypeError: ``k`` that is no integer.

    Source: Chen, Hu, Shen, Ai, Suykens (2022), arXiv 2206.13140.

    >>> truncate_features(jnp.array([3.0, 2.0, 1.0]), 2).tolist()
    [3.0, 2.0, 0.0]
    """
    _check_features("truncate_features", x)
    if not isinstance(k, jax.core.Tracer) and jnp.ndim(k) == 0:
        number = static_int("k", k.item() if hasattr(k, "item") else k, low=1)
        if number > x.shape[-1]:
            raise ValueError(f"truncate_features: k = {number} of {x.shape[-1]} features")
    return jnp.where(jnp.arange(x.shape[-1]) < k, x, jnp.zeros((), x.dtype))
