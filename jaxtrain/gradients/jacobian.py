"""Gradients of several objectives or of every example, and their joining by an aggregator."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtrain.core import Aux, GradFn, Params, PerExampleObjective, check_leading_axes
from jaxtrain.core.numerics import static_int


def jacobian(objective: PerExampleObjective, *, parallel: int | None = None) -> GradFn:
    r"""One gradient for each of several objectives: the rows of the Jacobian, as a stack with a leading axis.

    .. math:: J_i = \nabla_\theta\, \ell_i(\theta)

    The objectives may see each other's examples (tasks of one network, BatchNorm). Costs one forward and as many backward
    passes as there are losses, ``parallel`` of them at once, and as many gradients in memory; in parts of a batch, with
    the activations of one part, it is ``microbatch(jacobian(objective), count, objectives=…)``.

    Args:
      objective: ``(params, model_state, batch, key) -> (losses, Aux)``.
      parallel: backward passes that are vectorised; default: all.

    Returns:
      A gradient function whose gradients have a leading axis of losses; its loss is their mean.

    Raises:
      ValueError: while tracing, the losses are not a vector.

    >>> losses = lambda w, s, batch, k: (jnp.array([w[0], w[1] - w[0]]), Aux(s, {}))
    >>> jacobian(losses)(jnp.zeros(2), {}, None, jax.random.key(0))[1].tolist()
    [[1.0, 0.0], [-1.0, 1.0]]
    """
    parallel = None if parallel is None else static_int("parallel", parallel, low=1)

    def grad_fn(params, model_state, batch, key):
        losses, pull_back, aux = jax.vjp(lambda p: objective(p, model_state, batch, key), params, has_aux=True)
        if losses.ndim != 1:
            raise ValueError(f"jacobian needs a vector of losses, got shape {losses.shape}")
        (rows,) = _over(pull_back, jnp.eye(len(losses), dtype=losses.dtype), parallel)
        return (jnp.mean(losses), aux), rows

    return grad_fn


def per_example(objective: PerExampleObjective, *, parallel: int | None = None) -> GradFn:
    r"""The gradient of every example of the batch, as a stack with a leading axis.

    What :func:`jacobian` gives for the losses of the examples, at the cost of one forward and one backward pass over the
    batch instead of one backward pass for each example; as many gradients as examples are in memory, and the activations
    of ``parallel`` examples. Each example goes through the model alone: with BatchNorm in training, where examples see
    each other, use :func:`jacobian`. Example i gets ``fold_in(key, i)``. Metrics and floating model state are means over
    the examples; other model state (counters) is that of the first.

    Args:
      objective: ``(params, model_state, batch, key) -> (losses, Aux)``; it is called with batches of one.
      parallel: examples that are vectorised; default: all.

    Returns:
      A gradient function whose gradients have a leading axis of examples; its loss is the mean of theirs.

    Raises:
      ValueError: while tracing, the leading axes of the batch disagree or are empty.

    >>> losses = lambda w, s, batch, k: (0.5 * jnp.sum((w - batch) ** 2, axis=1), Aux(s, {}))
    >>> batch = jnp.array([[2.0, 0.0], [0.0, 4.0]])
    >>> per_example(losses)(jnp.zeros(2), {}, batch, jax.random.key(0))[1].tolist()
    [[-2.0, 0.0], [0.0, -4.0]]
    """
    return _per_example(objective, parallel, "per_example")


def _per_example(objective, parallel, where):
    parallel = None if parallel is None else static_int("parallel", parallel, low=1)

    def grad_fn(params, model_state, batch, key):
        size = check_leading_axes(batch, where=where)

        def one(inputs):
            example, i = inputs

            def loss(p):
                alone = jax.tree.map(lambda x: x[None], example)
                losses, aux = objective(p, model_state, alone, jax.random.fold_in(key, i))
                return losses[0], aux

            return jax.value_and_grad(loss, has_aux=True)(params)

        def joined(x):
            return jnp.mean(x, axis=0) if jnp.issubdtype(x.dtype, jnp.floating) else x[0]

        (losses, aux), rows = _over(one, (batch, jnp.arange(size)), parallel)
        return (jnp.mean(losses), Aux(*jax.tree.map(joined, tuple(aux)))), rows

    return grad_fn


def _over(f, xs, parallel):
    return jax.vmap(f)(xs) if parallel is None else jax.lax.map(f, xs, batch_size=parallel)


def aggregated(grad_fn: GradFn, aggregator: Callable[[Params], Params]) -> GradFn:
    r"""One gradient out of a stack of them, :math:`\mathcal A(J)`.

    Args:
      grad_fn: a gradient function whose gradients have a leading axis, such as :func:`jacobian`, :func:`per_example` or
        one of them in microbatches.
      aggregator: stack of gradients with a leading axis ``->`` one gradient, as in :mod:`jaxtrain.aggregation`. Those
        with a state are optax transformations and go into the chain instead.

    >>> from jaxtrain.aggregation import upgrad
    >>> losses = lambda w, s, batch, k: (jnp.array([w[0], w[1] - w[0]]), Aux(s, {}))
    >>> _, grads = aggregated(jacobian(losses, parallel=1), upgrad)(jnp.zeros(2), {}, None, jax.random.key(0))
    >>> [round(float(g), 2) for g in grads]
    [0.25, 0.75]
    """

    def joined(params, model_state, batch, key):
        first, stack = grad_fn(params, model_state, batch, key)
        return first, aggregator(stack)

    return joined


def jacobian_descent(objective: PerExampleObjective, aggregator: Callable[[Params], Params]) -> GradFn:
    r"""One gradient for each objective (or example), joined by an aggregator.

    With :math:`J` the Jacobian of the losses, one row each, the result is :math:`\mathcal A(J)`: the mean of the rows
    for plain training, a direction that no objective objects to for :func:`jaxtrain.aggregation.upgrad`. With the
    examples of a batch as objectives this is instance-wise risk minimization; :func:`iwrm` does that at the cost of one
    backward pass where the examples do not see each other. :func:`aggregated` of :func:`jacobian`, which says the cost.

    Args:
      objective: ``(params, model_state, batch, key) -> (losses, Aux)``.
      aggregator: stack of gradients with a leading axis ``->`` one gradient.

    Returns:
      A gradient function; its loss is the mean of the losses.

    Raises:
      ValueError: while tracing, the losses are not a vector.

    Source: Quinton, Rey (2024), arXiv 2406.16232.

    >>> from jaxtrain.aggregation import upgrad
    >>> losses = lambda w, s, batch, k: (jnp.array([w[0], w[1] - w[0]]), Aux(s, {}))
    >>> (loss, _), grads = jacobian_descent(losses, upgrad)(jnp.zeros(2), {}, None, jax.random.key(0))
    >>> [round(float(g), 2) for g in grads]
    [0.25, 0.75]
    """
    return aggregated(jacobian(objective), aggregator)


def iwrm(objective: PerExampleObjective, aggregator: Callable[[Params], Params]) -> GradFn:
    r"""Instance-wise risk minimization: every example of the batch is an objective of its own.

    .. math:: \mathcal A(J), \qquad J_i = \nabla_\theta \ell(\theta; x_i)

    What :func:`jacobian_descent` gives for the losses of the examples, at the cost of one backward pass over the batch
    instead of one for each example. :func:`aggregated` of :func:`per_example`, which says how examples are treated.

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
    return aggregated(_per_example(objective, None, "iwrm"), aggregator)
