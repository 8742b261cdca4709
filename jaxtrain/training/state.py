"""The state of a training run: one frozen pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtrain.core import Key, ModelState, OptState, Params, check_key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: number of completed steps, int32.
      params: what is trained.
      model_state: what the model changes itself (BatchNorm's running statistics …), or ``{}``.
      opt_state: the state of the optax chain, averages included.
      key: the root key; step ``t`` uses ``fold_in(key, t)``, so the key itself never changes.
    """

    step: Any  # int32; with a leading axis in an ensemble, a sharding in a tree of shardings
    params: Params
    model_state: ModelState
    opt_state: OptState
    key: Any

    def replace(self, **changes: Any) -> "TrainState":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def create_state(
    params: Params,
    tx: optax.GradientTransformation | optax.MultiSteps,
    key: Key,
    model_state: ModelState | None = None,
) -> TrainState:
    """The state before the first step.

    Its arrays are copies: where the step donates its state, the arrays given here live on. Weak types (those of Python
    numbers) are made strong, or the second step, whose state has none, would be compiled again. Works under
    ``jax.jit``, ``jax.vmap`` and ``jax.eval_shape``.

    Args:
      params: the initial parameters.
      tx: the optax chain that will train them.
      key: the run's root key, ``jax.random.key(seed)``.
      model_state: what the model changes itself, ``{}`` when left out.

    Raises:
      TypeError: the key is not a typed key.

    >>> state = create_state({"w": jnp.ones(3)}, optax.sgd(0.1), jax.random.key(0))
    >>> int(state.step)
    0
    """
    check_key(key, where="create_state")
    params, model_state = _own((params, {} if model_state is None else model_state))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        # averages start as the parameters themselves, and one buffer cannot be donated twice
        opt_state=_own(tx.init(params)),
        key=_own(key),
    )


def _own(tree: Any) -> Any:
    def own(x: Any) -> jax.Array:
        dtype = getattr(x, "dtype", None)
        is_here = isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) and x.is_fully_addressable
        if is_here and not getattr(x, "weak_type", False):  # keys have none
            # compiles nothing, where jnp.copy compiles a program for every shape
            return jax.device_put(x, may_alias=False)
        if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
            return jnp.copy(x)
        return jnp.array(x, dtype=jax.dtypes.result_type(x), copy=True)

    return jax.tree.map(own, tree)
