"""What f of n arbitrary workers can do to each rule: the guarantee that its docstring gives, or the failure it admits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.aggregation import (
    bucketing,
    flag_aggregate,
    gas,
    mean,
    multi_krum,
    nearest_neighbor_mixing,
    trimmed_mean,
)
from tests.aggregation.rules import RULES

N, D = 11, 6


def sent_by(good, f):
    """What Byzantine workers may send: huge, broken, alike, opposed, hidden."""
    rng = np.random.default_rng(1)
    middle, spread = good.mean(0), good.std(0)
    yield np.full((f, D), 1e30)
    yield rng.normal(size=(f, D)) * 1e30
    yield np.full((f, D), np.nan)
    yield np.full((f, D), -np.inf)
    yield np.where(rng.random((f, D)) < 0.5, np.nan, good[:f])
    yield np.tile(-10 * middle, (f, 1))
    yield np.tile(middle - 1.5 * spread, (f, 1))
    yield np.tile(good[3], (f, 1))
    yield np.concatenate([np.full((f - f // 2, D), 1e30), good[: f // 2] * 100])


def within_the_range(good, result, f):
    low, high = good.min(0), good.max(0)
    slack = 1e-5 * np.abs(good).max()  # single precision
    assert (result >= low - slack).all() and (result <= high + slack).all()


def around_the_median(good, result, f):
    low, high = good.min(0), good.max(0)
    # the median is in the range, and each value kept is at most one range from it
    assert (result >= low - (high - low) * 1.00001).all() and (result <= high + (high - low) * 1.00001).all()


def near_some_good_row(good, result, f):
    largest = np.linalg.norm(good[:, None] - good[None], axis=-1).max()
    bound = (np.sqrt(N - f - 2) + 1) * largest  # from the mean of good rows: one more distance
    assert np.linalg.norm(result - good.mean(0)) <= bound * (1 + 1e-5)


def lopuhaa(good, result, f):
    bound = 2 * (N - f) / (N - 2 * f) * np.linalg.norm(good - good.mean(0), axis=1).max()
    assert np.linalg.norm(result - good.mean(0)) <= bound * (1 + 1e-4)


def no_longer_than_the_good(good, result, f):
    # no vector that is kept is further from zero than some good one
    assert np.linalg.norm(result) <= np.linalg.norm(good, axis=1).max() * (1 + 1e-5)


def within_mixed_range(good, result, f):
    # every good row is mixed with rows at most as far as the furthest good one, coordinate by coordinate
    far = np.linalg.norm(good[:, None] - good[None], axis=-1).max()
    assert (result >= good.min(0) - far * 1.00001).all() and (result <= good.max(0) + far * 1.00001).all()


def shorter_than_one(good, result, f):
    assert np.linalg.norm(result) <= 1 + 1e-5


# how many of the eleven, and what holds then
GUARANTEES = {
    "coordinate_median": (5, within_the_range),
    "trimmed_mean": (5, within_the_range),
    "mean_around_median": (5, around_the_median),
    "geometric_median": (5, lopuhaa),
    "krum": (4, near_some_good_row),
    "multi_krum": (4, near_some_good_row),
    "bulyan": (2, around_the_median),
    "bulyan, one ranking": (2, around_the_median),
    "mixing, trimmed_mean": (5, within_mixed_range),
    "nearest_neighbor_average, of zero": (5, no_longer_than_the_good),
    "flag, unit columns": (5, shorter_than_one),
}


def test_every_rule_has_its_guarantee():
    assert set(GUARANTEES) == set(RULES)


@pytest.mark.parametrize("name", GUARANTEES)
def test_f_of_n_arbitrary_workers(name):
    most, holds = GUARANTEES[name]
    good = (np.random.default_rng(2).normal(size=(N - most, D)) + 2).astype(np.float32)
    run = jax.jit(functools.partial(RULES[name], f=most))
    for bad in sent_by(good, most):
        for seed in (None, 1):
            rows = np.concatenate([good, bad.astype(np.float32)])
            if seed is not None:
                rows = np.random.default_rng(seed).permutation(rows)
            result = np.asarray(run(jnp.asarray(rows)))
            assert np.isfinite(result).all(), bad[0]
            holds(good, result.astype(np.float64), most)


def test_mixing_keeps_the_good_rows_together():
    """Every mixed row of an honest worker averages n − f rows, none further from it than some honest one."""
    f = 3
    good = (np.random.default_rng(3).normal(size=(N - f, D)) + 2).astype(np.float32)
    for bad in sent_by(good, f):
        mixed = np.asarray(
            nearest_neighbor_mixing(jnp.asarray(np.concatenate([good, bad.astype(np.float32)])), num_byzantine=f)
        )
        for row, own in zip(mixed[: N - f], good, strict=True):
            assert np.linalg.norm(row - own) <= np.linalg.norm(good - own, axis=1).max() * (1 + 1e-5)


@pytest.mark.parametrize("base", ["median", "trimmed_mean", "krum", "bulyan"])
def test_gradient_splitting_leaves_out_what_lies_far(base):
    """Of three arbitrary workers none is averaged whose score is above that of every honest one."""
    f = 3
    good = (np.random.default_rng(4).normal(size=(N - f, D)) + 2).astype(np.float32)
    run = jax.jit(lambda x: gas(jax.random.key(0), x, num_byzantine=f, num_groups=3, base=base))
    for number, bad in enumerate(sent_by(good, f)):
        result, selected = run(jnp.asarray(np.concatenate([good, bad.astype(np.float32)])))
        assert np.isfinite(np.asarray(result)).all() and int(selected.sum()) == N - f
        if number < 5 and base != "bulyan":  # bulyan bears (n − 3) // 4 = 2 of them
            assert not np.asarray(selected)[N - f :].any()


def test_what_is_not_robust_says_so():
    good = np.ones((N - 1, D), np.float32)
    broken = jnp.asarray(np.concatenate([good, np.full((1, D), np.nan, np.float32)]))
    assert np.isnan(np.asarray(mean(broken))).all()
    far = jnp.asarray(np.concatenate([good, np.full((1, D), 1e30, np.float32)]))
    assert np.max(np.abs(np.asarray(mean(far)))) > 1e28
    # long columns in the subspace are averaged as they are
    assert np.max(np.abs(np.asarray(flag_aggregate(far, normalise=False)[0]))) > 1e28
    # one bucket of three is spoiled
    spoiled = np.asarray(bucketing(jax.random.key(0), broken, bucket_size=4))
    assert np.isnan(spoiled).any(axis=1).sum() == 1
    # more broken workers than f
    assert np.isinf(np.asarray(trimmed_mean(far.at[:2].set(jnp.inf), num_byzantine=1))).all()
    assert not np.isfinite(np.asarray(multi_krum(broken.at[:3].set(jnp.nan), num_byzantine=1))).all()
