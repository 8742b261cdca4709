"""Sorting along the leading axis: few rows, long columns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


@functools.cache
def _layers(n: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Batcher's merge exchange sort for any n: layers of pairs that can be compared at once."""
    found = []
    depth = (n - 1).bit_length()
    p = 1 << depth >> 1
    while p:
        q, r, d = 1 << depth >> 1, 0, p
        while True:
            found.append(tuple((i, i + d) for i in range(n - d) if i & p == r))
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return tuple(found)


def sort_rows(x: Array) -> list[Array]:
    """The rows of a stack, sorted coordinate by coordinate, upwards; a NaN counts as infinity.

    A network of minima and maxima, since XLA on a CPU sorts one short column after the other: measured on 15 rows of
    100,000 numbers 1 ms against 290 ms. Rows that are not used cost nothing.
    """
    x = jnp.where(jnp.isnan(x), jnp.inf, x)
    n = len(x)
    if n > 64:  # one operation for each row and layer would take long to compile
        for pairs in _layers(n):
            other, lower, upper = np.arange(n), np.zeros(n, bool), np.zeros(n, bool)
            for i, j in pairs:
                other[i], other[j], lower[i], upper[j] = j, i, True, True
            partner = x[other]
            lower, upper = (m.reshape(-1, *[1] * (x.ndim - 1)) for m in (lower, upper))
            x = jnp.where(lower, jnp.minimum(x, partner), jnp.where(upper, jnp.maximum(x, partner), x))
            x = jax.lax.optimization_barrier(x)  # fused, every layer would compute all before it anew
        return list(x)
    rows = list(x)
    for number, pairs in enumerate(_layers(n), 1):
        for i, j in pairs:
            rows[i], rows[j] = jnp.minimum(rows[i], rows[j]), jnp.maximum(rows[i], rows[j])
        if number % 6 == 0:  # larger kernels spill registers, and take a minute to compile
            rows = list(jax.lax.optimization_barrier(tuple(rows)))
    return rows
