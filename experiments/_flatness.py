"""The largest eigenvalue of a Hessian, by Lanczos."""

from collections.abc import Callable
from typing import Any

import jax

from jaxtrain.core.lanczos import top_eigenvalue


def top_hessian_eigenvalue(
    loss: Callable[[Any], jax.Array], params: Any, key: jax.Array, *, iterations: int = 30
) -> jax.Array:
    """The largest eigenvalue of the Hessian of ``loss`` at ``params``; costs a Hessian-vector product an iteration."""
    gradient = jax.grad(loss)
    return top_eigenvalue(key, lambda v: jax.jvp(gradient, (params,), (v,))[1], params, num_steps=iterations)
