"""The laws of gradient transformations, for every optimizer here."""

import functools

import optax
import pytest

from jaxtrain.optimizers import (
    adahessian,
    adamp,
    cautious,
    diffgrad,
    grams,
    gravity,
    mars,
    ranger21,
    sgd_sai,
    sgdp,
    soap,
    with_moment_dtype,
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
    # max_precond_dim below the longer side of the (8, 4) matrix: on the null space of its 8 x 8 factor any basis is
    # right, and two runs need not choose the same. Refreshes amplify float32 rounding, hence the wider tolerance
    "soap": {
        "factory": soap,
        "hyperparams": {"learning_rate": 0.1, "max_precond_dim": 4, "precondition_frequency": 1},
        "static_args": ("max_precond_dim", "stacked_axes"),
        "rtol": 1e-3,
    },
    "grams": {"factory": grams, "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1}},
    "cautious": {
        "factory": lambda learning_rate: cautious(optax.adam(learning_rate)),
        "hyperparams": {"learning_rate": 0.1},
    },
    "diffgrad": {
        "factory": diffgrad,
        "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1},
        "static_args": ("use_previous",),
    },
    "gravity": {"factory": gravity, "hyperparams": {"learning_rate": 0.1}, "static_args": ("seed",)},
    "sgd_sai": {"factory": sgd_sai, "hyperparams": {"learning_rate": 0.1}},
    "low_precision": {
        "factory": lambda learning_rate: with_moment_dtype(optax.adam(learning_rate)),
        "hyperparams": {"learning_rate": 0.1},
        # where two programs differ in the last bit of float32, a moment may go to its other neighbour in bfloat16
        "rtol": 1e-2,
    },
    # a threshold at which the random problem is projected
    "adamp": {
        "factory": adamp,
        "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1, "delta": 2.0},
        "static_args": ("nesterov", "channel_axis"),
    },
    "sgdp": {
        "factory": sgdp,
        "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1, "delta": 2.0},
        "static_args": ("nesterov", "channel_axis"),
        # the rest it has in common with adamp
        "laws": ("stable_state", "jit", "scan", "vmap", "sharded", "inject_hyperparams"),
    },
    "mars": {
        "factory": mars,
        "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1},
        "static_args": (
            "base",
            "exact",
            "optimize_1d",
            "kernels",
            "global_clip",
            "channel_axis",
            "one_d_betas",
        ),
    },
    "mars_exact_shampoo": {
        "factory": functools.partial(mars, exact=True, base="shampoo", optimize_1d=True),
        "hyperparams": {"learning_rate": 0.1},
        # what the kept parameters, the gradient at them and the iteration on matrices could break; it amplifies rounding
        "laws": ("stable_state", "no_shared_buffers", "jit", "scan", "vmap", "sharded", "non_finite"),
        "rtol": 1e-3,
    },
    "ranger21": {
        "factory": ranger21,
        "hyperparams": {"learning_rate": 0.1, "num_iterations": 5},
        "static_args": ("num_iterations", "centralize", "normalize", "amsgrad", "channel_axis"),
    },
}


@pytest.mark.parametrize("name", CASES)
def test_keeps_the_laws(name):
    check_gradient_transformation(**CASES[name])
