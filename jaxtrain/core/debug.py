"""Checks of values that are only known when a compiled program runs: on request, and free otherwise."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import checkify
from jax.typing import ArrayLike

P = ParamSpec("P")
T = TypeVar("T")

_ASKED = jax.make_user_context(False)  # a part of the key of all of JAX's caches: inner functions are traced anew


def checked(fun: Callable[P, T]) -> Callable[P, T]:
    """``jit`` with the checks of values that tracing leaves out: labels, and hyperparameters that are arguments.

    Under ``jit`` a label out of range is moved to the nearest class and a traced temperature of 0 is used as it is, as
    a check at every step would cost more than the loss. With a doubt, call the same step through this function once:
    it runs ``jax.experimental.checkify`` around it and raises what is wrong. Works through ``grad``, ``vmap``, ``scan``
    and ``shard_map``, and through a ``jit`` inside ``fun``, also one that has been compiled without the checks.

    Args:
      fun: a function of arrays, as for ``jax.jit``.

    Returns:
      A function of the same arguments and results, compiled.

    Raises:
      ValueError: from the returned function, what the first broken check says.

    >>> from jaxtrain.losses import comp_sum_loss
    >>> step = lambda logits, labels: comp_sum_loss(logits, labels).mean()
    >>> round(float(jax.jit(step)(jnp.zeros((1, 3)), jnp.array([7]))), 4)  # as label 2
    1.0986
    >>> checked(step)(jnp.zeros((1, 3)), jnp.array([7]))
    Traceback (most recent call last):
    jax._src.checkify.JaxRuntimeError: comp_sum_loss: label 7 is none of the 3 classes (`check` failed)
    """

    def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        with _ASKED(True):
            return fun(*args, **kwargs)

    run = jax.jit(checkify.checkify(asked))

    @functools.wraps(fun)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        error, out = run(*args, **kwargs)
        error.throw()
        return out

    return call


def debug_check(ok: Callable[[], ArrayLike], message: str, **values: Callable[[], jax.Array]) -> None:
    """Has ``message`` raised by :func:`checked` unless all of ``ok()`` is true; nothing at all otherwise.

    Args:
      ok: makes the condition; called only where somebody asked.
      message: with ``{name}`` for each of the values; other braces doubled.
      values: make what the message shows.

    >>> def log(x):
    ...     debug_check(lambda: x > 0, "log needs x > 0, got {x}", x=lambda: x)
    ...     return jnp.log(x)
    >>> float(jax.jit(log)(1.0)), float(checked(log)(1.0))
    (0.0, 0.0)
    >>> checked(log)(-1.0)
    Traceback (most recent call last):
    jax._src.checkify.JaxRuntimeError: log needs x > 0, got -1.0 (`check` failed)
    """
    if _ASKED.value:
        checkify.debug_check(jnp.all(ok()), message, **{name: value() for name, value in values.items()})
