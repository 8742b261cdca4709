"""Losses for episodes of few examples: distances to prototypes, and to neighbours of the same and of other classes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Scalar, check_finite_number, debug_check, labels_in_range
from jaxtrain.core.numerics import segment_mean, static_int
from jaxtrain.losses._logits import widened

_CLOSE = 1e-6  # added to squared distances, whose root has no slope at zero


def _distances(x: Array, y: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x[:, None] - y[None]), axis=-1) + _CLOSE)


def _check(where: str, **pairs: tuple[Array, Array]) -> None:
    """Raises unless these are points of one dimension with a label each."""
    width = None
    for name, (points, labels) in pairs.items():
        if points.ndim != 2 or labels.shape != points.shape[:1]:
            shapes = f"{points.shape} and {labels.shape}"
            raise ValueError(f"{where}: {name} are points (n, d) with labels (n,), got {shapes}")
        if width not in (None, points.shape[1]):
            raise ValueError(f"{where}: {name} have {points.shape[1]} features, the others {width}")
        width = points.shape[1]


def prototypes(support: Float[Array, "n d"], labels: Int[Array, "..."], n_classes: int) -> Float[Array, "classes d"]:
    """The mean of each class.

    Args:
      support: ``(n, d)`` embedded examples.
      labels: ``(n,)`` integers from 0; a class without examples has its prototype at 0.
      n_classes: how many classes there are.

    Returns:
      ``(n_classes, d)``, in the dtype of the support, summed in float32 at least.

    Raises:
      ValueError: shapes that disagree, a label that is no class.

    Source: Snell, Swersky, Zemel (2017), arXiv 1703.05175.

    >>> prototypes(jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), jnp.array([0, 0, 1]), 2).tolist()
    [[2.0, 0.0], [0.0, 5.0]]
    """
    _check("prototypes", support=(support, labels))
    n_classes = static_int("n_classes", n_classes, low=1)
    labels = labels_in_range(labels, n_classes, where="prototypes")
    return segment_mean(widened(support), labels, n_classes).astype(support.dtype)


def proto_triplet_loss(
    query_emb: Float[Array, "batch d"],
    query_labels: Int[Array, "..."],
    prototypes: Float[Array, "..."],
    proto_labels: Int[Array, "..."],
    *,
    margin: Number = 0.5,
) -> Float[Array, " batch"]:
    r"""A query is closer to its own class's prototype than to the nearest other one, by a margin.

    .. math:: \max(d_+ - d_- + m, 0)

    with Euclidean distances :math:`\sqrt{\|q - c\|^2 + 10^{-6}}`. Of several prototypes of a class the nearest counts.

    Args:
      query_emb: ``(batch, d)``.
      query_labels: ``(batch,)``, each of them among the labels of the prototypes.
      prototypes: ``(protos, d)``; they get gradients too.
      proto_labels: ``(protos,)``, of two classes at least.
      margin: m ≥ 0; may be traced.

    Returns:
      ``(batch,)`` ≥ 0, in the dtype of the queries, computed in float32 at least. Where labels are traced, a query
      without a prototype of its class has infinite loss, one without any other 0; :func:`jaxtrain.core.checked` raises.

    Raises:
      ValueError: shapes that disagree, a query without a prototype of its class or of another one, a negative margin.

    Source: Mendez-Ruiz, Gonzalez-Zapata, Mendez-Vazquez, Ochoa-Ruiz et al. (2023), arXiv 2305.09062.

    >>> query, corners = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 0.0], [0.0, 2.0]])
    >>> [round(float(proto_triplet_loss(query, jnp.array([y]), corners, jnp.array([0, 1]))[0]), 3) for y in (0, 1)]
    [1.5, 0.0]
    """
    _check("proto_triplet_loss", query_emb=(query_emb, query_labels), prototypes=(prototypes, proto_labels))
    check_finite_number("margin", margin, low=0.0)
    needs = "every query needs a prototype of its own class and one of another"
    if not isinstance(query_labels, jax.core.Tracer) and not isinstance(proto_labels, jax.core.Tracer):
        asked, known = (np.unique(np.asarray(y)).tolist() for y in (query_labels, proto_labels))
        if len(known) < 2 or not np.isin(asked, known).all():
            raise ValueError(f"proto_triplet_loss: queries of the classes {asked} and prototypes of {known}; {needs}")
    d = _distances(widened(query_emb), widened(prototypes))
    own = query_labels[:, None] == proto_labels[None]
    debug_check(lambda: jnp.any(own, axis=1) & ~jnp.all(own, axis=1), f"proto_triplet_loss: {needs}")
    nearest = [jnp.min(jnp.where(mask, d, jnp.inf), axis=1) for mask in (own, ~own)]
    return jax.nn.relu(nearest[0] - nearest[1] + margin).astype(query_emb.dtype)


def _neighbours(x: Array, labels: Array, ref: Array, ref_labels: Array, count: int, *, skip_self: bool) -> tuple:
    """Distances to the nearest ``count``, in order, and whether they are of the same class; which ones is constant."""
    d = _distances(x, ref)
    apart = jnp.where(jnp.eye(len(x), dtype=bool), jnp.inf, d) if skip_self else d
    index = jax.lax.top_k(-jax.lax.stop_gradient(apart), count)[1]
    return jnp.take_along_axis(d, index, axis=1), ref_labels[index] == labels[:, None]


def _mean_of_means(values: Array, mask: Array, otherwise: float) -> Array:
    """Over the rows that have an entry, of the means of their entries; ``otherwise`` where there is none at all."""
    counts = jnp.sum(mask, axis=1)
    means = jnp.sum(jnp.where(mask, values, 0.0), axis=1) / jnp.maximum(counts, 1)
    rows = jnp.sum(counts > 0)
    return jnp.where(rows > 0, jnp.sum(means) / jnp.maximum(rows, 1), otherwise)


def icnn_score(
    emb: Float[Array, "n d"],
    labels: Int[Array, "..."],
    ref_emb: Float[Array, "..."] | None = None,
    ref_labels: Int[Array, "..."] | None = None,
    *,
    k: int = 4,
    items_per_class: int | None = None,
    eps: Number = 1e-7,
) -> Scalar:
    r"""How well classes are separated, by the k nearest neighbours of every point: one number for a batch, 1 at best.

    .. math:: \tfrac12\Big(\tfrac12(\lambda_{same} + \lambda_{other}) + \gamma\Big)

    - :math:`\lambda_{same}` is 1 less the distance to neighbours of the same class, in units of the nearest one of another
      class among the ``items_per_class`` nearest (0 without such), and of the row's largest where that is above 1.
    - :math:`\lambda_{other}` is the distance to neighbours of other classes over the largest of these.
    - :math:`\gamma` is the share of neighbours of the same class, a constant in differentiation.

    Both λ are means over each point's neighbours, then over the points that have such; 1 where no point has, also
    :math:`\lambda_{same}` of a batch without a neighbour of the same class: there γ alone tells.

    Args:
      emb: ``(n, d)`` points whose neighbours are looked for.
      labels: ``(n,)``.
      ref_emb: ``(m, d)`` where the neighbours are looked for; default: among ``emb``, each without itself.
      ref_labels: ``(m,)``.
      k: neighbours of each point, at most m - 2; with :math:`k \ge m - 2` it becomes that, and γ is 1.
      items_per_class: neighbours among which the nearest of another class is looked for, ≥ k; default k + 1.
      eps: added to distances that others are divided by, ≥ 0; may be traced.

    Returns:
      A scalar in (0, 1], in the dtype of ``emb``, computed in float32 at least. Sorting is not differentiated.

    Raises:
      ValueError: shapes that disagree, fewer than 3 reference points, more neighbours than there are.

    Source: Mendez-Ruiz, Gonzalez-Zapata, Mendez-Vazquez, Ochoa-Ruiz et al. (2023), arXiv 2305.09062, as in the training
    code; the paper's score has a term of variances and exponents besides.

    >>> points, labels = jnp.array([[0.0], [1.0], [10.0], [11.0]]), jnp.array([0, 0, 1, 1])
    >>> [round(float(icnn_score(points, y, k=1)), 3) for y in (labels, labels[jnp.array([0, 2, 1, 3])])]
    [0.974, 0.5]
    """
    alone = ref_emb is None
    if alone != (ref_labels is None):
        raise ValueError("icnn_score: ref_emb and ref_labels are given together or not at all")
    pairs = {"emb": (emb, labels)} if alone else {"emb": (emb, labels), "ref_emb": (ref_emb, ref_labels)}
    _check("icnn_score", **pairs)
    check_finite_number("eps", eps, low=0.0)
    ref, ref_labels = (emb, labels) if alone else (ref_emb, ref_labels)
    k, m = static_int("k", k, low=1), len(ref)
    if m < 3:
        raise ValueError(f"icnn_score: {m} points to look for neighbours among; at least 3 are needed")
    k, whole = min(k, m - 2), k + 2 >= m
    wide = k + 1 if items_per_class is None else static_int("items_per_class", items_per_class, low=k)
    if wide > m - alone:
        raise ValueError(f"icnn_score: items_per_class is {wide}, but a point has only {m - alone} neighbours")
    distances, same = _neighbours(widened(emb), labels, widened(ref), ref_labels, wide, skip_self=alone)
    some = jnp.any(~same, axis=1, keepdims=True)
    nearest_other = jnp.min(jnp.where(same, jnp.inf, distances), axis=1, keepdims=True)
    # dividing by infinity is right, its derivative is not
    in_units = jnp.where(some, distances / (jnp.where(some, nearest_other, 1.0) + eps), 0.0)[:, :k]
    d, same = distances[:, :k], same[:, :k]
    in_units = in_units / jnp.maximum(1.0, jnp.max(in_units, axis=1, keepdims=True))
    lambda_same = 1 - _mean_of_means(in_units, same, 0.0)
    largest = jnp.max(jnp.where(same, 0.0, d))
    lambda_other = _mean_of_means(d / jnp.where(largest > 0, largest + eps, 1.0), ~same, 1.0)
    gamma = 1.0 if whole else jnp.mean(same.astype(d.dtype))
    return (((lambda_same + lambda_other) / 2 + gamma) / 2).astype(emb.dtype)


def icnn_loss(
    emb: Float[Array, "n d"],
    labels: Int[Array, "..."],
    ref_emb: Float[Array, "..."] | None = None,
    ref_labels: Int[Array, "..."] | None = None,
    *,
    k: int = 4,
    items_per_class: int | None = None,
    eps: Number = 1e-7,
) -> Scalar:
    r"""The negative logarithm of :func:`icnn_score`: one number for a batch, 0 at best.

    Args:
      emb, labels, ref_emb, ref_labels, k, items_per_class, eps: as in :func:`icnn_score`, which see for mistakes.

    Returns:
      A scalar ≥ 0, in the dtype of ``emb``.

    Source: Mendez-Ruiz, Gonzalez-Zapata, Mendez-Vazquez, Ochoa-Ruiz et al. (2023), arXiv 2305.09062.

    >>> points, labels = jnp.array([[0.0], [1.0], [10.0], [11.0]]), jnp.array([0, 0, 1, 1])
    >>> round(float(icnn_loss(points, labels, k=1)), 4)
    0.0267
    """
    score = icnn_score(widened(emb), labels, ref_emb, ref_labels, k=k, items_per_class=items_per_class, eps=eps)
    return -jnp.log(score).astype(emb.dtype)
