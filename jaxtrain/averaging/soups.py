"""Soups: means of the parameters of finished models, all of them, the best of them, or two of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxtrain.averaging._models import along_members, check_alike, check_models, interpolate, member_weights, wide
from jaxtrain.core import Number, Params, Scalar, check_finite_number


def soup(stacked: Params, weights: Any = None) -> Params:
    r"""The mean of the parameters of several models, :math:`\sum_i w_i \theta_i / \sum_i w_i`.

    Without weights it is the uniform soup, and DiWA's average of runs from one initialisation. Models trained from
    different initialisations have no common basin, and their mean is as a rule useless. The running statistics of
    BatchNorm are not averaged: recompute them with :func:`recompute_batch_stats`.

    Args:
      stacked: tree with leaves ``(member, ...)``: what an ensemble returns, or :func:`stack_models` of a list.
      weights: ``(member,)``, may be traced, need not sum to 1; a mask such as the one of :func:`greedy_soup` is one.

    Returns:
      The tree without the leading axis, in its dtypes; summed in single precision at least. NaN where weights sum to 0.

    Raises:
      ValueError: leading axes that disagree or are empty, weights of another length, known to be negative or all zero.
      TypeError: a leaf that is not floating.

    Source: Wortsman et al. 2022, "Model soups", arXiv 2203.05482; Ramé et al. 2022, "Diverse Weight Averaging for
    Out-of-Distribution Generalization", arXiv 2205.09739.

    >>> models = {"w": jnp.array([[1.0, 2.0], [3.0, 6.0]])}
    >>> soup(models)["w"].tolist(), soup(models, jnp.array([3.0, 1.0]))["w"].tolist()
    ([2.0, 4.0], [1.5, 3.0])
    """
    count = check_models(stacked, where="soup")
    if weights is None:
        return jax.tree.map(lambda x: jnp.mean(wide(x), axis=0).astype(x.dtype), stacked)
    check_finite_number("weights", weights, low=0.0)
    if not isinstance(weights, jax.core.Tracer) and not np.any(weights):
        raise ValueError("soup: all weights are zero; at least one model has to be in the soup")
    weights = member_weights(weights, count, where="soup")
    weights = weights / jnp.sum(weights)

    def mean(x: Array) -> Array:
        # a product and a sum, not a dot product, whose default precision on accelerators is below the parameters'
        return jnp.sum(along_members(weights, x) * wide(x), axis=0).astype(x.dtype)

    return jax.tree.map(mean, stacked)


def greedy_soup(
    stacked: Params,
    score_fn: Callable[[Params], Scalar],
    *,
    scores: Float[Array, " member"] | None = None,
    host: bool = False,
) -> tuple[Params, Bool[Array, " member"]]:
    """The mean of those models that, added one by one from the best on, do not lower the score of the mean.

    Also DiWA's restricted selection. The models are taken in the order of falling scores (equal ones in the order of
    the stack). The first is in; the next is kept if the score of the mean with it is at least that of the mean without
    it. So the soup scores at least as high as the best model. A mean whose score is NaN is not kept.

    It is one scan: ``score_fn`` is traced once and called 2m times (m with ``scores``). A score that cannot be traced,
    such as a loop over files, is called from Python with ``host=True``, as often.

    Args:
      stacked: tree with leaves ``(member, ...)``.
      score_fn: ``params -> score``, higher is better: as a rule accuracy on held-out data of the training domains.
      scores: ``(member,)`` scores of the models themselves, if they are known.
      host: ``score_fn`` gets arrays and returns any number; not for use inside ``jit``.

    Returns:
      ``(params, selected)``: the mean in the dtypes of the stack, and which models are in it.

    Raises:
      ValueError: leading axes that disagree or are empty, scores of another length.
      TypeError: a leaf that is not floating.

    Source: Wortsman et al. 2022, arXiv 2203.05482, recipe 1; Ramé et al. 2022, arXiv 2205.09739, algorithm 1.

    >>> models = jnp.array([0.0, 3.0, 9.0])
    >>> params, selected = greedy_soup(models, lambda w: -jnp.abs(w - 1.4))
    >>> float(params), selected.tolist()
    (1.5, [True, True, False])
    """
    count = check_models(stacked, where="greedy_soup")

    def member(i):
        return jax.tree.map(lambda x: x[i], stacked)

    def score_of(params):
        # what the host computes is a number of this program like any other
        return jnp.asarray(float(score_fn(params)) if host else score_fn(params))

    def cast(mean):
        return jax.tree.map(lambda m, x: m.astype(x.dtype), mean, stacked)

    def add(carry, i):
        mean, size, best = carry
        candidate = jax.tree.map(lambda m, x: m + (wide(x) - m) / (size + 1).astype(m.dtype), mean, member(i))
        score = score_of(cast(candidate)).astype(best.dtype)
        keep = score >= best
        mean = jax.tree.map(lambda new, old: jnp.where(keep, new, old), candidate, mean)
        return (mean, size + keep, jnp.where(keep, score, best)), keep

    if scores is None:
        alone = lambda i: score_of(member(i))  # noqa: E731
        each = jnp.arange(count)
        scores = jnp.stack([alone(i) for i in each]) if host else jax.lax.map(alone, each)
    elif jnp.shape(scores) != (count,):
        raise ValueError(f"greedy_soup: scores has shape {jnp.shape(scores)}, the stack holds {count} models")
    # NaN sorts last, so that it starts a soup only where every score is NaN
    order = jnp.argsort(-jnp.asarray(scores))
    start = jax.tree.map(wide, member(order[0]))
    carry = (start, jnp.ones((), jnp.int32), score_of(cast(start)))
    if host:
        chosen = []
        for i in order[1:]:
            carry, keep = add(carry, i)
            chosen.append(keep)
        kept = jnp.array(chosen, bool)
    else:
        carry, kept = jax.lax.scan(add, carry, order[1:])
    selected = jnp.zeros(count, bool).at[order].set(jnp.concatenate([jnp.ones(1, bool), kept]))
    return cast(carry[0]), selected


def wise_ft(pretrained: Params, finetuned: Params, *, alpha: Number = 0.5) -> Params:
    r"""A point on the line between a model and what it was fine-tuned to (WiSE-FT).

    .. math:: \theta = (1 - \alpha)\,\theta_\text{pre} + \alpha\,\theta_\text{ft}

    For a model linear in its parameters the logits are the same mixture of the two models' logits.

    Args:
      pretrained: the parameters at :math:`\alpha = 0`.
      finetuned: those at :math:`\alpha = 1`; they may be a soup.
      alpha: any finite number, as a rule in [0, 1]; may be traced, so that a vmap over it gives the whole line.

    Returns:
      The mixture, in the dtypes of the models; exact at 0 and 1.

    Raises:
      ValueError: trees that differ; the first paths that do are named.

    Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv 2109.01903; Lin et al. 2023, "Spurious
    Feature Diversification Improves Out-of-distribution Generalization", arXiv 2309.17230.

    >>> wise_ft(jnp.array([0.0, 4.0]), jnp.array([1.0, 8.0]), alpha=0.25).tolist()
    [0.25, 5.0]
    """
    check_alike(pretrained, finetuned, where="wise_ft: the fine-tuned against the pretrained model")
    check_finite_number("alpha", alpha)
    return interpolate(pretrained, finetuned, alpha)
