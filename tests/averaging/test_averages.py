"""SWA and Switch EMA against float64 loops written from the papers, and where an average is found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.averaging import (
    SwaState,
    SwitchEmaState,
    averaged_params,
    ema_decay_warmup,
    recompute_batch_stats,
    swa,
    switch_ema,
)


def _gradients(steps, seed=0):
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(steps, 3, 2)), "b": rng.normal(size=(steps, 2)), "s": rng.normal(size=steps)}


def _run(tx, params, grads, steps):
    """All iterates, the final parameters and state, of a scanned and jitted run."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda p, s, g: jax.lax.scan(step, (p, s), g))(params, tx.init(params), grads)


@pytest.fixture
def problem(x64):
    steps = 13
    grads = jax.tree.map(jnp.asarray, _gradients(steps))
    return jax.tree.map(lambda g: jnp.ones_like(g[0]), grads), grads, steps


@pytest.mark.parametrize("start, period", [(0, 1), (0, 4), (3, 1), (3, 4), (13, 1), (5, 100)])
def test_swa_is_the_mean_of_the_captured_iterates(problem, start, period):
    params, grads, steps = problem
    tx = optax.chain(optax.sgd(0.1, momentum=0.9), swa(start, period))
    (final, state), iterates = _run(tx, params, grads, steps)
    # the paper's rule, written out: k steps completed, capture where k >= start and (k - start) % period == 0
    captured = [k for k in range(1, steps + 1) if k >= start and (k - start) % period == 0]
    assert int(state[1].count) == len(captured)
    average = averaged_params(state, final)
    for name in params:
        mean = np.mean([np.asarray(iterates[name])[k - 1] for k in captured], axis=0)
        # float64: a running mean of up to 13 numbers of order one
        np.testing.assert_allclose(average[name], mean, rtol=0, atol=1e-14)


def test_swa_before_the_first_capture_is_the_live_model(problem):
    params, grads, steps = problem
    (final, state), _ = _run(optax.chain(optax.sgd(0.1), swa(100, 1)), params, grads, steps)
    jax.tree.map(np.testing.assert_array_equal, averaged_params(state, final), final)


def test_swa_and_torch_agree():
    """torch.optim.swa_utils.AveragedModel on the same iterates: see tests/golden/make_torch_averages.py."""
    golden = np.load(f"{__file__.rsplit('/', 2)[0]}/golden/torch_averages.npz")
    with jax.enable_x64(True):
        iterates = jnp.asarray(golden["iterates"])
        for start, period in golden["settings"]:
            tx = swa(int(start), int(period))
            params, state = jnp.asarray(golden["first"]), tx.init(jnp.asarray(golden["first"]))
            for after in iterates:
                _, state = tx.update(after - params, state, params)
                params = after
            # the update is a difference: one rounding of numbers of order one in each of 12 steps
            np.testing.assert_allclose(state.average, golden[f"swa_{start}_{period}"], rtol=0, atol=1e-14)
        tx = switch_ema(float(golden["decay"]), None)
        params, state = jnp.asarray(golden["first"]), tx.init(jnp.asarray(golden["first"]))
        for after in iterates:
            _, state = tx.update(after - params, state, params)
            params = after
        np.testing.assert_allclose(state.average, golden["ema"], rtol=0, atol=1e-14)


@pytest.mark.parametrize("every, start", [(4, 0), (1, 0), (4, 6), (None, 0)])
def test_switch_ema_equals_a_loop_written_from_the_paper(problem, every, start):
    params, grads, steps = problem
    lr, momentum, decay = 0.1, 0.9, 0.8
    tx = optax.chain(optax.sgd(lr, momentum=momentum), switch_ema(decay, every, start_step=start))
    (final, state), _ = _run(tx, params, grads, steps)
    for name in params:
        theta = np.array(params[name])
        ema, velocity = theta.copy(), np.zeros_like(theta)
        for t in range(steps):
            velocity = momentum * velocity + np.asarray(grads[name])[t]
            theta = theta - lr * velocity
            ema = decay * ema + (1 - decay) * theta
            k = t + 1
            if every is not None and k >= start and k % every == 0:
                theta = ema.copy()
        # float64: 13 steps with a few roundings each
        np.testing.assert_allclose(final[name], theta, rtol=0, atol=1e-14)
        np.testing.assert_allclose(averaged_params(state, final)[name], ema, rtol=0, atol=1e-14)


def test_switch_ema_limits(problem):
    params, grads, steps = problem
    plain = _run(optax.sgd(0.1), params, grads, steps)[0][0]
    zero = _run(optax.chain(optax.sgd(0.1), switch_ema(0.0, 3)), params, grads, steps)[0][0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-15), zero, plain)
    scaled = _run(optax.sgd(0.1 * (1 - 0.7)), params, grads, steps)[0][0]
    every = _run(optax.chain(optax.sgd(0.1), switch_ema(0.7, 1)), params, grads, steps)[0][0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), every, scaled)


def test_decay_warmup_values():
    # by hand: exp: m = (1 - .001) e^{-(1+t)/2000} + .001; linear at t = 50: max(.001, .999 * .5 * .1)
    exp, linear = ema_decay_warmup(0.999), ema_decay_warmup(0.999, kind="linear")
    np.testing.assert_allclose(exp(1999), 1 - (0.999 * np.exp(-1) + 0.001), rtol=1e-6)
    np.testing.assert_allclose(linear(50), 1 - 0.04995, rtol=1e-6)
    np.testing.assert_allclose(linear(99), 1 - 0.001, rtol=1e-6)  # .999 * .01 * .1 lies below the floor
    np.testing.assert_allclose(ema_decay_warmup(0.99, kind="constant")(7), 0.99, rtol=1e-6)
    with pytest.raises(ValueError, match="kind must be"):
        ema_decay_warmup(0.9, kind="cosine")


def test_found_through_wrappers(problem):
    params, grads, steps = problem
    inner = optax.chain(optax.adam(0.1), switch_ema(0.9, 4), swa(2, 3))
    (final, state), _ = _run(inner, params, grads, steps)
    want = averaged_params(state, final, kind=SwaState)

    @optax.inject_hyperparams
    def injected(learning_rate):
        return optax.chain(optax.adam(learning_rate), switch_ema(0.9, 4), swa(2, 3))

    wrapped = {
        "chain": optax.chain(optax.identity(), inner),
        "inject_hyperparams": injected(0.1),
        "apply_if_finite": optax.apply_if_finite(inner, 3),
        "masked": optax.masked(inner, {"w": True, "b": True, "s": True}),
        "partition": optax.partition({"a": inner, "b": inner}, {"w": "a", "b": "b", "s": "a"}),
    }
    for name, tx in wrapped.items():
        (other, state), _ = _run(tx, params, grads, steps)
        got = averaged_params(state, other, kind=SwaState)
        jax.tree.map(lambda a, b, n=name: np.testing.assert_allclose(a, b, atol=1e-13, err_msg=n), got, want)
    # MultiSteps: an average counts the updates that are made
    (other, state), _ = _run(optax.MultiSteps(inner, 1), params, grads, steps)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), averaged_params(state, other, kind=SwaState), want
    )


def test_masked_out_parameters_are_the_live_ones(problem):
    params, grads, steps = problem
    tx = optax.chain(optax.sgd(0.1), optax.masked(swa(1, 1), {"w": True, "b": False, "s": False}))
    (final, state), iterates = _run(tx, params, grads, steps)
    got = averaged_params(state, final)
    np.testing.assert_array_equal(got["b"], final["b"])
    np.testing.assert_allclose(got["w"], np.mean(iterates["w"], axis=0), atol=1e-14)


def test_clear_errors():
    params = {"w": jnp.ones(2)}
    chain = optax.chain(optax.sgd(0.1), switch_ema(0.9, 2), swa(0, 1))
    state = chain.init(params)
    with pytest.raises(ValueError, match="several averages"):
        averaged_params(state, params)
    with pytest.raises(ValueError, match="holds no SwaState; it holds SwitchEmaState"):
        averaged_params(optax.chain(optax.sgd(0.1), switch_ema(0.9, 2)).init(params), params, kind=SwaState)
    with pytest.raises(ValueError, match="none at all"):
        averaged_params(optax.adam(0.1).init(params), params)
    for tx in (swa(0, 1), switch_ema(0.9, 2)):
        with pytest.raises(ValueError, match="averages parameters: call tx.update"):
            tx.update(params, tx.init(params))
    for wrong in (
        optax.chain(swa(0, 1), optax.scale(-0.1)),
        optax.chain(optax.chain(optax.sgd(0.1), swa(0, 1)), optax.clip(1.0)),
        optax.chain(optax.sgd(0.1), swa(0, 1), switch_ema(0.9, 2)),
        optax.apply_if_finite(optax.chain(swa(0, 1), optax.sgd(0.1)), 2),
    ):
        with pytest.raises(ValueError, match="an average must come last in its chain"):
            averaged_params(wrong.init(params), params, kind=SwaState)
    with pytest.raises(ValueError, match=r"period must lie in \[1, inf\], got 0"):
        swa(0, 0)
    with pytest.raises(ValueError, match=r"decay must lie in \[0.0, 1.0\], got 1.2"):
        switch_ema(1.2, 1)


def test_numbers_may_be_traced():
    """A grid of decays and periods is one program, equal to its members run one by one."""
    params, grads = jnp.ones(3), jnp.arange(24.0).reshape(8, 3) / 10

    def average(decay, period):
        tx = optax.chain(optax.sgd(0.1), switch_ema(decay, 3), swa(0, period))
        (final, state), _ = _run(tx, params, grads, 8)
        return averaged_params(state, final, kind=SwaState), averaged_params(state, final, kind=SwitchEmaState)

    grid = jax.vmap(average)(jnp.array([0.5, 0.9]), jnp.array([1, 4]))
    for i, (decay, period) in enumerate([(0.5, 1), (0.9, 4)]):
        # float32, vectorised in another order
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6), grid, average(decay, period))


def test_half_precision_is_averaged_in_float32():
    params = {"w": jnp.full(4, 1.0, jnp.bfloat16)}
    tx = swa(0, 1)
    state = tx.init(params)
    step = jnp.full(4, 0.0078125, jnp.bfloat16)  # one unit in the last place of bfloat16 at 1
    values = []
    for _ in range(200):
        updates, state = tx.update({"w": step}, state, params)
        params = optax.apply_updates(params, updates)
        values.append(np.asarray(params["w"], np.float64))
    assert state.average["w"].dtype == jnp.float32
    # 200 float32 roundings of numbers near 1.8; in bfloat16 the mean would stop moving after some 2^7 captures
    np.testing.assert_allclose(state.average["w"], np.mean(values, axis=0), rtol=2e-5)
    assert averaged_params(state, params)["w"].dtype == jnp.bfloat16


def test_batch_stats_equal_the_direct_computation(x64):
    """Two layers, momenta of their own, a counter that is not a statistic, against NumPy."""
    rng = np.random.default_rng(1)
    batches, w = rng.normal(2.0, 3.0, size=(5, 16, 4)), rng.normal(size=(4, 3))

    def update_stats(params, state, x):
        y = jnp.maximum(x @ params, 0)
        old = state["bn"]
        return {
            "bn": {
                "mean": 0.9 * old["mean"] + 0.1 * jnp.mean(y, 0),
                "var": 0.99 * old["var"] + 0.01 * jnp.var(y, 0),
            },
            "count": state["count"] + 1,
            "untouched": state["untouched"],
        }

    state = {
        "bn": {"mean": jnp.full(3, 7.0), "var": jnp.full(3, 9.0)},
        "count": jnp.int32(3),
        "untouched": jnp.array(5.0),
    }
    new = jax.jit(lambda p, s, b: recompute_batch_stats(update_stats, p, s, b))(
        jnp.asarray(w), state, jnp.asarray(batches)
    )
    hidden = np.maximum(batches @ w, 0)
    # float64: the momentum is known up to eps · m / (1 − m), 2e-14 for 0.99
    np.testing.assert_allclose(new["bn"]["mean"], hidden.mean(axis=1).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(new["bn"]["var"], hidden.var(axis=1).mean(axis=0), rtol=1e-12)
    assert int(new["count"]) == 3 and float(new["untouched"]) == 5.0
    with pytest.raises(ValueError, match="empty"):
        recompute_batch_stats(update_stats, jnp.asarray(w), state, jnp.zeros((0, 16, 4)))


@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_batch_stats_of_flax_batchnorm(momentum):
    """NNX stops gradients at its statistics; what its BatchNorm records is the batch's mean and biased variance."""
    from flax import nnx

    from jaxtrain.training.adapters import from_nnx

    model = from_nnx(lambda rngs: nnx.BatchNorm(3, momentum=momentum, rngs=rngs))
    params, state = model.init(jax.random.key(0))
    x = np.random.default_rng(2).normal(5.0, 2.0, size=(4, 32, 3)).astype(np.float32)
    new = recompute_batch_stats(lambda p, s, b: model.apply(p, s, b, train=True)[1], params, state, jnp.asarray(x))
    # float32: eps · m / (1 − m) is 6e-6 for 0.99; flax's variance is E x² − (E x)², losing a digit at a mean of 5
    np.testing.assert_allclose(new["mean"], x.mean(axis=1).mean(axis=0), rtol=2e-5)
    np.testing.assert_allclose(new["var"], x.var(axis=1).mean(axis=0), rtol=5e-5)
