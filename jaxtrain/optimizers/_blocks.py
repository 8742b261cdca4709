"""How parameters are cut into blocks, and where in the pools of preconditioners each block has its own."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxtrain.core.numerics import static_int


def block_and_merge_dims(shape: Sequence[int], *, block: int) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Merges small neighbouring axes, then cuts long ones.

    From the last axis to the first, neighbours are multiplied while the product is at most ``block`` (axes of length one
    vanish); axes that are longer are cut into pieces of ``block`` and a rest. With 1,024 a (3, 3, 4, 6) kernel becomes
    one vector of 216.

    Args:
      shape: of a parameter.
      block: the longest axis of a block, ≥ 1.

    Returns:
      The merged shape, (1,) of a scalar, and for each of its axes the lengths of the pieces.

    Raises:
      ValueError: ``block`` below 1.

    Source: Shi et al. (2023), arXiv 2309.06497.

    >>> block_and_merge_dims((2, 3, 10), block=8)
    ((6, 10), ((6,), (8, 2)))
    """
    block = static_int("block", block, low=1)
    if 0 in shape:
        return (0,), ((0,),)
    merged: list[int] = []
    for n in reversed([n for n in shape if n != 1] or [1]):
        if merged and merged[-1] * n <= block:
            merged[-1] *= n
        else:
            merged.append(n)
    merged.reverse()

    def pieces(n):
        return (block,) * (n // block) + ((n % block,) if n % block else ())

    return tuple(merged), tuple(pieces(n) for n in merged)


class Group(NamedTuple):
    """Blocks of one shape of one parameter: where they begin, how many along each axis, how long they are."""

    starts: tuple[int, ...]
    counts: tuple[int, ...]
    lengths: tuple[int, ...]


class Leaf:
    """One parameter: ``stacked`` leading axes of layers, then the axes that are merged and cut."""

    def __init__(self, shape: tuple[int, ...], block: int, stacked: int):
        self.shape = shape
        self.merged, pieces = block_and_merge_dims(shape[stacked:], block=block)
        self.layers = math.prod(shape[:stacked])
        self.size = math.prod(shape)
        choices = []
        for n, lengths in zip(self.merged, pieces, strict=True):
            whole = [length for length in lengths if length == lengths[0]]
            options = [(0, len(whole), lengths[0])]
            if len(whole) < len(lengths):
                options.append((n - lengths[-1], 1, lengths[-1]))
            choices.append(options)
        self.groups = [Group(*zip(*choice, strict=True)) for choice in itertools.product(*choices)] if self.size else []

    @property
    def order(self) -> int:
        return len(self.merged)

    def split(self, x: Array) -> list[Array]:
        """For each group its blocks, stacked: (layers · counts, *lengths)."""
        x = x.reshape(self.layers, *self.merged)
        out = []
        for starts, counts, lengths in self.groups:
            part = x[(slice(None), *(slice(s, s + c * n) for s, c, n in zip(starts, counts, lengths, strict=True)))]
            part = part.reshape(self.layers, *itertools.chain(*zip(counts, lengths, strict=True)))
            k = self.order
            order = (0, *range(1, 2 * k, 2), *range(2, 2 * k + 1, 2))
            out.append(part.transpose(order).reshape(-1, *lengths))
        return out

    def join(self, groups: list[Array]) -> Array:
        """The inverse of :meth:`split`."""
        parts = []
        k = self.order
        for x, (_, counts, lengths) in zip(groups, self.groups, strict=True):
            x = x.reshape(self.layers, *counts, *lengths)
            order = (0, *itertools.chain(*((1 + a, 1 + k + a) for a in range(k))))
            parts.append(
                x.transpose(order).reshape(self.layers, *(c * n for c, n in zip(counts, lengths, strict=True)))
            )
        if len(parts) == 1:
            return parts[0].reshape(self.shape)
        x = jnp.zeros((self.layers, *self.merged), parts[0].dtype)
        for part, group in zip(parts, self.groups, strict=True):
            at = (slice(None), *(slice(s, s + n) for s, n in zip(group.starts, part.shape[1:], strict=True)))
            x = x.at[at].set(part)
        return x.reshape(self.shape)


class Plan:
    """All parameters: matrices of one size and one root lie in one pool, over all parameters, axes and layers."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], block: int, stacked: int):
        self.leaves = [Leaf(tuple(shape), block, stacked) for shape in shapes]
        self.sizes: dict[str, int] = {}
        self.kinds: dict[str, tuple[int, int]] = {}
        # for each leaf, group and axis: the pool, and from where to where
        self.places: list[list[list[tuple[str, int, int]]]] = []
        for leaf in self.leaves:
            of_leaf = []
            for group in leaf.groups:
                number = leaf.layers * math.prod(group.counts)
                of_group = []
                for n in group.lengths:
                    pool = f"order{leaf.order}_size{n}"
                    self.kinds[pool] = (leaf.order, n)
                    start = self.sizes.get(pool, 0)
                    self.sizes[pool] = start + number
                    of_group.append((pool, start, start + number))
                of_leaf.append(of_group)
            self.places.append(of_leaf)
