"""One GPU kernel for many small parameters: a step of biases and norms costs launches, not bytes."""

from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxtrain.core.numerics import static_int


def _looking_at_the_first(leaves: list[Array]) -> list[Array]:
    """The leaves as they are, in a way that makes each of them seem to depend on the first."""
    never = (leaves[0] > 1) & (leaves[0] < 0)
    return [jnp.where(never, jnp.zeros_like(leaf), leaf) for leaf in leaves]


def fuse_small_leaves(max_size: int = 65_536) -> optax.GradientTransformation:
    r"""Lets XLA update small parameters of one shape in one loop on GPUs; the values stay what they are. It comes first.

    .. math:: u = g

    XLA makes a kernel for every array of the parameters. GPT-2 small has 148 of them, and the 98 biases and norms hold a
    thousandth of its numbers: their kernels take as long as it takes to launch them. XLA joins loops over arrays of one
    shape that read a common array. Therefore every small gradient looks at the first one of its shape, without
    consequence: the loops of whatever comes later in the chain are joined, moments and parameters included. ``jaxtrain
    bench kernels`` shows what becomes of each optimizer. On CPUs and TPUs nothing is done.

    Arrays of one shape should be sharded alike, as replicated biases are: else they would travel to be compared.

    Args:
      max_size: the largest arrays that count as small, in entries, ≥ 1. Larger ones are worth a launch of their own.

    Returns:
      A transformation without state.

    Raises:
      TypeError, ValueError: ``max_size`` is not an integer ≥ 1.

    >>> tx = optax.chain(fuse_small_leaves(), optax.adamw(1e-3))
    >>> grads = {"bias": jnp.array([1.0, -2.0]), "scale": jnp.array([jnp.nan, 3.0])}
    >>> updates, _ = fuse_small_leaves().update(grads, optax.EmptyState())
    >>> updates["bias"].tolist(), updates["scale"].tolist()
    ([1.0, -2.0], [nan, 3.0])
    """
    max_size = static_int("max_size", max_size, low=1)

    def update(updates, state, params=None):
        del params
        leaves, structure = jax.tree.flatten(updates)
        alike = defaultdict(list)
        for place, leaf in enumerate(leaves):
            if jnp.issubdtype(leaf.dtype, jnp.floating) and 0 < np.size(leaf) <= max_size:
                alike[leaf.shape, leaf.dtype, jax.typeof(leaf).sharding].append(place)
        for places in alike.values():
            if len(places) > 1:
                group = [leaves[place] for place in places]
                joined = jax.lax.platform_dependent(
                    group, cuda=_looking_at_the_first, rocm=_looking_at_the_first, default=lambda group: group
                )
                for place, leaf in zip(places, joined, strict=True):
                    leaves[place] = leaf
        return structure.unflatten(leaves), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
