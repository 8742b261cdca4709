"""A consensus with ties that a few rankings cannot overturn, and how many rankings it takes to overturn one."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from jaxtrain.core import Number, check_finite_number
from jaxtrain.evaluation.rankings import check_preferences, hausdorff_kendall, pairwise_preferences


def bucket_merge_consensus(
    preferences: Float[Array, "n m"], *, threshold: Number, mode: str = "downward"
) -> Int[Array, " n"]:
    r"""The median ranking with items tied whose order is not certain: a ranking of buckets.

    Items are put in Copeland's order (Borda's sums break draws). The margin of i before j is :math:`P_{ij} - \tfrac12`; it is
    uncertain at or below the threshold, and negative where the order has to go against a majority.

    - ``"downward"``: a pair is certain if any pair between the two is; then, from the largest uncertain margin down,
      the buckets of the two and all between become one, whose margin to another bucket is the largest of its members'.
    - ``"naive"``: every pair that is uncertain is tied, with all between: one chain of close neighbours is one bucket.

    At a threshold of 0 it is Copeland's ranking where majorities are transitive and not draws, at ½ one bucket.

    Args:
      preferences: ``(n, n)``, see :func:`pairwise_preferences`.
      threshold: in [0, ½]; may be traced.
      mode: ``"downward"`` or ``"naive"``.

    Returns:
      ``(n,)`` numbers of buckets from 0, the best.

    Raises:
      ValueError: not square, a threshold out of range, an unknown mode.

    Source: Goibert, Calauzènes, Irurozki, Clémençon (2023), arXiv 2303.12878.

    >>> p = jnp.array([[0.5, 0.54, 0.9], [0.46, 0.5, 0.53], [0.1, 0.47, 0.5]])
    >>> bucket_merge_consensus(p, threshold=0.05).tolist()
    [0, 0, 1]
    >>> bucket_merge_consensus(p, threshold=0.05, mode="naive").tolist()
    [0, 0, 0]
    """
    check_preferences(preferences, where="bucket_merge_consensus")
    check_finite_number("threshold", threshold, low=0.0, high=0.5)
    if mode not in ("downward", "naive"):
        raise ValueError(f"bucket_merge_consensus: mode must be 'downward' or 'naive', got {mode!r}")
    p = preferences.astype(jnp.promote_types(preferences.dtype, jnp.float32))
    return _merged(p, jnp.asarray(threshold, p.dtype), mode)


@functools.partial(jax.jit, static_argnames="mode")
def _merged(p: Array, threshold: Array, mode: str) -> Array:
    n = len(p)
    order = jnp.lexsort((-jnp.sum(p, axis=1), jnp.sum(p < 0.5, axis=1)))
    upper = jnp.triu(jnp.ones((n, n), bool), 1)
    margins = jnp.where(upper, p[order][:, order] - 0.5, -jnp.inf)
    bucket = (_downward if mode == "downward" else _naive)(margins, threshold, upper)
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), (jnp.diff(bucket) != 0).astype(jnp.int32)])
    return jnp.zeros(n, jnp.int32).at[order].set(jnp.cumsum(starts))


def _naive(margins: Array, threshold: Array, upper: Array) -> Array:
    """Two neighbours are one bucket if an uncertain pair spans them."""
    n = len(margins)
    place = jnp.arange(n)
    uncertain = upper & (margins <= threshold)
    spans = (place[:, None, None] <= place[:-1]) & (place[:-1] < place[None, :, None])
    tied = jnp.any(uncertain[:, :, None] & spans, axis=(0, 1))
    return jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(~tied).astype(jnp.int32)])


def _downward(margins: Array, threshold: Array, upper: Array) -> Array:
    n = len(margins)
    place = jnp.arange(n)
    # the largest margin of the pairs inside (i, j): later rows, earlier columns
    inside = jax.lax.cummax(jax.lax.cummax(margins, axis=0, reverse=True), axis=1)
    margins = jnp.where(upper & (inside > threshold), jnp.maximum(margins, inside), margins)

    def merge(_, state):
        bucket, margins = state
        candidates = jnp.where(upper & (margins <= threshold) & (bucket[:, None] != bucket), margins, -jnp.inf)
        first, last = jnp.divmod(jnp.argmax(candidates), n)
        found = jnp.any(candidates > -jnp.inf)
        tied = found & (bucket >= bucket[first]) & (bucket <= bucket[last])
        rows = jnp.max(jnp.where(tied[:, None], margins, -jnp.inf), axis=0)
        margins = jnp.where(tied[:, None] & upper, rows, margins)
        columns = jnp.max(jnp.where(tied, margins, -jnp.inf), axis=1, keepdims=True)
        margins = jnp.where(tied & upper, columns, margins)
        return jnp.where(tied, bucket[first], bucket), margins

    return jax.lax.fori_loop(0, n - 1, merge, (place, margins))[0]


def _left_open(before: Array, after: Array) -> Array:
    """How far a consensus moved; 0 where it now answers what it left open before."""
    return hausdorff_kendall(before, after, directed=True)


def breakdown_point_estimate(
    rankings: Num[Array, "m n"],
    statistic: Callable[[Array], Array],
    *,
    delta: Number = 1,
    weights: Any = None,
    targets: Any = None,
    distance: Callable[[Array, Array], Array] = _left_open,
    num_levels: int = 64,
) -> Float[Array, ""]:
    r"""The share of rankings that an adversary has to exchange before a consensus moves by δ, from above.

    .. math:: \varepsilon^*(\delta) = \inf\{\varepsilon : \max_{q : \mathrm{TV}(p, q) \le \varepsilon} d(T(p), T(q)) \ge \delta\}

    is bounded by attacks: for each target ranking, the share is taken from those rankings that oppose the target
    most in the pairs in which it opposes the consensus, and given to the target. The smallest share at which one of
    the attacks succeeds is sought on a grid and by bisection. One pair turned (δ = 1) is attacked in the best way; for
    more the true value is at most the estimate.

    Args:
      rankings: ``(m, n)`` positions, without ties: a sample, or all rankings of a distribution.
      statistic: :math:`T`, ``preferences -> ranking``, such as :func:`copeland_ranking`; it is vectorised.
      delta: :math:`\delta`; may be traced.
      weights: ``(m,)``, see :func:`pairwise_preferences`.
      targets: ``(t, n)`` rankings; None: all, to 6 items.
      distance: :math:`d(T(p), T(q))`; by default :func:`hausdorff_kendall`, directed: breaking a tie of T(p) costs nothing.
      num_levels: of the grid over [0, 1].

    Returns:
      A share in [0, 1], inf where no attack succeeds; good to 1e-6.

    Raises:
      ValueError: more than 6 items without targets, or see :func:`pairwise_preferences`.

    Source: Goibert, Calauzènes, Irurozki, Clémençon (2023), arXiv 2303.12878.

    >>> from jaxtrain.evaluation import copeland_ranking
    >>> p = jnp.array([[0, 1], [1, 0]])
    >>> share = breakdown_point_estimate(p, copeland_ranking, weights=jnp.array([0.7, 0.3]))
    >>> round(float(share), 5)
    0.2
    """
    preferences = pairwise_preferences(rankings, weights)
    dtype, n = preferences.dtype, rankings.shape[1]
    if targets is None:
        if n > 6:
            raise ValueError(f"breakdown_point_estimate: {n} items have too many rankings to try all; name targets")
        targets = np.array(list(itertools.permutations(range(n))))
    targets = jnp.asarray(targets)
    w = jnp.ones(len(rankings), dtype) if weights is None else jnp.asarray(weights, dtype)
    w = w / jnp.sum(w)
    consensus = statistic(preferences)
    before = rankings[:, :, None] < rankings[:, None, :]

    def of_target(target):
        wanted = target[:, None] < target
        turned = wanted & (consensus[:, None] > consensus)
        opposed = jnp.sum(before & turned.T, axis=(1, 2)) + 1e-3 * jnp.sum(before & wanted.T, axis=(1, 2))
        order = jnp.argsort(-opposed)
        earlier = jnp.cumsum(w[order]) - w[order]

        def succeeds(share):
            left = jnp.zeros_like(w).at[order].set(w[order] - jnp.clip(share - earlier, 0, w[order]))
            kept = jnp.tensordot(left, before.astype(dtype), axes=1, precision=jax.lax.Precision.HIGHEST)
            attacked = kept + share * wanted + 0.5 * jnp.eye(n, dtype=dtype)
            return distance(consensus, statistic(attacked)) >= delta

        levels = jnp.linspace(0.0, 1.0, num_levels + 1, dtype=dtype)
        broken = jax.vmap(succeeds)(levels)
        high = levels[jnp.argmax(broken)]

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            done = succeeds(middle)
            return jnp.where(done, low, middle), jnp.where(done, middle, high)

        _, high = jax.lax.fori_loop(0, 20, halve, (jnp.maximum(high - 1 / num_levels, 0.0), high))
        return jnp.where(jnp.any(broken), high, jnp.inf)

    return jnp.min(jax.lax.map(of_target, targets))
