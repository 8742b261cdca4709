"""The gradient of a large batch in the memory of a small one."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.core import Aux, GradFn, check_leading_axes


def microbatch(grad_fn: GradFn, count: int, *, objectives: int | None = None) -> GradFn:
    r"""Splits a batch into ``count`` equal parts, one after the other, and averages: gradient accumulation.

    .. math:: g = \frac1m \sum_{i=1}^m g(\text{part}_i)

    For a loss that is a mean over examples this is the gradient of the whole batch up to rounding, for any number of
    parts: they are of equal size, so the mean of their means is the mean. (A loss that divides by something of its
    batch, as by a sum of weights, is another one in parts.) Summing in another order moves an entry by at most
    :math:`2 n u \cdot \text{mean}_i |g_i|` with n examples of gradients :math:`g_i` and :math:`u = 2^{-24}`; half
    precision is summed in float32. The model state passes from part to part, so BatchNorm normalises each part by its own statistics and moves
    its running statistics ``count`` times: with BatchNorm the gradient is that of smaller batches, not of the large
    one. Part ``i`` gets ``fold_in(key, i)``. Loss and metrics are means over the parts. Costs ``count`` calls of
    ``grad_fn`` and one more copy of the gradient.

    Args:
      grad_fn: ``(params, model_state, batch, key) -> ((loss, Aux), gradients)``.
      count: parts, ≥ 1; must divide the batch.
      objectives: length of the leading axis of ``grad_fn``'s gradients where it has one, as :func:`jacobian`'s.

    Returns:
      A gradient function of the same signature, so that it nests with others.

    Raises:
      ValueError: ``count`` below 1, or (while tracing) it does not divide the batch.

    >>> from jaxtrain.gradients import value_and_grad
    >>> objective = lambda w, s, x, k: (jnp.mean((w - x) ** 2), Aux(s, {}))
    >>> x, key = jnp.array([1.0, 2.0, 3.0, 6.0]), jax.random.key(0)
    >>> (loss, _), grads = microbatch(value_and_grad(objective), 2)(jnp.array(0.0), {}, x, key)
    >>> float(loss), float(grads)
    (12.5, -6.0)
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if count == 1:
        return grad_fn

    def accumulated(params: Any, model_state: Any, batch: Any, key: Any):
        size = check_leading_axes(batch, where="microbatch")
        if size % count:
            raise ValueError(f"microbatch: {count} parts do not divide a batch of {size} examples")
        # part i holds the examples i, i + count, …: on a mesh every device keeps its own examples in every part,
        # where contiguous parts would move the batch between devices
        parts = jax.tree.map(lambda x: x.reshape(size // count, count, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(carry, inputs):
            model_state, total = carry
            i, part = inputs
            (loss, aux), grads = grad_fn(params, model_state, part, jax.random.fold_in(key, i))
            total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, grads)
            return (aux.model_state, total), (loss, aux.metrics)

        lead = () if objectives is None else (objectives,)
        zeros = jax.tree.map(lambda p: jnp.zeros((*lead, *p.shape), jnp.promote_types(p.dtype, jnp.float32)), params)
        (model_state, total), (losses, metrics) = jax.lax.scan(add, (model_state, zeros), (jnp.arange(count), parts))
        grads = jax.tree.map(lambda g, p: (g / count).astype(p.dtype), total, params)
        return (jnp.mean(losses), Aux(model_state, jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics))), grads

    return accumulated
