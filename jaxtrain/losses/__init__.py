"""How wrong one example is: per example, no reduction."""

from jaxtrain.losses.adawac import adawac_loss, adawac_update_weights, augmentation_consistency, soft_dice_loss
from jaxtrain.losses.attention_entropy import (
    attention_entropy,
    entropy_regularization,
    headwise_entropy_stats,
    scaled_ffn,
    weight_normalized,
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
from jaxtrain.losses.load_balance import (
    FrequencyBuffer,
    accumulate_frequency,
    expert_frequency,
    expert_specialization,
    frequency_buffer,
    load_balance_loss,
)
from jaxtrain.losses.saf import LogitsMemory, LogitsMemoryFns, logits_memory, mesa_loss, saf_loss, saf_trajectory_loss
from jaxtrain.losses.stablemax import log_stablemax, softmax_collapse_fraction, stablemax, stablemax_cross_entropy
from jaxtrain.losses.trades import trades_loss

__all__ = [
    "FrequencyBuffer",
    "LogitsMemory",
    "LogitsMemoryFns",
    "accumulate_frequency",
    "adawac_loss",
    "adawac_update_weights",
    "attention_entropy",
    "augmentation_consistency",
    "comp_sum_conditional_minimum",
    "comp_sum_h_consistency",
    "comp_sum_loss",
    "comp_sum_minimizability_gap",
    "entropy_regularization",
    "expert_frequency",
    "expert_specialization",
    "frequency_buffer",
    "h_consistency_bound",
    "headwise_entropy_stats",
    "kd_loss",
    "load_balance_loss",
    "log_stablemax",
    "logits_memory",
    "mesa_loss",
    "saf_loss",
    "saf_trajectory_loss",
    "scaled_ffn",
    "smooth_adversarial_comp_sum_loss",
    "soft_dice_loss",
    "softmax_collapse_fraction",
    "stablemax",
    "stablemax_cross_entropy",
    "trades_loss",
    "weight_normalized",
]
