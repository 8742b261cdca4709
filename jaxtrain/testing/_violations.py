"""What a broken law looks like, and how two trees are compared."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Violation(NamedTuple):
    """One broken law.

    Attributes:
      law: its name.
      leaf: where, as ``jax.tree_util.keystr`` writes it; empty where no single leaf is to blame.
      message: one line with the values.
    """

    law: str
    leaf: str
    message: str

    def __str__(self) -> str:
        return f"{self.law}{' at ' + self.leaf if self.leaf else ''}: {self.message}"


class ContractError(AssertionError):
    """A law is broken.

    Attributes:
      violations: all that were found.
    """

    def __init__(self, what: str, violations: Sequence[Violation]):
        self.violations = tuple(violations)
        super().__init__(f"{what} breaks {len(violations)} law(s):\n" + "\n".join(f"  {v}" for v in violations))


def demand(what: str, violations: Sequence[Violation]) -> None:
    """Raises :class:`ContractError` if there is a violation."""
    if violations:
        raise ContractError(what, violations)


def chosen(known: Iterable[str], laws: Iterable[str] | None, except_: Iterable[str]) -> tuple[str, ...]:
    """The laws to check, in their own order; unknown names raise ``ValueError``."""
    known = tuple(known)
    for name in (*(laws or ()), *except_):
        if name not in known:
            raise ValueError(f"there is no law '{name}'; the laws are {', '.join(known)}")
    return tuple(law for law in known if (laws is None or law in tuple(laws)) and law not in tuple(except_))


def guarded(law: str, check: Callable[[], Iterable[Violation]]) -> list[Violation]:
    """The violations of a law; an exception inside is one."""
    try:
        return list(check())
    except Exception as error:
        return [Violation(law, "", raised(error))]


def raised(error: BaseException) -> str:
    """An exception as one line."""
    text = " ".join(str(error).split())
    return f"raises {type(error).__name__}: {text[:300]}{'…' if len(text) > 300 else ''}"


def named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves by the name of their path."""
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def as_numpy(x: Any) -> np.ndarray:
    """The values of a leaf: keys as their data, low precision widened, so that NumPy can compare them."""
    if jnp.issubdtype(jnp.result_type(x) if not hasattr(x, "dtype") else x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    array = np.asarray(x)
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4:
        return array.astype(np.float32)
    return array


def show(x: Any, index: tuple[int, ...] = ()) -> str:
    """A number of a leaf, short."""
    value = as_numpy(x)[index]
    return f"{value:.9g}" if np.issubdtype(value.dtype, np.floating) else str(value)


def describe(x: Any) -> str:
    """Dtype and shape."""
    return f"{getattr(x, 'dtype', type(x).__name__)}{list(np.shape(x))}"


def differing_values(
    law: str, expected: Any, got: Any, rtol: float, *, left: str, right: str, limit: int = 1
) -> list[Violation]:
    """Where two trees differ, by more than ``rtol`` of the largest entry of the leaf; ``rtol`` 0: bit for bit.

    NaN equals NaN, and an infinity only itself.
    """
    old, new = named_leaves(expected), named_leaves(got)
    if list(old) != list(new):
        odd = [*(k for k in old if k not in new), *(k for k in new if k not in old)]
        return [Violation(law, odd[0] if odd else "", f"{left} and {right} have other leaves")]
    found = []
    for name, a in old.items():
        b = new[name]
        if np.shape(a) != np.shape(b):
            found.append(Violation(law, name, f"{left} has shape {list(np.shape(a))}, {right} {list(np.shape(b))}"))
            continue
        x, y = as_numpy(a), as_numpy(b)
        if x.size == 0:
            continue
        if np.issubdtype(x.dtype, np.floating):
            finite = x[np.isfinite(x)]
            atol = rtol * float(np.max(np.abs(finite))) if finite.size else 0.0
            same = np.isclose(y, x, rtol=0.0, atol=atol, equal_nan=True)
        else:
            same = x == y
        if not np.all(same):
            index = tuple(int(i) for i in np.argwhere(~same)[0]) if x.ndim else ()
            at = f" at {list(index)}" if index else ""
            found.append(Violation(law, name, f"{left} gives {show(a, index)}, {right} gives {show(b, index)}{at}"))
        if len(found) == limit:
            break
    return found


def not_finite(law: str, tree: Any, *, what: str, limit: int = 1) -> list[Violation]:
    """Leaves with a NaN or an infinity."""
    found = []
    for name, x in named_leaves(tree).items():
        array = as_numpy(x)
        if np.issubdtype(array.dtype, np.floating) and not np.all(np.isfinite(array)):
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0]) if array.ndim else ()
            found.append(Violation(law, name, f"{what} is {show(x, index)}{f' at {list(index)}' if index else ''}"))
            if len(found) == limit:
                break
    return found


def unrefused(law: str, call: Callable[[Any], Any], bad: Mapping[str, Any]) -> list[Violation]:
    """The first bad input, by what is wrong with it, that a call does not answer with a ValueError."""
    for what, value in bad.items():
        try:
            call(value)
        except ValueError:
            continue
        except Exception as error:
            return [Violation(law, "", f"{what}: {type(error).__name__} instead of ValueError")]
        return [Violation(law, "", f"{what} raised nothing")]
    return []


def run_checks(checks: Mapping[str, Callable[[], Iterable[Violation]]], wanted: Sequence[str]) -> list[Violation]:
    """All that is broken; where shapes are wrong, the rest is not asked."""
    found: list[Violation] = []
    for law in wanted:
        broken = guarded(law, checks[law])
        found += broken
        if law in ("shape", "scalar") and broken:
            break
    return found
