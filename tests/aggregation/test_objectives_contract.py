"""The contract kit over every rule of several objectives, their pairs, zeros and mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.experimental import aggregating

from jaxtrain.aggregation import (
    aligned_mtl,
    as_optax,
    cagrad,
    config,
    fairgrad,
    graddrop,
    gradvac,
    mgda,
    mgda_weights,
    nash_mtl,
    pcgrad,
)
from jaxtrain.testing import check_aggregator
from tests.aggregation.objectives import RULES

KIT = {
    # the lengths of the gradients do not matter: equal gradients of any length give one of the rule's own
    "nash_mtl": {"except_": ["identical"]},
    "fairgrad": {"except_": ["identical"]},
    # sums, as in their papers: m equal gradients give m times the gradient, and (1 + c) times it
    "config": {"except_": ["identical"]},
    "cagrad": {"except_": ["identical"]},
    "cagrad_1": {"except_": ["identical"], "non_conflicting": True},
    # and it depends on the orders that were drawn
    "pcgrad": {"except_": ["identical", "permutation"]},
    "mgda": {"non_conflicting": True},
    "dualproj": {"non_conflicting": True},
    "imtl_g": {},
    "aligned_mtl": {},
}


@pytest.mark.parametrize("name", KIT)
def test_rules_of_several_objectives(name):
    # regularised systems with a condition of up to 1e4 in single precision
    check_aggregator(jax.jit(RULES[name].aggregate), rtol=1e-3, **KIT[name])


def test_graddrop():
    # a sum; one number is drawn for each coordinate of each leaf
    check_aggregator(jax.jit(lambda s: graddrop(jax.random.key(0), s)), except_=["identical", "permutation", "pytree"])


def test_pairs_keep_their_keys_and_run_in_a_scan():
    stack = jax.random.normal(jax.random.key(0), (20, 3, 4)) - 0.5
    for aggregator in (as_optax(pcgrad, key=jax.random.key(1)), gradvac(3, jax.random.key(1), beta=0.5)):
        state = aggregator.init(jnp.zeros(4))
        last, results = jax.jit(lambda s, x, a=aggregator: jax.lax.scan(lambda s, g: a.update(g, s)[::-1], s, x))(
            state, jnp.concatenate([stack[:1]] * 20)
        )
        assert jax.tree.structure(last) == jax.tree.structure(state)
        # the same gradients under 20 keys: not always the same order
        assert len(np.unique(np.asarray(results).round(4), axis=0)) > 1
    tx = aggregating.process(optax.identity(), gradvac(3, jax.random.key(1)), optax.sgd(1.0))
    updates, _ = jax.jit(tx.update)(stack[0], tx.init(jnp.zeros(4)), jnp.zeros(4))
    first = pcgrad(jax.random.split(jax.random.key(1))[0], stack[0])
    # from targets of zero the first step is PCGrad's
    np.testing.assert_allclose(updates, -first, rtol=1e-5, atol=1e-6)


def test_mistakes_are_named():
    key = jax.random.key(0)
    for wrong, message in (
        (
            lambda: mgda_weights(jnp.zeros((2, 3))),
            r"mgda_weights: a Gramian of inner products has the shape \(m, m\) with m ≥ 1, got \(2, 3\)",
        ),
        (lambda: cagrad(jnp.eye(2), c=-0.1), r"c must lie in \[0.0, inf\], got -0.1"),
        (lambda: fairgrad(jnp.eye(2), alpha=0.0), "alpha must be positive, got 0.0"),
        (lambda: nash_mtl(jnp.eye(2), max_norm=-1.0), "max_norm must lie in"),
        (lambda: mgda(jnp.eye(2), reg_eps=-1.0), "reg_eps must lie in"),
        (lambda: config(jnp.eye(2), preference=jnp.ones(3)), r"preference has shape \(3,\) for 2 gradients"),
        (lambda: aligned_mtl(jnp.eye(2), scale_mode="max"), "scale_mode must be"),
        (lambda: graddrop(key, jnp.eye(2), leak=jnp.ones(3)), r"leak has shape \(3,\) for 2 gradients"),
        (lambda: gradvac(2, key).update(jnp.eye(3), gradvac(2, key).init(None)), "targets of shape"),
        (lambda: gradvac(0, key), "num_objectives must be at least 1"),
        (lambda: gradvac(2, key, beta=2.0), "beta must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    for wrong in (lambda: pcgrad(0, jnp.eye(2)), lambda: graddrop(0, jnp.eye(2)), lambda: as_optax(pcgrad, key=0)):
        # in tests the annotations are enforced too, and may speak first
        with pytest.raises(TypeError, match="needs a typed key|parameter 'key'"):
            wrong()
    with pytest.raises(TypeError, match="the Gramian has dtype int32|parameter 'gramian'"):
        mgda_weights(jnp.eye(2, dtype=jnp.int32))


def test_zero_rows_and_what_is_not_a_number():
    """One gradient of zero is left out, or, in MGDA, gives zero; a NaN comes out as NaN."""
    rows = jnp.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    broken = rows.at[1, 2].set(jnp.nan)
    found, bad = jax.jit(lambda *x: tuple({n: r.aggregate(s) for n, r in RULES.items()} for s in x))(rows, broken)
    for name, want in {
        "mgda": [0, 0, 0],
        "imtl_g": [2 / 3, 2 / 3, 0],
        "config": [1.5, 1.5, 0],
        "nash_mtl": [1, 1, 0],
        "aligned_mtl": [1 / 3, 1 / 3, 0],
        "pcgrad": [2, 1, 0],
        "upgrad": [2 / 3, 1 / 3, 0],
        "dualproj": [2 / 3, 1 / 3, 0],
    }.items():
        np.testing.assert_allclose(found[name], want, rtol=1e-4, atol=1e-6, err_msg=name)
    for name in RULES:
        assert not np.isfinite(bad[name]).all(), name
