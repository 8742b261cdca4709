"""Median momentum against brute-force minimisation of its proximal problem, and the limits that have a name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from jaxtrain.aggregation import centered_clip
from jaxtrain.optimizers import scale_by_median_momentum, spp_median_update
from tests.optimizers.trajectories import flat, random_tree, run

STEPS = 40
CASES = [
    ("l2", {}),
    ("l2", {"per_leaf": True}),
    ("l1", {}),
    ("huber", {"mu": 1.5}),
    ("huber", {"mu": 1.5, "per_leaf": True}),
    ("huber_element", {"mu": 1.5}),
    ("l2sq", {}),
]


def penalty(kind, d, mu):
    r = np.abs(d) if kind in ("l1", "huber_element") else np.sqrt(np.sum(d**2))
    if kind == "l2sq":
        return np.sum(d**2) / 2
    if kind.startswith("huber"):
        r = np.where(r <= mu, r**2 / (2 * mu), r - mu / 2)
    return np.sum(r)


def moved(kind, d, length, tau, mu):
    """The steps of the paper's table, branch by branch."""
    if kind == "l2":
        return d if length <= tau else tau * d / length
    if kind == "l1":
        return np.where(np.abs(d) <= tau, d, tau * np.sign(d))
    if kind == "huber":
        return d * tau / (tau + mu) if length <= tau + mu else d * tau / length
    if kind == "huber_element":
        return np.where(np.abs(d) <= tau + mu, d * tau / (tau + mu), np.sign(d) * tau)
    return d * tau / (1 + tau)


@pytest.mark.parametrize("kind", ["l2", "l1", "huber", "huber_element", "l2sq"])
@pytest.mark.parametrize("far", [0.2, 5.0])
def test_each_step_solves_its_proximal_problem(x64, kind, far):
    """Near and far gradients: both branches of each rule."""
    rng = np.random.default_rng(0)
    m, direction = rng.normal(size=(2, 3))
    g, mu, tau = m + far * direction, 0.6, 0.8

    def objective(x):
        return penalty(kind, x - g, mu) + np.sum((x - m) ** 2) / (2 * tau)

    best = minimize(objective, m, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 5000}).x
    ours = spp_median_update(jnp.asarray(m), jnp.asarray(g), tau=tau, kind=kind, mu=mu)
    np.testing.assert_allclose(ours, best, atol=1e-6)  # a search without derivatives, at kinks too


@pytest.mark.parametrize("kind, options", CASES)
def test_equals_the_equations(x64, kind, options):
    params, grads = random_tree(1), random_tree(2, (STEPS,))
    grads = {
        name: g * np.random.default_rng(3).exponential(size=(STEPS,) + (1,) * (g.ndim - 1)) for name, g in grads.items()
    }
    tau, mu = 0.9, options.get("mu")
    names = sorted(grads)
    m = {name: np.zeros(grads[name].shape[1:]) for name in names}
    x, expected = flat(params), []
    for t in range(STEPS):
        d = {name: grads[name][t] - m[name] for name in names}
        whole = np.sqrt(sum(np.sum(v**2) for v in d.values()))
        for name, v in d.items():
            length = np.sqrt(np.sum(v**2)) if options.get("per_leaf") else whole
            m[name] = m[name] + moved(kind, v, length, tau, mu)
        x = x - (0.1 if t < 25 else 0.02) * flat(m)
        expected.append(x)
    tx = optax.chain(
        scale_by_median_momentum(tau, kind=kind, **options),
        optax.scale_by_learning_rate(lambda t: jnp.where(t < 25, 0.1, 0.02)),
    )
    iterates, _ = run(tx, params, grads)
    np.testing.assert_allclose(iterates, expected, rtol=1e-12, atol=1e-13)  # float64, sums in another order


def test_limits_that_have_a_name(x64):
    params, grads = random_tree(4), random_tree(5, (STEPS,))
    g, m = (jax.tree.map(lambda g, t=t: jnp.asarray(g[t]), grads) for t in (0, 1))
    for kind in ("l2", "l1", "l2sq", "huber", "huber_element"):  # τ = ∞: no memory
        ours = spp_median_update(m, g, tau=np.inf, kind=kind, mu=0.7)
        np.testing.assert_allclose(flat(ours), flat(g), rtol=1e-13, atol=1e-14)  # m + (g - m) is g but for rounding
    momentum = optax.chain(optax.ema(0.8, debias=False), optax.sgd(0.1))  # τ/(1 + τ) = 0.2
    ours, _ = run(optax.chain(scale_by_median_momentum(0.25, kind="l2sq"), optax.sgd(0.1)), params, grads)
    np.testing.assert_allclose(ours, run(momentum, params, grads)[0], rtol=1e-12, atol=1e-13)
    # from zero: clipping, by the norm and by the value
    zero = jax.tree.map(jnp.zeros_like, g)
    for kind, clip in (("l2", optax.clip_by_global_norm(0.7)), ("l1", optax.clip(0.7))):
        ours = spp_median_update(zero, g, tau=0.7, kind=kind)
        np.testing.assert_allclose(flat(ours), flat(clip.update(g, clip.init(g))[0]), rtol=1e-14)
    # one worker of centered clipping
    worker = centered_clip(jax.tree.map(lambda g: g[None], g), m, tau=0.7)
    np.testing.assert_allclose(flat(spp_median_update(m, g, tau=0.7)), flat(worker), rtol=1e-13)


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_it_finds_the_median(x64, kind):
    """Gradients drawn from five points, one of them far away."""
    points = np.array([[0.0, 0.0], [1.0, 0.2], [0.3, 1.0], [0.6, 0.5], [900.0, 700.0]])
    draws = points[np.random.default_rng(6).integers(5, size=20_000)]
    tx = scale_by_median_momentum(0.003, kind=kind)

    def step(state, g):
        m, state = tx.update(g, state)
        return state, m

    path = jax.jit(lambda d: jax.lax.scan(step, tx.init(jnp.zeros(2)), d)[1])(jnp.asarray(draws))
    median = np.median(points, axis=0)
    if kind == "l2":
        median = minimize(lambda v: np.linalg.norm(points - v, axis=1).sum(), median, method="Nelder-Mead").x
    # a walk of steps of 0.003, averaged over 10,000
    np.testing.assert_allclose(path[10_000:].mean(axis=0), median, atol=0.02)


def test_half_precision_overflow_and_zeros():
    g = {"half": jnp.full(3, 2.0, jnp.bfloat16), "empty": jnp.zeros((0, 2))}
    tx = scale_by_median_momentum(0.5, kind="huber", mu=0.0)
    u, state = tx.update(jax.tree.map(jnp.zeros_like, g), tx.init(g))
    assert u["half"].tolist() == [0.0] * 3 and state.median["half"].dtype == jnp.float32
    u, state = tx.update(g, state)
    assert u["half"].dtype == jnp.bfloat16
    # without μ the Huber rule is the l2 one: the step is τ long
    np.testing.assert_allclose(np.linalg.norm(state.median["half"]), 0.5, rtol=1e-6)
    huge = jnp.full(3, 1e38, jnp.bfloat16)
    _, after = tx.update({"half": huge, "empty": g["empty"]}, state)
    assert after.median["half"].tolist() == state.median["half"].tolist()
    # without a limit too; entry by entry there is no square that could overflow
    assert spp_median_update(jnp.ones(3), huge, tau=np.inf).tolist() == [1.0] * 3
    elements = spp_median_update(jnp.ones(3), jnp.array([1e38, -jnp.inf, 1.0]), tau=0.5, kind="huber_element", mu=0.1)
    assert elements.tolist() == [1.5, 0.5, 1.0]


def test_clear_errors():
    with pytest.raises(ValueError, match=r"tau must lie in \(0, inf\], got 0"):
        scale_by_median_momentum(0.0)
    with pytest.raises(ValueError, match="kind must be one of l2, l1, huber, huber_element, l2sq, got 'l3'"):
        scale_by_median_momentum(1.0, kind="l3")
    with pytest.raises(ValueError, match="kind 'huber' needs mu"):
        scale_by_median_momentum(1.0, kind="huber")
    with pytest.raises(ValueError, match="mu must lie in"):
        scale_by_median_momentum(1.0, kind="huber", mu=-1.0)
    with pytest.raises(ValueError, match=r"tau must lie in \(0, inf\], got -1"):
        spp_median_update(jnp.zeros(2), jnp.ones(2), tau=-1)
