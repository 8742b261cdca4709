"""Closed loops against powers of matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.studies import (
    behavior_cloning_loss,
    error_amplification,
    oscillation_score,
    rollout_return,
    rollout_states,
)

A = np.array([[1.1, 0.3], [0.0, 0.9]])
B = np.array([[0.0], [1.0]])
K = np.array([[0.2, 0.5]])


def policy(k, x):
    return -k @ x


def dynamics(x, u):
    return jnp.asarray(A) @ x + jnp.asarray(B) @ u


def test_a_linear_loop_is_powers_of_its_matrix(x64):
    starts = np.random.default_rng(0).normal(size=(5, 2))
    got = jax.jit(lambda k, s: rollout_states(policy, k, dynamics, s, horizon=12))(jnp.asarray(K), jnp.asarray(starts))
    loop, x = A - B @ K, starts.T
    want = [x := loop @ x if t else x for t in range(13)]
    np.testing.assert_allclose(got, np.transpose(want, (2, 0, 1)), rtol=1e-12)
    value = rollout_return(policy, jnp.asarray(K), dynamics, lambda x: jnp.sum(x**2), jnp.asarray(starts), horizon=12)
    np.testing.assert_allclose(value, (np.array(want[1:]) ** 2).sum(1).mean(), rtol=1e-12)
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        rollout_states(policy, jnp.asarray(K), dynamics, jnp.asarray(starts), horizon=0)


def test_amplification_is_the_norm_of_the_product(x64):
    jacobians = np.random.default_rng(1).normal(size=(9, 3, 3))
    product, want = np.eye(3), []
    for j in jacobians:
        product = j @ product
        want.append(np.linalg.norm(product, 2))
    np.testing.assert_allclose(error_amplification(jnp.asarray(jacobians)), want, rtol=1e-10)
    np.testing.assert_array_equal(error_amplification(jnp.zeros((2, 3, 3))), 0)


def test_cloning_loss_and_oscillations_by_hand(x64):
    states, actions = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([[1.0], [0.0]])
    # -(0.2 + 1.0) - 1 = -2.2; -0.5
    np.testing.assert_allclose(behavior_cloning_loss(policy, jnp.asarray(K), states, actions), [2.2**2, 0.25])
    np.testing.assert_allclose(oscillation_score(jnp.array([0.0, 4.0, 3.0, 3.0])), (4 + 1 + 0) / 3 / 4)
    with pytest.raises(ValueError, match="at least 2 checkpoints"):
        oscillation_score(jnp.ones((3, 1)))
