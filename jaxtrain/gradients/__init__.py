"""How a loss becomes a gradient: functions from an objective or a gradient function to a gradient function."""

from jaxtrain.gradients.jacobian import iwrm, jacobian_descent
from jaxtrain.gradients.microbatch import microbatch
from jaxtrain.gradients.perturbation import ascent, at_perturbed, kernels, projected_ascent
from jaxtrain.gradients.plain import value_and_grad
from jaxtrain.gradients.sharpness import amp, awp, imbsam, sam, tail_classes

__all__ = [
    "amp",
    "ascent",
    "at_perturbed",
    "awp",
    "imbsam",
    "iwrm",
    "jacobian_descent",
    "kernels",
    "microbatch",
    "projected_ascent",
    "sam",
    "tail_classes",
    "value_and_grad",
]
