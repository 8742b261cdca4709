"""Centered clipping by hand, at its limits and fixed points, and under workers that send anything."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from jaxtrain.aggregation import (
    alie_attack,
    bit_flip_attack,
    centered_clip,
    centered_clipping,
    ipm_attack,
    label_flip,
    worker_momentum,
)


def reference(x, v, tau, iterations):
    """The paper's loop in float64."""
    for _ in range(iterations):
        d = x - v
        v = v + (d * np.minimum(1, tau / np.linalg.norm(d, axis=1))[:, None]).mean(0)
    return v


@pytest.mark.parametrize("tau, iterations", [(0.5, 1), (0.5, 7), (3.0, 2), (100.0, 1)])
def test_equals_the_paper_on_trees(tau, iterations, x64):
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(9, 7)) * 3, rng.normal(size=7)
    tree = {"a": jnp.asarray(x[:, :4]).reshape(9, 2, 2), "b": jnp.asarray(x[:, 4:])}
    center = {"a": jnp.asarray(v[:4]).reshape(2, 2), "b": jnp.asarray(v[4:])}
    got = jax.jit(lambda u, c: centered_clip(u, c, tau=tau, num_iters=iterations))(tree, center)
    flat = np.concatenate([np.ravel(got["a"]), got["b"]])
    np.testing.assert_allclose(flat, reference(x, v, tau, iterations), atol=1e-13)  # float64


def test_limits(x64):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)))
    np.testing.assert_allclose(centered_clip(x, jnp.full(3, 1e6), tau=jnp.inf), x.mean(0), atol=1e-9)
    np.testing.assert_array_equal(centered_clip(x, jnp.ones(3), tau=0.0), np.ones(3))
    # all the same, 10 away: the distance falls by tau an iteration until it is zero
    same = jnp.zeros((4, 1)) + 10.0
    for iterations, left in [(1, 7.0), (3, 1.0), (4, 0.0), (6, 0.0)]:
        got = centered_clip(same, jnp.zeros(1), tau=3.0, num_iters=iterations)
        np.testing.assert_allclose(10.0 - got, [left], atol=1e-12)


def test_its_fixed_point_minimises_the_sum_of_huber_functions(x64):
    x = np.random.default_rng(2).normal(size=(8, 2)) * 4
    tau = 1.5

    def huber(v):
        r = np.linalg.norm(x - v, axis=1)
        return np.sum(np.where(r < tau, r**2 / 2, tau * (r - tau / 2)))

    best = minimize(huber, x.mean(0), method="BFGS", options={"gtol": 1e-10}).x
    got = centered_clip(jnp.asarray(x), jnp.zeros(2), tau=tau, num_iters=2000)
    np.testing.assert_allclose(got, best, atol=1e-6)  # BFGS stops at about that


@pytest.mark.parametrize("sent", [1e30, -1e30, np.inf, np.nan])
def test_whatever_a_worker_sends_moves_the_result_by_at_most_tau_over_n(sent):
    good = np.random.default_rng(3).normal(size=(7, 4)).astype(np.float32)
    honest = np.concatenate([good, np.zeros((1, 4), np.float32)])
    broken = np.concatenate([good, np.full((1, 4), sent, np.float32)])
    center = jnp.zeros(4)
    a, b = (np.asarray(centered_clip(jnp.asarray(x), center, tau=2.0)) for x in (honest, broken))
    assert np.isfinite(b).all()
    assert np.linalg.norm(a - b) <= 2.0 / 8 * (1 + 1e-5)


def test_gradient_is_finite_where_a_worker_sends_the_centre():
    gradient = jax.grad(lambda x: jnp.sum(centered_clip(x, jnp.zeros(2), tau=1.0)))(jnp.zeros((3, 2)))
    np.testing.assert_allclose(gradient, np.full((3, 2), 1 / 3), rtol=1e-6)


def test_the_pair_keeps_its_last_result_as_centre():
    aggregator = centered_clipping(1.0)
    x = jnp.full((2, 3), 2.0)
    state = aggregator.init(x[0])
    for want in (1.0 / 3**0.5, 2.0 / 3**0.5, 3.0 / 3**0.5):
        result, state = jax.jit(aggregator.update)(x, state)
        np.testing.assert_allclose(result, np.full(3, want), rtol=1e-6)


def test_worker_momentum_by_hand():
    tx = worker_momentum(0.9)
    state, sent = tx.init(jnp.zeros(())), []
    for g in (1.0, 2.0, -1.0):
        m, state = tx.update(jnp.array(g), state)
        sent.append(float(m))
    np.testing.assert_allclose(sent, [0.1, 0.29, 0.161], rtol=1e-6)


def test_attacks():
    good = np.random.default_rng(4).normal(size=(13, 5))
    # n = 16, m = 3: s = 9 − 3 = 6, z = Φ⁻¹(7/13)
    want = good.mean(0) - norm.ppf(7 / 13) * good.std(0, ddof=1)
    np.testing.assert_allclose(alie_attack(jnp.asarray(good), num_byzantine=3), want, rtol=1e-5)
    np.testing.assert_allclose(ipm_attack(jnp.asarray(good), epsilon=0.3), -0.3 * good.mean(0), rtol=1e-5)
    np.testing.assert_allclose(bit_flip_attack(jnp.asarray(good)), -good.astype(np.float32))
    assert label_flip(jnp.arange(4), num_classes=4).tolist() == [3, 2, 1, 0]
    with pytest.raises(ValueError, match="no z for 15 Byzantine among 28"):
        alie_attack(jnp.asarray(good), num_byzantine=15)


def test_clear_errors():
    with pytest.raises(ValueError, match=r"tau must lie in \[0, inf\], got -1"):
        centered_clip(jnp.ones((2, 1)), jnp.zeros(1), tau=-1.0)
    with pytest.raises(ValueError, match="tau must lie in"):
        centered_clip(jnp.ones((2, 1)), jnp.zeros(1), tau=float("nan"))
    with pytest.raises(ValueError, match="the trees differ"):
        centered_clip(jnp.ones((2, 1)), jnp.zeros(2), tau=1.0)
    with pytest.raises(ValueError, match="the trees differ"):
        tx = worker_momentum(0.9, num_workers=3)
        tx.update(jnp.ones((2, 1)), tx.init(jnp.zeros(1)))
    with pytest.raises(ValueError, match="beta must lie in"):
        worker_momentum(1.5)
    with pytest.raises(ValueError, match="num_iters must be at least 1"):
        centered_clip(jnp.ones((2, 1)), jnp.zeros(1), tau=1.0, num_iters=0)
    with pytest.raises(ValueError, match="stack is empty"):
        centered_clip(jnp.ones((0, 1)), jnp.zeros(1), tau=1.0)


def test_the_papers_optimizer_in_optax_parts(x64):
    """process(worker momentum, clipping around the last aggregate, sgd) against the loop of algorithm 2."""
    from optax.experimental import aggregating

    tx = aggregating.process(worker_momentum(0.9, num_workers=5), centered_clipping(0.3), optax.sgd(0.1))
    grads = np.random.default_rng(5).normal(size=(4, 5, 3))
    params, state = jnp.zeros(3), tx.init(jnp.zeros(3))
    update = jax.jit(tx.update)
    x, m, v = np.zeros(3), np.zeros((5, 3)), np.zeros(3)
    for g in grads:
        updates, state = update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
        m = 0.1 * g + 0.9 * m
        v = reference(m, v, 0.3, 1)
        x = x - 0.1 * v
        np.testing.assert_allclose(params, x, atol=1e-14)  # float64


def test_tau_may_be_traced_and_dtypes_are_kept():
    x = jnp.array([[0.0], [0.0], [0.0], [100.0]])
    many = jax.vmap(lambda tau: centered_clip(x, jnp.zeros(1), tau=tau))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(many, [[0.25], [0.5]])
    half = centered_clip(x.astype(jnp.bfloat16), jnp.zeros(1, jnp.bfloat16), tau=1.0)
    assert half.dtype == jnp.bfloat16 and half.tolist() == [0.25]


def test_breakdown_is_bounded_by_their_number():
    """f of n workers that agree on anything move one iteration by at most f τ / n from where it would be."""
    good = np.random.default_rng(6).normal(size=(12, 4))
    center = jnp.asarray(good.mean(0), jnp.float32)
    clean = centered_clip(jnp.asarray(good, jnp.float32), center, tau=1.0)
    for attack in (
        np.full(4, 1e30),
        np.asarray(alie_attack(jnp.asarray(good), num_byzantine=4)),
        np.asarray(ipm_attack(jnp.asarray(good), epsilon=10.0)),
    ):
        sent = jnp.asarray(np.concatenate([good, np.tile(attack, (4, 1))]), jnp.float32)
        moved = centered_clip(sent, center, tau=1.0)
        # the good ones' share falls from 1 to 12/16 of a step of at most tau
        bound = 4 / 16 + (1 - 12 / 16) * np.linalg.norm(np.asarray(clean - center))
        assert np.linalg.norm(np.asarray(moved - clean)) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("case", ["1_1.0", "3_0.5", "1_100.0"])
def test_equals_byzfl_over_rounds(case, x64):
    golden = np.load(Path(__file__).parents[1] / "golden" / "byzfl.npz")
    iterations, tau = case.split("_")
    aggregator = centered_clipping(float(tau), num_iters=int(iterations))
    init = aggregator.init(jnp.zeros(6))
    run = jax.jit(lambda x: jax.lax.scan(lambda s, u: aggregator.update(u, s)[::-1], init, x)[1])
    np.testing.assert_allclose(run(jnp.asarray(golden["x"])), golden[case], rtol=0, atol=1e-14)  # float64
