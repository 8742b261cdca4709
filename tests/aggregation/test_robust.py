"""Robust rules against byzfl, SciPy, the authors' code, and the papers' formulas in NumPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize
from scipy.stats import trim_mean

from jaxtrain.aggregation import (
    as_optax,
    bucketing,
    bulyan,
    coordinate_median,
    gaussian_attack,
    geometric_median,
    geometric_median_weights,
    gramian,
    ipm_attack,
    krum,
    krum_weights,
    mean,
    mean_around_median,
    mimic_attack,
    multi_krum,
    nearest_neighbor_average,
    nearest_neighbor_mixing,
    trimmed_mean,
)
from jaxtrain.aggregation._sorting import sort_rows

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "robust.npz")
F = int(GOLDEN["f"])


def krum_scores(x, f, neighbours=None, power=2):
    """The paper's score, with what peers do differently as arguments."""
    d = np.linalg.norm(x[:, None] - x[None], axis=-1) ** power
    return np.sort(d, axis=1)[:, 1 : 1 + (len(x) - f - 2 if neighbours is None else neighbours)].sum(1)


def bulyan_reference(x, f, one_ranking):
    """El Mhamdi et al., section 4, value by value."""
    n, left, chosen = len(x), list(range(len(x))), []
    if one_ranking:
        chosen = list(np.argsort(krum_scores(x, f), kind="stable")[: n - 2 * f])
    while len(chosen) < n - 2 * f:
        scores = krum_scores(x[left], f, max(len(left) - f - 2, 1))
        chosen.append(left.pop(int(np.argmin(scores))))
    rows = x[chosen]
    middle = np.median(rows, axis=0)
    nearest = np.argsort(np.abs(rows - middle), axis=0, kind="stable")[: n - 4 * f]
    return np.take_along_axis(rows, nearest, axis=0).mean(0)


@pytest.mark.parametrize("n", [9, 10])
@pytest.mark.parametrize(
    "name, rule",
    [
        ("median", coordinate_median),
        ("trimmed_mean", lambda x: trimmed_mean(x, num_byzantine=F)),
        ("mean_around_median", lambda x: mean_around_median(x, num_byzantine=F)),
        ("nearest_neighbor_mixing", lambda x: nearest_neighbor_mixing(x, num_byzantine=F)),
        ("nearest_neighbor_average", lambda x: nearest_neighbor_average(x[3], x, num_byzantine=F)),
        ("cva", lambda x: nearest_neighbor_average(x[3], x, num_byzantine=F)),
        ("mimic", lambda x: mimic_attack(x, target=4)),
        ("sign_flip", lambda x: ipm_attack(x, epsilon=1.0)),
        ("ipm", lambda x: ipm_attack(x, epsilon=0.7)),
        ("geometric_median", lambda x: geometric_median(x, tolerance=1e-11)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_equals_byzfl_and_the_repository_of_monna(name, rule, n, x64):
    got = jax.jit(rule)(jnp.asarray(GOLDEN[f"x_{n}"]))
    # float64; the geometric medians are iterated to 1e-11 here and by 3,000 steps there
    tolerance = 1e-9 if name == "geometric_median" else 1e-13
    np.testing.assert_allclose(got, GOLDEN[f"{name}_{n}"], rtol=0, atol=tolerance)


def test_trimmed_mean_is_scipys(x64):
    x = np.random.default_rng(1).normal(size=(11, 5, 3))
    got = trimmed_mean({"a": jnp.asarray(x[:, :2]), "b": jnp.asarray(x[:, 2:])}, num_byzantine=3)
    want = trim_mean(x, 3 / 11 + 1e-9, axis=0)
    np.testing.assert_allclose(np.concatenate([got["a"], got["b"]]), want, atol=1e-14)
    np.testing.assert_allclose(trimmed_mean(jnp.asarray(x), num_byzantine=0), mean(jnp.asarray(x)), atol=1e-14)


@pytest.mark.parametrize("n", [1, 3, 16, 70])
def test_the_sorting_network_sorts(n):
    x = np.random.default_rng(n).normal(size=(n, 40)).astype(np.float32)
    x[: n // 3, :5] = 1.5  # ties
    np.testing.assert_array_equal(np.stack(jax.jit(sort_rows)(jnp.asarray(x))), np.sort(x, axis=0))
    if n == 70:  # compiled once is enough
        return
    x[0, :3] = np.nan
    np.testing.assert_array_equal(
        np.stack(jax.jit(jax.vmap(sort_rows, in_axes=1))(jnp.asarray(x))), np.sort(np.nan_to_num(x, nan=np.inf), 0)
    )


def test_krum_is_the_papers_and_peers_are_not(x64):
    """Of 400 problems with nine workers, two of them Byzantine: whom each implementation selects."""
    problems = np.random.default_rng(7).normal(size=(400, 9, 4))
    np.testing.assert_allclose(problems.sum(), GOLDEN["krum_sum"], rtol=1e-12)  # the same numbers
    paper = np.array([np.argmin(krum_scores(x, F)) for x in problems])
    weights = jax.jit(jax.vmap(lambda x: krum_weights(gramian(x), num_byzantine=F)))(jnp.asarray(problems))
    np.testing.assert_array_equal(np.argmax(weights, axis=1), paper)
    for x, chosen in zip(problems[:5], paper[:5], strict=True):
        np.testing.assert_allclose(krum(jnp.asarray(x), num_byzantine=F), x[chosen], rtol=1e-15)
    # each peer is what it is said to be …
    for peer, neighbours, power in (("byzfl", 6, 2), ("torchjd", 5, 1), ("lpd", 6, 1)):
        like = np.array([np.argmin(krum_scores(x, F, neighbours, power)) for x in problems])
        np.testing.assert_array_equal(GOLDEN[f"krum_{peer}"], like)
    # … and selects another worker than the paper as often as this
    apart = {peer: int(np.sum(GOLDEN[f"krum_{peer}"] != paper)) for peer in ("byzfl", "torchjd", "lpd")}
    assert apart == KRUM_APART


KRUM_APART = {"byzfl": 83, "torchjd": 55, "lpd": 66}


def test_multi_krum(x64):
    x = GOLDEN["x_9"]
    order = np.argsort(krum_scores(x, F))
    for count in (1, 4, 7):
        got = multi_krum(jnp.asarray(x), num_byzantine=F, num_selected=count)
        np.testing.assert_allclose(got, x[order[:count]].mean(0), atol=1e-13)
    # the repository of gradient splitting sums n − f − 1 distances, among them the zero to itself: the paper's
    np.testing.assert_allclose(multi_krum(jnp.asarray(x), num_byzantine=F), GOLDEN["gas_multi_krum"], atol=1e-13)


@pytest.mark.parametrize("n, f", [(7, 1), (12, 2), (5, 0)])
@pytest.mark.parametrize("selection", ["krum", "multi_krum"])
def test_bulyan_is_the_papers(n, f, selection, x64):
    x = np.random.default_rng(n).normal(size=(n, 6)) * 3
    got = jax.jit(lambda x: bulyan(x, num_byzantine=f, selection=selection))(jnp.asarray(x))
    np.testing.assert_allclose(got, bulyan_reference(x, f, selection == "multi_krum"), atol=1e-13)


def test_geometric_median_on_rows_and_on_a_line(x64):
    rng = np.random.default_rng(2)
    # most rows agree: it is that row, exactly
    x = np.concatenate([np.tile(rng.normal(size=(1, 4)) * 100, (4, 1)), rng.normal(size=(3, 4))])
    np.testing.assert_allclose(geometric_median(jnp.asarray(x)), x[0], rtol=1e-15)
    # an obtuse corner of at least 120° is the median of a triangle
    triangle = np.array([[0.0, 0.0], [1.0, 0.1], [-1.0, 0.1]])
    np.testing.assert_array_equal(geometric_median(jnp.asarray(triangle)), [0, 0])
    # on a line it is the median
    line = rng.normal(size=(7, 1)) * np.array([[1.0, 2.0]])
    np.testing.assert_allclose(geometric_median(jnp.asarray(line)), np.median(line, axis=0), atol=1e-14)
    # otherwise a minimiser says the same
    x = rng.normal(size=(8, 3)) + 5
    best = minimize(lambda v: np.linalg.norm(x - v, axis=1).sum(), x.mean(0), method="BFGS", options={"gtol": 1e-10})
    np.testing.assert_allclose(geometric_median(jnp.asarray(x), tolerance=1e-9), best.x, atol=1e-6)  # BFGS's


def test_geometric_median_in_single_precision_with_a_row_far_away():
    """At 1e30 a row pulls with a unit vector, no more: the minimiser of the others' distances and a linear term."""
    x = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32) + 5
    x[2] = np.array([3e29, -1e30, 1e30], np.float32)
    rest, pull = np.delete(x, 2, axis=0).astype(np.float64), np.array([0.3, -1.0, 1.0]) / np.linalg.norm([0.3, 1, 1])
    best = minimize(
        lambda v: np.linalg.norm(rest - v, axis=1).sum() - pull @ v, rest.mean(0), method="BFGS", options={"gtol": 1e-9}
    )
    # gradient below 1e-5 and single precision
    np.testing.assert_allclose(jax.jit(geometric_median)(jnp.asarray(x)), best.x, atol=1e-4)
    weights = geometric_median_weights(jnp.full((3, 3), jnp.nan))
    np.testing.assert_array_equal(np.isfinite(weights), True)


@pytest.mark.parametrize("rule", [lambda x: multi_krum(x, num_byzantine=2), geometric_median])
def test_what_all_rows_share_does_not_cancel(rule):
    """Models that differ in their fourth digit: the plain Gramian in single precision knows nothing of the difference."""
    spread = np.random.default_rng(4).normal(size=(9, 50)).astype(np.float32)
    shared = np.float32(2**12)
    near = (spread * np.float32(2**-4) + shared).astype(np.float32)
    exact = (near - shared).astype(np.float64)
    with jax.enable_x64(True):
        want = rule(jnp.asarray(exact))
    got = np.asarray(jax.jit(rule)(jnp.asarray(near))).astype(np.float64) - shared
    # a unit of the last place of 2^12 is 2^-11 (below 2^12 half of it): seven products and sums of that size, rounded each
    np.testing.assert_allclose(got, want, rtol=0, atol=2**-10)


def test_mixing_and_buckets(x64):
    x = jnp.asarray(np.random.default_rng(5).normal(size=(7, 4)))
    np.testing.assert_allclose(nearest_neighbor_mixing(x, num_byzantine=0), np.tile(x.mean(0), (7, 1)), atol=1e-14)
    broken = x.at[2].set(jnp.nan).at[5, 1].set(jnp.inf)
    others = np.delete(np.asarray(x), [2, 5], axis=0)
    mixed = np.asarray(nearest_neighbor_mixing(broken, num_byzantine=2))
    np.testing.assert_allclose(mixed, np.tile(others.mean(0), (7, 1)), atol=1e-14)
    key = jax.random.key(3)
    order = np.asarray(jax.random.permutation(key, 7))
    want = [np.asarray(x)[order[i : i + 3]].mean(0) for i in (0, 3, 6)]
    np.testing.assert_allclose(bucketing(key, x, bucket_size=3), want, atol=1e-14)
    assert np.isfinite(np.asarray(bucketing(key, x.at[0].set(jnp.nan), bucket_size=3))).all(axis=1).sum() == 2


def test_attacks():
    good = jnp.asarray(np.random.default_rng(6).normal(size=(5, 400)), jnp.float32)
    sent = gaussian_attack(jax.random.key(0), {"a": good, "b": good}, num_byzantine=3, mu=2.0, sigma=3.0)
    values = np.concatenate([np.ravel(sent["a"]), np.ravel(sent["b"])])
    assert sent["a"].shape == (3, 400) and len(np.unique(values)) == 2400
    # five standard errors
    assert abs(values.mean() - 2) < 5 * 3 / 2400**0.5 and abs(values.std() - 3) < 5 * 3 / 4800**0.5
    with pytest.raises(ValueError, match=r"target must lie in \[0, 4\], got 5"):
        mimic_attack(good, target=5)
    with pytest.raises(ValueError, match="num_byzantine must be at least 1, got 0"):
        gaussian_attack(jax.random.key(0), good, num_byzantine=0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: trimmed_mean(x, num_byzantine=3), r"trimmed_mean needs n ≥ 2 f \+ 1 workers, 7 for f = 3"),
        (lambda x: mean_around_median(x, num_byzantine=3), r"n ≥ 2 f \+ 1 workers, 7 for f = 3"),
        (lambda x: krum(x, num_byzantine=2), r"multi_krum needs n ≥ 2 f \+ 3 workers, 7 for f = 2"),
        (lambda x: bulyan(x, num_byzantine=1), r"bulyan needs n ≥ 4 f \+ 3 workers, 7 for f = 1"),
        (lambda x: bulyan(x, num_byzantine=0, selection="best"), "selection is 'krum' or 'multi_krum', got 'best'"),
        (lambda x: nearest_neighbor_mixing(x, num_byzantine=3), r"n ≥ 2 f \+ 1 workers"),
        (lambda x: nearest_neighbor_mixing(x, num_byzantine=-1), "num_byzantine must be at least 0, got -1"),
        (lambda x: multi_krum(x, num_byzantine=1, num_selected=6), r"num_selected must lie in \[1, n - f = 5\], got 6"),
        (lambda x: bucketing(jax.random.key(0), x, bucket_size=7), r"bucket_size must lie in \[1, n = 6\], got 7"),
        (lambda x: geometric_median(x, max_iters=0), "max_iters must be at least 1, got 0"),
        (lambda x: geometric_median_weights(x), r"squared_distances: a Gramian .* \(m, m\) with m ≥ 1, got \(6, 2\)"),
        (lambda x: geometric_median(x, tolerance=-1.0), r"tolerance must lie in \[0.0, inf\], got -1.0"),
    ],
)
def test_clear_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((6, 2)))


def test_a_number_of_workers_is_a_number():
    # in tests the annotations are enforced too, and speak first
    with pytest.raises(TypeError, match="num_byzantine"):
        trimmed_mean(jnp.ones((6, 2)), num_byzantine=1.0)


def test_in_optax_parts():
    from optax.experimental import aggregating

    robust = as_optax(lambda x: trimmed_mean(nearest_neighbor_mixing(x, num_byzantine=1), num_byzantine=1))
    tx = aggregating.process(optax.identity(), robust, optax.sgd(1.0))
    x = jnp.array([[1.0], [1.0], [1.0], [jnp.inf]])
    updates, _ = jax.jit(tx.update)(x, tx.init(jnp.zeros(1)), jnp.zeros(1))
    np.testing.assert_allclose(updates, [-1.0])


def test_keys_in_optax_parts():
    """A rule that draws gets a new key in every round, carried in the state."""
    aggregator = as_optax(lambda key, x: bucketing(key, x, bucket_size=2)[0], key=jax.random.key(1))
    x, state, seen = jnp.arange(6.0)[:, None] ** 2, aggregator.init(jnp.zeros(1)), []
    for _ in range(8):
        value, state = jax.jit(aggregator.update)(x, state)
        seen.append(float(value[0]))
    assert len(set(seen)) > 3


def test_sharded_workers_give_the_same_values():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.asarray(np.random.default_rng(8).normal(size=(8, 24)), jnp.float32)
    split = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data", None)))
    for rule in (
        coordinate_median,
        lambda x: multi_krum(x, num_byzantine=2),
        lambda x: nearest_neighbor_mixing(x, num_byzantine=2),
        geometric_median,
    ):
        # sums in another order
        np.testing.assert_allclose(jax.jit(rule)(split), jax.jit(rule)(x), rtol=1e-4, atol=1e-5)
