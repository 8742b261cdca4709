"""The best of several models by a validation score."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import Number, Params


class Best(NamedTuple):
    """The parameters with the highest score so far, and that score."""

    params: Params
    score: Float[Array, ""]


def keep_best(best: Best | None, params: Params, score: Number) -> Best:
    """Keeps the parameters with the higher validation score: of two equal ones the earlier.

    Given a running uniform average after each validation it is SMA's choice of a checkpoint. A score of NaN is never
    kept.

    Args:
      best: what was kept so far; None: nothing.
      params: parameters of a candidate.
      score: its validation score; higher is better.

    Returns:
      What to keep. Works under ``jit`` and ``scan`` (start with :class:`Best` and a score of ``-inf`` there).

    Source: Arpit, Wang, Zhou, Xiong (2021), arXiv 2110.10832 (simple moving average, SMA).

    >>> best = None
    >>> for params, score in ((1.0, 0.5), (2.0, 0.9), (3.0, 0.7)):
    ...     best = keep_best(best, jnp.array(params), score)
    >>> float(best.params), round(float(best.score), 2)
    (2.0, 0.9)
    """
    score = jnp.asarray(score)
    if best is None:
        best = Best(params, jnp.full_like(score, -jnp.inf))
    better = score > best.score
    kept = jax.tree.map(lambda old, new: jnp.where(better, new, old), best.params, params)
    return Best(kept, jnp.where(better, score, best.score))
