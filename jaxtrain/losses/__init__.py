"""How wrong one example is: per example, no reduction."""

from jaxtrain.losses.alpha_divergence import (
    adaptive_alpha_distill_loss,
    alpha_divergence,
    alpha_divergence_surrogate,
    sandwich_subnet_sampler,
)
from jaxtrain.losses.anyloss import (
    SoftConfusion,
    anyloss,
    anyloss_from_counts,
    anyloss_from_logits,
    soft_confusion_matrix,
    soft_threshold,
)
from jaxtrain.losses.comp_sum import (
    comp_sum_conditional_minimum,
    comp_sum_h_consistency,
    comp_sum_loss,
    comp_sum_minimizability_gap,
    h_consistency_bound,
    smooth_adversarial_comp_sum_loss,
)
from jaxtrain.losses.distillation import kd_loss
from jaxtrain.losses.ensloss import ensloss, inverse_box_cox, is_calibrated_derivative, sample_calibrated_derivatives
from jaxtrain.losses.ldr import aldr_kl_loss, l1_normalize_logits, ldr_kl_loss, ldr_weights
from jaxtrain.losses.saf import LogitsMemory, LogitsMemoryFns, logits_memory, mesa_loss, saf_loss, saf_trajectory_loss
from jaxtrain.losses.stablemax import log_stablemax, softmax_collapse_fraction, stablemax, stablemax_cross_entropy
from jaxtrain.losses.trades import trades_loss

__all__ = [
    "LogitsMemory",
    "LogitsMemoryFns",
    "SoftConfusion",
    "adaptive_alpha_distill_loss",
    "aldr_kl_loss",
    "alpha_divergence",
    "alpha_divergence_surrogate",
    "anyloss",
    "anyloss_from_counts",
    "anyloss_from_logits",
    "comp_sum_conditional_minimum",
    "comp_sum_h_consistency",
    "comp_sum_loss",
    "comp_sum_minimizability_gap",
    "ensloss",
    "h_consistency_bound",
    "inverse_box_cox",
    "is_calibrated_derivative",
    "kd_loss",
    "l1_normalize_logits",
    "ldr_kl_loss",
    "ldr_weights",
    "log_stablemax",
    "logits_memory",
    "mesa_loss",
    "saf_loss",
    "saf_trajectory_loss",
    "sample_calibrated_derivatives",
    "sandwich_subnet_sampler",
    "smooth_adversarial_comp_sum_loss",
    "soft_confusion_matrix",
    "soft_threshold",
    "softmax_collapse_fraction",
    "stablemax",
    "stablemax_cross_entropy",
    "trades_loss",
]
