"""How many iterates or models become one model. Averages along a run come last in an optax chain; mergers take a stack."""

from jaxtrain.averaging._base import SwaState, SwitchEmaState, averaged_params
from jaxtrain.averaging._models import stack_models
from jaxtrain.averaging.batch_stats import recompute_batch_stats
from jaxtrain.averaging.soups import greedy_soup, soup, wise_ft
from jaxtrain.averaging.stock import (
    model_stock,
    model_stock_cosine,
    model_stock_ratio,
    periodic_model_stock,
)
from jaxtrain.averaging.swa import swa
from jaxtrain.averaging.switch_ema import ema_decay_warmup, switch_ema

__all__ = [
    "SwaState",
    "SwitchEmaState",
    "averaged_params",
    "ema_decay_warmup",
    "greedy_soup",
    "model_stock",
    "model_stock_cosine",
    "model_stock_ratio",
    "periodic_model_stock",
    "recompute_batch_stats",
    "soup",
    "stack_models",
    "swa",
    "switch_ema",
    "wise_ft",
]
