"""Flax NNX, Flax Linen and any callable pytree as pure functions, behind one signature."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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

    ``train`` calls the module's ``train()`` or ``eval()``, so that BatchNorm and Dropout know. Random streams inside
    the module (those of Dropout) are no model state: each starts anew from ``key`` in every call, so that a step is a
    function of its arguments and repeats after a resume. ``key`` feeds a ``rngs`` argument too, where the module's call
    takes one. Works in NNX's graph and tree mode.

    Args:
      make: makes the module from ``nnx.Rngs``.

    Raises:
      TypeError: while tracing, the module drew random numbers and there is no key.

    >>> model = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
    >>> params, model_state = model.init(jax.random.key(0))
    >>> sorted(params), model_state
    (['bias', 'kernel'], {})
    >>> outputs, _ = model.apply(params, model_state, jnp.ones((4, 3)))
    >>> outputs.shape
    (4, 2)
    """

    def split(module: nnx.Module) -> tuple[Any, nnx.State, nnx.State, nnx.State]:
        return nnx.split(module, nnx.Param, nnx.RngState, ...)

    # structure only: nothing is computed
    abstract = nnx.eval_shape(lambda: make(nnx.Rngs(jax.random.key(0))))
    graphdef, abstract_params, abstract_streams, abstract_rest = split(abstract)
    takes_rngs = "rngs" in inspect.signature(type(abstract).__call__).parameters

    def init(key: Key) -> tuple[Params, ModelState]:
        check_key(key, where="init")
        _, params, _, rest = split(make(nnx.Rngs(key)))
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def fill(abstract: nnx.State, values: Any) -> nnx.State:
        state = jax.tree.map(lambda x: x, abstract)  # a copy: replacing works in place
        nnx.replace_by_pure_dict(state, values)
        return state

    def streams(key: Any) -> nnx.State:
        leaves, structure = jax.tree.flatten(abstract_streams)

        def restart(i: int, x: Any) -> jax.Array:
            if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jnp.zeros(x.shape, x.dtype)
            own = jax.random.fold_in(key, i)
            return jax.random.split(own, x.shape) if x.shape else own

        new = [restart(i, x) for i, x in enumerate(leaves)]
        return structure.unflatten(new)

    def apply(
        params: Params, model_state: ModelState, *inputs: Any, train: bool = False, key: Any = None
    ) -> tuple[Any, ModelState]:
        given = streams(jax.random.key(0) if key is None else key)
        before = jax.tree.leaves(given)  # merging may take the variables as they are and draw from them in place
        module = nnx.merge(graphdef, fill(abstract_params, params), given, fill(abstract_rest, model_state))
        module.train() if train else module.eval()
        extra = {"rngs": nnx.Rngs(key)} if takes_rngs and key is not None else {}
        outputs = module(*inputs, **extra)
        _, _, used, rest = split(module)
        # a stream that was drawn from holds another counter
        if key is None and any(a is not b for a, b in zip(before, jax.tree.leaves(used), strict=True)):
            raise TypeError("the module drew random numbers (Dropout?): apply(…) needs key=")
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
        variables = dict(module.init(key, *inputs, **training(False)))
        return variables.pop("params", {}), variables

    def apply(
        params: Params, model_state: ModelState, *inputs: Any, train: bool = False, key: Any = None
    ) -> tuple[Any, ModelState]:
        variables = {"params": params, **model_state}
        # streams of other names than dropout fall back to params in Flax
        rngs = {} if key is None else {"dropout": key, "params": jax.random.fold_in(key, 1)}
        if not train:
            return module.apply(variables, *inputs, rngs=rngs, **training(False)), model_state
        outputs, new = module.apply(variables, *inputs, rngs=rngs, mutable=list(model_state), **training(True))
        return outputs, dict(new)

    return Model(init, apply)


def from_pytree(make: Callable[[Key], Any], call: Callable[..., Any] | None = None) -> Model:
    """A callable pytree (an Equinox module, a dataclass) as pure functions: its floating arrays are the parameters.

    Other arrays are model state that nothing changes; everything else, such as activation functions and sizes, stays in
    the structure of the module that ``make`` builds. Parameters are nested dictionaries by the paths of the leaves.

    Args:
      make: ``key -> module``.
      call: ``(module, *inputs, train, key) -> outputs``; left out: ``module(*inputs)``. Equinox's layers see one
        example, so ``lambda module, x, train, key: jax.vmap(module)(x)``.

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

    def is_array(x: Any) -> bool:
        return isinstance(x, jax.Array | np.ndarray)

    def is_parameter(x: Any) -> bool:
        return is_array(x) and jnp.issubdtype(x.dtype, jnp.floating)

    def nested(leaves: list[tuple[Any, Any]]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for path, leaf in leaves:
            names = [jax.tree_util.keystr((part,), simple=True) for part in path] or ["value"]
            inner = tree
            for name in names[:-1]:
                inner = inner.setdefault(name, {})
            inner[names[-1]] = leaf
        return tree

    def init(key: Key) -> tuple[Params, ModelState]:
        check_key(key, where="init")
        leaves = jax.tree_util.tree_leaves_with_path(make(key))
        params = [(path, x) for path, x in leaves if is_parameter(x)]
        return nested(params), nested([(path, x) for path, x in leaves if is_array(x) and not is_parameter(x)])

    found: list[tuple[Any, list[tuple[Any, Any]]]] = []

    def describe(key: Any) -> None:
        leaves, structure = jax.tree_util.tree_flatten_with_path(make(key))
        # which arrays there are is all that is kept of them: they are traced here
        found.append(
            (structure, [(p, is_parameter if is_parameter(x) else is_array if is_array(x) else x) for p, x in leaves])
        )

    jax.eval_shape(describe, jax.random.key(0))
    ((structure, template),) = found

    def apply(
        params: Params, model_state: ModelState, *inputs: Any, train: bool = False, key: Any = None
    ) -> tuple[Any, ModelState]:
        def leaf(path: Any, kind: Any) -> Any:
            if kind is not is_parameter and kind is not is_array:
                return kind
            tree = params if kind is is_parameter else model_state
            for part in path:
                tree = tree[jax.tree_util.keystr((part,), simple=True)]
            return tree if path else tree["value"]

        module = structure.unflatten([leaf(path, kind) for path, kind in template])
        outputs = module(*inputs) if call is None else call(module, *inputs, train=train, key=key)
        return outputs, model_state

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
