"""Checks that run while tracing and say what was wrong, with which value, and what to do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.core.debug import debug_check

_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


def check_key(key: Any, *, where: str) -> None:
    """Raises unless ``key`` is one typed key, as ``jax.random.key`` makes it.

    >>> check_key(jax.random.key(0), where="sample")
    >>> check_key(0, where="sample")
    Traceback (most recent call last):
    TypeError: sample needs a typed key from jax.random.key(seed), got int
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None:
        raise TypeError(f"{where} needs a typed key from jax.random.key(seed), got {type(key).__name__}")
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{where} needs a typed key from jax.random.key(seed), got an array of dtype {dtype} "
            f"and shape {np.shape(key)}; wrap an old key with jax.random.wrap_key_data"
        )
    if key.shape != ():
        raise ValueError(f"{where} needs one key, got an array of {key.shape} keys; use jax.vmap over them")


def check_finite_number(name: str, value: Any, *, low: float = -np.inf, high: float = np.inf) -> None:
    """Raises unless ``value`` is a finite number in ``[low, high]``; one that is traced is checked by :func:`checked`.

    >>> check_finite_number("b1", 0.9, low=0.0, high=1.0)
    >>> check_finite_number("b1", 1.5, low=0.0, high=1.0)
    Traceback (most recent call last):
    ValueError: b1 must lie in [0.0, 1.0], got 1.5
    """
    if isinstance(value, jax.core.Tracer):
        debug_check(
            lambda: jnp.isfinite(value) & (value >= low) & (value <= high),
            f"{name} must lie in [{low}, {high}], got {{value}}",
            value=lambda: value,
        )
        return
    try:
        ok = bool(np.all(np.isfinite(value))) and bool(np.all((np.asarray(value) >= low) & (np.asarray(value) <= high)))
    except TypeError:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}") from None
    if not ok:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")


def check_decays(**decays: Any) -> None:
    """Raises unless every decay of a running mean lies in [0, 1), where 1 - βᵗ is not zero in single precision.

    >>> check_decays(b1=0.9, b2=1.0)
    Traceback (most recent call last):
    ValueError: b2 must lie in [0.0, 0.9999999403953552], got 1.0
    """
    for name, value in decays.items():
        check_finite_number(name, value, low=0.0, high=_BELOW_ONE)


def check_leading_axes(batch: Any, *, where: str, axis_name: str = "batch") -> int:
    """The common size of the leading axes of a batch; raises where they disagree, are missing or are empty.

    >>> check_leading_axes({"x": jnp.zeros((4, 2)), "y": jnp.zeros(4)}, where="step")
    4
    >>> check_leading_axes({"x": jnp.zeros((4, 2)), "y": jnp.zeros(3)}, where="step")
    Traceback (most recent call last):
    ValueError: step: the leading axes of the batch disagree: ['x'] has 4, ['y'] has 3
    """
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    if not leaves:
        raise ValueError(f"{where}: the {axis_name} has no arrays")
    sizes = []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path) or "the array"
        if np.ndim(leaf) == 0:
            raise ValueError(f"{where}: {name} is a scalar; every array of the {axis_name} needs a leading axis")
        sizes.append((name, np.shape(leaf)[0]))
    first_name, first = sizes[0]
    for name, size in sizes:
        if size != first:
            raise ValueError(
                f"{where}: the leading axes of the {axis_name} disagree: {first_name} has {first}, {name} has {size}"
            )
    if first == 0:
        raise ValueError(f"{where}: the {axis_name} is empty (leading axis 0 at {first_name})")
    return first


def check_same_structure(expected: Any, got: Any, *, where: str, limit: int = 5) -> None:
    """Raises, naming the first paths that differ, unless two trees agree in structure, shapes and dtypes.

    >>> check_same_structure({"a": jnp.zeros(2)}, {"b": jnp.zeros(2)}, where="restore")
    Traceback (most recent call last):
    ValueError: restore: the trees differ: ['a'] is missing; ['b'] is not expected
    """

    compare_leaves(describe_leaves(expected), describe_leaves(got), where=where, limit=limit)


def describe_leaves(tree: Any) -> dict[str, str]:
    """Path and description (dtype and shape) of every leaf.

    >>> describe_leaves({"a": jnp.zeros(2)})
    {"['a']": 'float32[2]'}
    """

    def describe(x: Any) -> str:
        return f"{getattr(x, 'dtype', type(x).__name__)}{list(np.shape(x))}"

    return {jax.tree_util.keystr(path): describe(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def compare_leaves(expected: dict[str, str], got: dict[str, str], *, where: str, limit: int = 5) -> None:
    """Raises, naming the first paths that differ, unless two descriptions of leaves agree."""
    faults = [f"{p} is missing" for p in expected if p not in got]
    faults += [f"{p} is not expected" for p in got if p not in expected]
    faults += [f"{p} is {got[p]}, expected {x}" for p, x in expected.items() if p in got and got[p] != x]
    if faults:
        more = f"; and {len(faults) - limit} more" if len(faults) > limit else ""
        raise ValueError(f"{where}: the trees differ: " + "; ".join(faults[:limit]) + more)
