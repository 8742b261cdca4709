"""Rankings as positions: distances between them, with ties or without, and the consensus of many."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

EXACT_LIMIT = 16
"""Items up to which the exact Kemeny ranking is sought: memory is 2ⁿ n numbers."""


def check_preferences(preferences: Array, *, where: str) -> int:
    """The number of items of a square table of floating preferences; raises where it is none."""
    shape = jnp.shape(preferences)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"{where}: preferences must be a square matrix of at least one item, got shape {shape}")
    if not jnp.issubdtype(preferences.dtype, jnp.floating):
        raise TypeError(f"{where}: preferences are probabilities, got dtype {preferences.dtype}")
    return shape[0]


def _signs(ranking: Array) -> Array:
    """1 where the row's item comes before the column's, −1 after, 0 tied."""
    return jnp.sign(ranking[..., None, :] - ranking[..., :, None])


def pairwise_preferences(rankings: Num[Array, "m n"], weights: Any = None) -> Float[Array, "n n"]:
    r"""How often one item comes before another, :math:`P_{ij} = \sum_k w_k (\mathbb 1[\sigma_k(i) < \sigma_k(j)] + \tfrac12 \mathbb 1[\sigma_k(i) = \sigma_k(j)])`.

    All consensus rankings here depend on the rankings through this table alone, since the mean Kendall distance does.

    Args:
      rankings: ``(m, n)`` positions of n items in m rankings, smaller is better; equal positions are ties.
      weights: ``(m,)``, may be traced; divided by their sum. None: equal ones.

    Returns:
      ``(n, n)`` with :math:`P + P^\top = 1` and ½ on the diagonal.

    Raises:
      ValueError: not a matrix, or weights of another length.

    >>> pairwise_preferences(jnp.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [0, 1, 2]])).tolist()
    [[0.5, 0.75, 1.0], [0.25, 0.5, 0.75], [0.0, 0.25, 0.5]]
    """
    if rankings.ndim != 2 or rankings.size == 0:
        raise ValueError(f"pairwise_preferences: rankings must be (rankings, items), got shape {rankings.shape}")
    count = rankings.shape[0]
    w = jnp.ones(count) if weights is None else jnp.asarray(weights)
    if w.shape != (count,):
        raise ValueError(f"pairwise_preferences: {count} rankings need as many weights, got shape {w.shape}")
    w = w.astype(jnp.promote_types(w.dtype, jnp.float32))
    before = (1 + _signs(rankings).astype(w.dtype)) / 2
    return jnp.tensordot(w / jnp.sum(w), before, axes=1, precision=jax.lax.Precision.HIGHEST)


def kendall_tau_distance(a: Num[Array, "*#batch n"], b: Num[Array, "*#batch n"]) -> Float[Array, "..."]:
    r"""The number of pairs in opposite order, and half the number of pairs tied in just one of the two.

    Without ties it is the Kendall distance :math:`\tfrac12 \binom n2 (1 - \tau)`; with ties a metric, the mean over all
    ways to break them at random where only one of the rankings has any.

    Args:
      a, b: ``(..., n)`` positions; leading axes broadcast.

    Returns:
      ``(...)``, floating.

    Raises:
      ValueError: another number of items.

    Source: Kendall (1938); Fagin, Kumar, Mahdian, Sivakumar, Vee (2004), "Comparing and aggregating rankings with ties".

    >>> float(kendall_tau_distance(jnp.array([0, 1, 2]), jnp.array([1, 1, 0])))
    2.5
    """
    return jnp.sum(jnp.abs(_signs(a) - _signs(b)), axis=(-2, -1)) / 4.0


def hausdorff_kendall(
    a: Num[Array, "*#batch n"], b: Num[Array, "*#batch n"], *, directed: bool = False
) -> Float[Array, "..."]:
    r"""The Hausdorff distance between the sets of rankings that two rankings with ties stand for.

    .. math:: H(a, b) = D + \max(T_a, T_b), \qquad
       \vec H(a, b) = \max_{\tau \in b} \min_{\sigma \in a} d(\sigma, \tau) = D + T_b

    with D pairs in opposite order, and :math:`T_a`, :math:`T_b` pairs tied in a alone and in b alone. The directed one
    is 0 where b only breaks ties of a: what a left open may be answered either way.

    Args:
      a, b: ``(..., n)`` positions; leading axes broadcast.
      directed: the distance from b to the nearest of a instead of the larger of both directions.

    Returns:
      ``(...)``, floating.

    Source: Fagin et al. (2004); Goibert, Calauzènes, Irurozki, Clémençon (2023), arXiv 2303.12878.

    >>> strict, tied = jnp.array([0, 1, 2]), jnp.array([0, 0, 1])
    >>> float(hausdorff_kendall(tied, strict)), float(hausdorff_kendall(tied, strict, directed=True))
    (1.0, 0.0)
    """
    a, b = _signs(a), _signs(b)

    def pairs(x):
        return jnp.sum(x, axis=(-2, -1)) / 2.0

    opposite, in_a, in_b = pairs(a * b < 0), pairs((a == 0) & (b != 0)), pairs((a != 0) & (b == 0))
    return opposite + (in_b if directed else jnp.maximum(in_a, in_b))


def kendall_loss(preferences: Float[Array, "n m"], ranking: Num[Array, " n"]) -> Float[Array, ""]:
    r"""The mean distance :func:`kendall_tau_distance` of rankings (without ties) to one: :math:`\sum_{i<j} P_{ji}` over pairs with i before j, ½ for a tie.

    Args:
      preferences: ``(n, n)``, see :func:`pairwise_preferences`.
      ranking: ``(n,)`` positions, ties allowed.

    Raises:
      ValueError: not square.

    >>> float(kendall_loss(jnp.array([[0.5, 0.75], [0.25, 0.5]]), jnp.array([0, 1])))
    0.25
    """
    check_preferences(preferences, where="kendall_loss")
    before = (1 + _signs(ranking).astype(preferences.dtype)) / 2
    return jnp.sum(jnp.triu(before * preferences.T + before.T * preferences, 1))


def dense_ranks(keys: Num[Array, " n"]) -> Int[Array, " n"]:
    """Positions 0, 1, 2, … in the order of the keys; equal keys share one."""
    order = jnp.argsort(keys)
    steps = jnp.concatenate([jnp.zeros(1, jnp.int32), (jnp.diff(keys[order]) > 0).astype(jnp.int32)])
    return jnp.zeros(keys.shape, jnp.int32).at[order].set(jnp.cumsum(steps))


def borda_ranking(rankings: Num[Array, "m n"], weights: Any = None) -> Int[Array, " n"]:
    r"""Items by the mean number of others that they are before, :math:`\sum_j P_{ij}`; equal ones are tied.

    Its mean Kendall distance is at most five times the smallest.

    Args:
      rankings: ``(m, n)`` positions.
      weights: see :func:`pairwise_preferences`.

    Returns:
      ``(n,)`` positions from 0; sums that agree to rounding (16 units) are one.

    Source: Borda (1781); Coppersmith, Fleischer, Rudra (2006) for the bound.

    >>> borda_ranking(jnp.array([[0, 1, 2], [0, 2, 1], [1, 0, 2]])).tolist()
    [0, 1, 2]
    """
    sums = jnp.sum(pairwise_preferences(rankings, weights), axis=1)
    unit = 16 * jnp.finfo(sums.dtype).eps * sums.shape[0]
    return dense_ranks(-jnp.round(sums / unit))


def copeland_ranking(preferences: Float[Array, "n m"]) -> Int[Array, " n"]:
    r"""Items by how many others a majority puts before them, :math:`\sum_j \mathbb 1[P_{ij} < \tfrac12]`; equal ones are tied.

    Where majorities are transitive and none is a draw it is the unique ranking nearest to all (Kemeny's).

    Args:
      preferences: ``(n, n)``, see :func:`pairwise_preferences`.

    Returns:
      ``(n,)`` positions from 0.

    Raises:
      ValueError: not square.

    Source: Copeland (1951); Korba, Clémençon, Sibony (2017), arXiv 1611.00862.

    >>> copeland_ranking(jnp.array([[0.5, 0.4, 0.9], [0.6, 0.5, 0.7], [0.1, 0.3, 0.5]])).tolist()
    [1, 0, 2]
    """
    check_preferences(preferences, where="copeland_ranking")
    return dense_ranks(jnp.sum(preferences < 0.5, axis=1))


def _exact(p: Array) -> Array:
    """Dynamic programming over sets of items: the best order of a set ends with one of them."""
    n = p.shape[0]
    masks = np.arange(2**n)
    inside = (masks[:, None] >> np.arange(n)) & 1 == 1
    without = jnp.asarray(np.where(inside, masks[:, None] ^ (1 << np.arange(n)), 0))
    # the last item of a set pays for the rankings that have it before the others
    price = jnp.matmul(jnp.asarray(inside, p.dtype), p.T, precision=jax.lax.Precision.HIGHEST)
    price = price - jnp.where(inside, jnp.diagonal(p), 0)

    def cost(best):
        return jnp.where(inside, best[without] + price, jnp.inf)

    start = jnp.where(masks == 0, 0.0, jnp.inf).astype(p.dtype)
    # after k rounds all sets of k items are right
    best = jax.lax.fori_loop(0, n, lambda _, best: jnp.minimum(best, jnp.min(cost(best), axis=1)), start)
    last = jnp.argmin(cost(best), axis=1)

    def put(mask, position):
        return without[mask, last[mask]], last[mask]

    _, items = jax.lax.scan(put, jnp.asarray(2**n - 1), jnp.arange(n))
    return jnp.zeros(n, jnp.int32).at[items[::-1]].set(jnp.arange(n, dtype=jnp.int32))


def _local_search(p: Array) -> Array:
    """From the order of Borda's sums: the best move of one item to another place, until none helps."""
    n = p.shape[0]
    place = jnp.arange(n)
    tolerance = 8 * n * jnp.finfo(p.dtype).eps

    def moves(order):
        q = p[order][:, order]
        margins = q - q.T
        # moving a to b changes sides with all between
        sums = jnp.cumsum(margins, axis=1)
        here = jnp.diagonal(sums)[:, None]
        gain = jnp.where(place > place[:, None], sums - here, sums - margins - here)
        return jnp.where(jnp.eye(n, dtype=bool), 0.0, gain)

    def better(state):
        order, changes = state
        a, b = jnp.divmod(jnp.argmin(changes), n)
        keys = jnp.where(place == a, b + jnp.where(b > a, 0.5, -0.5), place)
        order = order[jnp.argsort(keys)]
        return order, moves(order)

    start = jnp.argsort(-jnp.sum(p, axis=1))
    order, _ = jax.lax.while_loop(lambda s: jnp.min(s[1]) < -tolerance, better, (start, moves(start)))
    return jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32))


@functools.partial(jax.jit, static_argnames="method")
def kemeny_ranking(preferences: Float[Array, "n m"], *, method: str = "exact") -> Int[Array, " n"]:
    r"""A ranking with the smallest mean Kendall distance, :math:`\arg\min_\sigma \sum_{\sigma(i) < \sigma(j)} P_{ji}`.

    Args:
      preferences: ``(n, n)``, see :func:`pairwise_preferences`.
      method: ``"exact"``: dynamic programming over all sets of items, :math:`2^n n` numbers, to 16 items;
        ``"local_search"``: from Borda's order, the best move of one item until none helps: a local minimum, O(n²) a move.

    Returns:
      ``(n,)`` positions from 0, without ties; one of the best where there are several.

    Raises:
      ValueError: not square, an unknown method, too many items for the exact one.

    Source: Kemeny (1959); Goibert et al. (2023), arXiv 2303.12878.

    >>> cycle = jnp.array([[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]])
    >>> kemeny_ranking(cycle).tolist()
    [0, 1, 2]
    """
    n = check_preferences(preferences, where="kemeny_ranking")
    if method not in ("exact", "local_search"):
        raise ValueError(f"kemeny_ranking: method must be 'exact' or 'local_search', got {method!r}")
    if method == "exact" and n > EXACT_LIMIT:
        raise ValueError(
            f"kemeny_ranking: the exact method takes at most {EXACT_LIMIT} items, these are {n}; take 'local_search'"
        )
    p = preferences.astype(jnp.promote_types(preferences.dtype, jnp.float32))
    return (_exact if method == "exact" else _local_search)(p)
