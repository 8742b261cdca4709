"""The entropy of attention, kept within a margin of thresholds that heads learn."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import widened


def attention_entropy(probs: Float[Array, "*rows keys"], *, eps: Number = 1e-9) -> Float[Array, "*rows"]:
    r"""The entropy of every row of attention, in nats: :math:`E = -\sum_k a_k \log(a_k + \epsilon)`.

    Between 0 (one key, up to :math:`\epsilon`) and :math:`\log` of the number of keys. At :math:`a_k = 0` (a masked
    key) the gradient is the finite :math:`-\log\epsilon`, which the softmax before it takes away.

    Args:
      probs: ``(..., keys)``, rows that sum to 1.
      eps: > 0; may be traced. Entropies are computed in float32 at least.

    Returns:
      ``(...)``, such as ``(batch, heads, queries)``, in float32 at least.

    Raises:
      ValueError: ``eps`` out of range.

    Source: Jha, Reagen (2025), arXiv 2501.03489, and its released code.

    >>> round(float(attention_entropy(jnp.array([0.25, 0.25, 0.25, 0.25]))), 4)  # log 4
    1.3863
    """
    check_finite_number("eps", eps, low=float(np.finfo(np.float32).tiny))
    a = widened(probs)
    return -jnp.sum(a * jnp.log(a + eps), axis=-1)


def entropy_regularization(
    probs: Float[Array, "..."],
    thresholds: Float[Array, "..."],
    *,
    coeff: Number = 1e-5,
    margin_factor: Number = 0.2,
    context: int | None = None,
    reduction: str = "sum",
) -> Float[Array, " batch"]:
    r"""The penalty on heads whose attention is much sharper or much flatter than their learnt threshold.

    With :math:`E_{\max} = \log T` and :math:`d = E - \theta_h E_{\max}` for every row of head :math:`h`,

    .. math:: c \cdot \frac1L \sum_l \frac1H \sum_h \sum_q d_{lhq}^2 \, [\, |d_{lhq}| > m E_{\max} \,],
       \qquad m = 0.2.

    A dead zone and not a shift: at its border the penalty jumps from 0 to :math:`(m E_{\max})^2`. All queries share one
    :math:`E_{\max}`, the first of a causal model too, whose entropy cannot reach it. The sum over queries (and, in the
    paper, over the batch) grows with their number; ``mean`` does not, and wants a coefficient as many times larger.

    Args:
      probs: ``(layers, batch, heads, queries, keys)`` attention after the softmax; ``jnp.stack`` of the layers.
      thresholds: :math:`\theta`, ``(heads,)`` shared by all layers as in the release, or ``(layers, heads)``; train
        them along, from 0.5.
      coeff: :math:`c` ≥ 0; may be traced.
      margin_factor: :math:`m` ≥ 0; may be traced.
      context: :math:`T` ≥ 2; default: the number of keys.
      reduction: over queries, ``sum`` (the paper's) or ``mean``.

    Returns:
      ``(batch,)``, in the dtype of the attention. The paper's loss is the sum over the batch.

    Raises:
      ValueError: shapes that disagree, or an argument out of range.

    Source: Jha, Reagen (2025), arXiv 2501.03489, and its released code.

    >>> even = jnp.full((1, 1, 1, 1, 4), 0.25)  # one row, of the greatest entropy
    >>> loss = entropy_regularization(even, jnp.array([0.5]), coeff=1.0)
    >>> round(float(loss[0]), 4)  # (0.5 log 4)²
    0.4805
    """
    name = "entropy_regularization"
    check_finite_number("coeff", coeff, low=0.0)
    check_finite_number("margin_factor", margin_factor, low=0.0)
    if probs.ndim != 5:
        raise ValueError(f"{name}: probs must be (layers, batch, heads, queries, keys), got {probs.shape}")
    layers, _, heads, _, keys = probs.shape
    if thresholds.shape not in ((heads,), (layers, heads)):
        raise ValueError(
            f"{name}: thresholds {thresholds.shape} for {layers} layers of {heads} heads; give {(heads,)} or "
            f"{(layers, heads)}"
        )
    context = keys if context is None else context
    if context < 2:
        raise ValueError(f"{name}: context must be at least 2 (log 1 is an entropy of 0), got {context}")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"{name}: reduction must be 'sum' or 'mean', got {reduction!r}")
    entropy = attention_entropy(probs)
    most = jnp.log(jnp.asarray(context, entropy.dtype))
    theta = jnp.broadcast_to(widened(thresholds), (layers, heads))[:, None, :, None]
    d = entropy - theta * most
    penalty = jnp.where(jnp.abs(d) > margin_factor * most, d, 0.0) ** 2
    over_queries = jnp.sum if reduction == "sum" else jnp.mean
    return (coeff * over_queries(penalty, axis=3).mean(axis=(0, 2))).astype(probs.dtype)


def headwise_entropy_stats(
    probs: Float[Array, "..."], *, low: float = 0.2, high: float = 0.8, context: int | None = None
) -> dict[str, Float[Array, "..."]]:
    """How sharp the heads are, and how many are collapsed or overloaded.

    Args:
      probs: ``(layers, batch, heads, queries, keys)``, or any ``(..., batch, heads, queries, keys)``.
      low: heads whose mean entropy is below this share of the greatest count as collapsed.
      high: those above this share as overloaded.
      context: the greatest entropy is the logarithm of it, ≥ 2; default: the number of keys.

    Returns:
      ``entropy``: the mean over batch and queries, ``(..., heads)``, in nats; ``relative``: divided by the greatest;
      ``collapsed`` and ``overloaded``: shares of all heads, scalars.

    Raises:
      ValueError: too few axes or keys.

    Source: Jha, Reagen (2025), arXiv 2501.03489.

    >>> probs = jnp.stack([jnp.full((1, 4), 0.25), jnp.eye(4)[:1]])[None]  # an even head and a sharp one
    >>> stats = headwise_entropy_stats(probs)
    >>> float(stats["collapsed"]), float(stats["overloaded"])
    (0.5, 0.5)
    """
    if probs.ndim < 4:
        raise ValueError(f"headwise_entropy_stats: probs must be (..., batch, heads, queries, keys), got {probs.shape}")
    context = probs.shape[-1] if context is None else context
    if context < 2:
        raise ValueError(f"headwise_entropy_stats: context must be at least 2, got {context}")
    entropy = attention_entropy(probs).mean(axis=(-3, -1))
    relative = entropy / jnp.log(jnp.asarray(context, entropy.dtype))
    share = lambda mask: jnp.mean(mask.astype(entropy.dtype))  # noqa: E731
    return {
        "entropy": entropy,
        "relative": relative,
        "collapsed": share(relative < low),
        "overloaded": share(relative > high),
    }


def scaled_ffn(x: Float[Array, "..."], ffn_x: Float[Array, "..."], alpha: Float[Array, ""]) -> Float[Array, "..."]:
    r"""The residual of a block without layer normalization: :math:`x + \alpha\,\mathrm{FFN}(x)`, :math:`\alpha` learnt.

    Args:
      x: the input of the feed-forward network.
      ffn_x: its output.
      alpha: a scalar parameter of the block, begun at 1.

    Returns:
      Shaped like ``x``, in its dtype.

    Raises:
      ValueError: shapes that disagree.

    Source: Jha, Reagen (2025), arXiv 2501.03489.

    >>> scaled_ffn(jnp.array([1.0]), jnp.array([4.0]), jnp.array(0.5)).tolist()
    [3.0]
    """
    if ffn_x.shape != x.shape:
        raise ValueError(f"scaled_ffn: x {x.shape} and ffn_x {ffn_x.shape} disagree")
    return (x + alpha * ffn_x).astype(x.dtype)


def weight_normalized(w: Float[Array, "inputs outputs"], gain: Float[Array, "..."]) -> Float[Array, "inputs outputs"]:
    r"""A matrix whose columns have learnt lengths, in place of layer normalization: :math:`g_j\, w_j / \|w_j\|`.

    Args:
      w: ``(inputs, outputs)``.
      gain: ``(outputs,)``; begin with the lengths of the columns, which changes nothing.

    Returns:
      Shaped like ``w``. A column of zeros stays zero.

    Raises:
      ValueError: shapes that disagree.

    Source: Salimans, Kingma (2016), arXiv 1602.07868; used so by Jha, Reagen (2025), arXiv 2501.03489.

    >>> weight_normalized(jnp.array([[3.0], [4.0]]), jnp.array([10.0])).tolist()
    [[6.0], [8.0]]
    """
    if gain.shape != w.shape[1:]:
        raise ValueError(f"weight_normalized: gain {gain.shape} for w {w.shape}; give {w.shape[1:]}")
    square = jnp.sum(widened(w) ** 2, axis=0)
    zero = square == 0
    return (w * gain * jnp.where(zero, 0.0, jax.lax.rsqrt(jnp.where(zero, 1.0, square)))).astype(w.dtype)
