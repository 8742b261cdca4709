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
from jaxtrain.losses.retrieval import (
    batch_classification_loss,
    feature_jitter,
    recall_at_k,
    uncertainty_regularized_retrieval_loss,
)
from jaxtrain.losses.saf import LogitsMemory, LogitsMemoryFns, logits_memory, mesa_loss, saf_loss, saf_trajectory_loss
from jaxtrain.losses.skeletons import betti_error, betti_numbers, skeleton_tube, soft_skeletonize
from jaxtrain.losses.stablemax import log_stablemax, softmax_collapse_fraction, stablemax, stablemax_cross_entropy
from jaxtrain.losses.topology import cldice_loss, dice_ce_loss, skeleton_recall_loss
from jaxtrain.losses.trades import trades_loss

__all__ = [
    "LogitsMemory",
    "LogitsMemoryFns",
    "batch_classification_loss",
    "betti_error",
    "betti_numbers",
    "cldice_loss",
    "comp_sum_conditional_minimum",
    "comp_sum_h_consistency",
    "comp_sum_loss",
    "comp_sum_minimizability_gap",
    "dice_ce_loss",
    "feature_jitter",
    "h_consistency_bound",
    "kd_loss",
    "log_stablemax",
    "logits_memory",
    "mesa_loss",
    "recall_at_k",
    "saf_loss",
    "saf_trajectory_loss",
    "skeleton_recall_loss",
    "skeleton_tube",
    "smooth_adversarial_comp_sum_loss",
    "soft_skeletonize",
    "softmax_collapse_fraction",
    "stablemax",
    "stablemax_cross_entropy",
    "trades_loss",
    "uncertainty_regularized_retrieval_loss",
]
