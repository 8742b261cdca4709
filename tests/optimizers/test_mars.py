"""MARS against the authors' file, its limits AdamW and STORM, and the exact form in a training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import value_and_grad
from jaxtrain.optimizers import mars, newton_schulz_orthogonalize, scale_by_mars
from jaxtrain.training import create_state, make_step
from tests.optimizers.golden_runs import golden, part, rate, run

CASES = {  # of tests/golden/make_mars.py
    "adamw": {},
    "everywhere": {"optimize_1d": True, "gamma": 0.5, "weight_decay": 0.1},
    "small": {"optimize_1d": True, "b1": 0.8, "b2": 0.9, "eps": 0.01},
    "lion": {"base": "lion", "weight_decay": 0.1},
    "shampoo": {"base": "shampoo", "optimize_1d": True, "channel_axis": 0},
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_official_code(x64, case):
    arrays = golden("mars")
    grads = part(arrays, "grads")
    if case == "small":
        grads = {name: 0.1 * g for name, g in grads.items()}
    iterates, _ = run(mars(rate, **CASES[case]), part(arrays, "first"), grads)
    for leaf, expected in part(arrays, case).items():
        # 40 float64 steps of order 0.03; Newton-Schulz may amplify rounding 3.4-fold an iteration (measured: 4e-16)
        np.testing.assert_allclose(iterates[leaf], expected, rtol=0, atol=1e-12, err_msg=leaf)


def test_exact_form_equals_the_official_code(x64):
    arrays = golden("mars")
    before = {n: h.at[0].set(0) for n, h in part(arrays, "before").items()}
    tx = mars(rate, exact=True, gamma=1.0, optimize_1d=True)
    iterates, _ = run(tx, part(arrays, "first"), part(arrays, "grads"), prev_point_grads=before)
    for leaf, expected in part(arrays, "exact").items():
        np.testing.assert_allclose(iterates[leaf], expected, rtol=0, atol=1e-12, err_msg=leaf)  # as above


def test_without_correction_and_clipping_it_is_adamw_and_sign_descent(x64):
    grads = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3, 2)))
    ours, _ = run(mars(0.1, gamma=0.0, clip_norm=jnp.inf, weight_decay=0.2), grads[0], grads)
    adamw, _ = run(optax.adamw(0.1, b1=0.95, b2=0.99, weight_decay=0.2), grads[0], grads)
    np.testing.assert_allclose(ours, adamw, rtol=0, atol=1e-14)  # float64, the same operations in another order
    lion, _ = run(scale_by_mars(gamma=0.0, clip_norm=jnp.inf, base="lion"), grads[0], grads)
    signs, _ = run(optax.chain(optax.ema(0.95, debias=False), optax.scale_by_sign()), grads[0], grads)
    np.testing.assert_array_equal(lion, signs)


def test_full_correction_is_storm(x64):
    """γ = 1: m_t = g_t + β (m_{t-1} - h_t), and m_1 = g_1."""
    g, h = np.random.default_rng(1).normal(size=(2, 15, 4))
    h[0] = 0
    tx = scale_by_mars(b1=0.9, gamma=1.0, clip_norm=jnp.inf, exact=True)
    m, expected, state = np.zeros(4), [], tx.init(jnp.zeros(4))

    def step(state, inputs):
        _, state = tx.update(inputs[0], state, jnp.zeros(4), prev_point_grads=inputs[1])
        return state, state.mu

    _, found = jax.lax.scan(step, state, (jnp.asarray(g), jnp.asarray(h)))
    for gt, ht in zip(g, h, strict=True):
        m = gt + 0.9 * (m - ht)
        expected.append(m)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)  # float64 sums of numbers up to 5


def test_exact_form_computes_the_gradient_itself():
    """In a training step: with its batch at the last parameters; there is no noise left on a quadratic."""
    rng = np.random.default_rng(2)
    batches = jnp.asarray(rng.normal(size=(6, 8, 3)), jnp.float32)

    def objective(params, model_state, batch, key):
        return 0.5 * jnp.mean(jnp.sum((params - batch) ** 2, axis=1)), Aux(model_state, {})

    tx = optax.chain(scale_by_mars(b1=0.9, gamma=1.0, clip_norm=jnp.inf, exact=True), optax.scale(-0.1))
    step = jax.jit(make_step(value_and_grad(objective), tx))
    state = create_state(jnp.zeros(3), tx, jax.random.key(0))
    m, w, last = np.zeros(3), np.zeros(3), None
    for batch in batches:
        state, _ = step(state, batch)
        mean = np.asarray(batch).mean(axis=0)
        m = (w - mean) + 0.9 * (m - (0 if last is None else last - mean))
        np.testing.assert_allclose(state.opt_state[0].mu, m, rtol=2e-5, atol=1e-6)  # float32
        last, w = w, np.asarray(state.params, np.float64)


def test_clipping_by_array_and_over_all(x64):
    g = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.6, 0.0])}
    norm = np.sqrt(25.36)
    each, whole = {"a": [0.6, 0.8], "b": [0.6, 0.0]}, {"a": [3 / norm, 4 / norm], "b": [0.6 / norm, 0]}
    twice = {"a": [1.2, 1.6], "b": [0.6, 0.0]}
    for flag, most, expected in ((False, 1.0, each), (True, 1.0, whole), (False, 2.0, twice)):
        tx = scale_by_mars(b1=0.5, gamma=0.0, clip_norm=most, global_clip=flag)
        mu = tx.update(g, tx.init(g))[1].mu
        for leaf, x in expected.items():
            np.testing.assert_allclose(mu[leaf], 0.5 * np.asarray(x), rtol=1e-14)  # float64


def test_which_arrays_and_at_which_rate(x64):
    """Vectors and kernels have AdamW and its rate, which follows the schedule unless it is one of its own."""
    params = {"matrix": jnp.ones((2, 2)), "kernel": jnp.ones((2, 2, 2)), "bias": jnp.ones(2)}
    grads = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    half = optax.piecewise_constant_schedule(0.1, {1: 0.5})
    options = {"one_d_weight_decay": 0.0, "one_d_learning_rate": 0.02}

    def steps(**more):
        iterates, _ = run(mars(half, **options | more), params, grads)
        return {n: -jnp.diff(x.reshape(2, -1)[:, 0], prepend=1.0) for n, x in iterates.items()}

    plain, own = steps(), steps(one_d_learning_rate=lambda t: 0.02 * (1 + t), kernels=True)
    # constant gradients: Adam's step is the rate, but for eps
    assert plain["kernel"].tolist() == pytest.approx([0.02, 0.01], rel=1e-6)
    assert plain["bias"].tolist() == pytest.approx([0.02, 0.01], rel=1e-6)
    assert own["bias"].tolist() == pytest.approx([0.02, 0.04], rel=1e-6)
    assert plain["matrix"][0] == pytest.approx(0.1, rel=1e-6) and own["kernel"][0] == pytest.approx(0.1, rel=1e-6)
    number = mars(0.5, **options)
    found = jax.jit(lambda p: number.update(p, number.init(p), p)[0])(params)
    assert float(found["bias"][0]) == pytest.approx(-0.02, rel=1e-6)


def test_newton_schulz(x64):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(7, 4))
    u, s, v = np.linalg.svd(x, full_matrices=False)
    value = s / np.linalg.norm(s)
    for _ in range(5):
        value = 3.4445 * value - 4.775 * value**3 + 2.0315 * value**5
    # the same polynomial on the singular values; each iteration amplifies float64 rounding at most 3.4-fold
    np.testing.assert_allclose(newton_schulz_orthogonalize(jnp.asarray(x)), u * value @ v, rtol=0, atol=1e-12)
    np.testing.assert_allclose(newton_schulz_orthogonalize(jnp.asarray(x.T)), (u * value @ v).T, rtol=0, atol=1e-12)
    assert newton_schulz_orthogonalize(jnp.zeros((2, 3))).tolist() == [[0.0] * 3] * 2
    # outputs over inputs, in JAX's layout: (in, out) = (2, 8) has √4
    g = jnp.asarray(rng.normal(size=(2, 8)))
    tx = [scale_by_mars(base="shampoo", channel_axis=a) for a in (-1, 0)]
    wide, plain = (t.update(g, t.init(g))[0] for t in tx)
    np.testing.assert_allclose(wide, 2 * plain, rtol=1e-14)


def test_half_precision_and_state():
    g = jnp.ones((2, 2), jnp.bfloat16)
    for base, numbers in (("adamw", 3), ("lion", 2), ("shampoo", 2)):
        tx = mars(0.1, base=base)
        updates, state = jax.eval_shape(lambda g, tx=tx: tx.update(g, tx.init(g), g), g)
        assert updates.dtype == jnp.bfloat16
        assert [x.dtype.name for x in jax.tree.leaves(state) if x.ndim] == ["float32"] * numbers


def test_clear_errors():
    w = jnp.ones(2)
    with pytest.raises(ValueError, match="base must be one of adamw, lion, shampoo, got 'sgd'"):
        mars(base="sgd")
    with pytest.raises(ValueError, match="clip_norm must be greater than 0 .*, got 0"):
        scale_by_mars(clip_norm=0)
    with pytest.raises(ValueError, match=r"one_d_b1 must lie in \[0.0, 0.99.*\], got 1"):
        mars(one_d_betas=(1.0, 0.9))
    for call in (mars, jax.jit(lambda rate: mars(optax.linear_schedule(0.0, 0.1, 10)).init(rate))):
        with pytest.raises(ValueError, match="the schedule starts at 0, so that one_d_learning_rate"):
            call(optax.linear_schedule(0.0, 0.1, 10) if call is mars else w)
    exact = scale_by_mars(exact=True)
    with pytest.raises(ValueError, match="needs the gradient of this batch at the parameters before the last update"):
        exact.update(w, exact.init(w), w)
    with pytest.raises(ValueError, match="exact=True keeps the parameters"):
        exact.update(w, exact.init(w), prev_point_grads=w)
    with pytest.raises(ValueError, match=r"prev_point_grads lacks \['a'\]"):
        exact.update({"a": w}, exact.init({"a": w}), {"a": w}, prev_point_grads={"b": w})
    with pytest.raises(ValueError, match=r"prev_point_grads has shape \(3,\), the gradient \(2,\)"):
        exact.update(w, exact.init(w), w, prev_point_grads=jnp.ones(3))
    with pytest.raises(ValueError, match="mars decays the parameters"):
        mars().update(w, mars().init(w))


def test_what_is_not_a_number_stays_in_its_entry():
    """But its array is not clipped while it is one of the two gradients."""
    good = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([3.0, 4.0])}
    bad = {"a": jnp.array([3.0, jnp.nan]), "b": jnp.array([3.0, 4.0])}
    tx = scale_by_mars(b1=0.5, gamma=0.0)
    update = jax.jit(lambda g, state: tx.update(g, state)[1])
    first = update(bad, tx.init(good))
    second = update(good, first)
    third = update(good, second)
    # the mean of 3, 3 and then of 0.6 = 3 / ‖(3, 4)‖; in b of 0.6 throughout
    np.testing.assert_allclose([s.mu["a"][0] for s in (first, second, third)], [1.5, 2.25, 1.425], rtol=1e-6)
    np.testing.assert_allclose(third.mu["b"], 0.875 * np.array([0.6, 0.8]), rtol=1e-6)
    assert jnp.isnan(third.mu["a"][1])


def test_one_norm_over_all_is_over_what_is_corrected(x64):
    rng = np.random.default_rng(3)
    params = {"matrix": jnp.asarray(rng.normal(size=(3, 2))), "vector": jnp.ones(4)}
    grads = {"matrix": jnp.asarray(rng.normal(size=(3, 2))), "vector": jnp.full(4, 1e6)}
    tx = mars(1.0, b1=0.5, eps=1.0, global_clip=True)  # so that the step shows the size of what is clipped
    alone, grad = {"matrix": params["matrix"]}, {"matrix": grads["matrix"]}
    both, one = (tx.update(g, tx.init(p), p)[0]["matrix"] for p, g in ((params, grads), (alone, grad)))
    np.testing.assert_allclose(both, one, rtol=1e-12)
