"""How wrong one example is: per example, no reduction."""

from jaxtrain.losses.cauchy_schwarz import (
    conditional_cs_divergence,
    cs_divergence,
    cs_ib_loss,
    cs_qmi,
    gaussian_gram,
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
from jaxtrain.losses.dpo import dpo_loss
from jaxtrain.losses.generalized_gaussian import (
    biev_weights,
    gg_td_loss,
    ggd_excess_kurtosis,
    ggd_nll,
    ggd_variance,
    mbbe_variance,
)
from jaxtrain.losses.hl_gauss import (
    c51_project,
    categorical_value,
    hl_gauss_loss,
    hl_gauss_probs,
    td_classification_loss,
    two_hot_probs,
)
from jaxtrain.losses.meco import (
    MecoState,
    importance_log_partition,
    meco_gradient_momentum,
    meco_loss_and_state,
    nce_loss,
)
from jaxtrain.losses.npo import gradient_ascent_loss, npo_gradient_weight, npo_loss, npo_unlearning_objective
from jaxtrain.losses.policy_gradient import (
    composite_reward,
    kl_shaped_reward,
    ppo_clip_loss,
    sequence_policy_gradient_loss,
)
from jaxtrain.losses.saf import LogitsMemory, LogitsMemoryFns, logits_memory, mesa_loss, saf_loss, saf_trajectory_loss
from jaxtrain.losses.stablemax import log_stablemax, softmax_collapse_fraction, stablemax, stablemax_cross_entropy
from jaxtrain.losses.trades import trades_loss

__all__ = [
    "LogitsMemory",
    "LogitsMemoryFns",
    "MecoState",
    "biev_weights",
    "c51_project",
    "categorical_value",
    "comp_sum_conditional_minimum",
    "comp_sum_h_consistency",
    "comp_sum_loss",
    "comp_sum_minimizability_gap",
    "composite_reward",
    "conditional_cs_divergence",
    "cs_divergence",
    "cs_ib_loss",
    "cs_qmi",
    "dpo_loss",
    "gaussian_gram",
    "gg_td_loss",
    "ggd_excess_kurtosis",
    "ggd_nll",
    "ggd_variance",
    "gradient_ascent_loss",
    "h_consistency_bound",
    "hl_gauss_loss",
    "hl_gauss_probs",
    "importance_log_partition",
    "kd_loss",
    "kl_shaped_reward",
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
    "ppo_clip_loss",
    "saf_loss",
    "saf_trajectory_loss",
    "sequence_policy_gradient_loss",
    "smooth_adversarial_comp_sum_loss",
    "softmax_collapse_fraction",
    "stablemax",
    "stablemax_cross_entropy",
    "td_classification_loss",
    "trades_loss",
    "two_hot_probs",
]
