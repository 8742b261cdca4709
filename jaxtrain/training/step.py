"""One training step as a pure function."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxtrain.core import Batch, GradFn, Metrics, check_leading_axes
from jaxtrain.training.state import TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
ExtraArgs = Callable[[TrainState, Batch, Any], dict[str, Any]]


def make_step(grad_fn: GradFn, tx: optax.GradientTransformation, *, extra_args: ExtraArgs | None = None) -> Step:
    """Joins a gradient function and an optax chain into ``step(state, batch) -> (state, metrics)``.

    With ``k_t = fold_in(key, t)``: ``((l, aux), g) = grad_fn(params, model_state, batch, k_t)``, then
    ``params + tx.update(g)``. The step is pure; ``jax.jit``, donation, ``vmap`` and shardings are put on from outside.

    The chain is given, as optax extra arguments, what it may ask for: ``value`` (the loss), ``value_fn(params)`` and
    ``grad_fn(params)`` (loss and gradient at other parameters, on the same batch with the same key) and ``key``
    (a key of its own). What it does not ask for is never computed.

    Args:
      grad_fn: ``(params, model_state, batch, key) -> ((loss, Aux), gradients)``.
      tx: any optax gradient transformation.
      extra_args: ``(state, batch, key) -> dict`` of further extra arguments.

    Returns:
      The step. Its metrics are ``loss`` and those of the objective.

    Raises:
      ValueError: while tracing, where the batch is empty or its leading axes disagree.

    >>> import jax.numpy as jnp
    >>> from jaxtrain.core import Aux
    >>> from jaxtrain.gradients import value_and_grad
    >>> from jaxtrain.training import create_state
    >>> def objective(params, model_state, batch, key):
    ...     return jnp.mean((batch["x"] @ params - batch["y"]) ** 2), Aux(model_state, {})
    >>> tx = optax.sgd(0.5)
    >>> step = jax.jit(make_step(value_and_grad(objective), tx), donate_argnums=0)
    >>> state = create_state(jnp.zeros(2), tx, jax.random.key(0))
    >>> state, metrics = step(state, {"x": jnp.eye(2), "y": jnp.array([1.0, 2.0])})
    >>> state.params.tolist(), float(metrics["loss"])
    ([0.5, 1.0], 2.5)
    """
    tx = optax.with_extra_args_support(tx)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        check_leading_axes(batch, where="step")
        key = jax.random.fold_in(state.key, state.step)
        (loss, aux), grads = grad_fn(state.params, state.model_state, batch, key)

        def at(params):
            return grad_fn(params, state.model_state, batch, key)

        extras = {
            "value": loss,
            "value_fn": lambda params: at(params)[0][0],
            "grad_fn": lambda params: at(params)[1],
            # a stream of its own, so that a sampling optimizer does not share the objective's dropout key
            "key": jax.random.fold_in(key, 1),
        }
        if extra_args is not None:
            extras |= extra_args(state, batch, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extras)
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=aux.model_state,
            opt_state=opt_state,
        )
        return state, {"loss": loss, **aux.metrics}

    return step
