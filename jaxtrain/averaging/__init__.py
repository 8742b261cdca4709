"""How many iterates or models become one model. Averages along a run come last in an optax chain; mergers take a stack."""

from jaxtrain.averaging._base import SwaState, SwitchEmaState, averaged_params
from jaxtrain.averaging._models import stack_models
from jaxtrain.averaging.batch_stats import recompute_batch_stats
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
from jaxtrain.averaging.matching import apply_permutation, sequential_permutation_spec, weight_matching
from jaxtrain.averaging.soups import greedy_soup, soup, wise_ft
from jaxtrain.averaging.stock import (
    model_stock,
    model_stock_cosine,
    model_stock_ratio,
    periodic_model_stock,
)
from jaxtrain.averaging.swa import swa
from jaxtrain.averaging.switch_ema import ema_decay_warmup, switch_ema
from jaxtrain.averaging.variance_corrected import gossip_round, rescale_to_variance, variance_corrected_average

__all__ = [
    "Plane",
    "SwaState",
    "SwitchEmaState",
    "apply_permutation",
    "averaged_params",
    "consistency_loss",
    "dca_predict",
    "dca_sample",
    "dca_train_loss",
    "dcwa",
    "ema_decay_warmup",
    "gossip_round",
    "greedy_soup",
    "layerwise_barriers",
    "loss_barrier",
    "loss_on_line",
    "loss_on_plane",
    "model_stock",
    "model_stock_cosine",
    "model_stock_ratio",
    "periodic_model_stock",
    "plane_coordinates",
    "plane_through",
    "recompute_batch_stats",
    "rescale_to_variance",
    "sequential_permutation_spec",
    "soup",
    "stack_models",
    "swa",
    "switch_ema",
    "variance_corrected_average",
    "weight_matching",
    "wise_ft",
]
