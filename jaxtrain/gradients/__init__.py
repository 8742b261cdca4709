"""How a loss becomes a gradient: functions from an objective or a gradient function to a gradient function."""

from jaxtrain.gradients.ignite import (
    IgniteState,
    ignite,
    ignite2,
    offline_gradient_ascent,
    surrogate_sharpness,
)
from jaxtrain.gradients.jacobian import iwrm, jacobian_descent
from jaxtrain.gradients.landscape import filter_normalised_direction, weight_loss_landscape
from jaxtrain.gradients.microbatch import microbatch
from jaxtrain.gradients.perturbation import ascent, at_perturbed, kernels, projected_ascent
from jaxtrain.gradients.plain import value_and_grad
from jaxtrain.gradients.sharpness import amp, awp, imbsam, sam, tail_classes

__all__ = [
    "IgniteState",
    "amp",
    "ascent",
    "at_perturbed",
    "awp",
    "filter_normalised_direction",
    "ignite",
    "ignite2",
    "imbsam",
    "iwrm",
    "jacobian_descent",
    "kernels",
    "microbatch",
    "offline_gradient_ascent",
    "projected_ascent",
    "sam",
    "surrogate_sharpness",
    "tail_classes",
    "value_and_grad",
    "weight_loss_landscape",
]
