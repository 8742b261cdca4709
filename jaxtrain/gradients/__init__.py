"""How a loss becomes a gradient: functions from an objective or a gradient function to a gradient function."""

from jaxtrain.core.probes import hutchinson_diagonal, hutchinson_trace, random_direction
from jaxtrain.gradients.finite_differences import finite_differences
from jaxtrain.gradients.jacobian import aggregated, iwrm, jacobian, jacobian_descent, per_example
from jaxtrain.gradients.microbatch import microbatch
from jaxtrain.gradients.plain import value_and_grad
from jaxtrain.gradients.sharpness import ascent, imbsam, sam, tail_classes
from jaxtrain.gradients.variance_reduction import page, saga, storm, svrg
from jaxtrain.gradients.zeroth_order import zeroth_order, zeroth_order_updates

__all__ = [
    "aggregated",
    "ascent",
    "finite_differences",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "imbsam",
    "iwrm",
    "jacobian",
    "jacobian_descent",
    "microbatch",
    "page",
    "per_example",
    "random_direction",
    "saga",
    "sam",
    "storm",
    "svrg",
    "tail_classes",
    "value_and_grad",
    "zeroth_order",
    "zeroth_order_updates",
]
