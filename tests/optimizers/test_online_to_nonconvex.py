"""Online-to-non-convex conversion against a transcription, its identity and its guarantee."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import goldstein_stationarity, o2nc, o2nc_radius, o2nc_step
from tests.optimizers.trajectories import flat, random_tree, run

STEPS = 40


@pytest.mark.parametrize("radius, interval", [(0.4, None), (0.4, 7), (np.inf, None)])
def test_equals_the_equations(x64, radius, interval):
    """Algorithm 1 in NumPy, with x and w apart; the positions s are those drawn."""
    params, grads = random_tree(0), random_tree(1, (STEPS,))
    keys = jax.random.split(jax.random.key(0), STEPS)
    rates = np.where(np.arange(STEPS) < 25, 0.1, 0.03)
    s = np.asarray(jax.vmap(lambda k: jax.random.uniform(k, dtype=jnp.float64))(keys))
    x, delta, expected, ends = flat(params), np.zeros(18), [], []
    for n, g in enumerate(flat(grads, 1)):
        x = x + delta
        ends.append(x)
        delta = delta - rates[n] * g
        delta = delta * min(1, radius / np.linalg.norm(delta))
        if interval and (n + 1) % interval == 0:
            delta = np.zeros_like(delta)
        expected.append(x + s[n] * delta)
    tx = o2nc(lambda t: jnp.where(t < 25, 0.1, 0.03), radius, reset_interval=interval)
    iterates, state = run(tx, params, grads, {"key": keys})
    np.testing.assert_allclose(iterates, expected, rtol=1e-12, atol=1e-12)  # float64, 40 steps in another order
    np.testing.assert_allclose(flat(state.delta), delta, rtol=1e-12)
    if np.isinf(radius):  # the ends are those of the heavy ball with β = 1, a step late
        ball = optax.chain(optax.trace(1.0), optax.scale_by_learning_rate(lambda t: 1.0))
        scaled = jax.tree.map(lambda g: rates.reshape(-1, *[1] * (g.ndim - 1)) * g, grads)
        np.testing.assert_allclose(run(ball, params, scaled)[0][:-1], ends[1:], rtol=1e-12, atol=1e-12)


def test_the_transformation_is_the_step(x64):
    """Points, steps and gradients of o2nc_step, where both draw with the same keys."""

    def grad_fn(w):
        return jnp.cos(3 * w) + jnp.sign(w)

    x, delta = jnp.array([0.7, -1.0]), jnp.zeros(2)
    tx = o2nc(0.2, 0.3)
    w, state = x, tx.init(x)
    for n in range(6):
        # the transformation's key of round n places the point of round n + 1
        x, delta, point, _ = o2nc_step(jax.random.key(n - 1 if n else 0), grad_fn, x, delta, eta=0.2, radius=0.3)
        np.testing.assert_allclose(point, w, rtol=1e-13)
        updates, state = tx.update(grad_fn(w), state, w, key=jax.random.key(n))
        w = w + updates
        np.testing.assert_allclose(state.delta, delta, rtol=1e-13)


def test_in_the_mean_the_linear_loss_is_the_decrease():
    """E⟨g, Δ⟩ = F(x + Δ) - F(x), across kinks too."""

    def value(w):
        return jnp.sum(jnp.abs(w) + jnp.sin(2 * w))

    x, delta = jnp.array([0.5, -1.0, 0.2]), jnp.array([-1.2, 0.7, 0.3])

    def sample(key):
        end, _, _, g = o2nc_step(key, jax.grad(value), x, delta, eta=0.1, radius=1.0)
        return g @ delta, end

    products, ends = jax.vmap(sample)(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(ends[0], x + delta, rtol=1e-6)
    error = 4 * products.std() / np.sqrt(20_000)  # four standard errors
    np.testing.assert_allclose(products.mean(), value(x + delta) - value(x), atol=error)


def test_the_guarantee_holds_on_the_absolute_value():
    """Mean over epochs and keys of the mean gradient's length, against (F_0 - F*)/(D N) + G/√T."""
    rounds, start = 4096, 0.8
    eta, radius, interval = o2nc_radius(rounds, 0.1, lipschitz=1.0, gap=start)
    tx = o2nc(eta, radius, reset_interval=interval)
    epochs = rounds // interval

    def path(key):
        def step(carry, key):
            w, state = carry
            u, state = tx.update(jnp.sign(w), state, w, key=key)
            return (w + u, state), w

        first = jnp.array([start])
        points = jax.lax.scan(step, (first, tx.init(first)), jax.random.split(key, epochs * interval))[1]
        return jax.vmap(lambda p: goldstein_stationarity(jnp.sign, p))(points.reshape(epochs, interval, 1))

    norms, radii = jax.jit(jax.vmap(path))(jax.random.split(jax.random.key(1), 8))
    bound = start / (radius * epochs * interval) + 1 / np.sqrt(interval)
    assert 0.02 < norms.mean() < bound  # 0.25
    assert radii.max() <= 0.1 * (1 + 1e-5)  # δ
    # far from the kink the gradient is 1, around it the epochs' means vanish
    assert norms[:, 0].min() == 1.0 and norms[:, -10:].mean() < 0.15


def test_the_theorys_numbers():
    eta, radius, interval = o2nc_radius(270, 0.1, lipschitz=0.6, noise=0.4, gap=1.0)
    assert interval == 9  # 27^(2/3)
    np.testing.assert_allclose([radius, eta], [0.1 / 9, 0.1 / 27], rtol=1e-12)
    assert o2nc_radius(10, 100.0, lipschitz=1.0)[2] == 5  # at least two epochs
    assert o2nc_radius(10, 1e-9, lipschitz=1.0)[2] == 1


def test_stationarity_of_three_points():
    found = goldstein_stationarity(jnp.sign, jnp.array([[-1.0], [-1.0], [5.0]]))
    np.testing.assert_allclose(found, [1 / 3, 4.0], rtol=1e-6)  # (-1 - 1 + 1)/3, and 5 - 1


def test_an_overflowing_step_becomes_zero():
    for radius in (1.0, np.inf):
        tx = o2nc(0.5, radius)
        state = tx.update(jnp.full(2, 1e30), tx.init(jnp.ones(2)), key=jax.random.key(0))[1]
        assert state.delta.tolist() == [0.0, 0.0]


def test_half_precision_and_zeros():
    g = {"half": jnp.ones(3, jnp.bfloat16), "empty": jnp.zeros((0, 2))}
    tx = o2nc(0.3, 1.0)
    u, state = tx.update(jax.tree.map(jnp.zeros_like, g), tx.init(g), key=jax.random.key(0))
    assert u["half"].dtype == jnp.bfloat16 and u["half"].tolist() == [0.0] * 3
    u, state = tx.update(g, state, key=jax.random.key(1))
    assert state.delta["half"].dtype == jnp.float32
    np.testing.assert_allclose(state.delta["half"], -0.3, rtol=1e-6)  # 0.3 is 0.3008 in bfloat16


def test_clear_errors():
    g = jnp.ones(2)
    with pytest.raises(ValueError, match="o2nc draws points: call tx.update"):
        o2nc(0.1, 1.0).update(g, o2nc(0.1, 1.0).init(g))
    with pytest.raises(TypeError, match="o2nc needs a typed key"):
        o2nc(0.1, 1.0).update(g, o2nc(0.1, 1.0).init(g), key=0)
    with pytest.raises(ValueError, match=r"radius must lie in \(0, inf\], got 0"):
        o2nc(0.1, 0)
    with pytest.raises(ValueError, match="learning_rate must lie in"):
        o2nc(-0.1, 1.0)
    with pytest.raises(ValueError, match="eta must lie in"):
        o2nc_step(jax.random.key(0), jnp.sign, g, g, eta=-1, radius=1.0)
    with pytest.raises(ValueError, match="reset_interval must lie in"):
        o2nc(0.1, 1.0, reset_interval=0)
    with pytest.raises(ValueError, match="goldstein_stationarity: the leading axes of the points disagree"):
        goldstein_stationarity(jnp.sign, {"a": jnp.ones((2, 1)), "b": jnp.ones(3)})
    with pytest.raises(ValueError, match="gap must lie in"):
        o2nc_radius(100, 0.1, lipschitz=1.0, gap=0.0)
