"""Coupled estimation: a ranker and a model of what was judged at all, each correcting the other's labels."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def _check_lists(caller: str, scores: Array, /, **others: Array | None) -> None:
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(f"{caller}: scores of shape {scores.shape}; give (batch, items), 1 item at least")
    for name, other in others.items():
        if other is not None and other.shape != scores.shape:
            raise ValueError(f"{caller}: scores {scores.shape} and {name} {other.shape} disagree")


def softmax_ratio_weights(
    scores: Float[Array, "..."],
    ref_index: int | Int[Array, ""] | Int[Array, " batch"] = 0,
    *,
    clip: Number = 10.0,
) -> Float[Array, "batch items"]:
    r"""How much less probable than a reference the model holds each item of a list: constants that weigh another loss.

    .. math:: w_i = \min\Big(\frac{p_r}{p_i}, c\Big) = \min(e^{s_r - s_i}, c), \qquad p = \mathrm{softmax}(s)

    Args:
      scores: ``(batch, items)``.
      ref_index: :math:`r`, the reference of every list or, ``(batch,)``, of each; may be traced. It must not depend on
        the labels: an item that is its own reference always has the weight 1.
      clip: :math:`c` > 0, the largest weight; may be traced, and infinity.

    Returns:
      ``(batch, items)`` weights in the dtype of the scores, through which no gradient flows.

    Raises:
      ValueError: scores that are not lists, a reference outside them, or ``clip`` out of range.

    Source: Cai, Guo, Fan, Ai, Zhang, Cheng (2022), arXiv 2209.05072; Ai, Bi, Luo, Guo, Croft (2018), arXiv 1804.05938.

    >>> softmax_ratio_weights(jnp.log(jnp.array([[0.5, 0.25, 0.25]])))
    Array([[1., 2., 2.]], dtype=float32)
    """
    _check_lists("softmax_ratio_weights", scores)
    if not isinstance(clip, jax.core.Tracer) and not np.all(np.isposinf(clip)):
        check_finite_number("clip", clip, low=_TINY)
    if not isinstance(ref_index, jax.core.Tracer):
        index = np.asarray(ref_index)
        if index.shape not in ((), scores.shape[:1]):
            raise ValueError(f"softmax_ratio_weights: ref_index of shape {index.shape}; give () or {scores.shape[:1]}")
        if index.size and (index.min() < 0 or index.max() >= scores.shape[1]):
            raise ValueError(f"softmax_ratio_weights: ref_index {ref_index} is none of the {scores.shape[1]} items")
    s = widened(jax.lax.stop_gradient(scores))
    at = jnp.broadcast_to(jnp.asarray(ref_index), s.shape[:1])
    # clipped before the exponential, which is then finite at all scores
    log_ratio = jnp.take_along_axis(s, at[:, None], axis=1) - s
    return jnp.exp(jnp.minimum(log_ratio, jnp.log(jnp.asarray(clip, s.dtype)))).astype(scores.dtype)


def inverse_propensity_softmax_loss(
    scores: Float[Array, "..."],
    pos_mask: Array,
    weights: Float[Array, "..."] | None = None,
    *,
    where: Array | None = None,
) -> Float[Array, " batch"]:
    r"""Softmax cross-entropy of a list with its positives weighed by how rarely their like gets a label.

    .. math:: \ell = -\sum_i y_i\, w_i \log \mathrm{softmax}(s)_i

    Weights proportional to one over the probability of being judged make it unbiased: its mean over what is judged is
    proportional to the loss with all labels. They weigh positives only and do not enter the softmax.

    Args:
      scores: ``(batch, items)``.
      pos_mask: ``(batch, items)`` labels :math:`y`: true or 1 where judged relevant; also soft labels ≥ 0.
      weights: ``(batch, items)`` ≥ 0, taken as they are; constants. Default: 1, plain softmax cross-entropy.
      where: ``(batch, items)`` which items there are; the others neither compete nor count.

    Returns:
      ``(batch,)``, one loss for each list; 0 for a list without positives.

    Raises:
      ValueError: scores that are not lists, or shapes that disagree.

    Source: Cai, Guo, Fan, Ai, Zhang, Cheng (2022), arXiv 2209.05072; Ai, Bi, Luo, Guo, Croft (2018), arXiv 1804.05938.

    >>> loss = inverse_propensity_softmax_loss(jnp.zeros((1, 4)), jnp.array([[1, 0, 1, 0]]), jnp.array([[1.0, 1, 2, 2]]))
    >>> float(loss[0] / jnp.log(4.0))
    3.0
    """
    _check_lists("inverse_propensity_softmax_loss", scores, pos_mask=pos_mask, weights=weights, where=where)
    there = jnp.ones(scores.shape, bool) if where is None else jnp.asarray(where, bool)
    s = jnp.where(there, widened(scores), 0.0)
    # a list without items: its softmax is not needed and must not be empty, or its gradient is 0 times infinity
    competes = there | ~jnp.any(there, axis=1, keepdims=True)
    log_p = s - jax.nn.logsumexp(s, axis=1, where=competes, keepdims=True)
    target = jnp.where(there, jnp.asarray(pos_mask, s.dtype), 0.0)
    if weights is not None:  # those of the others may be infinite, or no numbers where nothing is
        target = jnp.where(target != 0, target * jax.lax.stop_gradient(widened(weights)), 0.0)
    return -jnp.sum(jnp.where(target != 0, target * log_p, 0.0), axis=1).astype(scores.dtype)


def coupled_ranking_losses(
    rel_scores: Float[Array, "batch items"],
    sel_scores: Float[Array, "..."],
    labels: Array,
    *,
    ref_index: int | Int[Array, ""] | Int[Array, " batch"] = 0,
    clip: Number = 10.0,
    where: Array | None = None,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    r"""The losses of a relevance model and a selection model that are trained together, each with the other's weights.

    An item has a label only if it is relevant *and* was selected to be judged, :math:`P(y_i) = r_i\, s_i`. With
    :math:`w` the :func:`softmax_ratio_weights` and :math:`\ell` the :func:`inverse_propensity_softmax_loss`,

    .. math:: L_{rel} = \ell(g, y, w(h)), \qquad L_{sel} = \ell(h, y, w(g)).

    Each is at rest where :math:`\mathrm{softmax}(g) \propto r` and :math:`\mathrm{softmax}(h) \propto s`. That says which
    is which only if the models see different things: give the selection model the retriever's scores, the relevance model
    the content; one that sees everything explains the labels alone. At inference only the relevance model is used.

    Where every list has one positive and that is its reference, all weights that count are 1 and both are plain softmax
    losses; refer to an item that is chosen without looking at the labels, such as the retriever's first.

    Args:
      rel_scores: ``(batch, items)`` scores :math:`g` of the relevance model.
      sel_scores: ``(batch, items)`` scores :math:`h` of the selection model.
      labels: ``(batch, items)``, true or 1 where judged relevant.
      ref_index: the item to which the weights are relative, as in :func:`softmax_ratio_weights`.
      clip: the largest weight; may be traced.
      where: ``(batch, items)`` which items there are. The reference must be one of them.

    Returns:
      Two arrays ``(batch,)``: add their means. No gradient flows from one model's loss to the other.

    Raises:
      ValueError: scores that are not lists, shapes that disagree, a reference outside the lists, or ``clip`` out of range.

    Source: Cai, Guo, Fan, Ai, Zhang, Cheng (2022), arXiv 2209.05072.

    >>> constant, label = jnp.zeros((1, 2)), jnp.array([[0, 1]])
    >>> rel, sel = coupled_ranking_losses(constant, jnp.log(jnp.array([[3.0, 1.0]])), label)
    >>> [round(float(x[0]), 4) for x in (rel, sel)]  # 3 log 2, and log 4
    [2.0794, 1.3863]
    """
    _check_lists("coupled_ranking_losses", rel_scores, sel_scores=sel_scores, labels=labels, where=where)
    by_selection = softmax_ratio_weights(sel_scores, ref_index, clip=clip)
    by_relevance = softmax_ratio_weights(rel_scores, ref_index, clip=clip)
    relevance = inverse_propensity_softmax_loss(rel_scores, labels, by_selection, where=where)
    return relevance, inverse_propensity_softmax_loss(sel_scores, labels, by_relevance, where=where)


def simulate_pooling_bias(
    key: Key,
    relevance: Array,
    pool_scores: Float[Array, "..."],
    *,
    depth: int,
    temperature: Number = 0.0,
) -> Array:
    r"""The labels that are left when annotators judge only the items that a retriever pooled.

    .. math:: y_i = r_i \cdot \mathbb 1\big[i \text{ among the } k \text{ largest } s_i + T G_i\big], \qquad
       G_i \sim \mathrm{Gumbel}(0, 1)

    With :math:`T > 0` the pool is drawn one after the other without replacement by :math:`\mathrm{softmax}(s / T)`.

    Args:
      key: decides the pool at :math:`T > 0`, and between equal scores.
      relevance: ``(batch, items)`` true labels.
      pool_scores: ``(batch, items)`` scores of the retriever that pools.
      depth: :math:`k` ≥ 1, how many items of each list are judged; static.
      temperature: :math:`T` ≥ 0; may be traced.

    Returns:
      ``(batch, items)`` labels in the dtype of ``relevance``; 0 or False for what was not judged.

    Raises:
      TypeError: a key that is not one.
      ValueError: shapes that disagree, a depth below 1, or a temperature out of range.

    Source: Cai, Guo, Fan, Ai, Zhang, Cheng (2022), arXiv 2209.05072, on how pools arise.

    >>> relevance = jnp.array([[1, 1, 0, 1]])
    >>> simulate_pooling_bias(jax.random.key(0), relevance, jnp.array([[0.1, 0.9, 0.8, 0.2]]), depth=2).tolist()
    [[0, 1, 0, 0]]
    """
    check_key(key, where="simulate_pooling_bias")
    depth = static_int("depth", depth, low=1)
    check_finite_number("temperature", temperature, low=0.0)
    _check_lists("simulate_pooling_bias", pool_scores, relevance=relevance)
    noise, ties = jax.random.split(key)
    s = widened(pool_scores)
    s = s + temperature * jax.random.gumbel(noise, s.shape, s.dtype)
    order = jnp.lexsort((jax.random.uniform(ties, s.shape), -s), axis=1)
    judged = jnp.argsort(order, axis=1) < depth
    return jnp.where(judged, relevance, jnp.zeros((), jnp.asarray(relevance).dtype))
