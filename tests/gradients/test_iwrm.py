"""Examples as objectives: one pass over the batch gives the rows of the Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import iwrm, jacobian_descent, sam

KEY = jax.random.key(0)


def weighted(rows):
    """An aggregator that tells the rows apart."""
    return jax.tree.map(lambda x: jnp.tensordot(jnp.arange(1.0, 7.0, dtype=x.dtype), x, 1), rows)


def objective(params, state, batch, key):
    losses = jnp.tanh(batch["x"] @ params["w"] - batch["y"]) ** 2
    state = {"count": state["count"] + 1, "mean": jnp.mean(batch["x"], axis=0)}
    return losses, Aux(state, {"largest": jnp.max(losses)})


def _problem():
    rng = np.random.default_rng(0)
    batch = {"x": jnp.asarray(rng.normal(size=(6, 4))), "y": jnp.asarray(rng.normal(size=6))}
    return {"w": jnp.asarray(rng.normal(size=4))}, {"count": jnp.array(0), "mean": jnp.zeros(4)}, batch


def test_equals_the_jacobian_of_the_losses(x64):
    params, state, batch = _problem()
    (loss, aux), grads = jax.jit(iwrm(objective, weighted))(params, state, batch, KEY)
    (want_loss, _), want = jax.jit(jacobian_descent(objective, weighted))(params, state, batch, KEY)
    # float64; by hand: the rows are 2 t (1 - t²) x
    np.testing.assert_allclose(grads["w"], want["w"], atol=1e-12)
    t = np.tanh(batch["x"] @ params["w"] - batch["y"])
    rows = (2 * t * (1 - t**2))[:, None] * np.asarray(batch["x"])
    np.testing.assert_allclose(grads["w"], np.arange(1.0, 7.0) @ rows, atol=1e-12)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-14)
    # a counter is one call's, a floating statistic the mean over the examples
    assert int(aux.model_state["count"]) == 1
    np.testing.assert_allclose(aux.model_state["mean"], batch["x"].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(aux.metrics["largest"], np.mean(t**2), rtol=1e-12)


def test_it_nests_and_examples_have_keys_of_their_own():
    params, state, batch = _problem()
    (_, _), grads = sam(iwrm(objective, weighted), rho=0.1)(params, state, batch, KEY)
    assert np.isfinite(np.asarray(grads["w"])).all()

    def noisy(params, state, batch, key):
        return params["w"].sum() * jax.random.normal(key, (1,)), Aux(state, {})

    seen = []
    iwrm(noisy, lambda rows: seen.append(rows) or rows)(params, state, batch, KEY)
    want = [float(jax.random.normal(jax.random.fold_in(KEY, i), (1,))[0]) for i in range(6)]
    np.testing.assert_allclose(seen[0]["w"][:, 0], want, rtol=1e-6)


def test_clear_errors():
    params, state, batch = _problem()
    with pytest.raises(ValueError, match="iwrm: the leading axes of the batch disagree"):
        iwrm(objective, weighted)(params, state, batch | {"y": jnp.zeros(3)}, KEY)
