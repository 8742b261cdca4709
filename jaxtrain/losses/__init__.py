"""How wrong one example is: per example, no reduction."""

from jaxtrain.losses.adawac import adawac_loss, adawac_update_weights, augmentation_consistency, soft_dice_loss
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
from jaxtrain.losses.attention_entropy import (
    attention_entropy,
    entropy_regularization,
    headwise_entropy_stats,
    scaled_ffn,
    weight_normalized,
)
from jaxtrain.losses.cauchy_schwarz import conditional_cs_divergence, cs_divergence, cs_ib_loss, cs_qmi, gaussian_gram
from jaxtrain.losses.collapse import CollapseMetrics, embedding_collapse_metrics
from jaxtrain.losses.comp_sum import (
    comp_sum_conditional_minimum,
    comp_sum_h_consistency,
    comp_sum_loss,
    comp_sum_minimizability_gap,
    h_consistency_bound,
    smooth_adversarial_comp_sum_loss,
)
from jaxtrain.losses.coupled_estimation import (
    coupled_ranking_losses,
    inverse_propensity_softmax_loss,
    simulate_pooling_bias,
    softmax_ratio_weights,
)
from jaxtrain.losses.distillation import kd_loss
from jaxtrain.losses.dpo import dpo_loss
from jaxtrain.losses.elr import ElrTargets, ElrTargetsFns, elr_loss, elr_plus_loss, elr_regularizer, elr_targets
from jaxtrain.losses.ensloss import ensloss, inverse_box_cox, is_calibrated_derivative, sample_calibrated_derivatives
from jaxtrain.losses.gedi import (
    gedi_generative_loss,
    gedi_invariance_loss,
    gedi_loss,
    gedi_prior_loss,
    jem_log_density,
)
from jaxtrain.losses.generalized_gaussian import (
    biev_weights,
    gg_td_loss,
    ggd_excess_kurtosis,
    ggd_nll,
    ggd_variance,
    mbbe_variance,
)
from jaxtrain.losses.hamming import hamming_map
from jaxtrain.losses.hashing import (
    fuse_codes,
    pairwise_hash_loss,
    quantization_loss,
    view_stability_weights,
)
from jaxtrain.losses.hl_gauss import (
    c51_project,
    categorical_value,
    hl_gauss_loss,
    hl_gauss_probs,
    td_classification_loss,
    two_hot_probs,
)
from jaxtrain.losses.ldr import aldr_kl_loss, l1_normalize_logits, ldr_kl_loss, ldr_weights
from jaxtrain.losses.load_balance import (
    FrequencyBuffer,
    accumulate_frequency,
    expert_frequency,
    expert_specialization,
    frequency_buffer,
    load_balance_loss,
)
from jaxtrain.losses.meco import (
    MecoState,
    importance_log_partition,
    meco_gradient_momentum,
    meco_loss_and_state,
    nce_loss,
)
from jaxtrain.losses.npo import gradient_ascent_loss, npo_gradient_weight, npo_loss, npo_unlearning_objective
from jaxtrain.losses.pcmepp import (
    closed_form_sampled_distance,
    echo_distillation_loss,
    gaussian_vib,
    pcmepp_matching_loss,
    pseudo_positive_targets,
)
from jaxtrain.losses.policy_gradient import (
    composite_reward,
    kl_shaped_reward,
    ppo_clip_loss,
    sequence_policy_gradient_loss,
)
from jaxtrain.losses.retrieval import (
    batch_classification_loss,
    feature_jitter,
    recall_at_k,
    uncertainty_regularized_retrieval_loss,
)
from jaxtrain.losses.saf import LogitsMemory, LogitsMemoryFns, logits_memory, mesa_loss, saf_loss, saf_trajectory_loss
from jaxtrain.losses.sgld import sgld_replay_sample, sgld_sample
from jaxtrain.losses.skeletons import betti_error, betti_numbers, skeleton_tube, soft_skeletonize
from jaxtrain.losses.stablemax import log_stablemax, softmax_collapse_fraction, stablemax, stablemax_cross_entropy
from jaxtrain.losses.topology import cldice_loss, dice_ce_loss, skeleton_recall_loss
from jaxtrain.losses.trades import trades_loss

__all__ = [
    "CollapseMetrics",
    "ElrTargets",
    "ElrTargetsFns",
    "FrequencyBuffer",
    "LogitsMemory",
    "LogitsMemoryFns",
    "MecoState",
    "SoftConfusion",
    "accumulate_frequency",
    "adaptive_alpha_distill_loss",
    "adawac_loss",
    "adawac_update_weights",
    "aldr_kl_loss",
    "alpha_divergence",
    "alpha_divergence_surrogate",
    "anyloss",
    "anyloss_from_counts",
    "anyloss_from_logits",
    "attention_entropy",
    "augmentation_consistency",
    "batch_classification_loss",
    "betti_error",
    "betti_numbers",
    "biev_weights",
    "c51_project",
    "categorical_value",
    "cldice_loss",
    "closed_form_sampled_distance",
    "comp_sum_conditional_minimum",
    "comp_sum_h_consistency",
    "comp_sum_loss",
    "comp_sum_minimizability_gap",
    "composite_reward",
    "conditional_cs_divergence",
    "coupled_ranking_losses",
    "cs_divergence",
    "cs_ib_loss",
    "cs_qmi",
    "dice_ce_loss",
    "dpo_loss",
    "echo_distillation_loss",
    "elr_loss",
    "elr_plus_loss",
    "elr_regularizer",
    "elr_targets",
    "embedding_collapse_metrics",
    "ensloss",
    "entropy_regularization",
    "expert_frequency",
    "expert_specialization",
    "feature_jitter",
    "frequency_buffer",
    "fuse_codes",
    "gaussian_gram",
    "gaussian_vib",
    "gedi_generative_loss",
    "gedi_invariance_loss",
    "gedi_loss",
    "gedi_prior_loss",
    "gg_td_loss",
    "ggd_excess_kurtosis",
    "ggd_nll",
    "ggd_variance",
    "gradient_ascent_loss",
    "h_consistency_bound",
    "hamming_map",
    "headwise_entropy_stats",
    "hl_gauss_loss",
    "hl_gauss_probs",
    "importance_log_partition",
    "inverse_box_cox",
    "inverse_propensity_softmax_loss",
    "is_calibrated_derivative",
    "jem_log_density",
    "kd_loss",
    "kl_shaped_reward",
    "l1_normalize_logits",
    "ldr_kl_loss",
    "ldr_weights",
    "load_balance_loss",
    "log_stablemax",
    "logits_memory",
    "mbbe_variance",
    "meco_gradient_momentum",
    "meco_loss_and_state",
    "mesa_loss",
    "nce_loss",
    "npo_gradient_weight",
    "npo_loss",
    "npo_unlearning_objective",
    "pairwise_hash_loss",
    "pcmepp_matching_loss",
    "ppo_clip_loss",
    "pseudo_positive_targets",
    "quantization_loss",
    "recall_at_k",
    "saf_loss",
    "saf_trajectory_loss",
    "sample_calibrated_derivatives",
    "sandwich_subnet_sampler",
    "scaled_ffn",
    "sequence_policy_gradient_loss",
    "sgld_replay_sample",
    "sgld_sample",
    "simulate_pooling_bias",
    "skeleton_recall_loss",
    "skeleton_tube",
    "smooth_adversarial_comp_sum_loss",
    "soft_confusion_matrix",
    "soft_dice_loss",
    "soft_skeletonize",
    "soft_threshold",
    "softmax_collapse_fraction",
    "softmax_ratio_weights",
    "stablemax",
    "stablemax_cross_entropy",
    "td_classification_loss",
    "trades_loss",
    "two_hot_probs",
    "uncertainty_regularized_retrieval_loss",
    "view_stability_weights",
    "weight_normalized",
]
