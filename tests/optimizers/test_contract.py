"""The laws of gradient transformations, for every optimizer here."""

import jax
import pytest

from jaxtrain.optimizers import adahessian, agvm, optimistic_omd, optimistic_omd_sea, soap
from jaxtrain.testing import check_gradient_transformation


def all_alike(params):
    return jax.tree.map(lambda p: "all", params)


def by_dimension(params):
    return jax.tree.map(lambda p: str(p.ndim), params)


def halves(params, grads, batch, key):
    return {"half_grads": (jax.tree.map(lambda g: 1.5 * g - 0.1, grads), jax.tree.map(lambda g: 0.5 * g + 0.1, grads))}


CASES = {
    "adahessian": {"factory": adahessian, "hyperparams": {"learning_rate": 0.1}, "static_args": ("num_samples",)},
    "adahessian_now_and_then": {
        "factory": adahessian,
        "hyperparams": {"learning_rate": 0.1, "update_period": 2, "weight_decay": 0.1},
        # the laws that the loop around the Hessian could break
        "laws": ("stable_state", "jit", "no_retrace", "scan", "vmap", "sharded"),
    },
    "agvm": {
        "factory": agvm,
        "hyperparams": {"learning_rate": 0.1, "labels": all_alike, "reference": "all", "interval": 2, "start_step": 1},
        "static_args": ("labels", "reference"),
        "extra_args": halves,
    },
    "agvm_of_two_groups": {
        "factory": agvm,
        "hyperparams": {"learning_rate": 0.1, "labels": by_dimension, "reference": "2", "interval": 2, "start_step": 1},
        "static_args": ("labels", "reference"),
        "extra_args": halves,
        # the reference may be masked, and a checkpoint holds a dictionary
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
