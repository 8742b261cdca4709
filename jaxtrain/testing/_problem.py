"""The small training problem on which transformations are checked."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

STEPS = 3


def default_params(dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    """Two leaves, a matrix and a vector, with entries of mixed sign and size; eight devices divide both."""
    kernel, bias = (_normal(i, shape) for i, shape in enumerate([(8, 4), (8,)]))
    return {"bias": (0.3 * bias).astype(dtype), "kernel": kernel.astype(dtype)}


def _normal(i: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(i).standard_normal(shape), jnp.float32)


def batches(params: Any, count: int = STEPS) -> Any:
    """One tree like the parameters with a leading axis of minibatches: the targets that they pull to."""
    leaves, structure = jax.tree.flatten(params)
    targets = [_normal(10 + i, (count, *p.shape)).astype(p.dtype) for i, p in enumerate(leaves)]
    return jax.tree.unflatten(structure, targets)


def value_fn(batch: Any) -> Callable[[Any], jax.Array]:
    """The loss on a minibatch: convex, smooth, without a vanishing gradient or Hessian.

    Parameters may lack leaves of the minibatch (under ``optax.masked``): it is a sum over the leaves that there are.
    """
    targets = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(batch)}

    def value(params: Any) -> jax.Array:
        total = jnp.zeros((), jnp.float32)
        for path, p in jax.tree_util.tree_leaves_with_path(params):
            error = p - targets[jax.tree_util.keystr(path)]
            total += jnp.sum(error**2 * (0.5 + 0.05 * error**2), dtype=jnp.float32)
        return total

    return value


ExtraArgs = Callable[[Any, Any, Any, jax.Array], dict[str, Any]]


def standard_extra_args(params: Any, grads: Any, batch: Any, key: jax.Array) -> dict[str, Any]:
    """What :func:`jaxtrain.training.make_step` gives to every chain: ``value``, ``value_fn``, ``grad_fn``, ``key``."""
    fn = value_fn(batch)
    return {"value": fn(params), "value_fn": fn, "grad_fn": jax.grad(fn), "key": key}
