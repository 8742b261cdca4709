"""Norms and inner products over whole trees, in float32 at least, and what the aliases here share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxtrain.core import Number, Params, Scalar, check_finite_number
from jaxtrain.core.debug import debug_check
from jaxtrain.core.numerics import accumulator_dtype


def common_dtype(tree: Params) -> Any:
    """The dtype of a number that is summed over all leaves: float32 at least."""
    return jnp.result_type(jnp.float32, *map(accumulator_dtype, jax.tree.leaves(tree)))


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


def share_within(limit: Number, square: Array, *, most: Number = 1.0) -> Array:
    """What shortens a vector of that squared length to the limit, at most ``most``; 0 where the square overflowed.

    Without a limit (infinity) too: what cannot be measured does not count. NaN stays NaN.
    """
    # over a length of zero the limit is infinite, and the minimum is not
    return jnp.where(jnp.isinf(square), 0, jnp.minimum(most, limit / jnp.sqrt(square))).astype(square.dtype)


def scaled(factor: Array | float, tree: Params) -> Params:
    """``factor`` times each leaf, multiplied in float32 at least, in the leaves' dtypes."""
    return jax.tree.map(lambda x: (factor * x.astype(accumulator_dtype(x))).astype(x.dtype), tree)


def decayed(weight_decay: Number, mask: Any = None) -> optax.GradientTransformation:
    """``optax.add_decayed_weights``, or nothing at all for the number 0, so that no parameters are asked for."""
    check_finite_number("weight_decay", weight_decay, low=0.0)
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return optax.identity()
    return optax.add_decayed_weights(weight_decay, mask)


def check_cap(name: str, value: Number) -> None:
    """Raises unless ``value`` is a number > 0, such as infinity; one that is traced is checked by ``core.checked``."""
    if isinstance(value, jax.core.Tracer):
        debug_check(lambda: value > 0, f"{name} must lie in (0, inf], got {{value}}", value=lambda: value)
        return
    try:
        ok = np.all(np.asarray(value) > 0)
    except TypeError:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}") from None
    if not ok:
        raise ValueError(f"{name} must lie in (0, inf], got {value}")


def the_value(value: Any, dtype: Any, *, where: str) -> Scalar:
    """The extra argument ``value``, which must be there."""
    if value is None:
        raise ValueError(f"{where} needs the loss: call tx.update(grads, state, params, value=loss)")
    if jnp.shape(value) != ():
        raise ValueError(f"{where} needs the loss as one number, got an array of shape {jnp.shape(value)}")
    return jnp.asarray(value, dtype)
