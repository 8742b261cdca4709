"""How a loss becomes a gradient: functions from an objective or a gradient function to a gradient function."""

from jaxtrain.core.lanczos import SpectralDensity, lanczos_tridiagonal, stochastic_lanczos_quadrature, top_eigenvalue
from jaxtrain.core.probes import hutchinson_diagonal, hutchinson_trace, random_direction
from jaxtrain.gradients.finite_differences import finite_differences
from jaxtrain.gradients.ignite import IgniteState, ignite, ignite2, offline_gradient_ascent, surrogate_sharpness
from jaxtrain.gradients.jacobian import aggregated, iwrm, jacobian, jacobian_descent, per_example
from jaxtrain.gradients.landscape import filter_normalised_direction, weight_loss_landscape
from jaxtrain.gradients.microbatch import microbatch
from jaxtrain.gradients.perturbation import ascent, at_perturbed, kernels, projected_ascent
from jaxtrain.gradients.plain import value_and_grad
from jaxtrain.gradients.sharpness import amp, awp, imbsam, sam, tail_classes
from jaxtrain.gradients.variance_reduction import page, saga, storm, svrg
from jaxtrain.gradients.zeroth_order import zeroth_order, zeroth_order_updates

__all__ = [
    "IgniteState",
    "SpectralDensity",
    "aggregated",
    "amp",
    "ascent",
    "at_perturbed",
    "awp",
    "filter_normalised_direction",
    "finite_differences",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "ignite",
    "ignite2",
    "imbsam",
    "iwrm",
    "jacobian",
    "jacobian_descent",
    "kernels",
    "lanczos_tridiagonal",
    "microbatch",
    "offline_gradient_ascent",
    "page",
    "per_example",
    "projected_ascent",
    "random_direction",
    "saga",
    "sam",
    "stochastic_lanczos_quadrature",
    "storm",
    "surrogate_sharpness",
    "svrg",
    "tail_classes",
    "top_eigenvalue",
    "value_and_grad",
    "weight_loss_landscape",
    "zeroth_order",
    "zeroth_order_updates",
]
