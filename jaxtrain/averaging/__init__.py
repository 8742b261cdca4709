"""How many iterates or models become one model. Averages along a run come last in an optax chain; mergers take a stack."""

from jaxtrain.averaging._base import Average, averaged_params
from jaxtrain.averaging._models import stack_models
from jaxtrain.averaging.adamerging import adamerging_fit, adamerging_loss, clip_coefficients
from jaxtrain.averaging.bang import balanced_finetune_loss, output_space_ensemble
from jaxtrain.averaging.batch_stats import averaged_model, recompute_batch_stats
from jaxtrain.averaging.combinatorial import consistency_loss, dca_predict, dca_sample, dca_train_loss, dcwa
from jaxtrain.averaging.connectivity import (
    Plane,
    layerwise_barriers,
    loss_barrier,
    loss_on_line,
    loss_on_plane,
    plane_coordinates,
    plane_through,
)
from jaxtrain.averaging.diversity import (
    Decomposition,
    bvcl_decomposition,
    diversity_ratio_error,
    ensemble_ood_accuracy,
    false_false_true_rate,
    q_diversity,
    squared_locality,
)
from jaxtrain.averaging.ema import ParamsEmaState, annealed_ema, params_ema
from jaxtrain.averaging.ema_scaling import (
    ema_decay_for_batch_size,
    ema_time_constant,
    scale_ema_decay,
    scale_hyperparameters,
)
from jaxtrain.averaging.gradient_matching import (
    diagonal_fisher,
    fisher_average,
    gradient_mismatch,
    merge_gradient_matching,
)
from jaxtrain.averaging.lawa import LawaState, lawa
from jaxtrain.averaging.matching import apply_permutation, sequential_permutation_spec, weight_matching
from jaxtrain.averaging.power_ema import (
    PowerEmaState,
    posthoc_ema,
    posthoc_ema_coefficients,
    power_ema_beta,
    power_ema_exp_to_std,
    power_ema_inner_product,
    power_ema_snapshot,
    power_ema_std_to_exp,
    power_function_ema,
)
from jaxtrain.averaging.selection import Best, keep_best
from jaxtrain.averaging.soups import greedy_soup, soup, wise_ft
from jaxtrain.averaging.stock import model_stock, model_stock_cosine, model_stock_ratio, periodic_model_stock
from jaxtrain.averaging.swa import SwaState, swa, uniform_average
from jaxtrain.averaging.swad import SwadState, swad, swad_update
from jaxtrain.averaging.switch_ema import SwitchEmaState, ema_decay_warmup, switch_ema
from jaxtrain.averaging.tasks import merge_task_vectors, task_arithmetic, task_vectors, ties, ties_trim, ties_trim_elect
from jaxtrain.averaging.variance_corrected import gossip_round, rescale_to_variance, variance_corrected_average
from jaxtrain.averaging.window import WindowState, window_average

__all__ = [
    "Average",
    "Best",
    "Decomposition",
    "LawaState",
    "ParamsEmaState",
    "Plane",
    "PowerEmaState",
    "SwaState",
    "SwadState",
    "SwitchEmaState",
    "WindowState",
    "adamerging_fit",
    "adamerging_loss",
    "annealed_ema",
    "apply_permutation",
    "averaged_model",
    "averaged_params",
    "balanced_finetune_loss",
    "bvcl_decomposition",
    "clip_coefficients",
    "consistency_loss",
    "dca_predict",
    "dca_sample",
    "dca_train_loss",
    "dcwa",
    "diagonal_fisher",
    "diversity_ratio_error",
    "ema_decay_for_batch_size",
    "ema_decay_warmup",
    "ema_time_constant",
    "ensemble_ood_accuracy",
    "false_false_true_rate",
    "fisher_average",
    "gossip_round",
    "gradient_mismatch",
    "greedy_soup",
    "keep_best",
    "lawa",
    "layerwise_barriers",
    "loss_barrier",
    "loss_on_line",
    "loss_on_plane",
    "merge_gradient_matching",
    "merge_task_vectors",
    "model_stock",
    "model_stock_cosine",
    "model_stock_ratio",
    "output_space_ensemble",
    "params_ema",
    "periodic_model_stock",
    "plane_coordinates",
    "plane_through",
    "posthoc_ema",
    "posthoc_ema_coefficients",
    "power_ema_beta",
    "power_ema_exp_to_std",
    "power_ema_inner_product",
    "power_ema_snapshot",
    "power_ema_std_to_exp",
    "power_function_ema",
    "q_diversity",
    "recompute_batch_stats",
    "rescale_to_variance",
    "scale_ema_decay",
    "scale_hyperparameters",
    "sequential_permutation_spec",
    "soup",
    "squared_locality",
    "stack_models",
    "swa",
    "swad",
    "swad_update",
    "switch_ema",
    "task_arithmetic",
    "task_vectors",
    "ties",
    "ties_trim",
    "ties_trim_elect",
    "uniform_average",
    "variance_corrected_average",
    "weight_matching",
    "window_average",
    "wise_ft",
]
