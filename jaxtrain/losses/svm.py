"""A margin instead of a softmax: the losses of support vector machines, for the last layer of any network."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num

from jaxtrain.core import Number, Scalar, check_finite_number, labels_in_range
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import check_labels, check_same_logits, widened


def one_vs_rest_signs(labels: Int[Array, "*batch"], num_classes: int) -> Float[Array, "*batch classes"]:
    """1 for an example's own class, -1 for all others.

    Args:
      labels: ``(…)`` integers.
      num_classes: how many classes there are, 2 at least.

    Returns:
      ``(…, num_classes)`` in float32.

    Raises:
      ValueError: fewer than two classes, or a label that is none of them.

    >>> one_vs_rest_signs(jnp.array([2, 0]), 3).tolist()
    [[-1.0, -1.0, 1.0], [1.0, -1.0, -1.0]]
    """
    n = static_int("num_classes", num_classes, low=2)
    return 2 * jax.nn.one_hot(labels_in_range(labels, n, where="one_vs_rest_signs"), n) - 1


def _hinges(where: str, logits: Array, signs: Array) -> Array:
    check_same_logits(where, "signs", logits, signs)
    return optax.losses.hinge_loss(widened(logits), widened(signs))


def l2_svm_loss(logits: Float[Array, "*batch n"], signs: Num[Array, "..."]) -> Float[Array, "*batch"]:
    r"""Squared hinges, one machine for each class: what lacks to a margin of 1, squared.

    .. math:: \sum_k \max(0, 1 - y_k f_k)^2, \qquad y_k \in \{-1, 1\}.

    Its slope has no jump at the margin, unlike that of :func:`l1_svm_loss`. The prediction is the largest logit.

    Args:
      logits: ``(…, n)``; for one machine ``n = 1``.
      signs: of the same shape, 1 or -1, see :func:`one_vs_rest_signs`.

    Returns:
      ``(…)`` losses ≥ 0, in the dtype of the logits, computed in float32 at least.

    Raises:
      ValueError: shapes that disagree.

    Source: Tang (2013), arXiv 1306.0239; Agarap (2017), arXiv 1709.03082.

    >>> l2_svm_loss(jnp.array([[2.0, -0.5], [0.0, 0.0]]), jnp.array([[1, -1], [-1, 1]])).tolist()
    [0.25, 2.0]
    """
    return jnp.sum(jnp.square(_hinges("l2_svm_loss", logits, signs)), axis=-1).astype(logits.dtype)


def l1_svm_loss(logits: Float[Array, "*batch n"], signs: Num[Array, "..."]) -> Float[Array, "*batch"]:
    r"""Hinges, one machine for each class: :math:`\sum_k \max(0, 1 - y_k f_k)`, of ``optax.losses.hinge_loss``.

    Args:
      logits: ``(…, n)``.
      signs: of the same shape, 1 or -1.

    Returns:
      ``(…)`` losses ≥ 0, in the dtype of the logits, computed in float32 at least.

    Raises:
      ValueError: shapes that disagree.

    Source: Cortes, Vapnik (1995); Agarap (2017), arXiv 1709.03082.

    >>> l1_svm_loss(jnp.array([[2.0, -0.5], [0.0, 0.0]]), jnp.array([[1, -1], [-1, 1]])).tolist()
    [0.5, 2.0]
    """
    return jnp.sum(_hinges("l1_svm_loss", logits, signs), axis=-1).astype(logits.dtype)


def svm_head_objective(
    params_head: Any, logits: Float[Array, "batch n"], labels: Int[Array, "..."], *, C: Number = 0.5
) -> Scalar:
    r"""The objective of an L2 support vector machine on top of a network: wide margins, and few examples inside them.

    .. math:: \tfrac12 \|W\|_F^2 + C \sum_i \sum_k \max(0, 1 - y_{ik} f_{ik})^2

    The sum is over the batch, as in the release: with minibatches the head's weights weigh more than in the sum over all
    examples; for the same minimum multiply C by the number of examples over the batch size.

    Args:
      params_head: the last layer's parameters; leaves of two axes or more are regularized, biases are not.
      logits: ``(batch, n)``, what the head gives.
      labels: ``(batch,)`` integers.
      C: what a violated margin costs, > 0; may be traced.

    Returns:
      A scalar, in float32 at least.

    Raises:
      ValueError: shapes that disagree, a label that is no class, a C that is not positive, a head without weights.

    Source: Agarap (2017), arXiv 1709.03082.

    >>> head = {"w": jnp.array([[1.0, -1.0]]), "b": jnp.zeros(2)}
    >>> float(svm_head_objective(head, jnp.array([[2.0, 0.0]]), jnp.array([0])))  # 2/2 + 1/2
    1.5
    """
    labels = check_labels("svm_head_objective", logits, labels)
    check_finite_number("C", C, low=1e-30)
    weights = [w for w in jax.tree.leaves(params_head) if jnp.ndim(w) > 1]
    if not weights:
        raise ValueError("svm_head_objective: params_head has no weights (leaves of two axes or more) to regularize")
    lengths = sum(jnp.sum(jnp.square(widened(w))) for w in weights)
    return 0.5 * lengths + C * jnp.sum(l2_svm_loss(widened(logits), one_vs_rest_signs(labels, logits.shape[-1])))
