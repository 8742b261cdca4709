"""What losses of logits share: checks, precision, and a divergence of softened predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxtrain.core import Number


def check_labels(where: str, logits: Array, labels: Array) -> None:
    """Raises unless there are two classes at least and the labels fit the logits."""
    if logits.shape[-1] < 2:
        raise ValueError(
            f"{where}: logits of shape {logits.shape} have {logits.shape[-1]} class; at least 2 are needed"
        )
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"{where}: labels of shape {labels.shape} for logits {logits.shape}; give {logits.shape[:-1]}")
    if not isinstance(labels, jax.core.Tracer) and labels.size:
        values = np.asarray(labels)  # not jnp: inside jit even constants would turn into tracers
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= logits.shape[-1]:
            wrong = low if low < 0 else high
            raise ValueError(f"{where}: label {wrong} is none of the {logits.shape[-1]} classes")


def check_same_logits(where: str, name: str, logits: Array, other: Array) -> None:
    """Raises unless both have one shape."""
    if other.shape != logits.shape:
        raise ValueError(f"{where}: logits {logits.shape} and {name} {other.shape} disagree")


def widened(x: Array) -> Array:
    """In float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def surprise(logits: Array, labels: Array) -> Array:
    """-log p_y, ≥ 0, exact where p_y is close to 1: log(1 + u) and not a difference of large numbers."""
    margins = _others(logits, labels)
    return jax.nn.softplus(jax.nn.logsumexp(margins, axis=-1))


def _others(logits: Array, labels: Array) -> Array:
    """h_y' - h_y, with the label's own entry -inf."""
    h = widened(logits)
    own = jax.nn.one_hot(labels, h.shape[-1], dtype=bool)
    h_y = jnp.take_along_axis(h, labels[..., None], axis=-1)
    return jnp.where(own, -jnp.inf, h - h_y)


def tempered_kl(logits_p: Array, logits_q: Array, temperature: Number = 1.0) -> Array:
    r""":math:`T^2\,\mathrm{KL}(p \| q)` of the softmax of logits over :math:`T`, in float32 at least.

    >>> tempered_kl(jnp.array([0.0, 1.0]), jnp.array([0.0, 1.0]), 5.0).tolist()
    0.0
    """
    log_p, log_q = (jax.nn.log_softmax(widened(x) / temperature) for x in (logits_p, logits_q))
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(log_q, log_p)
