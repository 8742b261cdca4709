"""The robust rules, with f Byzantine workers, on which laws and guarantees are tested."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.aggregation import (
    bulyan,
    coordinate_median,
    flag_aggregate,
    geometric_median,
    krum,
    mean_around_median,
    multi_krum,
    nearest_neighbor_average,
    nearest_neighbor_mixing,
    trimmed_mean,
)


def _around_zero(x: Any, f: int) -> Any:
    pivot = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), x)
    return nearest_neighbor_average(pivot, x, num_byzantine=f)


RULES: dict[str, Callable[[Any, int], Any]] = {
    "coordinate_median": lambda x, f: coordinate_median(x),
    "trimmed_mean": lambda x, f: trimmed_mean(x, num_byzantine=f),
    "mean_around_median": lambda x, f: mean_around_median(x, num_byzantine=f),
    "geometric_median": lambda x, f: geometric_median(x),
    "krum": lambda x, f: krum(x, num_byzantine=f),
    "multi_krum": lambda x, f: multi_krum(x, num_byzantine=f),
    "bulyan": lambda x, f: bulyan(x, num_byzantine=f),
    "bulyan, one ranking": lambda x, f: bulyan(x, num_byzantine=f, selection="multi_krum"),
    "mixing, trimmed_mean": lambda x, f: trimmed_mean(nearest_neighbor_mixing(x, num_byzantine=f), num_byzantine=f),
    "nearest_neighbor_average, of zero": _around_zero,
    "flag, unit columns": lambda x, f: flag_aggregate(x)[0],
}
