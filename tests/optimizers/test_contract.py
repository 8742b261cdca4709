"""The laws of gradient transformations, for every optimizer here."""

import jax
import pytest

from jaxtrain.optimizers import (
    adahessian,
    adam_sn,
    distributed_shampoo,
    orthogonalize_gradients,
    scale_by_subspace_momentum,
    sgd_freeze_embed,
    snsm,
    soap,
    steepest_descent,
)
from jaxtrain.testing import check_gradient_transformation

CASES = {
    "adahessian": {"factory": adahessian, "hyperparams": {"learning_rate": 0.1}, "static_args": ("num_samples",)},
    "adahessian_now_and_then": {
        "factory": adahessian,
        "hyperparams": {"learning_rate": 0.1, "update_period": 2, "weight_decay": 0.1},
        # the laws that the loop around the Hessian could break
        "laws": ("stable_state", "jit", "no_retrace", "scan", "vmap", "sharded"),
    },
    "sgd_freeze_embed": {
        "factory": sgd_freeze_embed,
        "hyperparams": {"learning_rate": 0.1, "frozen": lambda params: jax.tree.map(lambda p: p.ndim > 1, params)},
        "static_args": ("frozen", "nesterov"),
        # the NaN is in the matrix, which is frozen
        "non_finite": "stays_finite",
    },
    "orthogonalize_gradients": {"factory": orthogonalize_gradients, "hyperparams": {"eps": 1e-30}},
    # max_precond_dim below the longer side of the (8, 4) matrix: on the null space of its 8 x 8 factor any basis is
    # right, and two runs need not choose the same. Refreshes amplify float32 rounding, hence the wider tolerance
    "soap": {
        "factory": soap,
        "hyperparams": {"learning_rate": 0.1, "max_precond_dim": 4, "precondition_frequency": 1},
        "static_args": ("max_precond_dim", "stacked_axes"),
        "rtol": 1e-3,
    },
    "adam_sn": {
        "factory": adam_sn,
        "hyperparams": {"learning_rate": 0.1},
        "static_args": ("subset", "bias_correction"),
    },
    "snsm": {
        "factory": snsm,
        "hyperparams": {"learning_rate": 0.1, "rank": 2, "update_interval": 2},
        "static_args": ("rank", "projection", "seed", "subset", "bias_correction"),
    },
    "subspace_momentum_of_rows": {
        "factory": scale_by_subspace_momentum,
        "hyperparams": {"rank": 2, "update_interval": 2, "projection": "topk"},
        # the laws that the choice of rows could break
        "laws": ("stable_state", "jit", "no_retrace", "scan", "vmap", "sharded"),
    },
    "steepest_descent": {
        "factory": steepest_descent,
        "hyperparams": {"learning_rate": 0.1, "b1": 0.9},
        "static_args": ("norms", "combine", "num_steps", "stacked_axes", "mask"),
    },
    "steepest_descent_by_svd": {
        "factory": steepest_descent,
        "hyperparams": {"learning_rate": 0.1, "combine": "max", "num_steps": None},
        # the laws that a decomposition and the common factor could break
        "laws": ("stable_state", "jit", "vmap", "scan", "sharded", "zero_gradients", "non_finite"),
    },
    "distributed_shampoo": {
        "factory": distributed_shampoo,
        # epsilon above the rounding of float32 factors of rank one, whose null space would be noise to the power -1/4
        "hyperparams": {
            "learning_rate": 0.1,
            "epsilon": 1e-3,
            "momentum": 0.9,
            "weight_decay": 0.1,
            "max_preconditioner_dim": 4,
            "precondition_frequency": 2,
        },
        "static_args": (
            *("nesterov", "decoupled", "mask", "max_preconditioner_dim", "grafting", "root_method"),
            *("use_bias_correction", "stacked_axes", "shard_roots"),
        ),
        "rtol": 1e-3,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_keeps_the_laws(name):
    check_gradient_transformation(**CASES[name])
