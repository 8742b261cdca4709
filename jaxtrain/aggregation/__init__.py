"""How many gradients become one: functions of a stack of gradients, pytrees whose leaves have a leading axis."""

from jaxtrain.aggregation._adapter import KeyedState, as_optax
from jaxtrain.aggregation._sharded import sharded
from jaxtrain.aggregation._trees import gramian, squared_distances
from jaxtrain.aggregation.aligned_mtl import aligned_mtl, aligned_mtl_weights
from jaxtrain.aggregation.attacks import (
    alie_attack,
    bit_flip_attack,
    gaussian_attack,
    ipm_attack,
    label_flip,
    mimic_attack,
)
from jaxtrain.aggregation.cagrad import cagrad, cagrad_weights
from jaxtrain.aggregation.centered_clipping import (
    CenteredClippingState,
    centered_clip,
    centered_clipping,
    worker_momentum,
)
from jaxtrain.aggregation.config import config, config_weights, imtl_g, imtl_g_weights
from jaxtrain.aggregation.coordinatewise import coordinate_median, mean, mean_around_median, trimmed_mean
from jaxtrain.aggregation.dualproj import dualproj, dualproj_weights
from jaxtrain.aggregation.fairgrad import fairgrad, fairgrad_weights, nash_mtl, nash_mtl_weights
from jaxtrain.aggregation.flag import Flag, flag_aggregate, flag_weights
from jaxtrain.aggregation.gas import gas, splitting_scores
from jaxtrain.aggregation.geometric_median import geometric_median, geometric_median_weights
from jaxtrain.aggregation.graddrop import graddrop
from jaxtrain.aggregation.krum import bulyan, krum, krum_weights, multi_krum
from jaxtrain.aggregation.mgda import mgda, mgda_weights
from jaxtrain.aggregation.mixing import bucketing, nearest_neighbor_mixing, nearest_neighbor_weights
from jaxtrain.aggregation.monna import mixing_reduction, monna_step, nearest_neighbor_average
from jaxtrain.aggregation.pcgrad import GradVacState, gradvac, gradvac_weights, pcgrad, pcgrad_weights
from jaxtrain.aggregation.upgrad import dual_cone_projection_weights, upgrad, upgrad_weights

__all__ = [
    "CenteredClippingState",
    "Flag",
    "GradVacState",
    "KeyedState",
    "alie_attack",
    "aligned_mtl",
    "aligned_mtl_weights",
    "as_optax",
    "bit_flip_attack",
    "bucketing",
    "bulyan",
    "cagrad",
    "cagrad_weights",
    "centered_clip",
    "centered_clipping",
    "config",
    "config_weights",
    "coordinate_median",
    "dual_cone_projection_weights",
    "dualproj",
    "dualproj_weights",
    "fairgrad",
    "fairgrad_weights",
    "flag_aggregate",
    "flag_weights",
    "gas",
    "gaussian_attack",
    "geometric_median",
    "geometric_median_weights",
    "graddrop",
    "gradvac",
    "gradvac_weights",
    "gramian",
    "imtl_g",
    "imtl_g_weights",
    "ipm_attack",
    "krum",
    "krum_weights",
    "label_flip",
    "mean",
    "mean_around_median",
    "mgda",
    "mgda_weights",
    "mimic_attack",
    "mixing_reduction",
    "monna_step",
    "multi_krum",
    "nash_mtl",
    "nash_mtl_weights",
    "nearest_neighbor_average",
    "nearest_neighbor_mixing",
    "nearest_neighbor_weights",
    "pcgrad",
    "pcgrad_weights",
    "sharded",
    "splitting_scores",
    "squared_distances",
    "trimmed_mean",
    "upgrad",
    "upgrad_weights",
    "worker_momentum",
]
