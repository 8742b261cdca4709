"""What losses of logits share: checks, precision, and a divergence of softened predictions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxtrain.core import Number, check_indices, debug_check, labels_in_range


def check_labels(where: str, logits: Array, labels: Array) -> Array:
    """The labels; raises unless there are two classes at least and the labels fit the logits.

    Labels that are traced cannot be looked at: those out of range become the nearest class, and
    :func:`jaxtrain.core.checked` raises there, and where the logits look like probabilities.
    """
    n = logits.shape[-1]
    if n < 2:
        raise ValueError(f"{where}: logits of shape {logits.shape} have {n} class; at least 2 are needed")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"{where}: labels of shape {labels.shape} for logits {logits.shape}; give {logits.shape[:-1]}")
    debug_check(
        lambda: ~_like_probabilities(logits),
        f"{where}: every row of the logits is ≥ 0 and sums to 1, as probabilities do; give the logits before the softmax",
    )
    return labels_in_range(labels, n, where=where)


def check_memory(where: str, logits: Array, indices: Array, num_examples: int, num_classes: int) -> None:
    """Raises unless a batch's logits and indices fit a memory of so many examples; traced indices are not looked at."""
    if logits.shape != (*indices.shape, num_classes):
        raise ValueError(
            f"{where}: indices of shape {indices.shape} need logits {(*indices.shape, num_classes)}, got {logits.shape}"
        )
    check_indices(indices, num_examples, where=where)


def _like_probabilities(logits: Array) -> Array:
    """Non-negative rows that sum to 1, as far as their dtype can say; no rows are not."""
    if not logits.size:
        return jnp.zeros((), bool)
    x = widened(logits)
    near = jnp.abs(jnp.sum(x, axis=-1) - 1) < 8 * jnp.finfo(logits.dtype).eps
    return jnp.all(near & jnp.all(x >= 0, axis=-1))


def check_same_logits(where: str, name: str, logits: Array, other: Array) -> None:
    """Raises unless both have one shape."""
    if other.shape != logits.shape:
        raise ValueError(f"{where}: logits {logits.shape} and {name} {other.shape} disagree")


def widened(x: Array) -> Array:
    """In float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def unit_rows(x: Array) -> Array:
    """Rows of length 1, in float32 at least; a row of zeros stays one, without a gradient.

    >>> [[round(x, 4) for x in row] for row in unit_rows(jnp.array([[3e30, 4e30], [0.0, 0.0]])).tolist()]
    [[0.6, 0.8], [0.0, 0.0]]
    """
    x = widened(x)
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0.0))
    zero = size < jnp.finfo(x.dtype).tiny
    x = x / jnp.where(zero, 1.0, size)  # before squaring: no overflow, and no length lost below the smallest square
    return x * jnp.where(zero, 0.0, jax.lax.rsqrt(jnp.where(zero, 1.0, jnp.sum(x**2, axis=-1, keepdims=True))))


def cosines(x: Array, y: Array) -> Array:
    """Of every row of x, ``(..., d)``, with every row of y, ``(n, d)``; 0 for rows of zeros.

    In float32 even on accelerators that would round the product: the angle is what counts.
    """
    return jnp.matmul(unit_rows(x), unit_rows(y).T, precision="highest")


def surprise(logits: Array, labels: Array) -> Array:
    """-log p_y, ≥ 0, exact where p_y is close to 1: log(1 + u) and not a difference of large numbers."""
    margins = _others(logits, labels)
    return jax.nn.softplus(jax.nn.logsumexp(margins, axis=-1))


def _others(logits: Array, labels: Array) -> Array:
    """h_y' - h_y, with the label's own entry far below; not -inf, as logsumexp has no slope where all are (others masked out)."""
    h = widened(logits)
    own = jax.nn.one_hot(labels, h.shape[-1], dtype=bool)
    h_y = jnp.take_along_axis(h, labels[..., None], axis=-1)
    return jnp.where(own, jnp.finfo(h.dtype).min, h - h_y)


def tempered_kl(logits_p: Array, logits_q: Array, temperature: Number = 1.0) -> Array:
    r""":math:`T^2\,\mathrm{KL}(p \| q)` of the softmax of logits over :math:`T`, in float32 at least.

    A class without mass in p counts for nothing, also where it is masked out by logits of -inf in both.

    >>> tempered_kl(jnp.array([0.0, 1.0]), jnp.array([0.0, 1.0]), 5.0).tolist()
    0.0
    """
    log_p, log_q = (jax.nn.log_softmax(widened(x) / temperature) for x in (logits_p, logits_q))
    p = jnp.exp(log_p)
    return temperature**2 * jnp.sum(p * jnp.where(p > 0, log_p - log_q, 0.0), axis=-1)


def over_temperature(logits: Array, temperature: Array | Number) -> Array:
    """Logits over a temperature that is differentiated: the quotient of a masked class, -inf, has no slope in it."""
    masked = jnp.isneginf(logits)
    return jnp.where(masked, -jnp.inf, jnp.where(masked, 0.0, logits) / temperature)
