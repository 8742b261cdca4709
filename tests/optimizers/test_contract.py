"""The laws of gradient transformations, for every optimizer here."""

import pytest

from jaxtrain.optimizers import adahessian, optimistic_omd, optimistic_omd_sea, soap
from jaxtrain.testing import check_gradient_transformation

CASES = {
    "adahessian": {"factory": adahessian, "hyperparams": {"learning_rate": 0.1}, "static_args": ("num_samples",)},
    "adahessian_now_and_then": {
        "factory": adahessian,
        "hyperparams": {"learning_rate": 0.1, "update_period": 2, "weight_decay": 0.1},
        # the laws that the loop around the Hessian could break
        "laws": ("stable_state", "jit", "no_retrace", "scan", "vmap", "sharded"),
    },
    "optimistic_omd": {"factory": optimistic_omd, "hyperparams": {"learning_rate": 0.1}},
    "optimistic_omd_sea": {
        "factory": optimistic_omd_sea,
        "hyperparams": {"diameter": 2.0, "grad_bound": 1.0, "smoothness": 1.0},
        # what the variation adds: a sum over all parameters
        "laws": ("stable_state", "jit", "no_retrace", "scan", "vmap", "sharded"),
    },
    # max_precond_dim below the longer side of the (8, 4) matrix: on the null space of its 8 x 8 factor any basis is
    # right, and two runs need not choose the same. Refreshes amplify float32 rounding, hence the wider tolerance
    "soap": {
        "factory": soap,
        "hyperparams": {"learning_rate": 0.1, "max_precond_dim": 4, "precondition_frequency": 1},
        "static_args": ("max_precond_dim", "stacked_axes"),
        "rtol": 1e-3,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_keeps_the_laws(name):
    check_gradient_transformation(**CASES[name])
