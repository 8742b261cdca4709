"""Quantities that studies of training measure."""

from jaxtrain.studies.neural_collapse import (
    etf_distance,
    gof_singular_values,
    nc_metrics,
    orthogonal_frame_distance,
    ufm_deep_linear_loss,
)
from jaxtrain.studies.variance_amplification import (
    behavior_cloning_loss,
    error_amplification,
    oscillation_score,
    rollout_return,
    rollout_states,
)

__all__ = [
    "behavior_cloning_loss",
    "error_amplification",
    "etf_distance",
    "gof_singular_values",
    "nc_metrics",
    "orthogonal_frame_distance",
    "oscillation_score",
    "rollout_return",
    "rollout_states",
    "ufm_deep_linear_loss",
]
