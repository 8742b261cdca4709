"""NNX, Linen, a callable pytree and a bare function: one objective signature, the same values for the same weights."""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from jaxtrain.core import Aux
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import create_state, make_step
from jaxtrain.training.adapters import Model, from_linen, from_nnx, from_pytree, mean_objective, per_example_objective

SIZES = (5, 7, 3)
X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
BATCH = {"x": X, "y": np.array([0, 2, 1, 1, 0, 2], np.int32)}


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(SIZES)])
        self.norm = nnx.BatchNorm(SIZES[1], momentum=0.9, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](nnx.relu(self.norm(self.layers[0](x))))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(SIZES[1], name="first")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return linen.Dense(SIZES[2], name="second")(x)


def _normalise(x, scale, bias, mean, var):
    return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Affine:
    weight: jax.Array
    bias: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    """As an Equinox module is: a pytree of arrays and of things that are none."""

    layers: list
    scale: jax.Array
    bias: jax.Array
    order: jax.Array  # integers: no parameter
    activation: Callable
    epsilon: float

    def __call__(self, x):
        x = x @ self.layers[0].weight + self.layers[0].bias
        x = _normalise(x, self.scale, self.bias, x.mean(0), x.var(0))
        x = self.activation(x)[..., self.order]
        return x @ self.layers[1].weight + self.layers[1].bias


def _make_module(key):
    a, b = jax.random.split(key)
    return Module(
        [
            Affine(jax.random.normal(a, (5, 7)), jnp.zeros(7)),
            Affine(jax.random.normal(b, (7, 3)), jnp.zeros(3)),
        ],
        jnp.ones(7),
        jnp.zeros(7),
        jnp.arange(7),
        jax.nn.relu,
        1e-5,
    )


def _bare_apply(params, model_state, x, train=False, key=None):
    x = x @ params["w0"] + params["b0"]
    mean, var = x.mean(0), x.var(0)
    new = {"mean": 0.9 * model_state["mean"] + 0.1 * mean, "var": 0.9 * model_state["var"] + 0.1 * var}
    if not train:
        mean, var = model_state["mean"], model_state["var"]
    x = jax.nn.relu(_normalise(x, params["scale"], params["bias"], mean, var))
    return x @ params["w1"] + params["b1"], new if train else model_state


def _weights():
    rng = np.random.default_rng(1)
    shapes = {"w0": (5, 7), "b0": (7,), "scale": (7,), "bias": (7,), "w1": (7, 3), "b1": (3,)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def _nnx_params(w):
    layers = {0: {"kernel": w["w0"], "bias": w["b0"]}, 1: {"kernel": w["w1"], "bias": w["b1"]}}
    return {"layers": layers, "norm": {"scale": w["scale"], "bias": w["bias"]}}


def _linen_params(w):
    first, second = {"kernel": w["w0"], "bias": w["b0"]}, {"kernel": w["w1"], "bias": w["b1"]}
    return {"first": first, "norm": {"scale": w["scale"], "bias": w["bias"]}, "second": second}


def _pytree_params(w):
    layers = {"0": {"weight": w["w0"], "bias": w["b0"]}, "1": {"weight": w["w1"], "bias": w["b1"]}}
    return {"layers": layers, "scale": w["scale"], "bias": w["bias"]}


MODELS = {
    "bare": (lambda: Model(lambda key: (_weights(), {"mean": jnp.zeros(7), "var": jnp.ones(7)}), _bare_apply), dict),
    "nnx": (lambda: from_nnx(Nnx), _nnx_params),
    "linen": (lambda: from_linen(Linen(), X, train_argument="train"), _linen_params),
    "pytree": (lambda: from_pytree(_make_module), _pytree_params),
}


def _loss(outputs, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"])
    return losses, {"accuracy": jnp.mean((outputs.argmax(-1) == batch["y"]).astype(jnp.float32))}


def _objective(model):
    return per_example_objective(model.apply, lambda batch: batch["x"], _loss)


def _float64(w, x, y):
    """Losses and batch statistics, in NumPy."""
    w = {k: np.asarray(v, np.float64) for k, v in w.items()}
    h = x.astype(np.float64) @ w["w0"] + w["b0"]
    mean, var = h.mean(0), h.var(0)
    z = np.maximum((h - mean) / np.sqrt(var + 1e-5) * w["scale"] + w["bias"], 0) @ w["w1"] + w["b1"]
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y], mean, var


def _statistics(model_state):
    """Running mean and variance, wherever the framework keeps them."""
    found = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(model_state)}
    return [x for name in ("mean", "var") for path, x in found.items() if name in path]


@pytest.mark.parametrize("kind", MODELS)
def test_the_same_weights_give_the_same_values(kind):
    build, place = MODELS[kind]
    model, w = build(), _weights()
    params, model_state = model.init(jax.random.key(0))
    # placing the weights keeps structure, shapes and dtypes of what init gives
    placed = place(w)
    assert jax.tree.map(jnp.shape, placed) == jax.tree.map(jnp.shape, params)
    per_example, key = _objective(model), jax.random.key(0)
    losses, aux = jax.jit(per_example)(placed, model_state, BATCH, key)
    want, mean, var = _float64(w, X, BATCH["y"])
    np.testing.assert_allclose(losses, want, rtol=1e-5)  # float32, sums of seven
    (loss, aux), grads = jax.jit(value_and_grad(mean_objective(per_example)))(placed, model_state, BATCH, key)
    np.testing.assert_allclose(loss, want.mean(), rtol=1e-5)
    assert list(aux.metrics) == ["accuracy"]
    bare, _ = jax.grad(mean_objective(_objective(MODELS["bare"][0]())), has_aux=True)(
        w, {"mean": jnp.zeros(7), "var": jnp.ones(7)}, BATCH, key
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, place(bare))  # float32
    assert jax.tree.structure(aux.model_state) == jax.tree.structure(model_state)
    if kind != "pytree":  # has no running statistics
        got = _statistics(aux.model_state)
        np.testing.assert_allclose(got[0], 0.1 * mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(got[1], 0.9 + 0.1 * var, rtol=1e-5)
        # evaluation uses the running statistics and leaves them
        outputs, same = model.apply(placed, aux.model_state, X)
        hidden = np.asarray(X @ w["w0"] + w["b0"], np.float64)
        expected = np.maximum(_normalise(hidden, w["scale"], w["bias"], *map(np.asarray, got)), 0) @ w["w1"] + w["b1"]
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
        jax.tree.map(np.testing.assert_array_equal, same, aux.model_state)


@pytest.mark.parametrize("kind", MODELS)
def test_trains_with_one_compilation_and_under_vmap(kind):
    model = MODELS[kind][0]()
    tx = optax.adam(0.05)
    calls = []

    def counted(*args):
        calls.append(1)
        return mean_objective(_objective(model))(*args)

    def init(key):
        params, model_state = model.init(key)
        return create_state(params, tx, key, model_state)

    state = jax.jit(init)(jax.random.key(0))
    step = jax.jit(make_step(value_and_grad(counted), tx), donate_argnums=0)
    losses = []
    for _ in range(10):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"]))
    assert len(calls) == 1 and step._cache_size() == 1
    assert losses[-1] < 0.7 * losses[0]
    members = jax.eval_shape(jax.vmap(init), jax.random.split(jax.random.key(1), 3))
    assert all(x.shape[0] == 3 for x in jax.tree.leaves(members))


@pytest.mark.parametrize("graph", [False, True])
def test_nnx_in_graph_and_tree_mode(graph):
    with nnx.set_graph_mode(graph):
        model = from_nnx(Nnx)
        _, model_state = model.init(jax.random.key(0))
        losses, _ = jax.jit(_objective(model))(_nnx_params(_weights()), model_state, BATCH, jax.random.key(0))
    np.testing.assert_allclose(losses, _float64(_weights(), X, BATCH["y"])[0], rtol=1e-5)  # float32


class Drop(nnx.Module):
    def __init__(self, rngs):
        self.one, self.two = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.one(x), self.two(x)


class LinenDrop(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        return tuple(linen.Dropout(0.5, deterministic=not train)(x) for _ in range(2))


@pytest.mark.parametrize("build", [lambda: from_nnx(Drop), lambda: from_linen(LinenDrop(), X, train_argument="train")])
def test_dropout_is_a_function_of_the_key(build):
    model = build()
    params, model_state = model.init(jax.random.key(0))
    assert not jax.tree.leaves((params, model_state))  # its streams are not carried along
    x = jnp.ones((40, 50))

    @jax.jit
    def train(key):
        return model.apply(params, model_state, x, train=True, key=key)[0]

    (a, b), (c, _), (d, _) = train(jax.random.key(1)), train(jax.random.key(1)), train(jax.random.key(2))
    np.testing.assert_array_equal(a, c)
    assert set(np.unique(a)) == {0.0, 2.0}
    for other in (b, d):  # another layer, another key: masks agree in half of 2000 places, standard deviation 22
        assert abs(np.sum(np.asarray(a) == np.asarray(other)) - 1000) < 120
    for y in model.apply(params, model_state, x)[0]:
        np.testing.assert_array_equal(y, x)


def test_nnx_draws_need_a_key():
    model = from_nnx(Drop)
    with pytest.raises(TypeError, match="drew random numbers .* needs key="):
        model.apply({}, {}, X, train=True)
    with pytest.raises(TypeError, match="drew random numbers .* needs key="):
        jax.jit(lambda x: model.apply({}, {}, x, train=True))(X)
    with pytest.raises(TypeError, match="key"):
        model.init(0)


def test_nnx_rngs_argument_and_shared_weights():
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.encode = nnx.Linear(5, 5, use_bias=False, rngs=rngs)
            self.decode = self.encode

        def __call__(self, x, rngs=None):
            x = self.decode(self.encode(x))
            return x if rngs is None else x + jax.random.normal(rngs.noise(), x.shape)

    with nnx.set_graph_mode(True):  # sharing is what graph mode is for
        model = from_nnx(Noisy)
        params, model_state = model.init(jax.random.key(0))
        assert len(jax.tree.leaves(params)) == 1
        kernel = params["decode" if "decode" in params else "encode"]["kernel"]
        quiet, _ = model.apply(params, model_state, X)
        np.testing.assert_allclose(quiet, X @ kernel @ kernel, rtol=1e-4, atol=1e-5)  # float32
        noisy, _ = model.apply(params, model_state, X, train=True, key=jax.random.key(1))
        assert 0.3 < np.std(noisy - quiet) < 3


def test_pytree_partition():
    """Floating arrays are parameters, other arrays model state, everything else stays in the module."""
    model = from_pytree(_make_module)
    params, model_state = jax.jit(model.init)(jax.random.key(0))  # leaks no tracer into apply
    assert sorted(params) == ["bias", "layers", "scale"]
    assert list(model_state) == ["order"] and model_state["order"].dtype == jnp.int32
    backwards = {"order": model_state["order"][::-1]}
    straight, same = model.apply(params, model_state, X)
    assert same is model_state
    mirrored = params | {
        "layers": params["layers"] | {"1": params["layers"]["1"] | {"weight": params["layers"]["1"]["weight"][::-1]}}
    }
    np.testing.assert_allclose(model.apply(mirrored, backwards, X)[0], straight, rtol=1e-5, atol=1e-6)  # float32
    one = from_pytree(lambda key: jax.random.normal(key, (2,)), call=lambda w, x, train, key: w * x + train)
    w, _ = one.init(jax.random.key(0))
    np.testing.assert_array_equal(one.apply(w, {}, jnp.ones(2), train=True)[0], w["value"] + 1)


def test_a_per_example_objective_by_hand_is_the_same():
    """Without any adapter: what a user writes."""

    def objective(params, model_state, batch, key):
        del key
        outputs, model_state = _bare_apply(params, model_state, batch["x"], train=True)
        losses, metrics = _loss(outputs, batch)
        return jnp.mean(losses), Aux(model_state, metrics)

    model = MODELS["bare"][0]()
    args = (*model.init(None), BATCH, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, objective(*args), mean_objective(_objective(model))(*args))
