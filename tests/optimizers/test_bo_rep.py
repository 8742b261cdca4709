"""BO-REP on a quadratic bilevel problem, where everything is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import BilevelBatch, bo_rep, hypergradient, linear_system_step, normalized_momentum

RNG = np.random.default_rng(0)
M = RNG.normal(size=(4, 4))
H = M @ M.T / 4 + np.eye(4)  # curvature of the lower problem, in [1, 5]
B = RNG.normal(size=(4, 3))
TARGET = RNG.normal(size=4)


def lower(x, y, batch):
    """Minimal at y*(x) = H⁻¹ B x for a batch of zeros; others shift the gradient and scale the second derivatives."""
    flat = jnp.concatenate([y["u"], y["v"]])
    own, cross = 1 + 0.05 * batch[0], 1 + 0.1 * batch[1]
    return own * 0.5 * flat @ jnp.asarray(H) @ flat - cross * flat @ (jnp.asarray(B) @ x) + flat @ batch


def upper(x, y, batch):
    flat = jnp.concatenate([y["u"], y["v"]])
    return 0.5 * jnp.sum((flat - jnp.asarray(TARGET)) ** 2) + 0.1 * jnp.sum(x**2) + x @ (batch + 0.3 * flat[1:])


def split(flat):
    return {"u": jnp.asarray(flat[:1]), "v": jnp.asarray(flat[1:])}


def exact(x):
    y = np.linalg.solve(H, B @ x)
    z = np.linalg.solve(H, upper_slope(x, y))
    return y, z, 0.2 * x + 0.3 * y[1:] + B.T @ z


def lower_slope(x, y, batch):
    """The derivative of the lower loss by y."""
    return (1 + 0.05 * batch[0]) * H @ y - (1 + 0.1 * batch[1]) * B @ x + batch


def upper_slope(x, y):
    """The derivative of the upper loss by y, in which x stands too."""
    return y - TARGET + 0.3 * np.append(0, x)


NO_NOISE = BilevelBatch(jnp.zeros(3), jnp.zeros((1, 4)), jnp.zeros(4), jnp.zeros(4))


def test_hypergradient_and_linear_system_are_exact(x64):
    x = RNG.normal(size=3)
    y, z, h = exact(x)
    got = hypergradient(
        upper, lower, jnp.asarray(x), split(y), split(z), upper_batch=jnp.zeros(3), lower_batch=jnp.zeros(4)
    )
    np.testing.assert_allclose(got, h, rtol=1e-12)

    def solve(z, _):
        return linear_system_step(
            upper, lower, jnp.asarray(x), split(y), z, upper_batch=jnp.zeros(3), lower_batch=jnp.zeros(4), rate=0.2
        ), None

    found = jax.jit(lambda z: jax.lax.scan(solve, z, length=200)[0])(split(np.zeros(4)))
    # the slowest direction shrinks by 1 - 0.2 a step at least
    np.testing.assert_allclose(np.concatenate([found["u"], found["v"]]), z, atol=1e-12)


def test_with_exact_lower_solutions_it_is_normalised_hypergradient_descent(x64):
    init, step = bo_rep(upper, lower, eta=0.05, beta=0.0, nu=0.25, lower_lr=0.25, period=1)
    x0 = RNG.normal(size=3) * 3
    batch = NO_NOISE._replace(lower=jnp.zeros((200, 4)))
    state = init(jnp.asarray(x0), split(np.zeros(4)), jnp.zeros((400, 4)))
    # the rates of the refinement are halved three times: 100 steps of 0.25, 0.125, …
    np.testing.assert_allclose(np.concatenate([state.y["u"], state.y["v"]]), exact(x0)[0], atol=1e-10)
    z = exact(x0)[1]
    state = state._replace(z=split(z))

    def settle(state, _):
        new = step(state, batch)
        return new, new.x

    _, path = jax.jit(lambda s: jax.lax.scan(settle, s, length=10))(state)
    x = x0
    for k in range(10):
        h = exact(x)[2]
        x = x - 0.05 * h / np.linalg.norm(h)
        # z follows with one step of its own: a lag of some 0.05 · ‖H⁻² B‖ / (0.25 · 1)
        np.testing.assert_allclose(path[k], x, atol=0.02)
    np.testing.assert_allclose(path[0], x0 - 0.05 * exact(x0)[2] / np.linalg.norm(exact(x0)[2]), atol=1e-9)


def test_steps_against_numpy_with_noise_and_period(x64):
    """Thirty steps transcribed: every second one has three lower steps, each with its own batch."""
    eta, beta, nu, rate = optax.piecewise_constant_schedule(0.1, {15: 0.5}), 0.9, 0.1, 0.2
    init, step = bo_rep(upper, lower, eta=eta, beta=beta, nu=nu, lower_lr=rate, period=2)
    x, y = RNG.normal(size=3), RNG.normal(size=4)
    noise = BilevelBatch(*(0.3 * RNG.normal(size=s) for s in ((30, 3), (30, 3, 4), (30, 4), (30, 4))))
    state = init(jnp.asarray(x), split(y))

    def keep(state, batch):
        new = step(state, batch)
        return new, (new.x, new.z["v"])

    _, (xs, zs) = jax.jit(lambda s, b: jax.lax.scan(keep, s, b))(state, jax.tree.map(jnp.asarray, noise))
    z, m = np.zeros(4), np.zeros(3)
    for t in range(30):
        if t % 2 == 0:
            for i in range(3):
                y = y - rate * lower_slope(x, y, noise.lower[t, i])
        z = z - nu * ((1 + 0.05 * noise.system[t, 0]) * H @ z - upper_slope(x, y))
        m = beta * m + (1 - beta) * (0.2 * x + 0.3 * y[1:] + noise.upper[t] + (1 + 0.1 * noise.cross[t, 1]) * B.T @ z)
        before, x = x, x - (0.1 if t < 15 else 0.05) * m / (np.linalg.norm(m) + 1e-10)
        # thirty steps of float64
        np.testing.assert_allclose(xs[t], x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(zs[t], z[1:], rtol=0, atol=1e-12)
        # every step has the length of the rate
        np.testing.assert_allclose(np.linalg.norm(xs[t] - before), 0.1 if t < 15 else 0.05, rtol=1e-6)


def test_refinement_halves_its_rates(x64):
    """Two steps at each of the rates 0.2, 0.1, 0.05 and 0.025, and one at the first where there are five batches."""
    init, _ = bo_rep(upper, lower, lower_lr=0.2)
    x, start = RNG.normal(size=3), RNG.normal(size=4)
    for rates in (np.repeat([0.2, 0.1, 0.05, 0.025], 2), np.array([0.2, 0.2, 0.1, 0.05, 0.025])):
        noise = 0.3 * RNG.normal(size=(len(rates), 4))
        y = start
        for rate, n in zip(rates, noise, strict=True):
            y = y - rate * lower_slope(x, y, n)
        found = jax.jit(init)(jnp.asarray(x), split(start), jnp.asarray(noise))
        np.testing.assert_allclose(np.concatenate([found.y["u"], found.y["v"]]), y, rtol=1e-13)
    unrefined = init(jnp.asarray(x), split(start))
    np.testing.assert_array_equal(unrefined.y["v"], start[1:])


def test_momentum_is_normalised_over_the_whole_tree(x64):
    tx = normalized_momentum(2.0, 0.5)
    g = {"a": jnp.array([3.0]), "b": jnp.array([[0.0, 4.0]])}
    state = tx.init(g)
    for _ in range(3):
        updates, state = tx.update(g, state)
        np.testing.assert_allclose(optax.tree.norm(updates), 2.0, rtol=1e-9)
    np.testing.assert_allclose(updates["a"], [-1.2], rtol=1e-9)
    zero, _ = tx.update(jax.tree.map(jnp.zeros_like, g), tx.init(g))
    assert float(optax.tree.norm(zero)) == 0.0


def test_any_size_of_gradient_and_half_precision():
    """A hypergradient of 1e30, whose square is infinite, makes a step of the same length."""
    tx = normalized_momentum(2.0, 0.5)
    for size in (1e-6, 1.0, 1e30):
        updates, _ = tx.update(jnp.array([3.0, -4.0]) * size, tx.init(jnp.zeros(2)))
        # 1e-10 is added to a norm of 2.5e-6 at least
        np.testing.assert_allclose(updates, [-1.2, 1.6], rtol=1e-4)
    params = jnp.zeros(2, jnp.bfloat16)
    slow, state = normalized_momentum(2.0, 0.999), normalized_momentum(2.0).init(params)
    for g in (1.0, *[0.0] * 300):
        updates, state = slow.update(jnp.full(2, g, jnp.bfloat16), state)
    assert updates.dtype == jnp.bfloat16
    # in bfloat16 the mean would not shrink at all
    np.testing.assert_allclose(state[0].momentum, 0.001 * 0.999**300, rtol=1e-3)  # 300 float32 products


def test_clear_errors():
    with pytest.raises(ValueError, match="period must lie in"):
        bo_rep(upper, lower, period=0)
    with pytest.raises(ValueError, match="period counts steps and must be whole, got 1.5"):
        bo_rep(upper, lower, period=1.5)
    with pytest.raises(ValueError, match="beta must lie in"):
        normalized_momentum(0.1, 1.0)
    with pytest.raises(ValueError, match="learning_rate must lie in"):
        normalized_momentum(-0.1)
    init, step = bo_rep(upper, lower)
    with pytest.raises(ValueError, match="2 batches are fewer than the 4 stages"):
        init(jnp.zeros(3), split(np.zeros(4)), jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="bo_rep: the array is a scalar; every array of the stack of lower batches"):
        step(init(jnp.zeros(3), split(np.zeros(4))), NO_NOISE._replace(lower=jnp.zeros(())))
    with pytest.raises(ValueError, match="beta must lie in"):
        normalized_momentum(0.1, 1.5)
