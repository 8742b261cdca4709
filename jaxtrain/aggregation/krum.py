"""Krum, Multi-Krum and Bulyan: the workers with the nearest neighbours."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtrain.aggregation._trees import check_byzantine, combine, each_leaf, relative_gramian, squared_distances
from jaxtrain.aggregation.coordinatewise import around_the_median
from jaxtrain.core.tree import check_stack


def _scores(distances: Float[Array, "n n"], neighbours: int | Array) -> Float[Array, " n"]:
    """The sum of the smallest squared distances to others."""
    n = len(distances)
    others = jnp.where(jnp.eye(n, dtype=bool), jnp.inf, distances)
    return jnp.sum(jnp.where(jnp.arange(n) < neighbours, jnp.sort(others, axis=1), 0), axis=1)


def _smallest(scores: Float[Array, " n"], count: int) -> Int[Array, " count"]:
    return jax.lax.top_k(-scores, count)[1]


def _one_by_one(distances: Float[Array, "n n"], f: int) -> Int[Array, " m"]:
    """Krum, again and again among the workers that are left, until n − 2 f are taken."""
    n = len(distances)

    def take(left: Array, neighbours: Array) -> tuple[Array, Array]:
        among = jnp.where(left[:, None] & left[None, :], distances, jnp.inf)
        # however far those are that are left: those that are taken are further
        scores = jnp.minimum(_scores(among, neighbours), jnp.finfo(distances.dtype).max)
        best = jnp.argmin(jnp.where(left, scores, jnp.inf))
        return left.at[best].set(False), best

    neighbours = jnp.maximum(jnp.arange(n, 2 * f, -1) - f - 2, 1)
    return jax.lax.scan(take, jnp.ones(n, bool), neighbours)[1]


def krum_weights(gramian: Float[Array, "m n"], *, num_byzantine: int, num_selected: int = 1) -> Float[Array, " n"]:
    r"""The weights of Krum (one selected) and Multi-Krum (several): 1/m for the m workers with the smallest scores.

    .. math:: s_i = \sum_{j \in N_i} \|g_i - g_j\|^2, \qquad N_i = \text{the } n-f-2 \text{ nearest others}

    Args:
      gramian: ``(n, n)`` inner products, n ≥ 2 f + 3; rows with a NaN or an infinity are infinitely far.
      num_byzantine: f.
      num_selected: m, from 1 to n − f.

    Returns:
      ``(n,)`` in single precision at least; the first of equal scores is taken.

    Raises:
      ValueError: n < 2 f + 3, a number selected that there is not.

    Source: Blanchard, El Mhamdi, Guerraoui & Stainer 2017, "Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent". Peers differ from it: byzfl counts n − f − 1 neighbours, torchjd does not square the distances.

    >>> x = jnp.array([0.0, 1.0, 3.0, 3.5, 100.0])
    >>> krum_weights(jnp.outer(x, x), num_byzantine=1).tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0]
    """
    distances = squared_distances(gramian)
    n, f = len(distances), num_byzantine
    check_byzantine(n, f, where="krum_weights", needed=2 * f + 3, formula="2 f + 3")
    if not 1 <= num_selected <= n - f:
        raise ValueError(f"krum_weights: num_selected must lie in [1, n - f = {n - f}], got {num_selected}")
    chosen = _smallest(_scores(distances, n - f - 2), num_selected)
    return jnp.zeros(n, distances.dtype).at[chosen].set(1 / num_selected)


def krum(stacked: Any, *, num_byzantine: int) -> Any:
    r"""Krum: what the worker sent whose n − f − 2 nearest neighbours are nearest, see :func:`krum_weights`.

    While at most f workers are arbitrary (NaN, infinities and 1e30 included) the result is no further from
    some other worker than :math:`\sqrt{n-f-2}` times the largest distance between two others.

    Args:
      stacked: pytree, every leaf ``(n, ...)``, n ≥ 2 f + 3.
      num_byzantine: f.

    Returns:
      One row of the stack. Cost: the Gramian, O(n²) for each parameter; no concatenated copy.

    Raises:
      ValueError: n < 2 f + 3, leading axes that disagree or are empty.

    Source: Blanchard, El Mhamdi, Guerraoui & Stainer 2017.

    >>> krum(jnp.array([[0.0], [1.0], [3.0], [3.5], [jnp.nan]]), num_byzantine=1).tolist()
    [3.0]
    """
    return multi_krum(stacked, num_byzantine=num_byzantine, num_selected=1)


def multi_krum(stacked: Any, *, num_byzantine: int, num_selected: int | None = None) -> Any:
    r"""Multi-Krum: the mean of the m workers with the best scores of Krum, see :func:`krum_weights`.

    While at most f workers are arbitrary, none of those selected is further from some other worker than
    :math:`\sqrt{n-f-2}` times the largest distance between two others.

    Args:
      stacked: pytree, every leaf ``(n, ...)``, n ≥ 2 f + 3.
      num_byzantine: f.
      num_selected: m; default n − f, the most with a guarantee.

    Returns:
      The tree without the leading axis.

    Raises:
      ValueError: n < 2 f + 3, a number selected that there is not, leading axes that disagree or are empty.

    Source: Blanchard, El Mhamdi, Guerraoui & Stainer 2017.

    >>> multi_krum(jnp.array([[0.0], [1.0], [3.0], [3.5], [1e30]]), num_byzantine=1, num_selected=2).tolist()
    [2.0]
    """
    n = check_stack(stacked, where="multi_krum")
    check_byzantine(n, num_byzantine, where="multi_krum", needed=2 * num_byzantine + 3, formula="2 f + 3")
    count = n - num_byzantine if num_selected is None else num_selected
    weights = krum_weights(relative_gramian(stacked).gramian, num_byzantine=num_byzantine, num_selected=count)
    return combine(weights, stacked)


def bulyan(stacked: Any, *, num_byzantine: int, selection: str = "krum") -> Any:
    r"""Bulyan: n − 2 f workers by Krum, then in each coordinate the mean of the n − 4 f values nearest to their median.

    While at most f workers are arbitrary, every coordinate stays within the range of values that more than half of the
    selected ones vouch for: a coordinate in which one worker lies, hidden in a small distance, is corrected.

    Args:
      stacked: pytree, every leaf ``(n, ...)``, n ≥ 4 f + 3.
      num_byzantine: f.
      selection: ``"krum"``: one worker after the other, as in the paper; the scores of those that remain are
        computed anew, with the f + 1 of them furthest away left out (at least one neighbour stays).
        ``"multi_krum"``: the n − 2 f best of one ranking, as in the code of gradient splitting (Liu et al. 2023).

    Returns:
      The tree without the leading axis. Cost: the Gramian, and a copy of the selected rows.

    Raises:
      ValueError: n < 4 f + 3, an unknown selection, leading axes that disagree or are empty.

    Source: El Mhamdi, Guerraoui & Rouault 2018, "The Hidden Vulnerability of Distributed Learning in Byzantium",
    arXiv 1802.07927.

    >>> x = jnp.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [1e30]])
    >>> bulyan(x, num_byzantine=1).tolist()
    [3.0]
    """
    n, f = check_stack(stacked, where="bulyan"), num_byzantine
    check_byzantine(n, f, where="bulyan", needed=4 * f + 3, formula="4 f + 3")
    if selection not in ("krum", "multi_krum"):
        raise ValueError(f"bulyan: selection is 'krum' or 'multi_krum', got {selection!r}")
    distances = squared_distances(relative_gramian(stacked).gramian)
    if selection == "multi_krum":
        chosen = _smallest(_scores(distances, n - f - 2), n - 2 * f)
    else:
        chosen = _one_by_one(distances, f)
    return each_leaf(lambda x: around_the_median(x[chosen], n - 4 * f), stacked)
