"""Whether clusters or representations have collapsed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.losses._logits import widened


class CollapseMetrics(NamedTuple):
    """What :func:`embedding_collapse_metrics` returns: scalars between 0 and 1."""

    cluster: Array
    representation: Array
    entropy: Array


def embedding_collapse_metrics(features: Float[Array, "batch d"], assignments: Float[Array, "..."]) -> CollapseMetrics:
    r"""How far clusters and representations have collapsed.

    Args:
      features: ``(batch, d)``.
      assignments: ``(batch, n)`` probabilities of the clusters, n ≥ 2.

    Returns:
      ``cluster``: entropy of the mean assignment over :math:`\log n`; 0 where all are in one cluster, 1 where clusters are
      equally large. ``representation``: :math:`1 - \|\frac1N \sum_i z_i / \|z_i\|\|^2`, the spread of directions; 0 where
      all point one way. ``entropy``: mean entropy of the assignments over :math:`\log n`; 0 where all are one-hot.

    Raises:
      ValueError: shapes that disagree, or no examples.

    Source: the failure modes of Sansone, Manhaeve (2024), arXiv 2401.00873.

    >>> embedding_collapse_metrics(jnp.ones((2, 3)), jnp.eye(2))._asdict()["cluster"].item()
    1.0
    """
    matrices = features.ndim == assignments.ndim == 2
    if not matrices or not 0 < len(features) == len(assignments) or assignments.shape[1] < 2:
        raise ValueError(
            f"embedding_collapse_metrics: features {features.shape} and assignments {assignments.shape}; give (batch, d) and "
            f"(batch, n), 1 example and 2 clusters at least"
        )
    z, p = widened(features), widened(assignments)
    square = jnp.sum(z**2, axis=1, keepdims=True)
    # 1 below the root where all is 0: its slope there is infinite
    direction = jnp.mean(z / jnp.sqrt(jnp.where(square > 0, square, 1.0)), axis=0)

    def entropy(p):
        return jnp.sum(jax.scipy.special.entr(p), axis=-1) / jnp.log(p.shape[-1])

    return CollapseMetrics(entropy(p.mean(0)), 1 - jnp.sum(direction**2), jnp.mean(entropy(p)))
