"""Averages over windows of a run, LAWA and SWAD, against stored iterates and the paper's algorithm; selections."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.averaging import (
    Best,
    LawaState,
    SwadState,
    averaged_params,
    keep_best,
    lawa,
    swad,
    swad_update,
    uniform_average,
)

RNG = np.random.default_rng(0)
WALK = RNG.normal(size=(25, 3)).cumsum(0)


def follow(tx, walk=WALK):
    """The states after every step and the last parameters."""
    params = jnp.asarray(walk[0])
    state, states = tx.init(params), []
    update = jax.jit(lambda u, s, p: tx.update(u, s, p)[1], donate_argnums=1)
    for after in jnp.asarray(walk[1:]):
        state, params = update(after - params, state, params), after
        states.append(jax.tree.map(jnp.copy, state))
    return states, params


def test_uniform_average_is_the_mean_of_the_tail(x64):
    states, params = follow(uniform_average(start_step=5))
    for k, state in enumerate(states, 1):
        want = WALK[5 : k + 1].mean(0) if k >= 5 else WALK[-1]  # the live parameters of the call before the start
        np.testing.assert_allclose(averaged_params(state, params), want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("on_host", [False, True])
def test_lawa_is_the_mean_of_the_last_captured(on_host, x64):
    window, period, start = 3, 2, 5
    states, params = follow(lawa(window, period, start_step=start, on_host=on_host))
    captured = []
    for k, state in enumerate(states, 1):
        if k >= start and (k - start) % period == 0:
            captured.append(WALK[k])
        want = np.mean(captured[-window:], axis=0) if captured else np.asarray(params)
        # the update is a difference: a rounding of the walk's size
        np.testing.assert_allclose(averaged_params(state, params), want, rtol=1e-13, atol=1e-13)
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(states[-1].ring)}
    assert kinds == ({"pinned_host"} if on_host else {"device"})


def test_lawa_in_half_precision_takes_half_the_memory():
    state = lawa(4).init({"w": jnp.ones(3, jnp.bfloat16)})
    assert state.ring["w"].dtype == jnp.bfloat16 and state.ring["w"].shape == (4, 3)
    assert averaged_params(state, {"w": jnp.ones(3, jnp.bfloat16)})["w"].dtype == jnp.bfloat16


def swad_by_the_paper(losses, n_s, n_e, r):
    """Algorithm 1 on validation losses, 0-based: indices of the first and last segment; None: not converged."""
    start, end, threshold = None, len(losses) - 1, None
    for i in range(len(losses)):
        if start is None:
            if i >= n_s - 1 and losses[i - n_s + 1] == min(losses[i - n_s + 1 : i + 1]):
                start = i - n_s + 1
                threshold = r / n_s * sum(losses[start : i + 1])
        # a window that reaches back to the start holds a loss below the threshold
        elif i - n_e + 1 > start and threshold < min(losses[i - n_e + 1 : i + 1]):
            end = i - n_e
            break
    return None if start is None else (start, end)


def run_swad(losses, n_s, n_e, r, length=2):
    """The average, and the means of all segments."""
    walk = np.random.default_rng(1).normal(size=(len(losses), length, 3))
    tx = optax.chain(optax.identity(), swad(n_s))

    def segment(carry, inputs):
        def step(carry, after):
            params, state = carry
            _, state = tx.update(after - params, state, params)
            return (after, state), None

        iterates, loss = inputs
        (params, state), _ = jax.lax.scan(step, carry, iterates)
        return (params, swad_update(state, loss, n_tolerance=n_e, tolerance_ratio=r)), None

    params = jnp.zeros(3)
    inputs = (jnp.asarray(walk), jnp.asarray(losses))
    (params, state), _ = jax.jit(lambda s, x: jax.lax.scan(segment, (params, s), x))(tx.init(params), inputs)
    return averaged_params(state, params), walk.mean(1), state[1]


CURVES = {
    # by hand: minimum of three at 5; threshold 1.3 · 1.2333; from 11 on above; 11, 12, 13 in a row
    "valley": ([5, 4, 3, 2, 1.5, 1.2, 1.2, 1.3, 1.2, 1.4, 1.5, 2, 3, 4, 5, 1.0], 3, 3, 1.3, (5, 10)),
    "never up again": ([5, 4, 3, 2, 1, 1, 1, 1], 3, 6, 1.3, (4, 7)),
    "converges at once": ([1, 2, 3, 1, 1], 3, 6, 1.3, (0, 4)),
    "a peak that is too short": ([3, 2, 1, 1.1, 1.2, 9, 9, 1.1, 9, 9, 9, 1], 3, 3, 1.3, (2, 7)),
    "stops within the tail of its first window": ([1, 4, 4, 4, 4, 1], 3, 2, 1.1, (0, 1)),
}


@pytest.mark.parametrize("name", CURVES)
def test_swad_starts_and_stops_where_the_hand_says(name, x64):
    losses, n_s, n_e, r, (start, end) = CURVES[name]
    assert swad_by_the_paper(losses, n_s, n_e, r) == (start, end)
    got, segments, state = run_swad(np.array(losses, np.float64), n_s, n_e, r)
    np.testing.assert_allclose(got, segments[start : end + 1].mean(0), rtol=1e-12, atol=1e-12)
    assert bool(state.stopped) == (end < len(losses) - 1)


def test_swad_equals_the_algorithm_on_random_curves(x64):
    rng, seen = np.random.default_rng(5), set()
    n_s = 3
    run = jax.jit(lambda losses, n_e, r: run_swad_traced(losses, n_e, r, n_s))
    for _ in range(60):
        losses = np.abs(np.linspace(-2, 3, 16)) ** rng.uniform(0.2, 2) + rng.exponential(0.4, 16)
        n_e, r = int(rng.integers(1, 7)), float(rng.choice([1.0, 1.1, 1.3]))
        # the losses are compared in float32
        losses = losses.astype(np.float32).astype(np.float64)
        found = swad_by_the_paper(losses, n_s, n_e, r)
        weights, converged = run(jnp.asarray(losses), n_e, r)
        assert bool(converged) == (found is not None)
        if found is not None:
            start, end = found
            want = np.zeros(16)
            want[start : end + 1] = 1 / (end - start + 1)
            np.testing.assert_allclose(weights, want, atol=1e-12, err_msg=f"{losses} {n_e} {r}")
            seen.add((end < 15, n_e))
    assert len(seen) > 6  # stopped or not, with several tolerances


def run_swad_traced(losses, n_e, r, n_s):
    """What weight each segment has in the average: the segments are unit vectors."""
    tx, params = swad(n_s), jnp.zeros(len(losses))

    def segment(carry, inputs):
        params, state = carry
        after, loss = inputs
        _, state = tx.update(after - params, state, params)
        return (after, swad_update(state, loss, n_tolerance=n_e, tolerance_ratio=r)), None

    (params, state), _ = jax.lax.scan(segment, (params, tx.init(params)), (jnp.eye(len(losses)), losses))
    return averaged_params(state, params), state.converged


def test_swad_before_it_converges(x64):
    # the lowest loss so far is that of segment 2: from there on
    got, segments, state = run_swad(np.array([5.0, 4.0, 3.0, 3.5]), 3, 6, 1.3)
    np.testing.assert_allclose(got, segments[2:4].mean(0), rtol=1e-12)
    assert not bool(state.converged)
    # a loss of NaN is a bad one
    got, segments, _ = run_swad(np.array([5.0, np.nan, 3.0, np.nan]), 3, 6, 1.3)
    np.testing.assert_allclose(got, segments[2:4].mean(0), rtol=1e-12)
    # nothing closed: the live model; an empty segment changes nothing
    state, params = swad().init(jnp.ones(2)), jnp.full(2, 3.0)
    np.testing.assert_array_equal(averaged_params(state, params), params)
    jax.tree.map(np.testing.assert_array_equal, swad_update(state, 1.0), state)


def test_keep_best_keeps_the_first_of_the_best():
    scores = jnp.array([0.1, 0.7, jnp.nan, 0.7, 0.3])
    models = {"w": jnp.arange(5.0)[:, None] * jnp.ones(2)}
    start = Best({"w": jnp.zeros(2)}, jnp.array(-jnp.inf))
    best, _ = jax.lax.scan(lambda b, x: (keep_best(b, *x), None), start, (models, scores))
    np.testing.assert_array_equal(best.params["w"], [1.0, 1.0])
    np.testing.assert_allclose(best.score, 0.7, rtol=1e-6)


def test_clear_errors():
    with pytest.raises(ValueError, match="window is a number of models"):
        lawa(0)
    with pytest.raises(ValueError, match="n_converge is a number of segments"):
        swad(0)
    state = optax.chain(optax.sgd(0.1), lawa(2)).init(jnp.ones(2))
    with pytest.raises(ValueError, match="needs a state with swad in its chain; it holds LawaState"):
        swad_update(state, 1.0)
    with pytest.raises(ValueError, match="tolerance_ratio must lie"):
        swad_update(swad().init(jnp.ones(2)), 1.0, tolerance_ratio=0.5)
    for kind in (LawaState, SwadState):
        with pytest.raises(ValueError, match=f"holds no {kind.__name__}"):
            averaged_params(uniform_average().init(jnp.ones(2)), jnp.ones(2), kind=kind)
