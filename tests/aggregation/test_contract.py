"""The contract kit over every aggregator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.aggregation import (
    bucketing,
    centered_clip,
    coordinate_median,
    flag_aggregate,
    gas,
    mean,
    upgrad,
)
from jaxtrain.testing import check_aggregator
from tests.aggregation.rules import RULES


def test_upgrad():
    check_aggregator(jax.jit(upgrad), linear_under_scaling=True, non_conflicting=True)


def test_centered_clip():
    def around_zero(stacked, tau):
        return centered_clip(stacked, jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), stacked), tau=tau)

    # gradients that agree but lie further than tau from the centre are clipped all the same
    check_aggregator(jax.jit(lambda x: around_zero(x, 1.0)), except_=["identical"])
    check_aggregator(jax.jit(lambda x: around_zero(x, jnp.inf)), linear_under_scaling=True)


def test_mean():
    check_aggregator(jax.jit(mean), linear_under_scaling=True)


RNG = np.random.default_rng(0)
EIGHT = {"b": RNG.standard_normal((8, 3)), "w": RNG.standard_normal((8, 4, 2))}
OPTIONS = {
    # one neighbour left: of two workers that are each other's nearest the first is taken
    "bulyan": {"stacked": EIGHT, "except_": ["permutation"]},
    "bulyan, one ranking": {"stacked": EIGHT, "laws": ["permutation"]},
    # unit vectors are averaged: the length of gradients that agree is lost
    "flag, unit columns": {"except_": ["identical"]},
}


@pytest.mark.parametrize("name", RULES)
def test_robust_rules(name):
    check_aggregator(jax.jit(lambda x: RULES[name](x, 1)), **OPTIONS.get(name, {}))


def test_flag_aggregate_of_columns_as_they_are():
    check_aggregator(jax.jit(lambda x: flag_aggregate(x, normalise=False)[0]), laws=["identical", "permutation"])


def test_gas():
    check_aggregator(jax.jit(lambda x: gas(jax.random.key(0), x, num_byzantine=1, num_groups=3, base="median")[0]))


def test_bucketing():
    # which workers share a bucket depends on their order
    def rule(x):
        return coordinate_median(bucketing(jax.random.key(0), x, bucket_size=2))

    check_aggregator(jax.jit(rule), except_=["permutation"])
