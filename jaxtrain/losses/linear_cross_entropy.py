"""Cross-entropy of a last linear layer, in chunks of examples: the logits of a large vocabulary never exist at once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Scalar, check_finite_number, labels_in_range
from jaxtrain.losses._logits import widened


def linear_cross_entropy(
    hidden: Float[Array, "*batch d"],
    kernel: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    bias: Float[Array, "..."] | None = None,
    label_smoothing: Number = 0.0,
    chunk: int = 256,
) -> Float[Array, "*batch"]:
    r"""Softmax cross-entropy of the logits :math:`z = hW + b`, which are made for ``chunk`` examples at a time.

    .. math:: -(1 - s) \log p_y - \frac sn \sum_k \log p_k, \qquad p = \operatorname{softmax}(hW + b).

    The gradient makes every chunk of logits once more: a matrix product more than with stored logits (4 for 3), and
    ``chunk * n`` numbers instead of ``batch * n``. Where only a weighted sum of the losses is wanted
    :func:`linear_cross_entropy_sum` saves the fourth. The chunks are strided, so that with a batch that is sharded over
    devices each holds a part of every chunk. Reverse mode only.

    Args:
      hidden: ``(..., d)``, what enters the last layer.
      kernel: ``(d, n)``, n ≥ 2 classes.
      labels: ``(...)`` classes in ``[0, n)``; out of range and traced: the nearest class.
      bias: ``(n,)``, or none; -inf masks a class out.
      label_smoothing: :math:`s` in [0, 1]; may be traced, and is not differentiated.
      chunk: examples at a time, ≥ 1.

    Returns:
      ``(...)``, one loss for each example, in the dtype of ``hidden``; computed in float32 at least.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, a label, ``label_smoothing`` or ``chunk`` out of range.

    Source: the chunks are those of Wijmans, Huval, Hertzberg, Koltun, Krähenbühl (2024), arXiv 2411.09009, and of Hsu,
    Dai, Kothapalli and others (2024), arXiv 2410.10989, without their kernels.

    >>> hidden, kernel = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.log(jnp.array([[1.0, 3.0], [1.0, 2.0]]))
    >>> losses = linear_cross_entropy(hidden, kernel, jnp.array([1, 0]))
    >>> [round(float(x), 4) for x in losses]  # log(4/3), log 5
    [0.2877, 1.6094]
    """
    layer, h, y, smoothing = _prepared("linear_cross_entropy", hidden, kernel, labels, bias, label_smoothing, chunk)
    losses, _ = _losses(chunk, layer, h, y, smoothing)
    return losses.reshape(hidden.shape[:-1]).astype(hidden.dtype)


def linear_cross_entropy_sum(
    hidden: Float[Array, "*batch d"],
    kernel: Float[Array, "..."],
    labels: Int[Array, "..."],
    weights: Float[Array, "..."],
    *,
    bias: Float[Array, "..."] | None = None,
    label_smoothing: Number = 0.0,
    chunk: int = 256,
) -> Scalar:
    r"""The sum :math:`\sum_i w_i \ell_i` of :func:`linear_cross_entropy`, its gradient found on the way.

    As the weights are known when the logits of a chunk are there, their gradient is taken at once: three matrix
    products, as with stored logits, and the memory of :func:`linear_cross_entropy`. Weights of ``1 / batch`` give the
    mean, weights of 0 leave examples out.

    Args:
      hidden, kernel, labels, bias, label_smoothing, chunk: as in :func:`linear_cross_entropy`.
      weights: ``(...)``; their gradients are the losses.

    Returns:
      A scalar in float32 at least.

    Raises:
      ValueError: as :func:`linear_cross_entropy`.

    Source: as :func:`linear_cross_entropy`.

    >>> hidden, kernel = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.log(jnp.array([[1.0, 3.0], [1.0, 2.0]]))
    >>> round(float(linear_cross_entropy_sum(hidden, kernel, jnp.array([1, 0]), jnp.array([0.5, 0.5]))), 4)
    0.9486
    """
    where = "linear_cross_entropy_sum"
    layer, h, y, smoothing = _prepared(where, hidden, kernel, labels, bias, label_smoothing, chunk)
    if weights.shape != labels.shape:
        raise ValueError(f"{where}: weights of shape {weights.shape} for labels {labels.shape}")
    return _weighted_sum(chunk, layer, h, widened(weights).reshape(-1), y, smoothing)


def _prepared(where, hidden, kernel, labels, bias, label_smoothing, chunk):
    """The layer as a tuple of one or two arrays, and examples in one axis."""
    if kernel.ndim != 2 or hidden.ndim < 1 or hidden.shape[-1] != kernel.shape[0]:
        raise ValueError(f"{where}: hidden {hidden.shape} and kernel {kernel.shape} disagree; give (..., d) and (d, n)")
    if bias is not None and bias.shape != kernel.shape[1:]:
        raise ValueError(f"{where}: bias of shape {bias.shape} for a kernel {kernel.shape}; give {kernel.shape[1:]}")
    if chunk < 1:
        raise ValueError(f"{where}: chunk must be at least 1 example, got {chunk}")
    check_finite_number("label_smoothing", label_smoothing, low=0.0, high=1.0)
    if kernel.shape[1] < 2 or labels.shape != hidden.shape[:-1]:
        raise ValueError(
            f"{where}: labels of shape {labels.shape} and {kernel.shape[1]} classes for hidden {hidden.shape}; "
            f"give labels {hidden.shape[:-1]} and 2 classes at least"
        )
    labels = labels_in_range(labels, kernel.shape[1], where=where)
    layer = (kernel,) if bias is None else (kernel, bias)
    smoothing = jax.lax.stop_gradient(jnp.asarray(label_smoothing, jnp.promote_types(hidden.dtype, jnp.float32)))
    return layer, hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1), smoothing


def _logits(layer: tuple[Array, ...], h: Array) -> Array:
    kernel, *bias = layer
    z = jnp.matmul(h, kernel, preferred_element_type=jnp.promote_types(h.dtype, jnp.float32))
    return z + bias[0] if bias else z


def _loss(z: Array, y: Array, smoothing: Array) -> tuple[Array, Array]:
    """Losses, and the log of the normaliser."""
    log_total = jax.nn.logsumexp(z, axis=-1)
    own = jnp.take_along_axis(z, y[:, None], axis=-1)[:, 0]
    # a class masked out by a bias of -inf costs nothing where nothing is spread over all of them
    spread = jnp.where(smoothing > 0, smoothing * jnp.mean(z, axis=-1), 0)
    return log_total - (1 - smoothing) * own - spread, log_total


def _loss_gradient(z: Array, y: Array, log_total: Array, smoothing: Array) -> Array:
    own = jax.lax.broadcasted_iota(y.dtype, z.shape, 1) == y[:, None]
    return jnp.exp(z - log_total[:, None]) - jnp.where(own, 1 - smoothing, 0) - smoothing / z.shape[-1]


def _layer_gradient(layer: tuple[Array, ...], h: Array, dz: Array) -> tuple[tuple[Array, ...], Array]:
    """Gradients of the layer, in the precision of ``dz``, and of its input."""
    kernel, *bias = layer
    dz_low = dz.astype(h.dtype)  # half-precision products where the layer's are
    d_kernel = jnp.matmul(h.T, dz_low, preferred_element_type=dz.dtype)
    return (d_kernel, *([jnp.sum(dz, axis=0)] if bias else [])), jnp.matmul(dz_low, kernel.T).astype(h.dtype)


def _over_chunks(body: Callable[..., Any], carry: Any, examples: Any, chunk: int) -> tuple[Any, Any]:
    """``scan`` of ``body`` over strided chunks of the leading axis; missing examples are zeros. Outputs are put back."""
    n = len(jax.tree.leaves(examples)[0])
    size = min(chunk, n)
    steps = -(-n // size) if size else 0
    missing = steps * size - n

    def split(x):
        x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) if missing else x
        return jnp.swapaxes(x.reshape(size, steps, *x.shape[1:]), 0, 1)

    carry, out = jax.lax.scan(body, carry, jax.tree.map(split, examples))
    return carry, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(steps * size, *x.shape[2:])[:n], out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(chunk, layer, h, y, smoothing):
    """Losses and normalisers."""
    _, out = _over_chunks(lambda c, x: (c, _loss(_logits(layer, x[0]), x[1], smoothing)), None, (h, y), chunk)
    return out


def _losses_forward(chunk, layer, h, y, smoothing):
    losses, log_total = _losses(chunk, layer, h, y, smoothing)
    return (losses, log_total), (layer, h, y, smoothing, log_total)


def _losses_backward(chunk, saved, cotangents):
    layer, h, y, smoothing, log_total = saved
    # that of the normalisers, which are saved above, is 0 but for second derivatives
    g, g_total = cotangents

    def step(total, x):
        h, y, log_total, g, g_total = x
        z = _logits(layer, h)
        p = jnp.exp(z - log_total[:, None])
        dz = g[:, None] * _loss_gradient(z, y, log_total, smoothing) + g_total[:, None] * p
        d_layer, dh = _layer_gradient(layer, h, dz)
        return jax.tree.map(jnp.add, total, d_layer), dh

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, g.dtype), layer)
    d_layer, dh = _over_chunks(step, zeros, (h, y, log_total, g, g_total), chunk)
    return jax.tree.map(lambda d, x: d.astype(x.dtype), d_layer, layer), dh, None, jnp.zeros_like(smoothing)


_losses.defvjp(_losses_forward, _losses_backward)


def _weighed(weights: Array, losses: Array) -> Array:
    return jnp.sum(jnp.where(weights != 0, weights * losses, 0))  # also an infinite loss is left out by 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_sum(chunk, layer, h, weights, y, smoothing):
    return _weighed(weights, _losses(chunk, layer, h, y, smoothing)[0])


def _weighted_sum_forward(chunk, layer, h, weights, y, smoothing):
    def step(total, x):
        h, w, y = x
        z = _logits(layer, h)
        losses, log_total = _loss(z, y, smoothing)
        dz = _loss_gradient(z, y, log_total, smoothing) * w[:, None]
        d_layer, dh = _layer_gradient(layer, h, dz)
        return jax.tree.map(jnp.add, total, d_layer), (losses, dh)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, weights.dtype), layer)
    d_layer, (losses, dh) = _over_chunks(step, zeros, (h, weights, y), chunk)
    d_layer = jax.tree.map(lambda d, x: d.astype(x.dtype), d_layer, layer)
    return _weighed(weights, losses), (d_layer, dh, losses, smoothing)


def _weighted_sum_backward(chunk, saved, g):
    d_layer, dh, losses, smoothing = saved
    d_layer, dh = jax.tree.map(lambda d: (g * d).astype(d.dtype), (d_layer, dh))
    return d_layer, dh, g * losses, None, jnp.zeros_like(smoothing)


_weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)
