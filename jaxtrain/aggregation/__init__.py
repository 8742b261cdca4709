"""How many gradients become one: functions of a stack of gradients, pytrees whose leaves have a leading axis."""

from jaxtrain.aggregation._adapter import as_optax
from jaxtrain.aggregation._trees import gramian, squared_distances
from jaxtrain.aggregation.attacks import (
    alie_attack,
    bit_flip_attack,
    gaussian_attack,
    ipm_attack,
    label_flip,
    mimic_attack,
)
from jaxtrain.aggregation.centered_clipping import (
    CenteredClippingState,
    centered_clip,
    centered_clipping,
    worker_momentum,
)
from jaxtrain.aggregation.coordinatewise import coordinate_median, mean, mean_around_median, trimmed_mean
from jaxtrain.aggregation.flag import Flag, flag_aggregate, flag_weights
from jaxtrain.aggregation.gas import gas, splitting_scores
from jaxtrain.aggregation.geometric_median import geometric_median, geometric_median_weights
from jaxtrain.aggregation.krum import bulyan, krum, krum_weights, multi_krum
from jaxtrain.aggregation.mixing import bucketing, nearest_neighbor_mixing, nearest_neighbor_weights
from jaxtrain.aggregation.monna import mixing_reduction, monna_step, nearest_neighbor_average
from jaxtrain.aggregation.upgrad import dual_cone_projection_weights, upgrad, upgrad_weights

__all__ = [
    "CenteredClippingState",
    "Flag",
    "alie_attack",
    "as_optax",
    "bit_flip_attack",
    "bucketing",
    "bulyan",
    "centered_clip",
    "centered_clipping",
    "coordinate_median",
    "dual_cone_projection_weights",
    "flag_aggregate",
    "flag_weights",
    "gas",
    "gaussian_attack",
    "geometric_median",
    "geometric_median_weights",
    "gramian",
    "ipm_attack",
    "krum",
    "krum_weights",
    "label_flip",
    "mean",
    "mean_around_median",
    "mimic_attack",
    "mixing_reduction",
    "monna_step",
    "multi_krum",
    "nearest_neighbor_average",
    "nearest_neighbor_mixing",
    "nearest_neighbor_weights",
    "splitting_scores",
    "squared_distances",
    "trimmed_mean",
    "upgrad",
    "upgrad_weights",
    "worker_momentum",
]
