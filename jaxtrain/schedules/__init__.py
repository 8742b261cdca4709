"""What moves over time: learning rates and their like."""

from jaxtrain.schedules.linear_decay import (
    GradNormState,
    grad_norm_history,
    last_iterate_bound,
    linear_decay_schedule,
    record_grad_norm,
    refine_schedule,
    schedule_from_array,
)
from jaxtrain.schedules.swa import cyclical_lr, swa_constant_schedule
from jaxtrain.schedules.width_scaling import (
    label_params_matrix_vector,
    layerwise_adamw,
    mup_wd_scaling,
    predict_top_sv,
    singular_spectrum,
    sublayer_gain,
    top_singular_value,
)

__all__ = [
    "GradNormState",
    "cyclical_lr",
    "grad_norm_history",
    "label_params_matrix_vector",
    "last_iterate_bound",
    "layerwise_adamw",
    "linear_decay_schedule",
    "mup_wd_scaling",
    "predict_top_sv",
    "record_grad_norm",
    "refine_schedule",
    "schedule_from_array",
    "singular_spectrum",
    "sublayer_gain",
    "swa_constant_schedule",
    "top_singular_value",
]
