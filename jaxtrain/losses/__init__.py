"""How wrong one example is: per example, no reduction."""

from jaxtrain.losses.comp_sum import (
    comp_sum_conditional_minimum,
    comp_sum_h_consistency,
    comp_sum_loss,
    comp_sum_minimizability_gap,
    h_consistency_bound,
    smooth_adversarial_comp_sum_loss,
)
from jaxtrain.losses.distillation import kd_loss

__all__ = [
    "comp_sum_conditional_minimum",
    "comp_sum_h_consistency",
    "comp_sum_loss",
    "comp_sum_minimizability_gap",
    "h_consistency_bound",
    "kd_loss",
    "smooth_adversarial_comp_sum_loss",
]
