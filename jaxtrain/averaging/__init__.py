"""How many iterates or models become one model. Averages along a run come last in an optax chain."""

from jaxtrain.averaging._base import Average, averaged_params
from jaxtrain.averaging.batch_stats import averaged_model, recompute_batch_stats
from jaxtrain.averaging.ema import ParamsEmaState, annealed_ema, params_ema
from jaxtrain.averaging.ema_scaling import (
    ema_decay_for_batch_size,
    ema_time_constant,
    scale_ema_decay,
    scale_hyperparameters,
)
from jaxtrain.averaging.lawa import LawaState, lawa
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
from jaxtrain.averaging.swa import SwaState, swa, uniform_average
from jaxtrain.averaging.swad import SwadState, swad, swad_update
from jaxtrain.averaging.switch_ema import SwitchEmaState, ema_decay_warmup, switch_ema

__all__ = [
    "Average",
    "Best",
    "LawaState",
    "ParamsEmaState",
    "PowerEmaState",
    "SwaState",
    "SwadState",
    "SwitchEmaState",
    "annealed_ema",
    "averaged_model",
    "averaged_params",
    "ema_decay_for_batch_size",
    "ema_decay_warmup",
    "ema_time_constant",
    "keep_best",
    "lawa",
    "params_ema",
    "posthoc_ema",
    "posthoc_ema_coefficients",
    "power_ema_beta",
    "power_ema_exp_to_std",
    "power_ema_inner_product",
    "power_ema_snapshot",
    "power_ema_std_to_exp",
    "power_function_ema",
    "recompute_batch_stats",
    "scale_ema_decay",
    "scale_hyperparameters",
    "swa",
    "swad",
    "swad_update",
    "switch_ema",
    "uniform_average",
]
