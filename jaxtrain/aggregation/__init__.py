"""How many gradients become one: functions of a stack of gradients, pytrees whose leaves have a leading axis."""

from jaxtrain.aggregation._adapter import as_optax
from jaxtrain.aggregation._trees import gramian
from jaxtrain.aggregation.attacks import alie_attack, bit_flip_attack, ipm_attack, label_flip
from jaxtrain.aggregation.centered_clipping import (
    CenteredClippingState,
    centered_clip,
    centered_clipping,
    worker_momentum,
)
from jaxtrain.aggregation.upgrad import dual_cone_projection_weights, upgrad, upgrad_weights

__all__ = [
    "CenteredClippingState",
    "alie_attack",
    "as_optax",
    "bit_flip_attack",
    "centered_clip",
    "centered_clipping",
    "dual_cone_projection_weights",
    "gramian",
    "ipm_attack",
    "label_flip",
    "upgrad",
    "upgrad_weights",
    "worker_momentum",
]
