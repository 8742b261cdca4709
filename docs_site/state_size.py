"""What the state of a transformation weighs, by ``jax.eval_shape``: nothing is computed and nothing is typed in."""

import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

SIDE = 256
_NUMBERS = (0.5, 1, 10, 0.1)


class StateSize(NamedTuple):
    """Bytes of state for each parameter, without lone numbers such as a count.

    Attributes:
      matrix: for a float32 matrix of 256 x 256.
      vector: for a float32 vector of 256.
    """

    matrix: float
    vector: float


def state_size(tx: optax.GradientTransformation) -> StateSize:
    """The size of a transformation's state.

    >>> state_size(optax.adam(1e-3))
    StateSize(matrix=8.0, vector=8.0)
    """
    return StateSize(*(_bytes_per_parameter(tx, shape) for shape in ((SIDE, SIDE), (SIDE,))))


def _bytes_per_parameter(tx: optax.GradientTransformation, shape: tuple[int, ...]) -> float:
    params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    leaves = jax.tree.leaves(jax.eval_shape(tx.init, params))
    return sum(x.size * x.dtype.itemsize for x in leaves if x.size > 1) / params["w"].size


class Example(NamedTuple):
    """The size of what a factory makes.

    Attributes:
      size: the size.
      chosen: integers that its factory has no defaults for, as in a call. A size may depend on them; on numbers that
        may be traced it cannot.
    """

    size: StateSize
    chosen: str


def example_of(make: Callable[..., Any]) -> Example | None:
    """The size of a factory's transformation, with plain values where an argument has no default, or None.

    Numbers are tried from a few, a wrapped transformation is one without state: what is found is the factory's own.

    >>> def memory(learning_rate: float, length: int):
    ...     return optax.lbfgs(learning_rate, memory_size=length)
    >>> example_of(memory)
    Example(size=StateSize(matrix=20.0, vector=20.0), chosen='length=1')
    """
    try:
        needed = [
            p
            for p in inspect.signature(make).parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return None
    choices = [_choices(parameter) for parameter in needed]
    for values in itertools.product(*choices):
        try:
            tx = make(**{p.name: value for p, value in zip(needed, values, strict=True)})
            if not (hasattr(tx, "init") and hasattr(tx, "update")):
                return None
            size = state_size(tx)
        except Exception:  # whatever a factory says to a value that does not suit it: the next one, or no size
            continue
        told = (f"{p.name}={value}" for p, value in zip(needed, values, strict=True) if p.annotation in (int, "int"))
        return Example(size, ", ".join(told))
    return None


def _choices(parameter: inspect.Parameter) -> tuple[Any, ...]:
    text = parameter.annotation if isinstance(parameter.annotation, str) else str(parameter.annotation)
    if "GradientTransformation" in text:
        return (optax.identity(),)
    if parameter.name in ("learning_rate", "schedule") or "float" in text or "int" in text:
        return _NUMBERS
    return ()
