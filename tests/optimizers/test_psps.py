"""PSPS against the research code, the projections that it solves, a transcription, and its invariance."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from jaxtrain.core import checked
from jaxtrain.optimizers import psps, scale_by_preconditioned_polyak
from tests.optimizers.trajectories import flat, random_tree, run

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "psps.npz")
STEPS = 40


@pytest.mark.parametrize("slack", ["none", "L1", "L2"])
@pytest.mark.parametrize("preconditioner", ["none", "hutch"])
def test_equals_the_research_code(x64, preconditioner, slack):
    params, grads, curvatures = (
        {n: GOLDEN[f"{part}/{n}"] for n in ("matrix", "scalar", "vector")} for part in ("first", "grads", "curvatures")
    )
    # the options of tests/golden/make_psps.py in our names; 0.1 is that code's floor
    name = {"none": None, "hutch": "hutchinson"}[preconditioner]
    options = {"slack": None if slack == "none" else slack.lower(), "alpha": 0.1}

    # the price of slack changes on the way: it is an argument of the scanned steps
    def update(g, state, params, *, price, **extra):
        return psps(name, slack_lambda=price, **options).update(g, state, params, **extra)

    tx = optax.GradientTransformationExtraArgs(psps(name).init, update)
    prices = np.where(np.arange(STEPS) < 25, 0.1, 0.4)
    extras = {"price": prices, "value": GOLDEN["values"], "hessian_diag": curvatures}
    iterates, _ = run(tx, params, grads, extras)
    # 40 float64 steps of order one, norms summed in another order
    np.testing.assert_allclose(iterates, GOLDEN[f"iterates/{preconditioner}_{slack}"], rtol=0, atol=1e-12)


def inputs():
    """Gradients, losses and Hessian diagonals, some of them negative, some tiny."""
    losses = np.random.default_rng(2).exponential(size=STEPS)
    curvatures = jax.tree.map(lambda h: h**3, random_tree(3, (STEPS,)))
    return random_tree(0), random_tree(1, (STEPS,)), losses, curvatures


def step_of(kind, loss, square, s, lam):
    """Step size and new slack by the equations of section 3."""
    if kind == "l2":
        share = 1 / (1 + lam)
        step = max(loss - share * s, 0) / (share + square)
        return step, share * (s + step)
    if kind == "l1":
        free = max(loss - s + lam, 0) / (1 + square)
        return min(free, max(loss, 0) / square), max(s - lam + free, 0)
    return max(loss, 0) / square, s


@pytest.mark.parametrize("preconditioner", ["hutchinson", "adam", "adagrad", None])
@pytest.mark.parametrize("slack", [None, "l1", "l2"])
def test_equals_the_equations(x64, preconditioner, slack):
    params, grads, losses, curvatures = inputs()
    beta, alpha, eps, lam, f_star, cap = 0.9, 0.05, 1e-3, 0.1, -0.1, 0.4
    x, s, d, expected = flat(params), 0.0, 0.0, []
    for t, (g, h, loss) in enumerate(zip(flat(grads, 1), flat(curvatures, 1), losses, strict=True)):
        if preconditioner == "hutchinson":
            d = h if t == 0 else beta * d + (1 - beta) * h
            b = np.maximum(np.abs(d), alpha)
        elif preconditioner == "adam":
            d = beta * d + (1 - beta) * g**2
            b = np.sqrt(d / (1 - beta ** (t + 1))) + eps
        else:
            d = d + g**2
            b = np.sqrt(d) + eps if preconditioner else np.ones_like(g)
        step, s = step_of(slack, loss - f_star, np.sum(g**2 / b), s, lam)
        x = x - min(step, cap) * g / b
        expected.append(x)
    tx = psps(preconditioner, f_star=f_star, max_lr=cap, slack=slack, slack_lambda=lam, beta=beta, alpha=alpha, eps=eps)
    iterates, state = run(tx, params, grads, {"value": losses, "hessian_diag": curvatures})
    np.testing.assert_allclose(iterates, expected, rtol=1e-12, atol=1e-13)  # float64, sums in another order
    np.testing.assert_allclose(state[0].slack, s, rtol=1e-12)


@pytest.mark.parametrize("slack", [None, "l1", "l2"])
@pytest.mark.parametrize("loss, s", [(0.9, 0.0), (0.3, 0.25), (0.1, 0.6)])
def test_the_step_solves_its_projection(x64, slack, loss, s):
    """The nearest point in the norm of B whose linearised loss is at most the slack, with the price of slack."""
    rng = np.random.default_rng(4)
    g, b, lam = rng.normal(size=3), rng.uniform(0.3, 2.0, size=3), 0.2

    def price(z):
        distance = np.sum(b * z[:3] ** 2) / 2
        if slack is None:
            return distance
        return distance + (z[3] - s) ** 2 / 2 + (lam * z[3] if slack == "l1" else lam * z[3] ** 2 / 2)

    limits = [{"type": "ineq", "fun": lambda z: (z[3] if slack else 0.0) - (loss + g @ z[:3])}]
    if slack == "l1":
        limits.append({"type": "ineq", "fun": lambda z: z[3]})
    best = minimize(price, np.zeros(4), constraints=limits, method="SLSQP", options={"ftol": 1e-15, "maxiter": 300}).x
    tx = scale_by_preconditioned_polyak(slack=slack, slack_lambda=lam)
    state = tx.init(jnp.zeros(3))._replace(slack=jnp.asarray(s))
    u, state = tx.update(jnp.asarray(g), state, value=loss, hessian_diag=jnp.asarray(b))
    np.testing.assert_allclose(-u, best[:3], atol=1e-6)  # finite differences inside SLSQP
    if slack:
        np.testing.assert_allclose(state.slack, best[3], atol=1e-6)
    else:
        np.testing.assert_allclose(loss - g @ np.asarray(u), 0.0, atol=1e-15)


def test_without_preconditioner_it_is_polyak(x64):
    params, grads, losses, _ = inputs()
    for cap in (1e9, 0.1):
        ours, _ = run(psps(None, max_lr=cap, f_star=-0.1), params, grads, {"value": losses})
        theirs, _ = run(optax.polyak_sgd(max_learning_rate=cap, f_min=-0.1), params, grads, {"value": losses})
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-14)


def test_rescaled_coordinates_change_nothing(x64):
    """F(A x) with diagonal A and the Hessian's exact diagonal: the same path in A x."""
    rng = np.random.default_rng(5)
    # F = sum log cosh of the rotated coordinates: convex, smallest 0, with a Hessian that is not diagonal
    turn = jnp.asarray(np.linalg.qr(rng.normal(size=(4, 4)))[0])
    scale = jnp.asarray(10.0 ** np.array([-3, -1, 1, 2]))
    start = jnp.asarray(rng.normal(size=4))

    def path(a):
        def loss(x):
            return jnp.sum(jnp.log(jnp.cosh(turn @ (a * x))))

        tx = psps(alpha=1e-30, beta=0.9)

        def step(carry, _):
            x, state = carry
            value, g = jax.value_and_grad(loss)(x)
            diagonal = jnp.diagonal(jax.hessian(loss)(x))
            u, state = tx.update(g, state, x, value=value, hessian_diag=diagonal)
            return (x + u, state), a * (x + u)

        x = start / a
        return jax.jit(lambda: jax.lax.scan(step, (x, tx.init(x)), None, 12)[1])()

    plain = path(jnp.ones(4))
    np.testing.assert_allclose(path(scale), plain, rtol=0, atol=1e-11)  # float64, 12 steps
    assert jnp.abs(plain[-1]).max() < 0.1 * jnp.abs(plain[0]).max()


def test_probes_of_its_own(x64):
    """A diagonal Hessian is found by any probe; otherwise D_0 is a mean of many, and later ones count 1 - β."""

    def loss(x, h):
        return 0.5 * x @ h @ x

    x = jnp.array([1.0, -2.0, 0.5])
    diagonal = jnp.diag(jnp.array([1.0, 4.0, 100.0]))
    mixed = diagonal + 2.0 * (1 - jnp.eye(3))

    def first(h, init_probes):
        tx = scale_by_preconditioned_polyak(beta=0.999, init_probes=init_probes)
        grad = jax.grad(loss)
        return tx.update(
            grad(x, h), tx.init(x), x, value=loss(x, h), grad_fn=lambda x: grad(x, h), key=jax.random.key(0)
        )

    u, _ = first(diagonal, 1)
    np.testing.assert_allclose(u, x / 2, rtol=1e-12)
    _, state = first(mixed, 400)
    # off-diagonal entries of 2: a probe errs by sqrt(8), 400 of them by 0.14
    np.testing.assert_allclose(state.diagonal, [1.0, 4.0, 100.0], atol=0.5)


def test_a_probe_for_each_step_and_others_before_the_first(x64):
    """A probe of this Hessian errs by ±4 or not at all: z_i (H z)_i = h_ii + 2 Σ z_i z_j."""
    h = np.diag([1.0, 4.0, 100.0]) + 2.0 * (1 - np.eye(3))
    x = jnp.array([1.0, -2.0, 0.5])

    def errors(seed, **options):
        tx = psps(**options)
        key = jax.random.key(seed)
        state = tx.update(h @ x, tx.init(x), x, value=0.5 * x @ h @ x, grad_fn=lambda x: h @ x, key=key)[1]
        return np.asarray(state[0].diagonal) - np.diag(h)

    assert set(errors(0, beta=0.0, init_probes=400)) <= {-4.0, 0.0, 4.0}  # the newest alone
    halves = np.array([errors(seed, beta=0.5, init_probes=1) for seed in range(4)])
    assert set(np.unique(halves)) <= {-4.0, -2.0, 0.0, 2.0, 4.0} and (np.abs(halves) == 2.0).any()


def test_half_precision_is_squared_in_float32():
    g = jnp.full(3, 1 / 3, jnp.bfloat16)
    _, state = psps("adagrad").update(g, psps("adagrad").init(g), value=1.0)
    np.testing.assert_allclose(state[0].diagonal, np.float32(g) ** 2, rtol=1e-7)  # bfloat16 would err by 1e-3


def test_zero_gradients_and_half_precision():
    g = {"half": jnp.zeros(3, jnp.bfloat16), "empty": jnp.zeros((0, 2))}
    for name in ("adam", "adagrad", None):
        for slack in (None, "l1", "l2"):
            tx = psps(name, slack=slack, eps=0.0)
            u, state = tx.update(g, tx.init(g), g, value=jnp.bfloat16(1.0))
            assert u["half"].dtype == jnp.bfloat16 and u["half"].tolist() == [0.0] * 3
            assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("int32"), jnp.dtype("float32")}


def test_clear_errors():
    g = jnp.ones(2)
    with pytest.raises(
        ValueError, match=r"preconditioner must be one of \('hutchinson', 'adam', 'adagrad', None\), got 'x'"
    ):
        psps("x")
    with pytest.raises(ValueError, match="slack must be one of"):
        psps(slack="l3")
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, inf\], got 0"):
        psps(alpha=0)
    with pytest.raises(ValueError, match="init_probes must be at least 1, got 0"):
        psps(init_probes=0)
    for name, options in {"slack_lambda": {"slack_lambda": -1}, "max_lr": {"max_lr": 0}, "beta": {"beta": 1.0}}.items():
        with pytest.raises(ValueError, match=f"{name} must lie in"):
            psps(**options)
    with pytest.raises(TypeError, match="max_lr"):
        psps(max_lr=None)
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, inf\], got 0"):
        checked(lambda alpha: psps(alpha=alpha).init(g))(0.0)
    with pytest.raises(TypeError, match="psps needs a typed key"):
        psps().update(g, psps().init(g), g, value=1.0, grad_fn=lambda x: x, key=0)
    with pytest.raises(ValueError, match="psps needs the loss"):
        psps(None).update(g, psps(None).init(g))
    with pytest.raises(ValueError, match="psps with Hutchinson's preconditioner needs the Hessian's diagonal"):
        psps().update(g, psps().init(g), g, value=1.0)
    with pytest.raises(ValueError, match="psps: gradients and hessian_diag: the trees differ"):
        psps().update(g, psps().init(g), g, value=1.0, hessian_diag=jnp.ones(3))
