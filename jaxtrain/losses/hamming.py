"""How well binary codes retrieve."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Scalar
from jaxtrain.core.numerics import static_int

_TINY = float(np.finfo(np.float32).tiny)


def hamming_map(
    query_codes: Float[Array, "queries bits"],
    db_codes: Float[Array, "..."],
    query_labels: Int[Array, "..."],
    db_labels: Int[Array, "..."],
    *,
    top: int | None = None,
) -> Scalar:
    r"""Mean average precision of retrieval by the Hamming distance of the codes' signs.

    .. math:: AP = \frac{1}{R} \sum_h r_h \frac{r_0 + \dots + r_h}{n_0 + \dots + n_h}

    with :math:`n_h` items at the distance h, :math:`r_h` of them with the query's label, R of these in all. Items at one
    distance count as found together, so that nothing depends on their order, which is usual to leave to the sorting.

    Args:
      query_codes: ``(queries, bits)``; positive is 1, all else -1.
      db_codes: ``(items, bits)``.
      query_labels: ``(queries,)``.
      db_labels: ``(items,)``.
      top: only the so many nearest count, R those among them; where a distance is cut, its items count in part. Static.

    Returns:
      A scalar in [0, 1]; a query with nothing to find counts as 0.

    Raises:
      ValueError: shapes that disagree, no queries, or ``top`` below 1.

    Source: Yan, Gong, Wei, Gao (2020), arXiv 2002.00169, as the measure.

    >>> items = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    >>> found = hamming_map(jnp.ones((1, 2)), items, jnp.array([7]), jnp.array([7, 3, 7]))  # (1/1 + 2/3) / 2
    >>> round(float(found), 4)
    0.8333
    """
    if query_codes.ndim != 2 or db_codes.ndim != 2 or query_codes.shape[1] != db_codes.shape[1]:
        raise ValueError(f"hamming_map: query_codes {query_codes.shape} and db_codes {db_codes.shape} disagree")
    if query_labels.shape != query_codes.shape[:1] or db_labels.shape != db_codes.shape[:1]:
        raise ValueError(
            f"hamming_map: labels {query_labels.shape} and {db_labels.shape} for codes {query_codes.shape} and {db_codes.shape}"
        )
    if not len(query_codes):
        raise ValueError("hamming_map: no queries; their mean precision is nothing")
    bits = query_codes.shape[1]
    q, d = (jnp.where(c > 0, 1.0, -1.0) for c in (query_codes, db_codes))
    distance = jnp.round((bits - q @ d.T) / 2).astype(jnp.int32)
    relevant = (query_labels[:, None] == db_labels[None]).astype(jnp.float32)

    def histogram(values):
        return jax.vmap(lambda h, x: jnp.zeros(bits + 1).at[h].add(x))(distance, values)

    n, r = histogram(jnp.ones_like(relevant)), histogram(relevant)
    if top is not None:
        top = static_int("top", top, low=1)
        kept = jnp.clip((top - (jnp.cumsum(n, axis=1) - n)) / jnp.maximum(n, 1), 0, 1)
        n, r = kept * n, kept * r
    precision = jnp.cumsum(r, axis=1) / jnp.maximum(jnp.cumsum(n, axis=1), _TINY)
    total = r.sum(axis=1)
    return jnp.mean(jnp.where(total > 0, jnp.sum(r * precision, axis=1) / jnp.where(total > 0, total, 1.0), 0.0))
