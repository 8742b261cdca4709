"""How many iterates or models become one model. Averages along a run come last in an optax chain; mergers take a stack."""

from jaxtrain.averaging._base import SwaState, SwitchEmaState, averaged_params
from jaxtrain.averaging._models import stack_models
from jaxtrain.averaging.adamerging import adamerging_fit, adamerging_loss, clip_coefficients
from jaxtrain.averaging.bang import balanced_finetune_loss, output_space_ensemble
from jaxtrain.averaging.batch_stats import recompute_batch_stats
from jaxtrain.averaging.diversity import (
    Decomposition,
    bvcl_decomposition,
    diversity_ratio_error,
    ensemble_ood_accuracy,
    false_false_true_rate,
    q_diversity,
    squared_locality,
)
from jaxtrain.averaging.gradient_matching import (
    diagonal_fisher,
    fisher_average,
    gradient_mismatch,
    merge_gradient_matching,
)
from jaxtrain.averaging.soups import greedy_soup, soup, wise_ft
from jaxtrain.averaging.stock import model_stock, model_stock_cosine, model_stock_ratio, periodic_model_stock
from jaxtrain.averaging.swa import swa
from jaxtrain.averaging.switch_ema import ema_decay_warmup, switch_ema
from jaxtrain.averaging.tasks import (
    merge_task_vectors,
    task_arithmetic,
    task_vectors,
    ties,
    ties_trim,
    ties_trim_elect,
)

__all__ = [
    "Decomposition",
    "SwaState",
    "SwitchEmaState",
    "adamerging_fit",
    "adamerging_loss",
    "averaged_params",
    "balanced_finetune_loss",
    "bvcl_decomposition",
    "clip_coefficients",
    "diagonal_fisher",
    "diversity_ratio_error",
    "ema_decay_warmup",
    "ensemble_ood_accuracy",
    "false_false_true_rate",
    "fisher_average",
    "gradient_mismatch",
    "greedy_soup",
    "merge_gradient_matching",
    "merge_task_vectors",
    "model_stock",
    "model_stock_cosine",
    "model_stock_ratio",
    "output_space_ensemble",
    "periodic_model_stock",
    "q_diversity",
    "recompute_batch_stats",
    "soup",
    "squared_locality",
    "stack_models",
    "swa",
    "switch_ema",
    "task_arithmetic",
    "task_vectors",
    "ties",
    "ties_trim",
    "ties_trim_elect",
    "wise_ft",
]
