"""Consensus rankings against enumeration, SciPy and, for merged buckets and breakdown, the authors' code and linear programs."""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from jaxtrain import evaluation as ev

GOLDEN = Path(__file__).parents[1] / "golden" / "rankings.npz"
ALL = {n: np.array(list(itertools.permutations(range(n)))) for n in (2, 3, 4, 5)}


def _refinements(ranking):
    """All rankings without ties that a ranking with ties stands for."""
    return [
        r for r in ALL[len(ranking)] if all((r[i] < r[j]) for i, j in np.argwhere(ranking[:, None] < ranking[None, :]))
    ]


def _discordant(a, b):
    return sum((a[i] - a[j]) * (b[i] - b[j]) < 0 for i, j in itertools.combinations(range(len(a)), 2))


def _weak_orders(n):
    return np.array([w for w in itertools.product(range(n), repeat=n) if set(w) == set(range(max(w) + 1))])


def test_distances_are_those_of_all_ways_to_break_ties():
    orders = _weak_orders(4)
    assert len(orders) == 75
    pairs = np.random.default_rng(0).integers(0, 75, (120, 2))
    a, b = jnp.asarray(orders[pairs[:, 0]]), jnp.asarray(orders[pairs[:, 1]])
    got = ev.kendall_tau_distance(a, b), ev.hausdorff_kendall(a, b), ev.hausdorff_kendall(a, b, directed=True)
    for k in range(len(pairs)):
        ra, rb = _refinements(np.asarray(a[k])), _refinements(np.asarray(b[k]))
        table = np.array([[_discordant(x, y) for y in rb] for x in ra])
        directed = table.min(axis=0).max()
        assert got[2][k] == directed
        assert got[1][k] == max(directed, table.min(axis=1).max())
        tied = [np.sign(x[k][:, None] - x[k]) == 0 for x in (a, b)]
        assert got[0][k] == table.min() + np.sum(tied[0] != tied[1]) / 4
    strict = ALL[5][[3, 50, 99]]
    for x, y in itertools.combinations(strict, 2):
        tau = stats.kendalltau(x, y).statistic
        np.testing.assert_allclose(ev.kendall_tau_distance(jnp.asarray(x), jnp.asarray(y)), 5 * (1 - tau), atol=1e-5)


def test_preferences_loss_and_borda_are_what_they_are_of_the_rankings(x64):
    rng = np.random.default_rng(1)
    rankings, weights = ALL[5][rng.integers(0, 120, 9)], rng.uniform(size=9)
    p = ev.pairwise_preferences(jnp.asarray(rankings), jnp.asarray(weights))
    np.testing.assert_allclose(p + p.T, 1, atol=1e-15)
    np.testing.assert_allclose(p[1, 3], weights @ (rankings[:, 1] < rankings[:, 3]) / weights.sum(), atol=1e-15)
    loss, distance = jax.jit(ev.kendall_loss), jax.jit(ev.kendall_tau_distance)
    for ranking in (ALL[5][7], np.array([0, 1, 1, 0, 2])):
        of_each = distance(jnp.asarray(rankings), jnp.asarray(ranking))
        np.testing.assert_allclose(loss(p, jnp.asarray(ranking)), np.average(of_each, weights=weights))
    mean = np.average(rankings, axis=0, weights=weights)
    want = stats.rankdata(mean, method="dense") - 1
    borda = jax.jit(ev.borda_ranking)
    np.testing.assert_array_equal(borda(jnp.asarray(rankings), jnp.asarray(weights)), want)
    # sums that differ by rounding are one place
    tied = borda(jnp.array([[0, 1, 2], [1, 0, 2], [0, 1, 2], [1, 0, 2]]), jnp.array([0.1, 0.3, 0.3, 0.1]))
    np.testing.assert_array_equal(tied, [0, 0, 1])


def test_kemeny_is_the_best_of_all(x64):
    rng = np.random.default_rng(2)
    loss = jax.jit(jax.vmap(ev.kendall_loss, (None, 0)))
    copeland, exact, local = (
        jax.jit(ev.copeland_ranking),
        ev.kemeny_ranking,
        functools.partial(ev.kemeny_ranking, method="local_search"),
    )
    equal, index = 0, {tuple(r): k for k, r in enumerate(ALL[5])}
    for _ in range(20):
        upper = np.triu(rng.uniform(size=(5, 5)), 1)
        p = jnp.asarray(upper + np.tril(1 - upper.T, -1) + np.eye(5) / 2)
        losses = np.asarray(loss(p, jnp.asarray(ALL[5])))
        np.testing.assert_array_equal(exact(p), ALL[5][losses.argmin()])
        found = np.asarray(local(p))
        # no single item can be moved to a better place
        order = np.argsort(found)
        for a, b in itertools.product(range(5), repeat=2):
            moved = np.insert(np.delete(order, a), b, order[a])
            assert losses[index[tuple(np.argsort(moved))]] >= losses[index[tuple(found)]] - 1e-12
        equal += losses[index[tuple(found)]] <= losses.min() + 1e-12
        if all(p[i, k] > 0.5 for i, j, k in itertools.permutations(range(5), 3) if p[i, j] > 0.5 and p[j, k] > 0.5):
            np.testing.assert_array_equal(copeland(p), exact(p))
    assert equal >= 16  # a local search; tables without any structure are its worst case


def test_equals_the_authors_where_transitivity_is_strong(x64):
    golden = np.load(GOLDEN)
    merge = jax.jit(jax.vmap(lambda p, t: ev.bucket_merge_consensus(p, threshold=t)))
    for n in (4, 7):
        got = merge(golden[f"plackett_luce_{n}"], golden[f"thresholds_{n}"])
        np.testing.assert_array_equal(got, golden[f"buckets_{n}"])
    # elsewhere theirs ties pairs that are certain, and ranks differently when every ranking is turned round
    p, t = golden["random"], golden["random_thresholds"]
    got = np.asarray(merge(p, t))
    turned = np.asarray(merge(np.swapaxes(p, 1, 2), t))
    np.testing.assert_array_equal(turned, got.max(axis=1, keepdims=True) - got)

    def ties_a_certain_pair(buckets):
        return np.any((buckets[:, :, None] == buckets[:, None]) & (p - 0.5 > t[:, None, None]), axis=(1, 2))

    assert not ties_a_certain_pair(got).any()
    theirs = golden["random_buckets"]
    assert np.all(ties_a_certain_pair(theirs)[np.any(got != theirs, axis=1)])
    assert np.any(got != theirs, axis=1).sum() == 33  # of 200
    # between neighbouring buckets some pair is certain
    for table, threshold, buckets in zip(p, t, got, strict=True):
        for b in range(buckets.max()):
            assert (table[np.ix_(buckets == b, buckets == b + 1)] - 0.5).max() > threshold


def test_merging_at_its_ends_and_down_a_chain():
    weights = jnp.exp(jnp.array([0.3, 1.2, -0.4, 0.9]))
    p = weights[:, None] / (weights[:, None] + weights)
    for mode in ("downward", "naive"):
        at = jax.jit(jax.vmap(lambda t, mode=mode: ev.bucket_merge_consensus(p, threshold=t, mode=mode)))
        none, whole = at(jnp.array([0.0, 0.5]))
        np.testing.assert_array_equal(none, ev.copeland_ranking(p))
        np.testing.assert_array_equal(whole, np.zeros(4))
    cycle = jnp.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    # no order goes with all three majorities, and the pair against the order spans all
    np.testing.assert_array_equal(ev.bucket_merge_consensus(cycle, threshold=0.0, mode="naive"), [0, 0, 0])


def _smallest_share(p, rankings, better, worse):
    """Linear program: the least total variation to a q under which E d(worse) ≤ E d(better)."""
    m = len(rankings)
    distance = [np.array([_discordant(r, target) for r in rankings]) for target in (better, worse)]
    # q = p + up − down
    change = np.concatenate([distance[1] - distance[0], distance[0] - distance[1]])
    return optimize.linprog(
        np.full(2 * m, 0.5),
        A_ub=change[None],
        b_ub=[p @ (distance[0] - distance[1])],
        A_eq=np.concatenate([np.ones(m), -np.ones(m)])[None],
        b_eq=[0],
        bounds=[(0, None)] * m + [(0, x) for x in p],
    ).fun


def test_one_turned_pair_is_found_by_a_linear_program(x64):
    """δ = 1 for the median: some other ranking becomes as near, which the LP finds over all of them."""
    rng = np.random.default_rng(3)
    estimate = jax.jit(
        lambda w: ev.breakdown_point_estimate(jnp.asarray(ALL[4]), ev.copeland_ranking, weights=w, num_levels=32)
    )
    for _ in range(4):
        strength = rng.permutation(np.exp(0.5 * np.arange(4)))
        p = np.array([np.prod([x / strength[list(o)][i:].sum() for i, x in enumerate(strength[list(o)])]) for o in
                      (np.argsort(r) for r in ALL[4])])  # fmt: skip
        median = np.argsort(np.argsort(-strength))
        want = min(_smallest_share(p, ALL[4], median, r) for r in ALL[4] if not np.array_equal(r, median))
        margins = np.abs(np.asarray(ev.pairwise_preferences(jnp.asarray(ALL[4]), jnp.asarray(p))) - 0.5)
        np.testing.assert_allclose(want, margins[~np.eye(4, dtype=bool)].min(), atol=1e-9)
        np.testing.assert_allclose(estimate(jnp.asarray(p)), want, atol=1e-6)  # the bisection's promise
    two = ev.breakdown_point_estimate(jnp.asarray(ALL[2]), ev.copeland_ranking, weights=jnp.array([0.62, 0.38]))
    np.testing.assert_allclose(two, 0.12, atol=1e-6)


def test_merged_buckets_break_no_sooner_than_their_margins_allow(x64):
    """Unless some pair of different buckets loses its certainty, the consensus only answers what it left open."""
    strength = np.exp(np.array([1.3, 1.25, 0.6, 0.0]))
    rankings = jnp.asarray(ALL[4])
    w = np.array([np.prod([x / strength[list(o)][i:].sum() for i, x in enumerate(strength[list(o)])]) for o in
                  (np.argsort(r) for r in ALL[4])])  # fmt: skip
    preferences = ev.pairwise_preferences(rankings, jnp.asarray(w))
    merged = functools.partial(ev.bucket_merge_consensus, threshold=0.05)
    buckets = merged(preferences)
    np.testing.assert_array_equal(buckets, [0, 0, 1, 2])
    apart = np.asarray(buckets[:, None] < buckets)
    bound = (np.asarray(preferences) - 0.5)[apart].min() - 0.05
    shares = jax.jit(
        jax.vmap(
            lambda d: ev.breakdown_point_estimate(rankings, merged, weights=jnp.asarray(w), delta=d, num_levels=32)
        )
    )(jnp.array([1.0, 2.0, 7.0]))
    np.testing.assert_allclose(shares[0], bound, atol=1e-6)  # one pair: the attack is the best one
    assert shares[1] > shares[0] and np.isinf(shares[2])  # at most 6 pairs can be turned


def test_jit_vmap_and_dtypes():
    tables = jnp.asarray(np.load(GOLDEN)["plackett_luce_4"][:3], jnp.float32)
    for f in (
        functools.partial(ev.kemeny_ranking, method="local_search"),
        functools.partial(ev.bucket_merge_consensus, threshold=0.1),
    ):
        together = jax.jit(jax.vmap(f))(tables)
        np.testing.assert_array_equal(together[1], f(tables[1]))
        assert together.dtype == jnp.int32
        assert jax.eval_shape(f, tables[0].astype(jnp.bfloat16)).dtype == jnp.int32
    half = jax.eval_shape(ev.kendall_loss, tables[0].astype(jnp.bfloat16), jnp.arange(4))
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: ev.copeland_ranking(jnp.zeros((2, 3))), ValueError, r"square matrix of at least one item.*\(2, 3\)"),
        (lambda: ev.kemeny_ranking(jnp.eye(17)), ValueError, "at most 16 items, these are 17; take 'local_search'"),
        (lambda: ev.kemeny_ranking(jnp.eye(3), method="best"), ValueError, "'exact' or 'local_search', got 'best'"),
        (lambda: ev.bucket_merge_consensus(jnp.eye(3), threshold=0.7), ValueError, r"threshold must lie in \[0.0, 0.5\]"),
        (lambda: ev.bucket_merge_consensus(jnp.eye(3), threshold=0.1, mode="up"), ValueError, "got 'up'"),
        (lambda: ev.pairwise_preferences(jnp.zeros((2, 3)), jnp.ones(3)), ValueError, "2 rankings need as many"),
        (lambda: ev.breakdown_point_estimate(jnp.zeros((2, 7)), ev.copeland_ranking), ValueError, "7 items .* targets"),
    ],
)  # fmt: skip
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call()
