"""Polyak's step size with momentum against a peer, the bound that it minimises, and Polyak's own."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize_scalar

from jaxtrain.optimizers import alr_heavy_ball, alr_mag, polyak_step_size
from tests.optimizers.trajectories import flat, random_tree, run

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "generalized_polyak_momentum.npz")
STEPS = 40
# the options of tests/golden/make_generalized_polyak_momentum.py in our names
CASES = {
    "free": lambda cap: alr_mag(0.9, cap * 1e9),
    "capped": lambda cap: alr_mag(0.7, cap * 0.05, 0.5, 0.5, 0.1),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_peer(x64, case):
    params, grads = ({n: GOLDEN[f"{part}/{n}"] for n in ("matrix", "scalar", "vector")} for part in ("first", "grads"))
    caps = np.where(np.arange(STEPS) < 25, 1.0, 0.5)

    # the cap changes on the way: it is an argument of the scanned steps
    def update(g, state, params, *, cap, value):
        return CASES[case](cap).update(g, state, params, value=value)

    tx = optax.GradientTransformationExtraArgs(alr_mag().init, update)
    iterates, _ = run(tx, params, grads, {"cap": caps, "value": GOLDEN["values"]})
    # 40 float64 steps, norms summed in another order; the free steps reach 10
    np.testing.assert_allclose(iterates, GOLDEN[f"iterates/{case}"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("c, cap, f_star", [(1.0, np.inf, 0.0), (0.5, 0.02, 0.3)])
def test_heavy_ball_equals_the_equations(x64, c, cap, f_star):
    params, grads = random_tree(0), random_tree(1, (STEPS,))
    values = 0.3 + np.random.default_rng(2).exponential(size=STEPS)
    x = old = flat(params)
    expected, steps = [], []
    for g, f in zip(flat(grads, 1), values, strict=True):
        steps.append(min(max(f - f_star + 0.8 * g @ (x - old), 0) / (c * g @ g), cap))
        x, old = x - steps[-1] * g + 0.8 * (x - old), x
        expected.append(x)
    iterates, _ = run(alr_heavy_ball(0.8, cap, f_star, c), params, grads, {"value": values})
    np.testing.assert_allclose(iterates, expected, rtol=1e-12, atol=1e-12)  # float64, sums in another order
    # both ends of the rule are met: a numerator below zero, and the cap
    assert min(steps) == 0 and (np.isinf(cap) or max(steps) == cap)


def test_the_step_minimises_the_bound_of_convexity(x64):
    """‖x + β Δ - η g - x*‖² with ⟨g, x - x*⟩ replaced by its lower bound f - f*."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        g, last = rng.normal(size=(2, 6))
        gap, beta = rng.exponential() + 1.0, rng.uniform()

        def bound(step, g=g, last=last, gap=gap, beta=beta):
            return step**2 * (g @ g) - 2 * step * (gap + beta * g @ last)

        best = minimize_scalar(bound, bounds=(0, 10), method="bounded", options={"xatol": 1e-12}).x
        tx = alr_heavy_ball(beta, np.inf)
        state = tx.init(jnp.zeros(6))._replace(last=jnp.asarray(last))
        u, _ = tx.update(jnp.asarray(g), state, value=gap)
        # a parabola's minimum is found to the root of the rounding
        np.testing.assert_allclose(u, beta * last - best * g, atol=1e-6)


@pytest.mark.parametrize("make", [alr_mag, alr_heavy_ball])
def test_without_momentum_it_is_polyak(x64, make):
    params, grads = random_tree(4), random_tree(5, (STEPS,))
    values = {"value": 0.5 + np.random.default_rng(6).exponential(size=STEPS)}
    ours, _ = run(make(0.0, 0.01, 0.2, 0.5), params, grads, values)
    # optax scales the gap by nothing: c goes into the loss
    halved = {"value": 2 * (values["value"] - 0.2)}
    theirs, _ = run(optax.polyak_sgd(max_learning_rate=0.01), params, grads, halved)
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)  # float64, multiplied in another order
    # and so is the first step with momentum
    first, _ = run(make(0.9, 0.01, 0.2, 0.5), params, grads, values)
    np.testing.assert_allclose(first[0], theirs[0], rtol=1e-13)


def distances(tx, beta):
    """Of an ill-conditioned quadratic's iterates to its minimum, and the squared bounds on the heavy ball's."""
    h = jnp.logspace(0, -4, 10)
    start = jnp.asarray(np.random.default_rng(7).normal(size=10))

    def step(carry, _):
        x, old, state = carry
        g, loss = h * x, 0.5 * jnp.sum(h * x**2)
        u, state = optax.with_extra_args_support(tx).update(g, state, x, value=loss)
        ahead = x + beta * (x - old)
        gap = jnp.maximum(loss + beta * g @ (x - old), 0)
        return (x + u, x, state), (jnp.sum((x + u) ** 2), jnp.sum(ahead**2) - gap**2 / (g @ g))

    return jax.jit(lambda: jax.lax.scan(step, (start, start, tx.init(start)), None, 300)[1])()


@pytest.mark.parametrize("beta", [0.5, 0.99])
def test_distances_to_the_minimum_keep_their_bounds(x64, beta):
    """ALR-MAG's never grow. ALR-HB's may, but stay below what its step promises from where the ball rolls."""
    squares, _ = distances(alr_mag(beta, jnp.inf), beta)
    assert np.all(np.diff(squares) <= 1e-14)  # a rounding of float64
    squares, bounds = distances(alr_heavy_ball(beta, jnp.inf), beta)
    assert np.all(squares <= bounds * (1 + 1e-12) + 1e-14)
    # a fixed step of 1/L swings with momentum 0.99
    assert beta == 0.5 or np.diff(distances(optax.sgd(1.0, momentum=beta), beta)[0]).max() > 0.01


def test_zero_gradients_and_half_precision():
    g = {"w": jnp.zeros(3, jnp.bfloat16), "empty": jnp.zeros((0, 2))}
    for tx in (alr_mag(max_lr=jnp.inf), alr_heavy_ball(max_lr=jnp.inf)):
        u, state = tx.update(g, tx.init(g), g, value=jnp.bfloat16(3.0))
        assert u["w"].dtype == jnp.bfloat16 and u["w"].tolist() == [0.0] * 3
        assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    # an overflowing square moves nothing
    huge = {"w": jnp.full(3, 1e30), "empty": g["empty"]}
    for tx in (alr_mag(), alr_heavy_ball()):
        assert tx.update(huge, tx.init(huge), huge, value=3.0)[0]["w"].tolist() == [0.0] * 3
    # the square of 4096 halves is not lost in bfloat16
    assert float(polyak_step_size(jnp.float32(1024.0), jnp.full(4096, 0.5, jnp.bfloat16))) == 1.0
    # the cap, the bound and c: 4 · 0.5/(2 · 1/2), not more than 1.5
    half = jnp.array([0.5, 0.5])
    assert float(polyak_step_size(3.0, half, f_star=1.0, c=2.0)) == 2.0
    assert float(polyak_step_size(3.0, half, f_star=1.0, c=2.0, max_lr=1.5)) == 1.5
    # a loss below its bound does not step uphill
    assert float(polyak_step_size(jnp.float32(-1.0), jnp.ones(2))) == 0.0


def test_clear_errors():
    g = jnp.ones(2)
    for tx, name in ((alr_mag(), "alr_mag"), (alr_heavy_ball(), "alr_heavy_ball")):
        with pytest.raises(ValueError, match=f"{name} needs the loss: call tx.update"):
            tx.update(g, tx.init(g), g)
        with pytest.raises(ValueError, match=r"as one number, got an array of shape \(2,\)"):
            tx.update(g, tx.init(g), g, value=g)
    with pytest.raises(ValueError, match="alr_mag decays the parameters"):
        alr_mag(weight_decay=0.1).update(g, alr_mag().init(g), value=1.0)
    with pytest.raises(ValueError, match="beta must lie in .* got 1.0"):
        alr_heavy_ball(beta=1.0)
    with pytest.raises(ValueError, match=r"max_lr must lie in \(0, inf\], got 0"):
        alr_mag(max_lr=0)
    with pytest.raises(ValueError, match=r"c must lie in \(0, inf\], got 0"):
        alr_heavy_ball(c=0)
    with pytest.raises(ValueError, match="weight_decay must lie in"):
        alr_mag(weight_decay=-0.1)
    with pytest.raises(ValueError, match="f_star must lie in"):
        polyak_step_size(jnp.float32(1.0), g, f_star=jnp.inf)
