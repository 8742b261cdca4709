"""Gradients of several objectives, joined by an aggregator."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtrain.core import Aux, GradFn, Params, PerExampleObjective, check_leading_axes


def jacobian_descent(objective: PerExampleObjective, aggregator: Callable[[Params], Params]) -> GradFn:
    r"""One gradient for each objective (or example), joined by an aggregator.

    With :math:`J` the Jacobian of the losses, one row each, the result is :math:`\mathcal A(J)`: the mean of the rows
    for plain training, a direction that no objective objects to for :func:`jaxtrain.aggregation.upgrad`. With the
    examples of a batch as objectives this is instance-wise risk minimization; :func:`iwrm` does that at the cost of one
    backward pass where the examples do not see each other. Costs one forward and as many
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


def iwrm(objective: PerExampleObjective, aggregator: Callable[[Params], Params]) -> GradFn:
    r"""Instance-wise risk minimization: every example of the batch is an objective of its own.

    .. math:: \mathcal A(J), \qquad J_i = \nabla_\theta \ell(\theta; x_i)

    What :func:`jacobian_descent` gives for the losses of the examples, at the cost of one forward and one backward pass
    over the batch instead of one backward pass for each example; the memory of as many gradients as examples is the
    same. Each example goes through the model alone: with BatchNorm in training, where examples see each other, use
    :func:`jacobian_descent`. Example i gets ``fold_in(key, i)``. Loss, metrics and floating model state are means over
    the examples; other model state (counters) is that of the first.

    Args:
      objective: ``(params, model_state, batch, key) -> (losses, Aux)``; it is called with batches of one.
      aggregator: stack of gradients with a leading axis ``->`` one gradient.

    Returns:
      A gradient function; its loss is the mean of the losses.

    Raises:
      ValueError: while tracing, the leading axes of the batch disagree or are empty.

    Source: Quinton, Rey (2024), arXiv 2406.16232.

    >>> losses = lambda w, s, batch, k: (0.5 * jnp.sum((w - batch) ** 2, axis=1), Aux(s, {}))
    >>> mean = lambda stack: jax.tree.map(lambda x: jnp.mean(x, axis=0), stack)
    >>> (loss, _), grads = iwrm(losses, mean)(jnp.zeros(2), {}, jnp.array([[2.0, 0.0], [0.0, 4.0]]), jax.random.key(0))
    >>> float(loss), grads.tolist()
    (5.0, [-1.0, -2.0])
    """

    def grad_fn(params, model_state, batch, key):
        size = check_leading_axes(batch, where="iwrm")

        def one(example, i):
            def loss(p):
                alone = jax.tree.map(lambda x: x[None], example)
                losses, aux = objective(p, model_state, alone, jax.random.fold_in(key, i))
                return losses[0], aux

            return jax.value_and_grad(loss, has_aux=True)(params)

        def joined(x):
            return jnp.mean(x, axis=0) if jnp.issubdtype(x.dtype, jnp.floating) else x[0]

        (losses, aux), rows = jax.vmap(one)(batch, jnp.arange(size))
        return (jnp.mean(losses), Aux(*jax.tree.map(joined, tuple(aux)))), aggregator(rows)

    return grad_fn
