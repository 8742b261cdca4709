"""Tricks for classes that come later with few examples: room set aside for them, and little that may move."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Key, Number, Params, check_finite_number, check_key, labels_in_range
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import cosines
from jaxtrain.losses.wcdas import cosine_softmax_logits


def simplex_etf_prototypes(key: Key, num: int, dim: int) -> Float[Array, "num dim"]:
    r"""Prototypes as far from each other as that many can be: a simplex, turned at random.

    .. math:: \sqrt{\tfrac{K}{K - 1}} \big(I - \tfrac1K 1 1^\top\big) U^\top, \qquad U^\top U = I

    All have length 1, their sum is 0 and every cosine is :math:`-1 / (K - 1)`. Make as many as there will ever be classes.

    Args:
      key: decides the turn.
      num: :math:`K` ≥ 2.
      dim: of the embeddings, at least :math:`K - 1`.

    Returns:
      ``(num, dim)`` in float32.

    Raises:
      TypeError: a key that is not one, or sizes that are no integers.
      ValueError: fewer than two prototypes, or fewer dimensions than they need.

    Source: Roy, Park, Fahrezi, Etemad (2024), arXiv 2403.14392; Papyan, Han, Donoho (2020), arXiv 2008.08186.

    >>> w = simplex_etf_prototypes(jax.random.key(0), 3, 2)
    >>> bool(jnp.allclose(w @ w.T, 1.5 * jnp.eye(3) - 0.5, atol=1e-6))
    True
    """
    check_key(key, where="simplex_etf_prototypes")
    num = static_int("num", num, low=2)
    dim = static_int("dim", dim, low=1)
    if dim < num - 1:
        raise ValueError(f"simplex_etf_prototypes: {num} prototypes need {num - 1} dimensions at least, got {dim}")
    # an orthonormal basis of what sums to zero, (K, K - 1), so that K - 1 dimensions are enough
    corner = np.linalg.qr(np.eye(num)[:, : num - 1] - 1 / num)[0]
    q, r = jnp.linalg.qr(jax.random.normal(key, (dim, num - 1)))
    turn = q * jnp.sign(jnp.diagonal(r))
    return np.sqrt(num / (num - 1)) * jnp.matmul(jnp.asarray(corner, q.dtype), turn.T, precision="highest")


def assign_prototypes(class_means: Float[Array, "..."], prototypes: Float[Array, "..."]) -> Int[Array, " classes"]:
    r"""Gives every class a prototype of its own, the sum of their cosines as large as can be (Hungarian algorithm).

    Args:
      class_means: ``(classes, d)`` mean embeddings.
      prototypes: ``(k, d)``, k ≥ classes; those left over are for later classes.

    Returns:
      ``(classes,)`` indices of prototypes, all different.

    Raises:
      ValueError: shapes that disagree, or more classes than prototypes.

    Source: Roy, Park, Fahrezi, Etemad (2024), arXiv 2403.14392.

    >>> assign_prototypes(jnp.array([[0.0, 2.0], [1.0, 0.9]]), jnp.eye(2)).tolist()
    [1, 0]
    """
    if class_means.ndim != 2 or prototypes.ndim != 2 or class_means.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"assign_prototypes: class_means {class_means.shape} and prototypes {prototypes.shape} disagree"
        )
    if len(class_means) > len(prototypes):
        raise ValueError(f"assign_prototypes: {len(class_means)} classes for {len(prototypes)} prototypes")
    rows, columns = optax.assignment.hungarian_algorithm(-cosines(class_means, prototypes))
    return jnp.zeros(len(class_means), columns.dtype).at[rows].set(columns)


def pseudo_class_expand(
    x: Array, labels: Int[Array, "..."], transforms: Sequence[Callable[[Array], Array]], *, num_classes: int
) -> tuple[Array, Int[Array, " expanded"]]:
    """Adds transformed copies of a batch, each transform's as classes of their own.

    The copies of transform ``t`` (counted from 1) have the labels ``labels + t * num_classes``. Rotations by 90, 180 and
    270 degrees make four classes of each: what later classes may look like is then not empty space.

    Args:
      x: ``(batch, ...)`` inputs.
      labels: ``(batch,)`` in ``[0, num_classes)``.
      transforms: functions of the batch that keep its shape.
      num_classes: how many there are without copies.

    Returns:
      ``(x, labels)`` of ``(1 + len(transforms)) * batch`` examples, the originals first; labels in int32 at least.

    Raises:
      ValueError: labels that do not fit or are out of range, or a transform that changes the shape.
      TypeError: labels that are no integers.

    Source: Roy, Park, Fahrezi, Etemad (2024), arXiv 2403.14392.

    >>> x, y = pseudo_class_expand(jnp.array([[1.0, 2.0]]), jnp.array([3]), [lambda x: x[:, ::-1]], num_classes=10)
    >>> x.tolist(), y.tolist()
    ([[1.0, 2.0], [2.0, 1.0]], [3, 13])
    """
    num_classes = static_int("num_classes", num_classes, low=1)
    if labels.shape != x.shape[:1]:
        raise ValueError(f"pseudo_class_expand: labels of shape {labels.shape} for inputs {x.shape}")
    labels = labels_in_range(labels, num_classes, where="pseudo_class_expand")
    # a byte has no room for the classes of copies
    labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))
    copies = [x, *(transform(x) for transform in transforms)]
    for number, copy in enumerate(copies):
        if copy.shape != x.shape:
            raise ValueError(f"pseudo_class_expand: transform {number} turned {x.shape} into {copy.shape}")
    return jnp.concatenate(copies), jnp.concatenate([labels + t * num_classes for t in range(len(copies))])


def incremental_subnet_mask(key: Key, params: Params, *, fraction: Number) -> Any:
    """A fixed random part of the weights, the only ones that may move when a new class comes.

    Put it last in the chain, after momentum and decay, by selection and not as a factor, which would let NaN through:
    ``optax.stateless(lambda u, _: jax.tree.map(lambda x, m: jnp.where(m, x, 0), u, mask))``.

    Args:
      key: decides which.
      params: any pytree of arrays.
      fraction: of the entries of each leaf, in [0, 1], rounded to a whole number; may be traced.

    Returns:
      The tree with a boolean array for each leaf.

    Raises:
      TypeError: a key that is not one.
      ValueError: a fraction out of range.

    Source: Roy, Park, Fahrezi, Etemad (2024), arXiv 2403.14392.

    >>> mask = incremental_subnet_mask(jax.random.key(0), {"w": jnp.zeros((5, 4))}, fraction=0.1)
    >>> int(mask["w"].sum())
    2
    """
    check_key(key, where="incremental_subnet_mask")
    check_finite_number("fraction", fraction, low=0.0, high=1.0)
    leaves, treedef = jax.tree.flatten(params)
    masks = [
        (jax.random.permutation(k, leaf.size) < jnp.round(fraction * leaf.size)).reshape(leaf.shape)
        for k, leaf in zip(jax.random.split(key, max(len(leaves), 1)), leaves, strict=False)
    ]
    return jax.tree.unflatten(treedef, masks)


def cosine_ncm_logits(
    embeddings: Float[Array, "*batch d"], prototypes: Float[Array, "..."], *, scale: Number = 16.0
) -> Float[Array, "*batch k"]:
    r"""Logits of the nearest class mean by angle: :math:`s \cos(z, c_k)`. A new class is a new row.

    It is :func:`cosine_softmax_logits` with a fixed scale.

    Args:
      embeddings: ``(..., d)``, of any length; zeros have the cosine 0 with everything.
      prototypes: ``(k, d)`` class means or assigned prototypes.
      scale: :math:`s` > 0; may be traced.

    Returns:
      ``(..., k)``, in the dtype of the embeddings.

    Raises:
      ValueError: shapes that disagree, or a scale out of range.

    Source: Roy, Park, Fahrezi, Etemad (2024), arXiv 2403.14392.

    >>> cosine_ncm_logits(jnp.array([[2.0, 0.0]]), jnp.eye(2), scale=4.0).round(4).tolist()
    [[4.0, 0.0]]
    """
    if prototypes.ndim != 2 or embeddings.ndim < 1 or embeddings.shape[-1] != prototypes.shape[-1]:
        raise ValueError(f"cosine_ncm_logits: embeddings {embeddings.shape} and prototypes {prototypes.shape} disagree")
    return cosine_softmax_logits(embeddings, prototypes, scale=scale)
