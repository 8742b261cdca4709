"""The state before the first step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.averaging import swa
from jaxtrain.core import Aux
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import TrainState, create_state, make_step
from tests.training.problems import bn_net


def test_under_eval_shape_and_jit():
    tx = optax.chain(optax.adamw(0.01), swa(2, 2))

    def init(key):
        params, stats = bn_net(key)
        return create_state(params, tx, key, stats)

    abstract = jax.eval_shape(init, jax.random.key(0))
    state, jitted = init(jax.random.key(0)), jax.jit(init)(jax.random.key(0))
    assert jax.tree.structure(abstract) == jax.tree.structure(state) == jax.tree.structure(jitted)
    for a, x, y in zip(*map(jax.tree.leaves, (abstract, state, jitted)), strict=True):
        assert (a.shape, a.dtype) == (x.shape, x.dtype) == (y.shape, y.dtype)
    assert state.step == 0 and state.step.dtype == jnp.int32


def test_weak_types_do_not_compile_the_second_step():
    """Python numbers and weakly typed arrays as parameters and model state."""
    traces = []

    def objective(w, s, x, key):
        traces.append(1)
        return jnp.mean(w["a"] * x) + w["b"] ** 2, Aux({"count": s["count"] + 1, "mean": 0.5 * s["mean"]}, {})

    tx = optax.adam(0.1)
    state = create_state({"a": jnp.asarray(1.0), "b": 2.0}, tx, jax.random.key(0), {"count": 0, "mean": np.float32(1)})
    assert not any(x.aval.weak_type for x in jax.tree.leaves(state))
    step = jax.jit(make_step(value_and_grad(objective), tx), donate_argnums=0)
    for _ in range(3):
        state, _ = step(state, jnp.ones(2))
    assert len(traces) == 1 and step._cache_size() == 1
    assert state.model_state["count"] == 3 and state.model_state["mean"] == 0.125


def test_copies_and_keeps_shardings():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    w, key = jax.device_put(jnp.arange(8.0), sharding), jax.random.key(3)
    state = create_state({"w": w}, optax.chain(optax.adam(0.1), swa(0, 1)), key)
    for x in (state.params["w"], state.opt_state[0][0].mu["w"]):
        assert x.sharding.is_equivalent_to(sharding, 1)
    jax.jit(lambda s: jax.tree.map(lambda x: x, s), donate_argnums=0)(state)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    np.testing.assert_array_equal(w, np.arange(8.0))
    assert jax.random.key_data(key).tolist() == [0, 3]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_keeps_dtypes(dtype, x64):
    state = create_state({"w": jnp.ones(2, dtype)}, optax.sgd(0.1, momentum=0.9), jax.random.key(0))
    step = make_step(value_and_grad(lambda w, s, x, k: (jnp.sum(w["w"] * x), Aux(s, {}))), optax.sgd(0.1, momentum=0.9))
    state, _ = step(state, jnp.ones(2, dtype))
    assert {x.dtype.name for x in jax.tree.leaves((state.params, state.opt_state))} == {dtype}


@pytest.mark.parametrize("key", [0, None, np.zeros(2, np.uint32), jnp.zeros(2, jnp.uint32)])
def test_keys_must_be_typed(key):
    # the tests' type checker may see it first; core/test_checks.py has the words
    with pytest.raises(TypeError, match="key"):
        create_state({"w": jnp.ones(2)}, optax.sgd(0.1), key)
    assert isinstance(create_state({"w": jnp.ones(2)}, optax.sgd(0.1), jax.random.key(0)), TrainState)


def test_replace_leaves_the_old_one():
    state = create_state(jnp.ones(2), optax.sgd(0.1), jax.random.key(0))
    assert state.replace(step=5).step == 5 and state.step == 0
    with pytest.raises(AttributeError):
        state.step = 1
