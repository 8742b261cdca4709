"""Random directions and Hutchinson's estimators: their moments in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core.probes import (
    hutchinson_diagonal,
    hutchinson_trace,
    map_direction,
    mean_over,
    random_direction,
)

KEY = jax.random.key(0)
KEYS, D = 20_000, 5
A = np.random.default_rng(0).normal(size=(D, D))
A = A + A.T
TREE = {"a": jnp.zeros((2,)), "b": jnp.zeros((3, 1))}
FROBENIUS, TRACE, SQUARES = np.sum(A**2), np.trace(A), np.sum(np.diag(A) ** 2)


def _flat(tree):
    return jnp.concatenate([tree["a"], tree["b"].ravel()])


def _matvec(tree):
    y = jnp.asarray(A, tree["a"].dtype) @ _flat(tree)
    return {"a": y[:2], "b": y[2:, None]}


def _close(samples, exact):
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(axis=0) - exact) <= 5 * error + 1e-6)  # float32 besides sampling


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian", "sphere"])
def test_moments(distribution):
    keys = jax.random.split(KEY, KEYS)
    draws = jax.vmap(lambda k: _flat(random_direction(k, TREE, distribution)))
    trace = jax.vmap(lambda k: hutchinson_trace(k, _matvec, TREE, distribution=distribution))
    diagonal = jax.vmap(lambda k: _flat(hutchinson_diagonal(k, _matvec, TREE, distribution=distribution)))
    v, t, d = (np.asarray(x, np.float64) for x in jax.jit(lambda k: (draws(k), trace(k), diagonal(k)))(keys))
    _close(v[:, :, None] * v[:, None, :], np.eye(D))
    _close(v, 0)
    _close(t, TRACE)
    _close(d, np.diag(A))
    variance = {
        "rademacher": 2 * (FROBENIUS - SQUARES),
        "gaussian": 2 * FROBENIUS,
        "sphere": 2 * D / (D + 2) * (FROBENIUS - TRACE**2 / D),
    }[distribution]
    _close((t - TRACE) ** 2, variance)
    assert abs(np.mean((t - TRACE) ** 2) / variance - 1) < 0.1  # the bound above could not hide a factor
    if distribution == "sphere":
        np.testing.assert_allclose(np.sum(v**2, axis=1), D, rtol=1e-5)  # float32
    else:
        rows = np.sum(A**2, axis=1)
        sign = -1 if distribution == "rademacher" else 1
        _close((d - np.diag(A)) ** 2, rows + sign * np.diag(A) ** 2)


def test_probes_are_averaged():
    keys = jax.random.split(KEY, 5)
    one = [hutchinson_trace(k, _matvec, TREE) for k in keys]
    np.testing.assert_allclose(hutchinson_trace(KEY, _matvec, TREE, num_samples=5), np.mean(one), rtol=1e-5)
    v = jax.vmap(lambda k: _flat(random_direction(k, TREE)))(keys)
    mean = _flat(hutchinson_diagonal(KEY, _matvec, TREE, num_samples=5))
    np.testing.assert_allclose(mean, np.mean(v * (v @ A), axis=0), rtol=1e-4, atol=1e-5)


def test_drawn_leaf_by_leaf_it_is_the_same_direction():
    """The draws of optax.tree.random_like, whatever they are used for on the way."""
    params = {"a": jnp.full(2, jnp.inf), "b": jnp.ones((3, 1)), "none": jnp.zeros((0,))}
    got = map_direction(lambda p, v: v + 0 * jnp.nan_to_num(p), KEY, params, "gaussian", after=jnp.float32(3))
    want = optax.tree.random_like(KEY, params, sampler=jax.random.normal)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    jax.tree.map(np.testing.assert_array_equal, random_direction(KEY, params, "gaussian"), want)
    half = random_direction(KEY, jnp.zeros(1000, jnp.bfloat16), "sphere")
    assert half.dtype == jnp.bfloat16 and abs(float(jnp.sum(half.astype(jnp.float32) ** 2)) / 1000 - 1) < 2**-7


def test_mean_over_in_groups():
    x = jnp.arange(6.0)
    np.testing.assert_allclose(mean_over(lambda x: x**2, x, parallel=3), np.mean(np.arange(6.0) ** 2), rtol=1e-6)
    # in bfloat16 the sum of 512 ones would stop at 256
    assert mean_over(lambda x: x, jnp.ones(512, jnp.bfloat16)) == 1.0


def test_errors():
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        hutchinson_diagonal(KEY, _matvec, TREE, num_samples=0)
    with pytest.raises(ValueError, match="distribution must be one of rademacher, gaussian, sphere, got 'uniform'"):
        random_direction(KEY, TREE, "uniform")
