"""Zeroth-order gradients against MeZO's code, torchopt, closed-form moments on quadratics, and their cost."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import random_direction, value_and_grad, zeroth_order, zeroth_order_updates
from jaxtrain.gradients.zeroth_order import estimate
from jaxtrain.testing import check_gradient_transformation
from jaxtrain.training import create_state, make_step

KEY = jax.random.key(0)
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "zeroth_order.npz")


def _golden_loss(params, t):
    error = jnp.tanh(GOLDEN["x"][t] @ params["w"] + params["bias"]) - GOLDEN["y"][t]
    return jnp.mean(error**2), ()


def test_equals_mezo(x64):
    """Three steps of the authors' trainer: its θ + εz, − 2εz, + εz leave rounding of 1e-16 that ε divides by 1e-3."""
    lr, eps, decay = (float(GOLDEN[f"mezo_{n}"]) for n in ("lr", "eps", "decay"))
    tx = optax.chain(optax.add_decayed_weights(decay, mask={"w": True, "bias": False}), optax.sgd(lr))
    params = {"w": jnp.asarray(GOLDEN["w"]), "bias": jnp.asarray(GOLDEN["b"])}
    for t in range(3):
        z = {n: jnp.asarray(GOLDEN[f"mezo_z_{n}_{t}"])[None] for n in params}
        _, grads = estimate(
            lambda p, t=t: _golden_loss(p, t),
            params,
            lambda f, i, after, p=params, z=z: jax.tree.map(lambda p, x: f(p, x[i]), p, z),
            jnp.arange(1),
            smoothing=eps,
            scheme="central",
        )
        np.testing.assert_allclose(grads["w"], GOLDEN[f"mezo_slope_{t}"] * z["w"][0], rtol=1e-10, atol=1e-12)
        updates, _ = tx.update(grads, tx.init(params), params)
        params = optax.apply_updates(params, updates)
        for name, p in params.items():
            np.testing.assert_allclose(p, GOLDEN[f"mezo_{name}_{t}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme, theirs", [("one_point", "naive"), ("central", "antithetic"), ("forward", "forward")])
@pytest.mark.parametrize("parallel", [1, 2])
def test_equals_torchopt(scheme, theirs, parallel, x64):
    """Its "forward" multiplies by σ where it should divide, and subtracts from each value the difference before it."""
    z = {"w": jnp.asarray(GOLDEN["torchopt_z_w"]), "bias": jnp.asarray(GOLDEN["torchopt_z_b"])}
    params, sigma = {"w": jnp.asarray(GOLDEN["w"]), "bias": jnp.asarray(GOLDEN["b"])}, float(GOLDEN["torchopt_sigma"])
    _, grads = estimate(
        lambda p: _golden_loss(p, 0),
        params,
        lambda f, i, after: jax.tree.map(lambda p, x: f(p, x[i]), params, z),
        jnp.arange(4),
        smoothing=sigma,
        scheme=scheme,
        parallel=parallel,
    )
    got, peer = grads["w"], GOLDEN[f"torchopt_{theirs}_w"]
    if theirs == "forward":
        values = [_golden_loss(jax.tree.map(lambda p, v, i=i: p + sigma * v[i], params, z), 0)[0] for i in range(4)]
        base = _golden_loss(params, 0)[0]
        slopes, before = [], base
        for value in values:
            before = value - before
            slopes.append(before * sigma)
        np.testing.assert_allclose(np.tensordot(slopes, z["w"], 1) / 4, peer, rtol=1e-12)  # what it computes
        peer = np.tensordot((np.array(values) - base) / sigma, z["w"], 1) / 4  # what its documentation says
    np.testing.assert_allclose(got, peer, rtol=1e-12)


# moments: f(θ) = ½ θᵀAθ + bᵀθ; 20,000 keys, five standard errors of each statistic
D, KEYS, C = 5, 20_000, 0.3
RNG = np.random.default_rng(1)
A = RNG.normal(size=(D, D))
A = A + A.T
B, THETA = RNG.normal(size=D), RNG.normal(size=D)
SLOPE = A @ THETA + B


def _quadratic(params, state, batch, key):
    x = params if isinstance(params, jax.Array) else jnp.concatenate([params["a"], params["b"].ravel()])
    return 0.5 * x @ (jnp.asarray(A, x.dtype) @ x) + jnp.asarray(B, x.dtype) @ x, Aux(state, {})


def _samples(objective, params, count=KEYS, **options):
    grad_fn = zeroth_order(objective, **options)
    grads = jax.jit(jax.vmap(lambda k: grad_fn(params, {}, None, k)[1]))(jax.random.split(KEY, count))
    return np.concatenate([np.asarray(g).reshape(count, -1) for g in jax.tree.leaves(grads)], axis=1)


def _within(samples, exact, what):
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(axis=0) - exact) <= 5 * error + 1e-9), (what, samples.mean(axis=0), exact, error)
    assert np.max(5 * error) < 0.5 * np.max(np.abs(exact)), f"{what}: too few samples to tell"


def _theta():
    return {"a": jnp.asarray(THETA[:2]), "b": jnp.asarray(THETA[2:])[:, None]}


def _square_along(distribution):
    """E[(vᵀAv)² vᵀv], by Isserlis' theorem and its like."""
    trace, frobenius, diagonal = np.trace(A), np.sum(A**2), np.sum(np.diag(A) ** 2)
    return {
        "rademacher": D * (trace**2 + 2 * (frobenius - diagonal)),
        "gaussian": (D + 4) * (trace**2 + 2 * frobenius),
        "sphere": D * D / (D + 2) * (trace**2 + 2 * frobenius),
    }[distribution]


def _moments(distribution):
    """E ĝĝᵀ of one central difference on the quadratic."""
    outer, square = np.outer(SLOPE, SLOPE), SLOPE @ SLOPE * np.eye(D)
    return {
        "rademacher": square + 2 * outer - 2 * np.diag(SLOPE**2),
        "gaussian": square + 2 * outer,
        "sphere": D / (D + 2) * (square + 2 * outer),
    }[distribution]


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian", "sphere"])
def test_moments_on_a_quadratic(distribution, x64):
    g = _samples(_quadratic, jnp.asarray(THETA), distribution=distribution, smoothing=C)
    _within(g, SLOPE, "mean of central differences is the gradient")
    outer = g[:, :, None] * g[:, None, :]
    _within(outer, _moments(distribution), "second moments")
    # forward differences add (c/2) vᵀAv, without bias and uncorrelated with what is odd in v
    f = _samples(_quadratic, jnp.asarray(THETA), distribution=distribution, smoothing=C, scheme="forward")
    _within(f, SLOPE, "mean of forward differences")
    added = C**2 / 4 * _square_along(distribution)
    _within((f**2).sum(axis=1), np.trace(_moments(distribution)) + added, "square of forward differences")
    # one key, two schemes, one direction: the difference is that term exactly
    odd = (f - g) / g
    np.testing.assert_allclose(odd, np.repeat(odd[:, :1], D, axis=1), rtol=1e-6, atol=1e-6)


def test_more_directions_divide_the_variance(x64):
    g = _samples(_quadratic, jnp.asarray(THETA), directions=4, parallel=2, smoothing=C)
    exact = (np.trace(_moments("rademacher")) - SLOPE @ SLOPE) / 4
    _within(((g - SLOPE) ** 2).sum(axis=1), exact, "a quarter of the variance")


@pytest.mark.parametrize("scheme", ["one_point", "leave_one_out"])
def test_schemes_without_differences(scheme, x64):
    """Without bias too; and with a large constant in the loss the baseline is what saves it."""

    def linear(params, state, batch, key):
        return params @ jnp.asarray(B) + 10.0, Aux(state, {})

    n = 1 if scheme == "one_point" else 3
    g = _samples(linear, jnp.zeros(D), scheme=scheme, directions=n, smoothing=0.5, distribution="gaussian")
    _within(g, B, "mean")
    b2, noise = B @ B, (10.0 / 0.5) ** 2
    # one point: (a + b·v) v with a = f/c. Leave one out: rows (n v_i − Σ v_j)·b v_i / (n (n−1)), by Isserlis
    exact = D * noise + (D + 2) * b2 if scheme == "one_point" else b2 + (D + 1) * b2 / n + D * b2 / (n * (n - 1))
    square = (g**2).sum(axis=1)
    error = square.std(ddof=1) / np.sqrt(KEYS)
    assert abs(square.mean() - exact) < 5 * error and error < 0.02 * exact


def test_smoothed_cubic(x64):
    """E ĝ is the gradient of the smoothed function for Gaussians, 3x² + 3c²; signs give 3x² + c²."""
    cubic = lambda w, s, b, k: (w[0] ** 3, Aux(s, {}))  # noqa: E731
    x, c = 0.7, 0.5
    sign = _samples(cubic, jnp.array([x]), 8, smoothing=c)
    np.testing.assert_allclose(sign, 3 * x**2 + c**2, rtol=1e-12)  # v² = 1: every draw
    _within(_samples(cubic, jnp.array([x]), distribution="gaussian", smoothing=c), 3 * x**2 + 3 * c**2, "Gaussian")


def test_sphere_is_the_gradient_of_the_mean_over_the_ball(x64):
    """f = ‖θ‖⁴ in two dimensions: over a disc of radius r its mean is ‖θ‖⁴ + 2 r² ‖θ‖² + r⁴/3, by integration."""
    theta, c = np.array([0.6, -0.4]), 0.5
    r2 = 2 * c**2
    exact = 4 * theta @ theta * theta + 4 * r2 * theta
    objective = lambda w, s, b, k: (jnp.sum(w**2) ** 2, Aux(s, {}))  # noqa: E731
    _within(_samples(objective, jnp.asarray(theta), distribution="sphere", smoothing=c), exact, "ball")


@pytest.mark.parametrize(
    "scheme, evaluations", [("central", 8), ("forward", 5), ("one_point", 4), ("leave_one_out", 4)]
)
def test_cost_in_evaluations(scheme, evaluations):
    """Loops run in Python under disable_jit; the shapes are asked for once, of an abstract objective."""
    calls = []

    def counting(params, state, batch, key):
        calls.append(isinstance(params["a"], jax.core.Tracer))
        return _quadratic(params, state, batch, key)

    with jax.disable_jit():
        zeroth_order(counting, directions=4, scheme=scheme)(_float32(), {}, None, KEY)
        assert calls.count(False) == evaluations and calls.count(True) == 1
        calls.clear()
        tx = zeroth_order_updates(4, scheme=scheme)
        fn = lambda p: counting(p, {}, None, None)[0]  # noqa: E731
        tx.update(None, tx.init(None), _float32(), value_fn=fn, key=KEY)
        assert calls.count(False) == evaluations
        calls.clear()
        tx.update(None, tx.init(None), _float32(), value_fn=fn, key=KEY, value=jnp.float32(1.0))
        assert calls.count(False) == evaluations - (scheme == "forward")


def _float32():
    return jax.tree.map(lambda x: x.astype(jnp.float32), _theta())


def test_what_comes_besides_the_gradient(x64):
    """Central: means over the evaluations; forward: what the parameters give."""

    def objective(w, s, batch, key):
        draw = jax.random.uniform(key)
        return w**2, Aux({"n": s["n"] + 1, "mean": w}, {"w": w, "draw": draw})

    state = {"n": jnp.array(3), "mean": jnp.array(0.0)}
    (loss, aux), _ = zeroth_order(objective, smoothing=0.5)(jnp.array(2.0), state, None, KEY)
    assert float(loss) == 4.25 and float(aux.metrics["w"]) == float(aux.model_state["mean"]) == 2.0
    assert int(aux.model_state["n"]) == 4
    (loss, aux2), _ = zeroth_order(objective, smoothing=0.5, directions=2, scheme="forward")(
        jnp.array(2.0), state, None, KEY
    )
    assert float(loss) == 4.0 and float(aux2.model_state["mean"]) == 2.0
    # every evaluation had one key, which is not that of the directions
    np.testing.assert_allclose(aux.metrics["draw"], aux2.metrics["draw"], rtol=1e-15)


def test_gradient_function_and_optimizer_are_one():
    """The same directions where the keys agree: the optimizer's is the second of the gradient function's split."""
    options = {"directions": 4, "smoothing": 0.1, "parallel": 2}
    _, grads = zeroth_order(_quadratic, **options)(_float32(), {}, None, KEY)
    tx = zeroth_order_updates(**options)
    updates, _ = tx.update(
        None,
        tx.init(None),
        _float32(),
        value_fn=lambda p: _quadratic(p, {}, None, None)[0],
        key=jax.random.split(KEY)[1],
    )
    jax.tree.map(np.testing.assert_array_equal, updates, grads)


def test_needs_less_memory_than_one_copy_of_the_parameters():
    """Directions are drawn again, leaf by leaf, and never stored; a moved leaf goes when the layer has used it."""

    def deep(params, state, batch, key):
        for w in params:
            batch = jnp.tanh(batch @ w)
        return jnp.mean(batch**2), Aux(state, {})

    params = [jnp.eye(64)] * 12
    copy = 12 * 64 * 64 * 4

    tx = optax.sgd(0.1)
    step = jax.jit(make_step(zeroth_order(deep), tx), donate_argnums=0)
    lowered = step.lower(create_state(params, tx, KEY), jnp.ones((4, 64)))
    # of twelve leaves, the six or seven that XLA makes in drawing one of them: counters, their copies and bits
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 0.7 * copy


def test_in_a_step_of_training():
    """make_step supplies value_fn and key; nothing is asked of a gradient that cannot be taken."""

    @jax.custom_jvp
    def no_derivative(x):
        return x

    @no_derivative.defjvp
    def _(primals, tangents):
        return primals[0], jnp.nan * tangents[0]

    def objective(w, s, batch, key):
        return jnp.mean(no_derivative((w - batch) ** 2)), Aux(s, {})

    tx = optax.chain(zeroth_order_updates(smoothing=0.01), optax.sgd(0.05))
    step = jax.jit(make_step(value_and_grad(objective), tx))
    state, w, root = create_state(jnp.zeros(3), tx, KEY), np.zeros(3), KEY
    batch = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    for t in range(3):
        state, _ = step(state, batch)
        v = np.asarray(random_direction(jax.random.fold_in(jax.random.fold_in(root, t), 1), jnp.zeros(3)))
        slope = 2 * np.mean((w - batch), axis=0) / 3 @ v  # exact: the objective is quadratic
        w = w - 0.05 * slope * v
    # the difference of two losses of about 2 in float32, divided by 0.02
    np.testing.assert_allclose(state.params, w, atol=0.05 * 3 * 2 * 2**-23 / 0.02)


def test_a_flat_loss_and_a_zero_leaf():
    flat = lambda w, s, b, k: (jnp.zeros(()), Aux(s, {}))  # noqa: E731
    for distribution in ("rademacher", "gaussian", "sphere"):
        _, grads = zeroth_order(flat, distribution=distribution)(
            {"w": jnp.ones(3), "none": jnp.zeros((0, 2))}, {}, None, KEY
        )
        np.testing.assert_array_equal(grads["w"], 0)
        assert grads["none"].shape == (0, 2)


def test_errors():
    with pytest.raises(ValueError, match="directions must be at least 1, got 0"):
        zeroth_order(_quadratic, directions=0)
    with pytest.raises(ValueError, match="directions must be at least 2, got 1"):
        zeroth_order(_quadratic, scheme="leave_one_out")
    with pytest.raises(ValueError, match="parallel=3 does not divide 4 directions"):
        zeroth_order(_quadratic, directions=4, parallel=3)
    with pytest.raises(ValueError, match="distribution must be one of rademacher, gaussian, sphere, got 'normal'"):
        zeroth_order(_quadratic, distribution="normal")
    with pytest.raises(ValueError, match="scheme must be one of central, .*, got 'both'"):
        zeroth_order_updates(scheme="both")
    with pytest.raises(ValueError, match="smoothing must lie in"):
        zeroth_order(_quadratic, smoothing=0.0)
    with pytest.raises(ValueError, match=r"one loss, got shape \(2,\)"):
        zeroth_order(lambda w, s, b, k: (w, Aux(s, {})))(jnp.zeros(2), {}, None, KEY)
    with pytest.raises(TypeError, match="zeroth_order needs a typed key"):
        zeroth_order(_quadratic)(_float32(), {}, None, None)
    tx = zeroth_order_updates()
    with pytest.raises(ValueError, match="lacks value_fn, key"):
        tx.update(None, tx.init(None), jnp.zeros(2))


def test_as_an_updater_it_keeps_the_laws():
    """It looks at no gradient: neither zeros nor NaN in it change anything."""
    check_gradient_transformation(
        factory=zeroth_order_updates,
        hyperparams={"smoothing": 1e-2},
        static_args=("directions", "distribution", "scheme", "parallel"),
        non_finite=None,
        # a difference of losses over twice 1e-2: their rounding, some 1e-6 by the order of sums over devices, counts a
        # hundredfold, and more where the loss is large against its slope
        rtol=2e-3,
        # without a state there is nothing to save or to accumulate
        laws=(
            "stable_state",
            "dtype",
            "extra_args",
            "jit",
            "no_retrace",
            "scan",
            "vmap",
            "sharded",
            "masked",
            "zero_gradients",
        ),
    )
