"""Norms and inner products over whole trees, in float32 at least, and what the aliases here share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxtrain.core import Number, Params, Scalar
from jaxtrain.core.numerics import accumulator_dtype


def common_dtype(tree: Params) -> Any:
    """The dtype of a number that is summed over all leaves: float32 at least."""
    return jnp.promote_types(jnp.result_type(jnp.float32, *jax.tree.leaves(tree)), jnp.float32)


def inner(a: Params, b: Params) -> Scalar:
    """The inner product of two trees. Under ``jit`` sharded leaves are summed over all devices."""
    kind = common_dtype(a)
    terms = jax.tree.map(lambda x, y: jnp.sum(x.astype(kind) * y.astype(kind)), a, b)
    return sum(jax.tree.leaves(terms), jnp.zeros((), kind))


def squared_norm(tree: Params) -> Scalar:
    """The sum of the squares of all entries of all leaves."""
    kind = common_dtype(tree)
    return sum((jnp.sum(jnp.square(x.astype(kind))) for x in jax.tree.leaves(tree)), jnp.zeros((), kind))


def ratio(a: Array, b: Array) -> Array:
    """``a / b``, and 0 where ``b`` is 0: nothing divided by nothing moves nothing. NaN stays NaN."""
    zero = b == 0
    return jnp.where(zero, 0, a / jnp.where(zero, 1, b)).astype(jnp.result_type(a, b))


def scaled(factor: Array | float, tree: Params) -> Params:
    """``factor`` times each leaf, multiplied in float32 at least, in the leaves' dtypes."""
    return jax.tree.map(lambda x: (factor * x.astype(accumulator_dtype(x))).astype(x.dtype), tree)


def decayed(weight_decay: Number, mask: Any = None) -> optax.GradientTransformation:
    """``optax.add_decayed_weights``, or nothing at all for the number 0, so that no parameters are asked for."""
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return optax.identity()
    return optax.add_decayed_weights(weight_decay, mask)


def check_cap(name: str, value: Number) -> None:
    """Raises unless ``value`` is > 0; infinity passes, and so does what is traced."""
    if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) > 0):
        raise ValueError(f"{name} must lie in (0, inf], got {value}")


def the_value(value: Any, dtype: Any, *, where: str) -> Scalar:
    """The extra argument ``value``, which must be there."""
    if value is None:
        raise ValueError(f"{where} needs the loss: call tx.update(grads, state, params, value=loss)")
    if jnp.shape(value) != ():
        raise ValueError(f"{where} needs the loss as one number, got an array of shape {jnp.shape(value)}")
    return jnp.asarray(value, dtype)
