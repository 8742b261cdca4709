"""Step decay by hand; the risk of the heavy ball against simulation, closed forms and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.schedules import anisotropic_gradient, heavy_ball_momentum, shb_excess_risk, step_decay_schedule


def test_stages_by_hand_and_as_optax():
    schedule = step_decay_schedule(1.0, 10, num_stages=3, decay=4.0)  # stages of 4, 4 and 2
    np.testing.assert_array_equal(
        [schedule(k) for k in range(13)], [1] * 4 + [1 / 4] * 4 + [1 / 16] * 5
    )  # powers of 2: exact
    theirs = optax.exponential_decay(1.0, 4, 0.25, staircase=True)
    np.testing.assert_array_equal([schedule(k) for k in range(10)], [theirs(k) for k in range(10)])
    # log2 of 64 is 6 and not 7, of 65 it is 7
    assert [float(step_decay_schedule(1.0, n)(n - 1)) for n in (1, 64, 65)] == [1, 2.0**-5, 2.0**-6]
    # the quotient of float32 logarithms of 17³ and 17 is above 3: three stages all the same
    np.testing.assert_allclose(step_decay_schedule(1.0, 17**3, decay=17.0)(17**3), 1 / 17**2, rtol=1e-6)
    grid = jax.jit(jax.vmap(lambda n, c, k: step_decay_schedule(1.0, n, num_stages=4, decay=c)(k)))
    np.testing.assert_allclose(
        grid(jnp.array([8, 16]), jnp.array([2.0, 3.0]), jnp.array([7, 7])), [1 / 8, 1 / 3], rtol=1e-6
    )


def test_recursion_equals_simulation(x64):
    eigs, start = jnp.array([1.0, 0.3, 0.05]), jnp.array([1.0, -2.0, 3.0])
    lrs, momentum, noise, runs = jnp.array([0.8] * 12 + [0.4] * 12 + [0.2] * 12), 0.7, 0.5, 4000

    def step(carry, inputs):
        e, v = carry
        key, eta = inputs
        v = momentum * v + eta * anisotropic_gradient(key, e, eigs, noise)
        e = e - v
        losses = 0.5 * jnp.sum(eigs * e**2, axis=1)
        return (e, v), (losses.mean(), losses.std() / np.sqrt(runs))

    e = jnp.tile(start, (runs, 1))
    _, (mean, error) = jax.lax.scan(step, (e, jnp.zeros_like(e)), (jax.random.split(jax.random.key(0), 36), lrs))
    risk = shb_excess_risk(eigs, start, noise, lrs=lrs, momentum=momentum)
    assert float(risk[0]) == pytest.approx(0.5 * (1 + 0.3 * 4 + 0.05 * 9))
    # 36 correlated steps: the largest deviation stays below 4.5 standard errors with probability above 0.999
    assert float(jnp.max(jnp.abs(mean - risk[1:]) / error)) < 4.5
    # linear in noise and squared start
    parts = [shb_excess_risk(eigs, s, n, lrs=lrs, momentum=momentum) for s, n in ((start, 0.0), (0 * start, noise))]
    np.testing.assert_allclose(parts[0] + parts[1], risk, rtol=1e-12)


def test_without_momentum_it_is_sgd_with_its_stationary_risk(x64):
    eigs, eta, noise = jnp.array([1.0, 0.2]), 0.5, 3.0
    risk = shb_excess_risk(eigs, jnp.zeros(2), noise, lrs=jnp.full(400, eta))
    # S = η² σ² λ / (1 - (1 - ηλ)²) = η σ² / (2 - ηλ)
    np.testing.assert_allclose(
        risk[-1], 0.5 * np.sum(np.array(eigs) * eta * noise / (2 - eta * np.array(eigs))), rtol=1e-12
    )


def test_without_noise_every_mode_shrinks_by_the_root_of_the_momentum(x64):
    condition = 400.0
    beta = heavy_ball_momentum(condition)
    eigs = jnp.array([1.0, 0.1, 4 / condition])  # not the critical one, which has a factor t besides
    for eig in eigs:
        risk = shb_excess_risk(eig[None], jnp.ones(1), 0.0, lrs=jnp.ones(600), momentum=beta)
        # complex modes: the risk is β^t times an oscillation of at most 36 steps; 400 steps lie between the maxima
        early, late = risk[100:200].max(), risk[500:600].max()
        np.testing.assert_allclose(jnp.log(late / early) / 400, jnp.log(beta), rtol=36 / 400)


def test_equals_optax_with_the_rate_before_the_momentum(x64):
    eigs, start = jnp.array([1.0, 0.3, 0.05]), jnp.array([1.0, -2.0, 3.0])
    schedule = step_decay_schedule(0.9, 30, num_stages=3)

    def losses(tx):
        def step(carry, _):
            w, state = carry
            updates, state = tx.update(eigs * w, state, w)
            w = optax.apply_updates(w, updates)
            return (w, state), 0.5 * jnp.sum(eigs * w**2)

        return jax.lax.scan(step, (start, tx.init(start)), length=30)[1]

    want = shb_excess_risk(eigs, start, 0.0, lrs=jax.vmap(schedule)(jnp.arange(30)), momentum=0.8)[1:]
    ours = losses(optax.chain(optax.scale_by_learning_rate(schedule), optax.trace(0.8)))
    np.testing.assert_allclose(ours, want, rtol=1e-12)  # float64
    other = losses(optax.sgd(schedule, momentum=0.8))
    np.testing.assert_allclose(other[:10], want[:10], rtol=1e-12)  # the same up to the first decay …
    assert abs(float(other[10] / want[10]) - 1) > 0.1  # … and not after it


def test_clear_errors():
    with pytest.raises(ValueError, match="must be above 1, got 1"):
        step_decay_schedule(1.0, 10, decay=1.0)
    with pytest.raises(ValueError, match="num_stages must lie in"):
        step_decay_schedule(1.0, 10, num_stages=0)
    with pytest.raises(ValueError, match="num_stages must be whole, got 2.5"):
        step_decay_schedule(1.0, 10, num_stages=2.5)
    with pytest.raises(ValueError, match="condition must lie in"):
        heavy_ball_momentum(0.5)
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        shb_excess_risk(jnp.ones(2), jnp.ones(3), 0.0, lrs=jnp.ones(2))
    with pytest.raises(TypeError, match="key"):
        anisotropic_gradient(0, jnp.ones(2), jnp.ones(2), 1.0)
