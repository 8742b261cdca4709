"""How wrong one example is: per example, no reduction.

The files, by what they are for:

- classification: ``comp_sum``, ``ldr``, ``stablemax``, ``ensloss``, ``anyloss``, ``bias_loss``, ``svm``,
  ``linear_cross_entropy``.
- unequal classes and margins: ``long_tail``, ``wcdas``, ``mdcs``, ``amgc``, ``class_curvature``, ``fassl``,
  ``fscil``.
- wrong, few or coarse labels: ``noisy_labels``, ``elr``, ``coteaching``, ``nested_dropout``, ``shrinkmatch``,
  ``bags``.
- distillation: ``distillation``, ``dual_head``, ``tgeo``, ``tgeo_step``, ``alpha_divergence``, ``saf``.
- regression, values and uncertainty: ``hl_gauss``, ``generalized_gaussian``, ``in_context``, ``bayes_linear``,
  ``correctness_aware``.
- information and energy: ``cauchy_schwarz``, ``meco``, ``gedi``, ``sgld``, ``collapse``.
- structure, robustness and fairness: ``colide``, ``colide_fit``, ``road``, ``local_fairness``, ``adawac``, ``arl``,
  ``trades``.
- retrieval and metric learning: ``retrieval``, ``icnn``, ``supcon``, ``pcmepp``, ``coupled_estimation``, ``hashing``,
  ``hamming``.
- preferences and unlearning: ``dpo``, ``npo``, ``policy_gradient``.
- attention and routing: ``attention_entropy``, ``load_balance``.
- segmentation, topology and sound: ``topology``, ``skeletons``, ``ideal_binary_mask``.
- images: ``high_frequency``, ``wavelets``, ``image_quality``, ``scale_shift``, ``intrinsic_images``, ``layers``,
  ``surfaces``, ``physical_shading``, ``break_a_scene``, ``scales``, ``layer_choice``.
"""

from jaxtrain.losses.adawac import adawac_loss, adawac_update_weights, augmentation_consistency, soft_dice_loss
from jaxtrain.losses.alpha_divergence import (
    adaptive_alpha_distill_loss,
    alpha_divergence,
    alpha_divergence_surrogate,
    sandwich_subnet_sampler,
)
from jaxtrain.losses.amgc import amarx_loss, distribution_classifier_loss, gaussian_class_stats, variance_enlarge
from jaxtrain.losses.anyloss import (
    SoftConfusion,
    anyloss,
    anyloss_from_counts,
    anyloss_from_logits,
    soft_confusion_matrix,
    soft_threshold,
)
from jaxtrain.losses.arl import arl_coefficients, arl_loss, grad_scale, modality_variance_weights
from jaxtrain.losses.attention_entropy import (
    attention_entropy,
    entropy_regularization,
    headwise_entropy_stats,
    scaled_ffn,
    weight_normalized,
)
from jaxtrain.losses.bags import (
    bag_level_loss,
    instance_level_loss,
    interpolated_bag_loss,
    interpolated_bag_ridge,
    private_bag_means,
)
from jaxtrain.losses.bayes_linear import (
    BayesPredictive,
    bayes_linear_regression_online,
    bayes_linear_regression_predictive,
)
from jaxtrain.losses.bias_loss import BiasLossState, bias_loss, feature_variance
from jaxtrain.losses.break_a_scene import attention_mask_loss, break_a_scene_loss, masked_denoising_loss, union_sample
from jaxtrain.losses.cauchy_schwarz import conditional_cs_divergence, cs_divergence, cs_ib_loss, cs_qmi, gaussian_gram
from jaxtrain.losses.class_curvature import class_hessian_spectrum, saddle_score
from jaxtrain.losses.colide import colide_ev_score, colide_ev_sigma, colide_nv_score, colide_nv_sigma, logdet_acyclicity
from jaxtrain.losses.colide_fit import ColideFit, colide_fit
from jaxtrain.losses.collapse import CollapseMetrics, embedding_collapse_metrics
from jaxtrain.losses.comp_sum import (
    comp_sum_conditional_minimum,
    comp_sum_h_consistency,
    comp_sum_loss,
    comp_sum_minimizability_gap,
    h_consistency_bound,
    smooth_adversarial_comp_sum_loss,
)
from jaxtrain.losses.correctness_aware import (
    augmentation_calibrator_apply,
    augmented_top_probs,
    correctness_aware_loss,
    fit_temperature,
)
from jaxtrain.losses.coteaching import coteaching_schedule, coteaching_select
from jaxtrain.losses.coupled_estimation import (
    coupled_ranking_losses,
    inverse_propensity_softmax_loss,
    simulate_pooling_bias,
    softmax_ratio_weights,
)
from jaxtrain.losses.distillation import kd_loss
from jaxtrain.losses.dpo import TuningStage, dpo_loss, dpo_with_sft_loss, iterative_tuning_schedule
from jaxtrain.losses.dual_head import align_auxiliary_gradient, binary_kl_loss, binary_kl_norm_loss, dhkd_loss
from jaxtrain.losses.elr import ElrTargets, ElrTargetsFns, elr_loss, elr_plus_loss, elr_regularizer, elr_targets
from jaxtrain.losses.ensloss import ensloss, inverse_box_cox, is_calibrated_derivative, sample_calibrated_derivatives
from jaxtrain.losses.fassl import (
    estimate_prototype_frequency,
    frequency_aware_swap_loss,
    prototype_assignment,
    rebalanced_weights,
)
from jaxtrain.losses.fscil import (
    assign_prototypes,
    cosine_ncm_logits,
    incremental_subnet_mask,
    pseudo_class_expand,
    simplex_etf_prototypes,
)
from jaxtrain.losses.gedi import gedi_generative_loss, gedi_invariance_loss, gedi_loss, gedi_prior_loss, jem_log_density
from jaxtrain.losses.generalized_gaussian import (
    biev_weights,
    gg_td_loss,
    ggd_excess_kurtosis,
    ggd_nll,
    ggd_variance,
    mbbe_variance,
)
from jaxtrain.losses.hamming import hamming_map
from jaxtrain.losses.hashing import fuse_codes, pairwise_hash_loss, quantization_loss, view_stability_weights
from jaxtrain.losses.high_frequency import hog_features, hog_loss, hr_loss
from jaxtrain.losses.hl_gauss import (
    c51_project,
    categorical_value,
    hl_gauss_loss,
    hl_gauss_probs,
    td_classification_loss,
    two_hot_probs,
)
from jaxtrain.losses.icnn import icnn_loss, icnn_score, proto_triplet_loss, prototypes
from jaxtrain.losses.ideal_binary_mask import apply_binary_mask, gnsdr, ideal_binary_mask, mask_bce_loss, nsdr, sdr
from jaxtrain.losses.image_quality import psnr, ssim
from jaxtrain.losses.in_context import gaussian_nll_loss, in_context_regression_tasks
from jaxtrain.losses.intrinsic_images import implied_albedo, inverse_shading, uninvert_shading, whdr
from jaxtrain.losses.layer_choice import layer_mask, select_layers_by_change
from jaxtrain.losses.layers import (
    alpha_composite,
    layer_consistency_loss,
    layer_dropout_targets,
    premultiply,
    unpremultiply,
)
from jaxtrain.losses.ldr import aldr_kl_loss, l1_normalize_logits, ldr_kl_loss, ldr_weights
from jaxtrain.losses.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_sum
from jaxtrain.losses.load_balance import (
    FrequencyBuffer,
    accumulate_frequency,
    expert_frequency,
    expert_specialization,
    frequency_buffer,
    load_balance_loss,
)
from jaxtrain.losses.local_fairness import LocalDisparity, local_disparate_impact, p_rule
from jaxtrain.losses.long_tail import deferred_reweight, ldam_loss, logit_adjusted_loss, vs_loss
from jaxtrain.losses.mdcs import consistency_self_distillation, diversity_softmax_loss, mdcs_loss
from jaxtrain.losses.meco import (
    MecoState,
    importance_log_partition,
    meco_gradient_momentum,
    meco_loss_and_state,
    nce_loss,
)
from jaxtrain.losses.nested_dropout import nested_dropout, truncate_features
from jaxtrain.losses.noisy_labels import generalized_cross_entropy_loss, symmetric_cross_entropy_loss
from jaxtrain.losses.npo import gradient_ascent_loss, npo_gradient_weight, npo_loss, npo_unlearning_objective
from jaxtrain.losses.pcmepp import (
    closed_form_sampled_distance,
    echo_distillation_loss,
    gaussian_vib,
    pcmepp_matching_loss,
    pseudo_positive_targets,
)
from jaxtrain.losses.physical_shading import SphericalGaussians, ggx_brdf, sphere_render, spherical_gaussian_light
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
from jaxtrain.losses.road import broad_weights, normalize_ratio, road_predictor_loss, road_ratio_loss
from jaxtrain.losses.saf import LogitsMemory, LogitsMemoryFns, logits_memory, mesa_loss, saf_loss, saf_trajectory_loss
from jaxtrain.losses.scale_shift import (
    multi_scale_gradient_loss,
    scale_invariant_mse,
    scale_shift_invariant_loss,
    ssi_align,
)
from jaxtrain.losses.scales import (
    multiscale_token_logprob,
    prior_distillation_loss,
    scale_weighted_token_loss,
    scale_weights,
)
from jaxtrain.losses.sgld import sgld_replay_sample, sgld_sample
from jaxtrain.losses.shrinkmatch import (
    ShrunkSpace,
    certain_ratio_ema,
    distribution_alignment,
    fixmatch_loss,
    shrink_class_space,
    shrinkmatch_uncertain_loss,
)
from jaxtrain.losses.skeletons import betti_error, betti_numbers, skeleton_tube, soft_skeletonize
from jaxtrain.losses.stablemax import log_stablemax, softmax_collapse_fraction, stablemax, stablemax_cross_entropy
from jaxtrain.losses.supcon import supcon_loss
from jaxtrain.losses.surfaces import eikonal_loss, material_smoothness_loss, neus_alpha
from jaxtrain.losses.svm import l1_svm_loss, l2_svm_loss, one_vs_rest_signs, svm_head_objective
from jaxtrain.losses.tgeo import class_mean_teacher, fusion_ratio, kd_fusion_loss, trilateral_features
from jaxtrain.losses.tgeo_step import TGeoBatch, TGeoMetrics, TGeoState, tgeo_bilevel_step
from jaxtrain.losses.topology import cldice_loss, dice_ce_loss, skeleton_recall_loss
from jaxtrain.losses.trades import trades_loss
from jaxtrain.losses.wavelets import haar_dwt2, haar_idwt2, wavelet_high_frequency_loss
from jaxtrain.losses.wcdas import cosine_softmax_logits, wcdas_loss, wrapped_cauchy_logits

__all__ = [
    "BayesPredictive",
    "BiasLossState",
    "ColideFit",
    "CollapseMetrics",
    "ElrTargets",
    "ElrTargetsFns",
    "FrequencyBuffer",
    "LocalDisparity",
    "LogitsMemory",
    "LogitsMemoryFns",
    "MecoState",
    "ShrunkSpace",
    "SoftConfusion",
    "SphericalGaussians",
    "TGeoBatch",
    "TGeoMetrics",
    "TGeoState",
    "TuningStage",
    "accumulate_frequency",
    "adaptive_alpha_distill_loss",
    "adawac_loss",
    "adawac_update_weights",
    "aldr_kl_loss",
    "align_auxiliary_gradient",
    "alpha_composite",
    "alpha_divergence",
    "alpha_divergence_surrogate",
    "amarx_loss",
    "anyloss",
    "anyloss_from_counts",
    "anyloss_from_logits",
    "apply_binary_mask",
    "arl_coefficients",
    "arl_loss",
    "assign_prototypes",
    "attention_entropy",
    "attention_mask_loss",
    "augmentation_calibrator_apply",
    "augmentation_consistency",
    "augmented_top_probs",
    "bag_level_loss",
    "batch_classification_loss",
    "bayes_linear_regression_online",
    "bayes_linear_regression_predictive",
    "betti_error",
    "betti_numbers",
    "bias_loss",
    "biev_weights",
    "binary_kl_loss",
    "binary_kl_norm_loss",
    "break_a_scene_loss",
    "broad_weights",
    "c51_project",
    "categorical_value",
    "certain_ratio_ema",
    "class_hessian_spectrum",
    "class_mean_teacher",
    "cldice_loss",
    "closed_form_sampled_distance",
    "colide_ev_score",
    "colide_ev_sigma",
    "colide_fit",
    "colide_nv_score",
    "colide_nv_sigma",
    "comp_sum_conditional_minimum",
    "comp_sum_h_consistency",
    "comp_sum_loss",
    "comp_sum_minimizability_gap",
    "composite_reward",
    "conditional_cs_divergence",
    "consistency_self_distillation",
    "correctness_aware_loss",
    "cosine_ncm_logits",
    "cosine_softmax_logits",
    "coteaching_schedule",
    "coteaching_select",
    "coupled_ranking_losses",
    "cs_divergence",
    "cs_ib_loss",
    "cs_qmi",
    "deferred_reweight",
    "dhkd_loss",
    "dice_ce_loss",
    "distribution_alignment",
    "distribution_classifier_loss",
    "diversity_softmax_loss",
    "dpo_loss",
    "dpo_with_sft_loss",
    "echo_distillation_loss",
    "eikonal_loss",
    "elr_loss",
    "elr_plus_loss",
    "elr_regularizer",
    "elr_targets",
    "embedding_collapse_metrics",
    "ensloss",
    "entropy_regularization",
    "estimate_prototype_frequency",
    "expert_frequency",
    "expert_specialization",
    "feature_jitter",
    "feature_variance",
    "fit_temperature",
    "fixmatch_loss",
    "frequency_aware_swap_loss",
    "frequency_buffer",
    "fuse_codes",
    "fusion_ratio",
    "gaussian_class_stats",
    "gaussian_gram",
    "gaussian_nll_loss",
    "gaussian_vib",
    "gedi_generative_loss",
    "gedi_invariance_loss",
    "gedi_loss",
    "gedi_prior_loss",
    "generalized_cross_entropy_loss",
    "gg_td_loss",
    "ggd_excess_kurtosis",
    "ggd_nll",
    "ggd_variance",
    "ggx_brdf",
    "gnsdr",
    "grad_scale",
    "gradient_ascent_loss",
    "h_consistency_bound",
    "haar_dwt2",
    "haar_idwt2",
    "hamming_map",
    "headwise_entropy_stats",
    "hl_gauss_loss",
    "hl_gauss_probs",
    "hog_features",
    "hog_loss",
    "hr_loss",
    "icnn_loss",
    "icnn_score",
    "ideal_binary_mask",
    "implied_albedo",
    "importance_log_partition",
    "in_context_regression_tasks",
    "incremental_subnet_mask",
    "instance_level_loss",
    "interpolated_bag_loss",
    "interpolated_bag_ridge",
    "inverse_box_cox",
    "inverse_propensity_softmax_loss",
    "inverse_shading",
    "is_calibrated_derivative",
    "iterative_tuning_schedule",
    "jem_log_density",
    "kd_fusion_loss",
    "kd_loss",
    "kl_shaped_reward",
    "l1_normalize_logits",
    "l1_svm_loss",
    "l2_svm_loss",
    "layer_consistency_loss",
    "layer_dropout_targets",
    "layer_mask",
    "ldam_loss",
    "ldr_kl_loss",
    "ldr_weights",
    "linear_cross_entropy",
    "linear_cross_entropy_sum",
    "load_balance_loss",
    "local_disparate_impact",
    "log_stablemax",
    "logdet_acyclicity",
    "logit_adjusted_loss",
    "logits_memory",
    "mask_bce_loss",
    "masked_denoising_loss",
    "material_smoothness_loss",
    "mbbe_variance",
    "mdcs_loss",
    "meco_gradient_momentum",
    "meco_loss_and_state",
    "mesa_loss",
    "modality_variance_weights",
    "multi_scale_gradient_loss",
    "multiscale_token_logprob",
    "nce_loss",
    "nested_dropout",
    "neus_alpha",
    "normalize_ratio",
    "npo_gradient_weight",
    "npo_loss",
    "npo_unlearning_objective",
    "nsdr",
    "one_vs_rest_signs",
    "p_rule",
    "pairwise_hash_loss",
    "pcmepp_matching_loss",
    "ppo_clip_loss",
    "premultiply",
    "prior_distillation_loss",
    "private_bag_means",
    "proto_triplet_loss",
    "prototype_assignment",
    "prototypes",
    "pseudo_class_expand",
    "pseudo_positive_targets",
    "psnr",
    "quantization_loss",
    "rebalanced_weights",
    "recall_at_k",
    "road_predictor_loss",
    "road_ratio_loss",
    "saddle_score",
    "saf_loss",
    "saf_trajectory_loss",
    "sample_calibrated_derivatives",
    "sandwich_subnet_sampler",
    "scale_invariant_mse",
    "scale_shift_invariant_loss",
    "scale_weighted_token_loss",
    "scale_weights",
    "scaled_ffn",
    "sdr",
    "select_layers_by_change",
    "sequence_policy_gradient_loss",
    "sgld_replay_sample",
    "sgld_sample",
    "shrink_class_space",
    "shrinkmatch_uncertain_loss",
    "simplex_etf_prototypes",
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
    "sphere_render",
    "spherical_gaussian_light",
    "ssi_align",
    "ssim",
    "stablemax",
    "stablemax_cross_entropy",
    "supcon_loss",
    "svm_head_objective",
    "symmetric_cross_entropy_loss",
    "td_classification_loss",
    "tgeo_bilevel_step",
    "trades_loss",
    "trilateral_features",
    "truncate_features",
    "two_hot_probs",
    "uncertainty_regularized_retrieval_loss",
    "uninvert_shading",
    "union_sample",
    "unpremultiply",
    "variance_enlarge",
    "view_stability_weights",
    "vs_loss",
    "wavelet_high_frequency_loss",
    "wcdas_loss",
    "weight_normalized",
    "whdr",
    "wrapped_cauchy_logits",
]
