"""The contract kit over every aggregator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.aggregation import (
    bucketing,
    bulyan,
    centered_clip,
    coordinate_median,
    flag_aggregate,
    gas,
    geometric_median,
    krum,
    mean,
    mean_around_median,
    multi_krum,
    nearest_neighbor_average,
    nearest_neighbor_mixing,
    trimmed_mean,
    upgrad,
)
from jaxtrain.testing import check_aggregator


def test_upgrad():
    check_aggregator(jax.jit(upgrad), linear_under_scaling=True, non_conflicting=True)


def test_centered_clip():
    def around_zero(stacked, tau):
        return centered_clip(stacked, jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), stacked), tau=tau)

    # gradients that agree but lie further than tau from the centre are clipped all the same
    check_aggregator(jax.jit(lambda x: around_zero(x, 1.0)), except_=["identical"])
    check_aggregator(jax.jit(lambda x: around_zero(x, jnp.inf)), linear_under_scaling=True)


@pytest.mark.parametrize(
    "rule",
    [
        mean,
        coordinate_median,
        lambda x: trimmed_mean(x, num_byzantine=1),
        lambda x: mean_around_median(x, num_byzantine=1),
        geometric_median,
        lambda x: krum(x, num_byzantine=1),
        lambda x: multi_krum(x, num_byzantine=1),
        lambda x: trimmed_mean(nearest_neighbor_mixing(x, num_byzantine=1), num_byzantine=1),
        lambda x: nearest_neighbor_average(
            jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), x), x, num_byzantine=1
        ),
    ],
)
def test_robust_rules(rule):
    check_aggregator(jax.jit(rule), linear_under_scaling=rule is mean)


def test_bulyan():
    rng = np.random.default_rng(0)
    stacked = {"b": rng.standard_normal((8, 3)), "w": rng.standard_normal((8, 4, 2))}
    # one neighbour left: of two workers that are each other's nearest the first is taken
    check_aggregator(jax.jit(lambda x: bulyan(x, num_byzantine=1)), stacked=stacked, except_=["permutation"])
    ranked = jax.jit(lambda x: bulyan(x, num_byzantine=1, selection="multi_krum"))
    check_aggregator(ranked, stacked=stacked, laws=["permutation"])


def test_flag_aggregate():
    # unit vectors are averaged: the length of gradients that agree is lost
    check_aggregator(jax.jit(lambda x: flag_aggregate(x)[0]), except_=["identical"])
    check_aggregator(jax.jit(lambda x: flag_aggregate(x, normalise=False)[0]), laws=["identical", "permutation"])


def test_gas():
    check_aggregator(jax.jit(lambda x: gas(jax.random.key(0), x, num_byzantine=1, num_groups=3, base="median")[0]))


def test_bucketing():
    # which workers share a bucket depends on their order
    def rule(x):
        return coordinate_median(bucketing(jax.random.key(0), x, bucket_size=2))

    check_aggregator(jax.jit(rule), except_=["permutation"])
