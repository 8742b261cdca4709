"""What is done to gradients before they become momentum: unit-wise clipping, centralisation, one common scale."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype


def unit_axes(x: Array, channel_axis: int) -> tuple[int, ...]:
    """The axes within one unit: all but that of the output channels; a vector is one unit."""
    if x.ndim < 2:
        return tuple(range(x.ndim))
    if not -x.ndim <= channel_axis < x.ndim:
        raise ValueError(f"channel_axis {channel_axis} is none of the axes of an array of shape {x.shape}")
    return tuple(a for a in range(x.ndim) if a != channel_axis % x.ndim)


def unit_norm(x: Float[Array, "..."], channel_axis: int) -> Float[Array, "..."]:
    """The Euclidean norm of every unit, with axes of length one, in float32 at least."""
    return jnp.sqrt(jnp.sum(x.astype(accumulator_dtype(x)) ** 2, axis=unit_axes(x, channel_axis), keepdims=True))


def adaptive_gradient_clip(
    clip: Number = 0.01, eps: Number = 1e-3, *, channel_axis: int = -1
) -> optax.GradientTransformation:
    r"""Clips the gradient of every unit to a fraction of the length of its weights.

    .. math:: g_r \leftarrow g_r \min\!\Big(1, \frac{c \max(\|w_r\|, \epsilon)}{\|g_r\|}\Big)

    where a unit :math:`r` is what leads to one output: a column of a (in, out) matrix, in general everything but the
    channel axis, and all of a vector. On matrices this is ``optax.adaptive_grad_clip``, which on (1, n) matrices and on
    three axes takes other units.

    Args:
      clip: :math:`c` > 0; infinity: no clipping.
      eps: the length that a unit has at least, ≥ 0; with 0 units of zeros never move.
      channel_axis: the last axis in JAX's layouts, 0 in PyTorch's.

    Returns:
      A transformation without state, whose update needs ``params``.

    Raises:
      ValueError: a number out of range; from its update: without ``params``.

    Source: Brock, De, Smith, Simonyan (2021), arXiv 2102.06171.

    >>> tx = adaptive_gradient_clip(0.5)
    >>> w, g = jnp.array([[3.0, 1.0], [4.0, 0.0]]), jnp.array([[5.0, 0.25], [0.0, 0.0]])
    >>> print(tx.update(g, tx.init(w), w)[0])  # columns of lengths 5 and 1
    [[2.5  0.25]
     [0.   0.  ]]
    """
    check_finite_number("eps", eps, low=0.0)
    if not isinstance(clip, jax.Array) and not clip > 0:
        raise ValueError(f"adaptive_gradient_clip: clip must be greater than 0 (infinity: no clipping), got {clip}")

    def one(g, w):
        length, most = unit_norm(g, channel_axis), clip * jnp.maximum(unit_norm(w, channel_axis), eps)
        return (g * jnp.where(length > most, most / length, 1)).astype(g.dtype)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("adaptive_gradient_clip needs the parameters: call tx.update(updates, state, params)")
        return jax.tree.map(one, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def centralize_gradients(*, channel_axis: int = -1) -> optax.GradientTransformation:
    r"""Takes the mean out of the gradient of every unit of matrices and kernels.

    .. math:: g_r \leftarrow g_r - \operatorname{mean}(g_r)

    Units as in :func:`adaptive_gradient_clip`; vectors and scalars are left alone. ``optax.centralize`` is this with
    PyTorch's layout, ``channel_axis=0``.

    Args:
      channel_axis: the last axis in JAX's layouts.

    Returns:
      A transformation without state.

    Source: Yong, Huang, Hua, Zhang (2020), arXiv 2004.01461.

    >>> tx = centralize_gradients()
    >>> print(tx.update(jnp.array([[1.0, 2.0], [3.0, 6.0]]), tx.init(None))[0])
    [[-1. -2.]
     [ 1.  2.]]
    """

    def one(g):
        if g.ndim < 2:
            return g
        mean = jnp.mean(g, axis=unit_axes(g, channel_axis), keepdims=True, dtype=accumulator_dtype(g))
        return (g - mean).astype(g.dtype)

    return optax.stateless(lambda updates, params: jax.tree.map(one, updates))


def normalize_gradients_std(eps: Number = 1e-8) -> optax.GradientTransformation:
    r"""Divides the gradient of every array of more than two entries by the (unbiased) deviation of its entries.

    .. math:: g \leftarrow \frac{g}{\sigma(g) + \epsilon}

    Args:
      eps: ε ≥ 0; with 0 a gradient of equal entries is divided by zero.

    Returns:
      A transformation without state.

    Raises:
      ValueError: a number out of range.

    Source: Wright, Demeure (2021), arXiv 2106.13731.

    >>> tx = normalize_gradients_std()
    >>> print(tx.update(jnp.array([10.0, 20.0, 30.0]), tx.init(None))[0])
    [1. 2. 3.]
    """
    check_finite_number("eps", eps, low=0.0)

    def one(g):
        if g.size <= 2:
            return g
        return (g / (jnp.std(g.astype(accumulator_dtype(g)), ddof=1) + eps)).astype(g.dtype)

    return optax.stateless(lambda updates, params: jax.tree.map(one, updates))
