"""One compiled run for the claims here, repeated over seeds and settings: small runs are cheaper one by one than batched,
and several arms read the same runs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments import _ends


def once(measure: Callable[[Any, bool], Mapping[str, Any]]) -> Callable[[Any, bool], Mapping[str, Any]]:
    """Measures all arms of a claim when the first is asked for, and remembers."""
    kept: dict[Any, Mapping[str, Any]] = {}

    @functools.wraps(measure)
    def remembered(keys, smoke):
        mark = (np.asarray(jax.random.key_data(keys)).tobytes(), smoke)
        if mark not in kept:
            kept[mark] = measure(keys, smoke)
        return kept[mark]

    return remembered


def each(run: Callable[..., Any], keys: Any, *settings: Any) -> Any:
    """``run(key, *settings)`` for every key, stacked, on the host."""
    found = [jax.device_get(run(key, *settings)) for key in keys]
    return jax.tree.map(lambda *x: np.stack(x), *found)


def best(score: Callable[[Any, float], Any], values: Sequence[float], *, smoke: bool) -> Any:
    """The value with the lowest mean of ``score(key, value)`` over three seeds that no claim is measured on.

    A score may be a dictionary: then the best value for each of its entries.
    """
    if smoke:
        values = values[:1]
    keys = jax.random.split(jax.random.key(20_000), 1 if smoke else 3)
    scores = [jax.tree.map(np.mean, each(score, keys, v)) for v in values]
    return jax.tree.map(lambda *s: values[_ends.lowest(s, values)], *scores)
