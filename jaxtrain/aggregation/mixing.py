"""Before a rule: nearest-neighbour mixing and bucketing, from a stack to a stack with less spread."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.aggregation._trees import check_byzantine, combine, relative_gramian, squared_distances
from jaxtrain.core import Key, check_key
from jaxtrain.core.tree import check_stack


def nearest_neighbor_weights(gramian: Float[Array, "m n"], *, num_byzantine: int) -> Float[Array, "n n"]:
    r"""For every row the weights of the mean of its n − f nearest rows, itself included.

    Args:
      gramian: ``(n, n)`` inner products, n > 2 f. A row with a NaN or an infinity is nobody's neighbour; its own
        weights are those of the mean of the others.
      num_byzantine: f.

    Returns:
      ``(n, n)`` in single precision at least; every row sums to 1. Of equal distances the first is taken.

    Raises:
      ValueError: n ≤ 2 f, a negative f.

    Source: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot & Stephan 2023, "Fixing by Mixing", arXiv 2302.01772.

    >>> x = jnp.array([0.0, 1.0, 5.0])
    >>> nearest_neighbor_weights(jnp.outer(x, x), num_byzantine=1).tolist()
    [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    """
    distances = squared_distances(gramian)
    n, f = len(distances), num_byzantine
    check_byzantine(n, f, where="nearest_neighbor_weights", needed=2 * f + 1, formula="2 f + 1")
    # itself before all that equal it
    distances = jnp.where(jnp.eye(n, dtype=bool), jnp.where(jnp.isfinite(distances), -1, distances), distances)
    sound = jnp.isfinite(jnp.diagonal(distances))
    nearest = jax.lax.top_k(-distances, n - f)[1]
    weights = jnp.zeros((n, n), distances.dtype).at[jnp.arange(n)[:, None], nearest].set(1 / (n - f))
    # more broken rows than f: the mean of those that are left
    weights = jnp.where(sound, weights, 0)
    weights = weights / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1 / n)
    return jnp.where(sound[:, None], weights, sound / jnp.maximum(jnp.sum(sound), 1))


def nearest_neighbor_mixing(stacked: Any, *, num_byzantine: int) -> Any:
    r"""Every row replaced by the mean of its n − f nearest rows, itself included.

    It brings the rows of workers with different data together before a robust rule chooses between them; a row far
    from all is replaced by a mean of rows nearer to the others. Without Byzantine workers (f = 0) every row is the
    mean.

    Args:
      stacked: pytree, every leaf ``(n, ...)``, n > 2 f. Rows that are not finite are left out.
      num_byzantine: f.

    Returns:
      A stack like the first. Cost: the Gramian and one product with an n × n matrix, O(n²) for each parameter.

    Raises:
      ValueError: n ≤ 2 f, leading axes that disagree or are empty.

    Source: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot & Stephan 2023, "Fixing by Mixing: A Recipe for Optimal
    Byzantine ML under Heterogeneity", arXiv 2302.01772.

    >>> nearest_neighbor_mixing(jnp.array([[0.0], [1.0], [5.0]]), num_byzantine=1).tolist()
    [[0.5], [0.5], [3.0]]
    """
    check_stack(stacked, where="nearest_neighbor_mixing")
    return combine(nearest_neighbor_weights(relative_gramian(stacked).gramian, num_byzantine=num_byzantine), stacked)


def bucketing(key: Key, stacked: Any, *, bucket_size: int) -> Any:
    r"""Means of random buckets of s rows: a stack of ⌈n/s⌉ rows whose variance is smaller by s.

    A rule behind it must bear the f of its ⌈n/s⌉ rows that Byzantine workers may be in. One row that is not finite spoils its own
    bucket only.

    Args:
      key: decides the order.
      stacked: pytree, every leaf ``(n, ...)``.
      bucket_size: s, from 1 to n; the last bucket holds what is left.

    Returns:
      A stack of ⌈n/s⌉ rows.

    Raises:
      ValueError: a bucket size outside [1, n], leading axes that disagree or are empty.

    Source: Karimireddy, He & Jaggi 2022, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
    arXiv 2006.09365.

    >>> x = jnp.array([[1.0], [1.0], [1.0], [1.0], [1.0]])
    >>> bucketing(jax.random.key(0), x, bucket_size=2).tolist()
    [[1.0], [1.0], [1.0]]
    """
    check_key(key, where="bucketing")
    n = check_stack(stacked, where="bucketing")
    if not 1 <= bucket_size <= n:
        raise ValueError(f"bucketing: bucket_size must lie in [1, n = {n}], got {bucket_size}")
    return in_order(jax.random.permutation(key, n), stacked, bucket_size)


def in_order(order: Array, stacked: Any, size: int) -> Any:
    """The means of the rows taken in an order, ``size`` at a time."""
    full = len(order) // size * size

    def one(x: Array) -> Array:
        rows = x[order].astype(jnp.promote_types(x.dtype, jnp.float32))
        means = jnp.mean(rows[:full].reshape(-1, size, *x.shape[1:]), axis=1)
        if full < len(order):
            means = jnp.concatenate([means, jnp.mean(rows[full:], axis=0, keepdims=True)])
        return means.astype(x.dtype)

    return jax.tree.map(one, stacked)
