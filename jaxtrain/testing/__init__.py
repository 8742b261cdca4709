"""The contract kit: the laws every method must keep, for ours, optax's and yours."""

from jaxtrain.testing._problem import standard_extra_args
from jaxtrain.testing._violations import ContractError, Violation
from jaxtrain.testing.aggregators import AGGREGATOR_LAWS, check_aggregator, find_aggregator_violations
from jaxtrain.testing.estimators import ESTIMATOR_LAWS, check_estimator, find_estimator_violations
from jaxtrain.testing.gradients import GRAD_FN_LAWS, check_grad_fn, find_grad_fn_violations
from jaxtrain.testing.initializers import INITIALIZER_LAWS, check_initializer, find_initializer_violations
from jaxtrain.testing.losses import LOSS_LAWS, check_loss, find_loss_violations
from jaxtrain.testing.resume import check_resume, find_resume_violations
from jaxtrain.testing.schedules import SCHEDULE_LAWS, check_schedule, find_schedule_violations
from jaxtrain.testing.transformations import TRANSFORMATION_LAWS, check_gradient_transformation, find_violations

__all__ = [
    "AGGREGATOR_LAWS",
    "ESTIMATOR_LAWS",
    "GRAD_FN_LAWS",
    "INITIALIZER_LAWS",
    "LOSS_LAWS",
    "SCHEDULE_LAWS",
    "TRANSFORMATION_LAWS",
    "ContractError",
    "Violation",
    "check_aggregator",
    "check_estimator",
    "check_grad_fn",
    "check_gradient_transformation",
    "check_initializer",
    "check_loss",
    "check_resume",
    "check_schedule",
    "find_aggregator_violations",
    "find_estimator_violations",
    "find_grad_fn_violations",
    "find_initializer_violations",
    "find_loss_violations",
    "find_resume_violations",
    "find_schedule_violations",
    "find_violations",
    "standard_extra_args",
]
