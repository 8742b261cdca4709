"""The ground: the types that the stages share and small checks. Imports nothing of ours."""

from jaxtrain.core.checks import (
    check_decays,
    check_finite_number,
    check_key,
    check_leading_axes,
    check_same_structure,
    compare_leaves,
    describe_leaves,
)
from jaxtrain.core.debug import checked, debug_check
from jaxtrain.core.types import (
    Aux,
    Batch,
    GradFn,
    Key,
    Metrics,
    ModelState,
    Number,
    Objective,
    OptState,
    Params,
    PerExampleObjective,
    Scalar,
)

__all__ = [
    "Aux",
    "Batch",
    "GradFn",
    "Key",
    "Metrics",
    "ModelState",
    "Number",
    "Objective",
    "OptState",
    "Params",
    "PerExampleObjective",
    "Scalar",
    "check_decays",
    "check_finite_number",
    "check_key",
    "check_leading_axes",
    "check_same_structure",
    "checked",
    "compare_leaves",
    "debug_check",
    "describe_leaves",
]
