"""What moves over time: learning rates and their like."""

from jaxtrain.schedules.cosine_restarts import cosine_restarts
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

__all__ = [
    "GradNormState",
    "cosine_restarts",
    "cyclical_lr",
    "grad_norm_history",
    "last_iterate_bound",
    "linear_decay_schedule",
    "record_grad_norm",
    "refine_schedule",
    "schedule_from_array",
    "swa_constant_schedule",
]
