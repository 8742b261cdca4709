"""The small layers that methods need, as functions of arrays: they fit Linen, NNX and bare functions alike; a GRU in Linen."""

from jaxtrain.models.gru import GRUClassifier
from jaxtrain.models.magnitude_preserving import (
    forced_weight_normalization,
    mp_cat,
    mp_dense,
    mp_normalize,
    mp_silu,
    mp_sum,
    mp_weight,
)

__all__ = [
    "GRUClassifier",
    "forced_weight_normalization",
    "mp_cat",
    "mp_dense",
    "mp_normalize",
    "mp_silu",
    "mp_sum",
    "mp_weight",
]
