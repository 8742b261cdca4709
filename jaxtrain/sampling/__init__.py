"""Which examples, how often, with what weight."""

from jaxtrain.sampling.data_diet import (
    average_scores,
    el2n_score,
    forgetting_counts,
    grand_lastlayer,
    grand_score,
    keep_top_fraction,
)

__all__ = [
    "average_scores",
    "el2n_score",
    "forgetting_counts",
    "grand_lastlayer",
    "grand_score",
    "keep_top_fraction",
]
