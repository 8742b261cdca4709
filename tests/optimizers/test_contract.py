"""The laws of gradient transformations, for every optimizer here."""

import pytest

from jaxtrain.optimizers import (
    adabelief,
    adabound,
    adafactor,
    adahessian,
    adam_l2,
    adam_nc,
    adamw_original,
    adan,
    ademamix,
    amsbound,
    amsgrad,
    sgdw,
    soap,
)
from jaxtrain.testing import check_gradient_transformation

# what options of elementwise methods could break
OPTION = ("stable_state", "dtype", "jit", "scan", "vmap", "checkpoint")

CASES = {
    "adabelief": {
        "factory": adabelief,
        "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1},
        "static_args": ("decouple", "rectify", "amsgrad"),
    },
    "adabelief_rectified_amsgrad": {
        "factory": adabelief,
        "hyperparams": {"learning_rate": 0.1, "rectify": True, "amsgrad": True},
        "laws": OPTION,
    },
    "adabound": {"factory": adabound, "hyperparams": {"learning_rate": 0.1}, "static_args": ("amsbound",)},
    "adafactor": {
        "factory": adafactor,
        "hyperparams": {"learning_rate": 0.1},
        "static_args": ("min_dim_size_to_factor",),
    },
    "adafactor_momentum": {"factory": adafactor, "hyperparams": {"b1": 0.9}, "laws": OPTION},
    "adahessian": {"factory": adahessian, "hyperparams": {"learning_rate": 0.1}, "static_args": ("num_samples",)},
    "adahessian_now_and_then": {
        "factory": adahessian,
        "hyperparams": {"learning_rate": 0.1, "update_period": 2, "weight_decay": 0.1},
        # the laws that the loop around the Hessian could break
        "laws": ("stable_state", "jit", "no_retrace", "scan", "vmap", "sharded"),
    },
    "adam_l2": {"factory": adam_l2, "hyperparams": {"learning_rate": 0.1, "l2": 0.1}, "laws": OPTION},
    "adam_nc": {"factory": adam_nc, "hyperparams": {"learning_rate": 0.1}},
    "adamw_original": {"factory": adamw_original, "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1}},
    "adan": {
        "factory": adan,
        "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1},
        "static_args": ("proximal",),
    },
    "ademamix": {"factory": ademamix, "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1, "warmup_steps": 9}},
    "amsbound": {"factory": amsbound, "hyperparams": {"learning_rate": 0.1}, "laws": OPTION},
    "amsgrad": {
        "factory": amsgrad,
        "hyperparams": {"learning_rate": 0.1, "bias_correction": "after_max"},
        "static_args": ("bias_correction",),
    },
    "sgdw": {"factory": sgdw, "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1}},
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
