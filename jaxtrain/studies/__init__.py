"""Quantities that studies of training measure."""

from jaxtrain.studies.neural_collapse import (
    etf_distance,
    gof_singular_values,
    nc_metrics,
    orthogonal_frame_distance,
    ufm_deep_linear_loss,
)

__all__ = [
    "etf_distance",
    "gof_singular_values",
    "nc_metrics",
    "orthogonal_frame_distance",
    "ufm_deep_linear_loss",
]
