"""The contract kit: the laws every method must keep, for ours, optax's and yours."""

from jaxtrain.testing._violations import ContractError, Violation
from jaxtrain.testing.transformations import TRANSFORMATION_LAWS, check_gradient_transformation, find_violations

__all__ = ["TRANSFORMATION_LAWS", "ContractError", "Violation", "check_gradient_transformation", "find_violations"]
