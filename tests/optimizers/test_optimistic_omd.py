"""Optimistic mirror descent against NumPy, gradient descent, extrapolation and optax's optimistic gradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import optimistic_omd, optimistic_omd_sea

RNG = np.random.default_rng(0)
FIRST = {"w": RNG.normal(size=(3, 2)), "b": RNG.normal(size=4), "s": RNG.normal()}
GRADS = jax.tree.map(lambda p: RNG.normal(size=(40, *np.shape(p))), FIRST)


def run(tx, params=FIRST, grads=GRADS):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    params, grads = jax.tree.map(jnp.asarray, (params, grads))
    (_, state), iterates = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g))(params, grads)
    return iterates, state


def by_the_paper(rate, radius):
    """Both sequences over all leaves together, projected onto a ball; ``rate(t, V)`` with t from 1."""

    def flat(tree, i):
        return np.concatenate([np.ravel(x[i]) for x in jax.tree.leaves(tree)])

    def project(x):
        return x * min(1.0, radius / np.linalg.norm(x))

    x = hat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(FIRST)])
    hint, variation, played = np.zeros_like(x), 0.0, []
    for t in range(1, 41):
        g = flat(GRADS, t - 1)
        hat = project(hat - rate(t, variation) * g)
        variation += np.sum((g - hint) ** 2)
        hint = g
        x = project(hat - rate(t + 1, variation) * hint)
        played.append(x)
    return np.array(played)


def flattened(iterates):
    return np.concatenate([np.reshape(x, (40, -1)) for x in jax.tree.leaves(iterates)], axis=1)


@pytest.mark.parametrize("radius", [2.5, 1e9])
def test_equals_the_paper_in_numpy(x64, radius):
    projection = None if radius > 1e6 else lambda tree: optax.projections.projection_l2_ball(tree, radius)
    sea = optimistic_omd_sea(3.0, grad_bound=1.5, smoothness=0.5, projection=projection, scale=0.7)
    # forty steps of float64
    np.testing.assert_allclose(
        flattened(run(sea)[0]), by_the_paper(lambda t, v: 2.1 / np.sqrt(22.5 + 9 + v), radius), atol=1e-12
    )
    strong = optimistic_omd(lambda k: 2 / (4.0 * (k + 1)), projection=projection)
    np.testing.assert_allclose(flattened(run(strong)[0]), by_the_paper(lambda t, v: 0.5 / t, radius), atol=1e-12)


def test_without_a_hint_it_is_projected_gradient_descent(x64):
    got, _ = run(optimistic_omd(0.1, hint="zero"))
    want, _ = run(optax.sgd(0.1))
    np.testing.assert_allclose(flattened(got), flattened(want), atol=1e-13)


def test_optax_is_one_gradient_behind(x64):
    ours, _ = run(optimistic_omd(0.1))
    theirs, _ = run(optax.optimistic_gradient_descent(0.1))
    first = np.concatenate([np.ravel(g[0]) for g in jax.tree.leaves(GRADS)])
    np.testing.assert_allclose(flattened(theirs) - flattened(ours), np.tile(0.1 * first, (40, 1)), atol=1e-13)


def test_a_fixed_loss_has_bounded_regret_and_gradient_descent_has_not(x64):
    """A linear loss in the unit ball: constant regret for any number of rounds."""
    slope = jnp.array([3.0, 4.0]) / 5

    def regret(tx, rounds):
        grads = jnp.tile(slope, (rounds, 1))

        def step(carry, g):
            x, state = carry
            updates, state = tx.update(g, state, x)
            return (x + updates, state), slope @ x + 1

        return jax.jit(lambda: jax.lax.scan(step, (jnp.zeros(2), tx.init(jnp.zeros(2))), grads)[1].sum())()

    ball = lambda x: optax.projections.projection_l2_ball(x, 1.0)  # noqa: E731
    ours = [regret(optimistic_omd_sea(2.0, grad_bound=1.0, smoothness=0.0, projection=ball), n) for n in (100, 1600)]
    plain = [
        regret(optimistic_omd(lambda k, n=n: 2 / np.sqrt(n), projection=ball, hint="zero"), n) for n in (100, 1600)
    ]
    np.testing.assert_allclose(ours[0], ours[1], atol=1e-9)
    # 1/η rounds to the boundary, half of which are lost: √n/4
    np.testing.assert_allclose(plain, [2.5 + 0.5, 10 + 0.5], rtol=0.02)


def test_half_precision_and_clear_errors():
    params = jnp.ones(3, jnp.bfloat16)
    tx = optimistic_omd(0.1)
    updates, state = tx.update(params, tx.init(params), params)
    assert updates.dtype == jnp.bfloat16 and state.anchor.dtype == jnp.float32
    with pytest.raises(TypeError, match=r"optimistic_omd_sea moves floating parameters, and \['n'\] has dtype int32"):
        optimistic_omd_sea(1.0, grad_bound=1.0, smoothness=0.0).init({"n": jnp.ones(2, jnp.int32)})
    ball = lambda x: optax.projections.projection_l2_ball(x, 1.0)  # noqa: E731
    # where types are checked, as here, they speak first
    with pytest.raises(TypeError, match="got .*name it among static_args|parameter 'projection'"):
        optax.inject_hyperparams(optimistic_omd)(learning_rate=0.1, projection=ball).init(jnp.ones(()))
    tuned = optax.inject_hyperparams(optimistic_omd, static_args=("projection",))(learning_rate=0.1, projection=ball)
    moved, _ = tuned.update(jnp.full(3, -9.0), tuned.init(jnp.zeros(3)), jnp.zeros(3))
    np.testing.assert_allclose(moved, np.full(3, 1 / np.sqrt(3)), rtol=1e-6)  # on the sphere, in float32
    with pytest.raises(ValueError, match="hint must be one of last_gradient, zero, got 'next'"):
        optimistic_omd(0.1, hint="next")
    with pytest.raises(ValueError, match="optimistic_omd moves a point"):
        tx.update(params, state)
    with pytest.raises(ValueError, match="first step would be infinite"):
        optimistic_omd_sea(1.0, grad_bound=0.0, smoothness=0.0)
    with pytest.raises(ValueError, match="learning_rate must lie in"):
        optimistic_omd(-0.1)
