"""How many iterates or models become one model. Averages along a run come last in an optax chain."""

from jaxtrain.averaging._base import SwaState, SwitchEmaState, averaged_params
from jaxtrain.averaging.batch_stats import recompute_batch_stats
from jaxtrain.averaging.swa import swa
from jaxtrain.averaging.switch_ema import ema_decay_warmup, switch_ema

__all__ = [
    "SwaState",
    "SwitchEmaState",
    "averaged_params",
    "ema_decay_warmup",
    "recompute_batch_stats",
    "swa",
    "switch_ema",
]
