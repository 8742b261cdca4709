"""From an objective to a gradient function."""

import jax

from jaxtrain.core import GradFn, Objective


def value_and_grad(objective: Objective) -> GradFn:
    """The plain gradient: ``(params, model_state, batch, key) -> ((loss, Aux), ∇ loss)``.

    Args:
      objective: ``(params, model_state, batch, key) -> (loss, Aux)``.

    >>> import jax.numpy as jnp
    >>> from jaxtrain.core import Aux
    >>> grad_fn = value_and_grad(lambda w, s, x, k: (jnp.sum(w * x) ** 2, Aux(s, {})))
    >>> (loss, aux), grads = grad_fn(jnp.array([1.0, 2.0]), {}, jnp.array([3.0, 1.0]), None)
    >>> float(loss), grads.tolist()
    (25.0, [30.0, 10.0])
    """
    return jax.value_and_grad(objective, has_aux=True)
