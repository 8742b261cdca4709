"""The largest eigenvalue of a Hessian, by Lanczos."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


def top_hessian_eigenvalue(
    loss: Callable[[Any], jax.Array], params: Any, key: jax.Array, *, iterations: int = 30
) -> jax.Array:
    """The largest eigenvalue of the Hessian of ``loss`` at ``params``; costs a Hessian-vector product an iteration.

    Lanczos from a random start, every new vector made orthogonal to all before (twice, as rounding asks for): the largest
    Ritz value, a lower bound that converges fast where the largest eigenvalue stands apart.
    """
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda v: loss(unravel(v)))
    iterations = min(iterations, flat.size)

    def orthogonal(v, basis):
        for _ in range(2):
            v = v - basis.T @ (basis @ v)
        return v

    def step(carry, i):
        basis, v = carry
        basis = basis.at[i].set(v)
        hv = jax.jvp(gradient, (flat,), (v,))[1]
        alpha = v @ hv
        rest = orthogonal(hv, basis)
        beta = jnp.linalg.norm(rest)
        return (basis, rest / jnp.where(beta > 0, beta, 1)), (alpha, beta)

    v = jax.random.normal(key, flat.shape, flat.dtype)
    start = (jnp.zeros((iterations, flat.size), flat.dtype), v / jnp.linalg.norm(v))
    _, (alpha, beta) = jax.lax.scan(step, start, jnp.arange(iterations))
    return jnp.linalg.eigvalsh(jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1))[-1]
