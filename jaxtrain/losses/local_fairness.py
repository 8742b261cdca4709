"""How differently two groups are treated, over all and inside regions; and groups as segments of a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Scalar, debug_check
from jaxtrain.core.numerics import static_int


class LocalDisparity(NamedTuple):
    """What :func:`local_disparate_impact` found: the largest and the mean difference over regions."""

    max: Scalar
    mean: Scalar


def check_ids(where: str, name: str, ids: Array, x: Array) -> None:
    if ids.shape != x.shape or x.ndim != 1:
        raise ValueError(f"{where}: {name} of shape {ids.shape} for values of shape {x.shape}; give (batch,) for both")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"{where}: {name} must be integers, got {ids.dtype}")


def as_segments(where: str, name: str, ids: Array, count: int | None) -> tuple[Array, int]:
    """Ids from 0 on and how many there can be; without a count any integers will do, as many as there are examples.

    Traced ids that are out of range become the nearest one, and :func:`jaxtrain.core.checked` raises there.
    """
    if count is None:
        return jnp.unique(ids, return_inverse=True, size=len(ids))[1].reshape(-1), len(ids)
    count = static_int(f"num_{name}", count, low=1)
    if isinstance(ids, jax.core.Tracer):
        debug_check(
            lambda: (ids >= 0) & (ids < count),
            f"{where}: {name} has {{wrong}}, which is none of 0 … {count - 1}",
            wrong=lambda: ids[jnp.argmax((ids < 0) | (ids >= count))],
        )
        return jnp.clip(ids, 0, count - 1), count
    if ids.size:
        low, high = int(np.min(ids)), int(np.max(ids))
        if low < 0 or high >= count:
            wrong = low if low < 0 else high
            raise ValueError(f"{where}: {name} has {wrong}, which is none of 0 … {count - 1}")
    return ids, count


def _rates(chosen: Array, groups: Array, regions: Array, count: int) -> tuple[Array, Array]:
    """How many of group 0 and of group 1 are in each region, and the fraction of these that is chosen."""
    ids = 2 * regions + groups
    size = jax.ops.segment_sum(jnp.ones(len(ids), jnp.float32), ids, 2 * count).reshape(count, 2)
    picked = jax.ops.segment_sum(chosen.astype(jnp.float32), ids, 2 * count).reshape(count, 2)
    return size, picked / jnp.maximum(size, 1)


def local_disparate_impact(
    preds: Float[Array, " n"],
    groups: Int[Array, "..."],
    region_ids: Int[Array, "..."],
    *,
    num_regions: int | None = None,
    threshold: Number = 0.5,
    min_count: int = 1,
) -> LocalDisparity:
    r"""How differently the two groups are treated inside regions: the largest and the mean difference of their rates.

    .. math:: |P(\hat y > t \mid s = 1, \text{region}) - P(\hat y > t \mid s = 0, \text{region})|

    Args:
      preds: ``(n,)`` scores or decisions.
      groups: ``(n,)``, 0 or 1.
      region_ids: ``(n,)`` integers, say bins of a feature.
      num_regions: regions are then 0 … num_regions - 1, which saves a sort.
      threshold: above it a prediction is positive; may be traced.
      min_count: regions with fewer examples are left out, and so are those without one of the groups.

    Returns:
      :class:`LocalDisparity`, two scalars in [0, 1]; NaN if no region is left.

    Raises:
      TypeError: groups or regions that are not integers.
      ValueError: shapes that disagree; a group that is neither 0 nor 1.

    Source: Grari, Laugel, Hashimoto, Lamprier, Detyniecki (2024), arXiv 2310.18413.

    >>> decisions = jnp.array([1.0, 0.0, 1.0, 1.0])
    >>> found = local_disparate_impact(decisions, jnp.array([1, 0, 1, 0]), jnp.array([7, 7, 3, 3]))
    >>> float(found.max), float(found.mean)
    (1.0, 0.5)
    """
    min_count = static_int("min_count", min_count, low=1)
    for name, ids in (("groups", groups), ("region_ids", region_ids)):
        check_ids("local_disparate_impact", name, ids, preds)
    groups, _ = as_segments("local_disparate_impact", "groups", groups, 2)
    regions, count = as_segments("local_disparate_impact", "regions", region_ids, num_regions)
    size, rate = _rates(preds > threshold, groups, regions, count)
    kept = (size.min(axis=1) > 0) & (size.sum(axis=1) >= min_count)
    difference = jnp.abs(rate[:, 1] - rate[:, 0])
    return LocalDisparity(
        max=jnp.where(kept.any(), jnp.max(difference, where=kept, initial=0.0), jnp.nan),
        mean=jnp.sum(jnp.where(kept, difference, 0.0)) / jnp.sum(kept),
    )


def p_rule(scores: Float[Array, " n"], groups: Int[Array, "..."], *, threshold: Number = 0.5) -> Scalar:
    """The smaller of the two groups' rates of positive predictions over the larger: 1 is equal treatment.

    Args:
      scores: ``(n,)`` scores or decisions.
      groups: ``(n,)``, 0 or 1.
      threshold: above it a score is positive; may be traced.

    Returns:
      A scalar in [0, 1] (not percent); 1 if nobody is positive, NaN if a group has no members.

    Raises:
      TypeError: groups that are not integers.
      ValueError: shapes that disagree; a group that is neither 0 nor 1.

    Source: Grari, Laugel, Hashimoto, Lamprier, Detyniecki (2024), arXiv 2310.18413.

    >>> float(p_rule(jnp.array([0.9, 0.1, 0.8, 0.7]), jnp.array([0, 0, 1, 1])))
    0.5
    """
    check_ids("p_rule", "groups", groups, scores)
    groups, _ = as_segments("p_rule", "groups", groups, 2)
    size, rate = _rates(scores > threshold, groups, jnp.zeros_like(groups), 1)
    high = rate.max()
    ratio = jnp.where(high > 0, rate.min() / jnp.where(high > 0, high, 1.0), 1.0)
    return jnp.where(size.min() > 0, ratio, jnp.nan)
