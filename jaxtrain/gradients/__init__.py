"""How a loss becomes a gradient: functions from an objective or a gradient function to a gradient function."""

from jaxtrain.gradients.jacobian import iwrm, jacobian_descent
from jaxtrain.gradients.microbatch import microbatch
from jaxtrain.gradients.plain import value_and_grad
from jaxtrain.gradients.sharpness import ascent, imbsam, sam, tail_classes

__all__ = ["ascent", "imbsam", "iwrm", "jacobian_descent", "microbatch", "sam", "tail_classes", "value_and_grad"]
