"""Stacks of gradients: per objective and per example, in parts of the batch and of the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import aggregated, finite_differences, jacobian, microbatch, per_example, value_and_grad

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BATCH = {"x": RNG.normal(size=(6, 3)), "y": RNG.normal(size=(6, 2))}
W = RNG.normal(size=(3, 2))


def _tasks(w, state, batch, key):
    """Two regressions, each a mean over examples."""
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2, axis=0), Aux(state, {})


def _examples(w, state, batch, key):
    return jnp.sum((batch["x"] @ w - batch["y"]) ** 2, axis=1), Aux(state, {"loss": jnp.mean(w)})


def _rows():
    """By hand: task i moves column i alone."""
    rows = np.zeros((2, 3, 2))
    for i in range(2):
        rows[i, :, i] = 2 * BATCH["x"].T @ (BATCH["x"] @ W - BATCH["y"])[:, i] / 6
    return rows


@pytest.mark.parametrize("parallel", [None, 1, 2])
def test_jacobian_by_hand(parallel, x64):
    batch = jax.tree.map(jnp.asarray, BATCH)
    (loss, _), rows = jax.jit(jacobian(_tasks, parallel=parallel))(jnp.asarray(W), {}, batch, KEY)
    np.testing.assert_allclose(rows, _rows(), atol=1e-14)
    np.testing.assert_allclose(loss, np.mean((BATCH["x"] @ W - BATCH["y"]) ** 2), rtol=1e-14)


def test_jacobian_in_microbatches(x64):
    """Parts of the batch: for losses that are means over examples, the rows of the whole."""
    batch = jax.tree.map(jnp.asarray, BATCH)
    grad_fn = microbatch(jacobian(_tasks), 3, objectives=2)
    _, rows = jax.jit(grad_fn)(jnp.asarray(W), {}, batch, KEY)
    np.testing.assert_allclose(rows, _rows(), atol=1e-14)
    _, grads = aggregated(grad_fn, lambda stack: stack[0] + 3 * stack[1])(jnp.asarray(W), {}, batch, KEY)
    np.testing.assert_allclose(grads, _rows()[0] + 3 * _rows()[1], atol=1e-13)
    with pytest.raises(TypeError):
        microbatch(jacobian(_tasks), 3)(jnp.asarray(W), {}, batch, KEY)


@pytest.mark.parametrize("parallel", [None, 4])
def test_per_example_by_hand(parallel, x64):
    batch = jax.tree.map(jnp.asarray, BATCH)
    (loss, aux), rows = jax.jit(per_example(_examples, parallel=parallel))(jnp.asarray(W), {}, batch, KEY)
    want = 2 * BATCH["x"][:, :, None] * (BATCH["x"] @ W - BATCH["y"])[:, None, :]
    np.testing.assert_allclose(rows, want, atol=1e-14)
    np.testing.assert_allclose(aux.metrics["loss"], W.mean())
    np.testing.assert_allclose(loss, np.mean(np.sum((BATCH["x"] @ W - BATCH["y"]) ** 2, axis=1)), rtol=1e-14)


def test_fewer_rows_at_once_need_less_memory():
    def deep(w, state, batch, key):
        x = batch
        for _ in range(8):
            x = jnp.tanh(x @ w)
        return jnp.mean(x, axis=1), Aux(state, {})

    def temporary(make):
        args = jnp.eye(16), {}, jnp.ones((512, 16)), KEY
        return jax.jit(make).lower(*args).compile().memory_analysis().temp_size_in_bytes

    # cotangents of 8 layers for 512 objectives at once
    assert temporary(jacobian(deep, parallel=8)) < temporary(jacobian(deep)) / 3


def test_cost_in_passes():
    calls = []

    def counted(objective):
        def counting(*args):
            calls.append(1)
            return objective(*args)

        return counting

    batch = jax.tree.map(jnp.asarray, BATCH)
    with jax.disable_jit():
        jacobian(counted(_tasks))(jnp.asarray(W), {}, batch, KEY)
        assert len(calls) == 1
        calls.clear()
        per_example(counted(_examples))(jnp.asarray(W), {}, batch, KEY)
        assert len(calls) == 1


@pytest.mark.parametrize("scheme, parallel, tolerance", [("central", 1, 1e-9), ("forward", 3, 1e-6)])
def test_finite_differences(scheme, parallel, tolerance, x64):
    """Of a function that is not quadratic, against its derivative: h² and ε/h, or h, with constants of order one."""

    def objective(w, state, batch, key):
        return jnp.sum(jnp.sin(w["a"])) * jnp.exp(w["b"][0, 0]) + jnp.sum(w["b"] ** 3), Aux(state, {})

    params = {"a": jnp.array([0.3, -2.0, 1.0]), "b": jnp.array([[0.5, 40.0, -1.0]])}
    grad_fn = finite_differences(objective, scheme=scheme, parallel=parallel)
    (loss, _), grads = jax.jit(grad_fn)(params, {}, None, KEY)
    (want_loss, _), want = value_and_grad(objective)(params, {}, None, KEY)
    scale = 40.0**3  # the loss, which is what is rounded
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, atol=tolerance * scale), grads, want)
    if scheme == "forward":
        np.testing.assert_allclose(loss, want_loss, rtol=1e-15)


@pytest.mark.parametrize("scheme, evaluations", [("central", 4), ("forward", 3)])
def test_finite_differences_cost(scheme, evaluations):
    """2d and d + 1 of the objective, which is asked for its shapes once besides."""
    calls = []

    def counted(w, state, batch, key):
        calls.append("Dynamic" in type(w).__name__)
        return w[0] * w[1], Aux(state, {})

    with jax.disable_jit():
        finite_differences(counted, scheme=scheme)(jnp.ones(2), {}, None, KEY)
    assert calls.count(False) == evaluations and calls.count(True) == 1


def test_errors():
    batch = jax.tree.map(jnp.asarray, BATCH)
    with pytest.raises(ValueError, match="per_example: the leading axes of the batch disagree"):
        per_example(_examples)(jnp.asarray(W), {}, batch | {"y": jnp.zeros((3, 2))}, KEY)
    with pytest.raises(ValueError, match=r"jacobian needs a vector of losses, got shape \(\)"):
        jacobian(lambda w, s, b, k: (jnp.sum(w), Aux(s, {})))(jnp.asarray(W), {}, batch, KEY)
    with pytest.raises(ValueError, match="parallel must be at least 1, got 0"):
        jacobian(_tasks, parallel=0)
    with pytest.raises(ValueError, match="parallel=4 does not divide 6 parameters"):
        finite_differences(lambda w, s, b, k: (jnp.sum(w), Aux(s, {})), parallel=4)(jnp.asarray(W), {}, batch, KEY)
    with pytest.raises(ValueError, match="scheme must be central or forward, got 'backward'"):
        finite_differences(_tasks, scheme="backward")
