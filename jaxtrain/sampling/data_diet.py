"""Scores that say early in training which examples matter: GraNd, EL2N and forgetting."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxtrain.core import Params, check_finite_number, check_leading_axes, labels_in_range


def el2n_score(logits: Float[Array, "*batch n"], labels: Int[Array, "..."]) -> Float[Array, "*batch"]:
    r"""The length of the error vector, :math:`\|\mathrm{softmax}(z) - e_y\|_2`, between 0 and :math:`\sqrt 2`.

    An approximation of GraNd without gradients: with cross-entropy the gradient of an example is
    :math:`\sum_c (p_c - 1[y = c]) \nabla z_c`, so the two agree in order where the gradients of the logits are nearly
    orthogonal and of one length. Average it over about ten short runs (:func:`average_scores`), with the model in
    evaluation mode.

    Args:
      logits: ``(..., n)``, the class axis last.
      labels: ``(...)`` classes in ``[0, n)``.

    Returns:
      ``(...)`` scores in the dtype of the logits; computed in single precision at least.

    Raises:
      ValueError: shapes that disagree, or a label that is no class.

    Source: Paul, Ganguli, Dziugaite (2021), arXiv 2107.07075, definition 2.2.

    >>> print(el2n_score(jnp.array([[0.0, 0.0], [-50.0, 50.0]]), jnp.array([0, 0])).round(4))
    [0.7071 1.4142]
    """
    p = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)
    return _error_norm("el2n_score", p, labels).astype(logits.dtype)


def _error_norm(where: str, probs: Array, labels: Array) -> Array:
    if labels.shape != probs.shape[:-1]:
        raise ValueError(f"{where}: labels of shape {labels.shape} for classes {probs.shape}; give {probs.shape[:-1]}")
    labels = labels_in_range(labels, probs.shape[-1], where=where)
    return jnp.linalg.norm(probs - jax.nn.one_hot(labels, probs.shape[-1], dtype=probs.dtype), axis=-1)


def grand_score(
    loss_fn: Callable[[Params, Any, Any], Float[Array, ""]],
    params: Params,
    x: Any,
    y: Any,
    *,
    microbatch: int | None = None,
) -> Float[Array, " n"]:
    r"""The length of each example's gradient, :math:`\|\nabla_\theta \ell(\theta; x_i, y_i)\|_2`, over all parameters.

    By ``vmap`` of ``grad``: memory of ``microbatch`` times the parameters. The scores are averaged over short runs from
    several initialisations (:func:`average_scores`). At initialisation itself they say little; the paper's results there
    were later traced to a fault of its code, so train for some epochs first.

    Args:
      loss_fn: ``(params, x_i, y_i) -> loss`` of ONE example, a scalar.
      params: pytree of floating arrays.
      x: pytree of arrays with a leading axis of n examples.
      y: the same for the targets.
      microbatch: how many examples at once; default all.

    Returns:
      ``(n,)`` scores, summed in single precision at least.

    Raises:
      ValueError: leading axes that disagree, an empty batch, microbatch < 1, or a loss that is not a scalar.

    Source: Paul, Ganguli, Dziugaite (2021), arXiv 2107.07075, definition 2.1; on initialisation: Kirsch (2023),
    arXiv 2303.14753.

    >>> loss = lambda w, x, y: 0.5 * (jnp.dot(w, x) - y) ** 2
    >>> x, y = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([1.0, 2.0])
    >>> grand_score(loss, jnp.zeros(2), x, y).tolist()
    [5.0, 2.0]
    """
    n = check_leading_axes((x, y), where="grand_score")
    if microbatch is not None and microbatch < 1:
        raise ValueError(f"grand_score: microbatch must be at least 1, got {microbatch}")
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (x, y))
    value = jax.eval_shape(loss_fn, params, *one)
    if getattr(value, "shape", None) != ():
        raise ValueError(f"grand_score: loss_fn must give one number for one example, got {value}")

    def norm(example):
        gradient = jax.grad(loss_fn)(params, *example)
        return jnp.sqrt(
            sum(
                jnp.sum(jnp.square(g.astype(jnp.promote_types(g.dtype, jnp.float32))))
                for g in jax.tree.leaves(gradient)
            )
        )

    return jax.lax.map(norm, (x, y), batch_size=min(microbatch or n, n))


def grand_lastlayer(
    features: Float[Array, "n d"], probs: Float[Array, "m c"], labels: Int[Array, " k"]
) -> Float[Array, " n"]:
    r"""GraNd of a last linear layer with bias under cross-entropy, :math:`\|p - e_y\|_2 \sqrt{\|h\|_2^2 + 1}`.

    The gradient is the outer product of :math:`p - e_y` and :math:`[h; 1]`.

    Args:
      features: ``(n, d)`` inputs h of the last layer.
      probs: ``(n, classes)`` softmax outputs.
      labels: ``(n,)``.

    Returns:
      ``(n,)`` scores.

    Raises:
      ValueError: shapes that disagree, or a label that is no class.

    Source: Paul, Ganguli, Dziugaite (2021), arXiv 2107.07075, section 2.

    >>> grand_lastlayer(jnp.zeros((1, 3)), jnp.array([[0.0, 1.0]]), jnp.array([1])).tolist()
    [0.0]
    """
    if len(features) != len(probs):
        raise ValueError(f"grand_lastlayer: {len(features)} features and {len(probs)} outputs disagree")
    return _error_norm("grand_lastlayer", probs, labels) * jnp.sqrt(jnp.sum(jnp.square(features), axis=-1) + 1)


def average_scores(scores: Any) -> Float[Array, " n"]:
    """The mean of the scores of several runs.

    Args:
      scores: ``(runs, n)``, or a sequence of ``(n,)``.

    Returns:
      ``(n,)``.

    Raises:
      ValueError: no run, or runs of different lengths.

    Source: Paul, Ganguli, Dziugaite (2021), arXiv 2107.07075, section 2: ten runs.

    >>> average_scores([jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0])]).tolist()
    [0.5, 1.0]
    """
    rows = list(scores)
    if not rows or any(np.shape(r) != np.shape(rows[0]) for r in rows):
        raise ValueError(f"average_scores needs runs of one length, got shapes {[np.shape(r) for r in rows]}")
    return jnp.mean(jnp.stack(rows), axis=0)


def keep_top_fraction(scores: Float[Array, " n"], *, fraction: float, offset: float = 0.0) -> Int[Array, " k"]:
    """The indices of the examples with the highest scores, hardest first; ``offset`` leaves out the very hardest.

    Of n examples sorted by falling score those from ``round(offset * n)`` on are kept, ``round(fraction * n)`` of them.
    With wrong labels the very hardest are the wrong ones. Equal scores keep the order of the examples. The window's
    size is static, so it runs under ``jit``; ``fraction`` and ``offset`` are Python numbers.

    Args:
      scores: ``(n,)``.
      fraction: how much is kept, in (0, 1].
      offset: how much is left out at the top; offset + fraction ≤ 1.

    Returns:
      ``(k,)`` indices.

    Raises:
      ValueError: numbers out of range, or nothing kept.

    Source: Paul, Ganguli, Dziugaite (2021), arXiv 2107.07075, sections 3 and 4.

    >>> keep_top_fraction(jnp.array([0.1, 0.9, 0.5, 0.7]), fraction=0.5, offset=0.25).tolist()
    [3, 2]
    """
    check_finite_number("fraction", fraction, low=0.0, high=1.0)
    check_finite_number("offset", offset, low=0.0, high=1.0)
    n = len(scores)
    first, size = round(offset * n), round(fraction * n)
    if size == 0 or offset + fraction > 1 + 1e-9:
        raise ValueError(
            f"keep_top_fraction: fraction {fraction} after offset {offset} of {n} examples must keep at least one and end "
            "within them"
        )
    order = jnp.argsort(scores, descending=True, stable=True)
    return order[first : first + size]


def forgetting_counts(correct_history: Bool[Array, "times n"]) -> Float[Array, " n"]:
    """How often each example went from right to wrong; infinite where it was never right.

    Args:
      correct_history: ``(times, n)``, whether example i was classified right at each time it was looked at.

    Returns:
      ``(n,)`` counts in float32.

    Raises:
      ValueError: no time at all.

    Source: Toneva et al. (2019), arXiv 1812.05159; Paul, Ganguli, Dziugaite (2021), arXiv 2107.07075.

    >>> history = jnp.array([[True, False, True], [False, False, True], [True, False, True], [False, False, True]])
    >>> forgetting_counts(history).tolist()
    [2.0, inf, 0.0]
    """
    if len(correct_history) == 0:
        raise ValueError("forgetting_counts: the history is empty")
    forgotten = jnp.sum(correct_history[:-1] & ~correct_history[1:], axis=0)
    return jnp.where(correct_history.any(axis=0), forgotten.astype(jnp.float32), jnp.inf)
