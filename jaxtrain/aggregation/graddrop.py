"""GradDrop: in every coordinate one sign is picked at random, and the gradients of the other are dropped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import Key, check_key
from jaxtrain.core.tree import check_stack


def graddrop(
    key: Key,
    stacked: Any,
    *,
    purity: Callable[[Array], Array] | None = None,
    leak: Float[Array, " k"] | None = None,
) -> Any:
    r"""GradDrop: coordinate by coordinate, either the positive or the negative gradients are summed.

    .. math:: P = \tfrac12\Big(1 + \frac{\sum_i g_i}{\sum_i |g_i|}\Big), \qquad
        A = \sum_i \big(\ell_i + (1 - \ell_i)\, M_i\big)\, g_i, \qquad
        M_i = \mathbf 1[f(P) > U,\ g_i > 0] + \mathbf 1[f(P) < U,\ g_i < 0]

    with U uniform in [0, 1) for each coordinate. A sum, as in the paper: equal gradients g give m g.

    Args:
      stacked: pytree, every leaf ``(m, ...)``: the gradients of m objectives.
      key: draws U; the leaves' numbers are independent.
      purity: the monotone function f from [0, 1] to [0, 1]; default: the identity.
      leak: ``(m,)`` in [0, 1], what of each gradient is not dropped; default 0.

    Returns:
      The tree without the leading axis; leaves keep their dtype.

    Raises:
      ValueError: leading axes that disagree or are empty, a leak of another length.
      TypeError: a key that is not typed.

    Source: Chen, Ngiam, Huang, Luong, Kretzschmar, Chai & Anguelov 2020, "Just Pick a Sign: Optimizing Deep Multitask
    Models with Gradient Sign Dropout", arXiv 2010.06808, algorithm 1.

    >>> graddrop(jax.random.key(0), jnp.array([[1.0, -1.0, 2.0], [3.0, -1.0, 0.0]])).tolist()
    [4.0, -2.0, 2.0]
    """
    check_key(key, where="graddrop")
    m = check_stack(stacked, where="graddrop")
    if leak is not None and jnp.shape(leak) != (m,):
        raise ValueError(f"graddrop: leak has shape {jnp.shape(leak)} for {m} gradients; give ({m},)")
    leaves, structure = jax.tree.flatten(stacked)

    def one(x: Array, key: Key) -> Array:
        kind = jnp.promote_types(x.dtype, jnp.float32)
        return _dropped(x.astype(kind), jax.random.uniform(key, x.shape[1:], kind), purity, leak).astype(x.dtype)

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [one(x, k) for x, k in zip(leaves, keys, strict=True)])


def _dropped(g: Array, u: Array, purity: Callable[[Array], Array] | None, leak: Array | None) -> Array:
    # relative to the largest, so that the sums stay in range
    largest = jnp.max(jnp.abs(g), axis=0)
    relative = g / jnp.where(largest > 0, largest, 1.0)
    whole = jnp.sum(jnp.abs(relative), axis=0)
    p = 0.5 * (1 + jnp.sum(relative, axis=0) / jnp.where(whole > 0, whole, 1.0))
    p = p if purity is None else purity(p)
    kept = ((p > u) & (g > 0)) | ((p < u) & (g < 0)) | jnp.isnan(g)
    part = 0.0 if leak is None else jnp.asarray(leak, g.dtype).reshape(-1, *[1] * (g.ndim - 1)) * g
    return jnp.sum(jnp.where(kept, g, part), axis=0)
