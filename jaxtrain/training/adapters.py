"""Flax NNX, Flax Linen and any callable pytree as pure functions, behind one signature."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtrain.core import Aux, Batch, Key, Metrics, ModelState, Objective, Params, PerExampleObjective, check_key


class Model(NamedTuple):
    """A model as two pure functions.

    Attributes:
      init: ``key -> (params, model_state)``, plain pytrees; works under ``jit`` and ``vmap``.
      apply: ``(params, model_state, *inputs, train=False, key=None) -> (outputs, model_state)``.
    """

    init: Callable[..., tuple[Params, ModelState]]
    apply: Callable[..., tuple[Any, ModelState]]


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """An NNX module as pure functions: split at the start, merged inside, never ``nnx.jit``.

    ``train`` calls the module's ``train()`` or ``eval()``, so that BatchNorm and Dropout know; ``key`` feeds a
    ``rngs`` argument where the module's call takes one.

    Args:
      make: makes the module from ``nnx.Rngs``.

    >>> model = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
    >>> params, model_state = model.init(jax.random.key(0))
    >>> sorted(params), model_state
    (['bias', 'kernel'], {})
    >>> outputs, _ = model.apply(params, model_state, jnp.ones((4, 3)))
    >>> outputs.shape
    (4, 2)
    """
    import inspect

    def build() -> nnx.Module:
        return make(nnx.Rngs(jax.random.key(0)))

    # structure only: nothing is computed
    graphdef, abstract_params, abstract_rest = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
    takes_rngs = "rngs" in inspect.signature(type(nnx.eval_shape(build)).__call__).parameters

    def init(key: Key) -> tuple[Params, ModelState]:
        check_key(key, where="init")
        _, params, rest = nnx.split(make(nnx.Rngs(key)), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def fill(abstract: nnx.State, values: Any) -> nnx.State:
        state = jax.tree.map(lambda x: x, abstract)  # a copy: replacing works in place
        nnx.replace_by_pure_dict(state, values)
        return state

    def apply(
        params: Params, model_state: ModelState, *inputs: Any, train: bool = False, key: Any = None
    ) -> tuple[Any, ModelState]:
        module = nnx.merge(graphdef, fill(abstract_params, params), fill(abstract_rest, model_state))
        module.train() if train else module.eval()
        extra = {"rngs": nnx.Rngs(key)} if takes_rngs and key is not None else {}
        outputs = module(*inputs, **extra)
        _, _, rest = nnx.split(module, nnx.Param, ...)
        return outputs, nnx.to_pure_dict(rest) if train else model_state

    return Model(init, apply)


def from_linen(module: Any, *examples: Any, train_argument: str | None = None) -> Model:
    """A Linen module as pure functions; every collection but ``params`` is model state.

    Args:
      module: a ``flax.linen.Module``.
      *examples: example inputs (or their ``jax.ShapeDtypeStruct``) from which the module knows its shapes.
      train_argument: the keyword of the module's call that says whether it trains, if it has one.

    >>> import flax.linen as nn
    >>> model = from_linen(nn.Dense(2), jnp.ones((1, 3)))
    >>> params, model_state = model.init(jax.random.key(0))
    >>> model.apply(params, model_state, jnp.ones((4, 3)))[0].shape
    (4, 2)
    """

    def training(flag: bool) -> dict[str, bool]:
        return {train_argument: flag} if train_argument else {}

    def init(key: Key) -> tuple[Params, ModelState]:
        check_key(key, where="init")
        inputs = [jnp.zeros(x.shape, x.dtype) for x in examples]
        variables = dict(module.init({"params": key, "dropout": key}, *inputs, **training(False)))
        return variables.pop("params", {}), variables

    def apply(
        params: Params, model_state: ModelState, *inputs: Any, train: bool = False, key: Any = None
    ) -> tuple[Any, ModelState]:
        variables = {"params": params, **model_state}
        rngs = {} if key is None else {"dropout": key}
        if not train:
            return module.apply(variables, *inputs, rngs=rngs, **training(False)), model_state
        outputs, new = module.apply(variables, *inputs, rngs=rngs, mutable=list(model_state), **training(True))
        return outputs, dict(new)

    return Model(init, apply)


def from_pytree(make: Callable[[Key], Any]) -> Model:
    """A callable pytree (an Equinox module, a dataclass) as pure functions: its floating arrays are the parameters.

    Everything else, such as activation functions and sizes, stays as it is in the module that ``make`` builds.

    Args:
      make: ``key -> module``; the module is called as ``module(*inputs)``.

    >>> @jax.tree_util.register_pytree_node_class
    ... class Scale:
    ...     def __init__(self, by, then): self.by, self.then = by, then
    ...     def __call__(self, x): return self.then(self.by * x)
    ...     def tree_flatten(self): return (self.by, self.then), None
    ...     def tree_unflatten(_, leaves): return Scale(*leaves)
    >>> model = from_pytree(lambda key: Scale(jax.random.normal(key), jnp.tanh))
    >>> params, model_state = model.init(jax.random.key(0))
    >>> model.apply(params, model_state, jnp.zeros(2))[0].tolist()
    [0.0, 0.0]
    """

    def is_parameter(x: Any) -> bool:
        return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)

    held: list[Any] = []

    def init(key: Key) -> tuple[Params, ModelState]:
        check_key(key, where="init")
        leaves, structure = jax.tree.flatten(make(key))
        held[:] = [structure, [None if is_parameter(x) else x for x in leaves]]
        return {f"{i:03d}": x for i, x in enumerate(leaves) if is_parameter(x)}, {}

    def apply(
        params: Params, model_state: ModelState, *inputs: Any, train: bool = False, key: Any = None
    ) -> tuple[Any, ModelState]:
        del train, key
        if not held:
            jax.eval_shape(lambda: init(jax.random.key(0)))
        structure, static = held
        module = structure.unflatten([params.get(f"{i:03d}", x) for i, x in enumerate(static)])
        return module(*inputs), model_state

    return Model(init, apply)


LossFn = Callable[[Any, Batch], tuple[jax.Array, Metrics]]


def per_example_objective(
    apply: Callable[..., tuple[Any, ModelState]], inputs: Callable[[Batch], Any], loss: LossFn
) -> PerExampleObjective:
    """Joins a model and a loss into ``(params, model_state, batch, key) -> (losses, Aux)``.

    Args:
      apply: of a :class:`Model`, called with ``train=True``.
      inputs: ``batch -> input`` of the model.
      loss: ``(outputs, batch) -> (losses of the examples, metrics)``.
    """

    def objective(params: Params, model_state: ModelState, batch: Batch, key: Key):
        outputs, model_state = apply(params, model_state, inputs(batch), train=True, key=key)
        losses, metrics = loss(outputs, batch)
        return losses, Aux(model_state, metrics)

    return objective


def mean_objective(objective: PerExampleObjective) -> Objective:
    """The mean of the losses of the examples, as an objective.

    >>> per_example = lambda w, state, x, key: (w * x, Aux(state, {}))
    >>> loss, aux = mean_objective(per_example)(2.0, {}, jnp.array([1.0, 3.0]), jax.random.key(0))
    >>> float(loss)
    4.0
    """

    def mean(params: Params, model_state: ModelState, batch: Batch, key: Key):
        losses, aux = objective(params, model_state, batch, key)
        return jnp.mean(losses), aux

    return mean
