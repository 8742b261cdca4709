"""One training step as a pure function."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxtrain.core import Batch, GradFn, Metrics, check_leading_axes, check_same_structure
from jaxtrain.training.state import TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
ExtraArgs = Callable[[TrainState, Batch, Any], dict[str, Any]]


def make_step(
    grad_fn: GradFn, tx: optax.GradientTransformation | optax.MultiSteps, *, extra_args: ExtraArgs | None = None
) -> Step:
    """Joins a gradient function and an optax chain into ``step(state, batch) -> (state, metrics)``.

    With ``k_t = fold_in(key, t)``: ``((l, aux), g) = grad_fn(params, model_state, batch, k_t)``, then
    ``params + tx.update(g)``. The step is pure; ``jax.jit``, donation, ``vmap`` and shardings are put on from outside.

    The chain is given, as optax extra arguments, what it may ask for: ``value`` and ``grad`` (the loss and its gradient),
    ``value_fn(params)`` and ``grad_fn(params)`` (loss and gradient at other parameters, on the same batch with the same
    key) and ``key`` (a key of its own). What it does not ask for is never computed.

    Of optax's wrappers ``chain``, ``named_chain``, ``masked``, ``partition``, ``apply_if_finite``, ``inject_hyperparams``,
    ``conditionally_mask`` and ``conditionally_transform`` hand these on. ``MultiSteps`` hands them on here, where it is
    the whole chain (those of the last of its batches), and drops them silently inside another one;
    ``contrib.split_real_and_imaginary`` always drops them, ``contrib.sam`` fails on them.

    Args:
      grad_fn: ``(params, model_state, batch, key) -> ((loss, Aux), gradients)``.
      tx: any optax gradient transformation, or an ``optax.MultiSteps``.
      extra_args: ``(state, batch, key) -> dict`` of further extra arguments.

    Returns:
      The step. Its metrics are ``loss`` and those of the objective.

    Raises:
      ValueError: while tracing, where the batch is empty or its leading axes disagree, or the objective returns a model
        state of another structure, shape or dtype than it was given.

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
    tx = _with_extra_args(tx)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        check_leading_axes(batch, where="step")
        key = jax.random.fold_in(state.key, state.step)
        (loss, aux), grads = grad_fn(state.params, state.model_state, batch, key)
        check_same_structure(state.model_state, aux.model_state, where="step, model state returned by the objective")

        def at(params):
            return grad_fn(params, state.model_state, batch, key)

        # optax's line searches hand all other extra arguments to value_fn and fail on those that it does not name
        def value_fn(params, *, grad_fn=None, key=None):
            del grad_fn, key
            return at(params)[0][0]

        extras = {
            "value": loss,
            "grad": grads,
            "value_fn": value_fn,
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


def _with_extra_args(tx: optax.GradientTransformation | optax.MultiSteps) -> optax.GradientTransformationExtraArgs:
    # MultiSteps takes extra arguments, but neither the object nor its gradient_transformation() has the type that says
    # so, and optax would drop them without a word
    owner = getattr(tx.update, "__self__", None)
    if isinstance(owner, optax.MultiSteps):
        return optax.GradientTransformationExtraArgs(owner.init, owner.update)
    return optax.with_extra_args_support(tx)
