"""Gradients of several objectives, joined by an aggregator."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtrain.core import GradFn, Params, PerExampleObjective


def jacobian_descent(objective: PerExampleObjective, aggregator: Callable[[Params], Params]) -> GradFn:
    r"""One gradient for each objective (or example), joined by an aggregator.

    With :math:`J` the Jacobian of the losses, one row each, the result is :math:`\mathcal A(J)`: the mean of the rows
    for plain training, a direction that no objective objects to for :func:`jaxtrain.aggregation.upgrad`. With the
    examples of a batch as objectives this is instance-wise risk minimization (IWRM). Costs one forward and as many
    backward passes as there are losses, vectorised, and as many gradients in memory.

    Args:
      objective: ``(params, model_state, batch, key) -> (losses, Aux)``.
      aggregator: stack of gradients with a leading axis ``->`` one gradient.

    Returns:
      A gradient function; its loss is the mean of the losses.

    Raises:
      ValueError: while tracing, the losses are not a vector.

    Source: Quinton, Rey (2024), arXiv 2406.16232.

    >>> from jaxtrain.aggregation import upgrad
    >>> from jaxtrain.core import Aux
    >>> losses = lambda w, s, batch, k: (jnp.array([w[0], w[1] - w[0]]), Aux(s, {}))
    >>> (loss, _), grads = jacobian_descent(losses, upgrad)(jnp.zeros(2), {}, None, jax.random.key(0))
    >>> [round(float(g), 2) for g in grads]
    [0.25, 0.75]
    """

    def grad_fn(params, model_state, batch, key):
        losses, pull_back, aux = jax.vjp(lambda p: objective(p, model_state, batch, key), params, has_aux=True)
        if losses.ndim != 1:
            raise ValueError(f"jacobian_descent needs a vector of losses, got shape {losses.shape}")
        (rows,) = jax.vmap(pull_back)(jnp.eye(len(losses), dtype=losses.dtype))
        return (jnp.mean(losses), aux), aggregator(rows)

    return grad_fn
