"""How flat a minimum is: the top eigenvalue of the Hessian, and how far the loss rises in a ball around it."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxtrain.core.tree import safe_norm
from jaxtrain.gradients import ascent, projected_ascent


def top_eigenvalue(loss, params, key, *, iterations=50):
    """Of largest absolute value, by power iteration with Hessian-vector products; the last Rayleigh quotient."""
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda v: loss(unravel(v)))

    def step(v, _):
        product = jax.jvp(gradient, (flat,), (v,))[1]
        return product / jnp.maximum(jnp.linalg.norm(product), 1e-30), v @ product

    start = jax.random.normal(key, flat.shape)
    return jax.lax.scan(step, start / jnp.linalg.norm(start), None, iterations)[1][-1]


def rise_in_ball(loss, params, radius, *, steps=10):
    """The largest rise of the loss that ascent finds within a distance of the parameters."""

    def climb(offset, _):
        value, grads = jax.value_and_grad(loss)(jax.tree.map(jnp.add, params, offset))
        rate = radius / 2 / jnp.maximum(safe_norm(grads), 1e-30)
        return projected_ascent(params, offset, grads, radius, rate), value

    first = ascent(params, jax.grad(loss)(params), radius)
    last, values = jax.lax.scan(climb, first, None, steps)
    end = loss(jax.tree.map(jnp.add, params, last))
    return jnp.maximum(values.max(), end) - loss(params)
