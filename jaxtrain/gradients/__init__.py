"""How a loss becomes a gradient: functions from an objective or a gradient function to a gradient function."""

from jaxtrain.gradients.microbatch import microbatch
from jaxtrain.gradients.plain import value_and_grad

__all__ = ["microbatch", "value_and_grad"]
