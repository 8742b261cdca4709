"""How many gradients become one: functions of a stack of gradients, pytrees whose leaves have a leading axis."""

from jaxtrain.aggregation._adapter import KeyedState, as_optax
from jaxtrain.aggregation._sharded import sharded
from jaxtrain.aggregation._trees import gramian
from jaxtrain.aggregation.aligned_mtl import aligned_mtl, aligned_mtl_weights
from jaxtrain.aggregation.attacks import alie_attack, bit_flip_attack, ipm_attack, label_flip
from jaxtrain.aggregation.cagrad import cagrad, cagrad_weights
from jaxtrain.aggregation.centered_clipping import (
    CenteredClippingState,
    centered_clip,
    centered_clipping,
    worker_momentum,
)
from jaxtrain.aggregation.config import config, config_weights, imtl_g, imtl_g_weights
from jaxtrain.aggregation.dualproj import dualproj, dualproj_weights
from jaxtrain.aggregation.fairgrad import fairgrad, fairgrad_weights, nash_mtl, nash_mtl_weights
from jaxtrain.aggregation.graddrop import graddrop
from jaxtrain.aggregation.mgda import mgda, mgda_weights
from jaxtrain.aggregation.pcgrad import GradVacState, gradvac, gradvac_weights, pcgrad, pcgrad_weights
from jaxtrain.aggregation.upgrad import dual_cone_projection_weights, upgrad, upgrad_weights

__all__ = [
    "CenteredClippingState",
    "GradVacState",
    "KeyedState",
    "alie_attack",
    "aligned_mtl",
    "aligned_mtl_weights",
    "as_optax",
    "bit_flip_attack",
    "cagrad",
    "cagrad_weights",
    "centered_clip",
    "centered_clipping",
    "config",
    "config_weights",
    "dual_cone_projection_weights",
    "dualproj",
    "dualproj_weights",
    "fairgrad",
    "fairgrad_weights",
    "graddrop",
    "gradvac",
    "gradvac_weights",
    "gramian",
    "imtl_g",
    "imtl_g_weights",
    "ipm_attack",
    "label_flip",
    "mgda",
    "mgda_weights",
    "nash_mtl",
    "nash_mtl_weights",
    "pcgrad",
    "pcgrad_weights",
    "sharded",
    "upgrad",
    "upgrad_weights",
    "worker_momentum",
]
