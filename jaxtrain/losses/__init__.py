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
from jaxtrain.losses.elr import ElrTargets, ElrTargetsFns, elr_loss, elr_plus_loss, elr_regularizer, elr_targets
from jaxtrain.losses.saf import LogitsMemory, LogitsMemoryFns, logits_memory, mesa_loss, saf_loss, saf_trajectory_loss
from jaxtrain.losses.stablemax import log_stablemax, softmax_collapse_fraction, stablemax, stablemax_cross_entropy
from jaxtrain.losses.trades import trades_loss

__all__ = [
    "ElrTargets",
    "ElrTargetsFns",
    "LogitsMemory",
    "LogitsMemoryFns",
    "comp_sum_conditional_minimum",
    "comp_sum_h_consistency",
    "comp_sum_loss",
    "comp_sum_minimizability_gap",
    "elr_loss",
    "elr_plus_loss",
    "elr_regularizer",
    "elr_targets",
    "h_consistency_bound",
    "kd_loss",
    "log_stablemax",
    "logits_memory",
    "mesa_loss",
    "saf_loss",
    "saf_trajectory_loss",
    "smooth_adversarial_comp_sum_loss",
    "softmax_collapse_fraction",
    "stablemax",
    "stablemax_cross_entropy",
    "trades_loss",
]
