"""The laws of gradient transformations, for every optimizer here."""

import functools

import jax
import optax
import pytest

from jaxtrain.optimizers import (
    adabelief,
    adabound,
    adafactor,
    adagrad_norm,
    adahessian,
    adam_l2,
    adam_nc,
    adam_sn,
    adamp,
    adamw_original,
    adan,
    ademamix,
    agvm,
    alr_heavy_ball,
    alr_mag,
    amsbound,
    amsgrad,
    cautious,
    clip_adagrad,
    clip_adam,
    clip_radagradd,
    diffgrad,
    distributed_shampoo,
    grams,
    gravity,
    mars,
    normalized_momentum,
    o2nc,
    optimistic_omd,
    optimistic_omd_sea,
    orthogonalize_gradients,
    psps,
    ranger21,
    scale_by_mean_residual,
    scale_by_median_momentum,
    scale_by_subspace_momentum,
    sgd_freeze_embed,
    sgd_sai,
    sgdp,
    sgdw,
    smb,
    snsm,
    soap,
    spl_plus,
    steepest_descent,
    with_moment_dtype,
)
from jaxtrain.testing import check_gradient_transformation

OPTION = ("stable_state", "dtype", "jit", "scan", "vmap", "checkpoint")


def with_mean_residual(params, grads, batch, key):
    return {"mean_residual": 0.25}


def all_alike(params):
    return jax.tree.map(lambda p: "all", params)


def by_dimension(params):
    return jax.tree.map(lambda p: str(p.ndim), params)


def halves(params, grads, batch, key):
    return {"half_grads": (jax.tree.map(lambda g: 1.5 * g - 0.1, grads), jax.tree.map(lambda g: 0.5 * g + 0.1, grads))}


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
    "adagrad_norm": {"factory": adagrad_norm, "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1}},
    "adahessian": {"factory": adahessian, "hyperparams": {"learning_rate": 0.1}, "static_args": ("num_samples",)},
    "adahessian_now_and_then": {
        "factory": adahessian,
        "hyperparams": {"learning_rate": 0.1, "update_period": 2, "weight_decay": 0.1},
        # the laws that the loop around the Hessian could break
        "laws": ("stable_state", "jit", "no_retrace", "scan", "vmap", "sharded"),
    },
    "adam_l2": {"factory": adam_l2, "hyperparams": {"learning_rate": 0.1, "l2": 0.1}, "laws": OPTION},
    "adam_nc": {"factory": adam_nc, "hyperparams": {"learning_rate": 0.1}},
    "adam_sn": {
        "factory": adam_sn,
        "hyperparams": {"learning_rate": 0.1},
        "static_args": ("subset", "bias_correction"),
    },
    # a threshold at which the random problem is projected
    "adamp": {
        "factory": adamp,
        "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1, "delta": 2.0},
        "static_args": ("nesterov", "channel_axis"),
    },
    "adamw_original": {"factory": adamw_original, "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1}},
    "adan": {
        "factory": adan,
        "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1},
        "static_args": ("proximal",),
    },
    "ademamix": {"factory": ademamix, "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1, "warmup_steps": 9}},
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
    "alr_heavy_ball": {"factory": alr_heavy_ball, "hyperparams": {"max_lr": 0.2}},
    "alr_mag": {"factory": alr_mag, "hyperparams": {"beta": 0.8, "weight_decay": 0.1}},
    "amsbound": {"factory": amsbound, "hyperparams": {"learning_rate": 0.1}, "laws": OPTION},
    "amsgrad": {
        "factory": amsgrad,
        "hyperparams": {"learning_rate": 0.1, "bias_correction": "after_max"},
        "static_args": ("bias_correction",),
    },
    "cautious": {
        "factory": lambda learning_rate: cautious(optax.adam(learning_rate)),
        "hyperparams": {"learning_rate": 0.1},
    },
    "clip_adagrad": {
        "factory": clip_adagrad,
        "hyperparams": {"learning_rate": 0.1, "clip": 0.5, "clip_mode": "leaf"},
        "static_args": ("clip_mode",),
        "laws": ("stable_state", "dtype", "jit", "sharded", "empty_leaf"),
    },
    "clip_adam": {"factory": clip_adam, "hyperparams": {"learning_rate": 0.1}},
    "clip_radagradd": {"factory": clip_radagradd, "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1}},
    "diffgrad": {
        "factory": diffgrad,
        "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1},
        "static_args": ("use_previous",),
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
    "grams": {"factory": grams, "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1}},
    "gravity": {"factory": gravity, "hyperparams": {"learning_rate": 0.1}, "static_args": ("seed",)},
    "low_precision": {
        "factory": lambda learning_rate: with_moment_dtype(optax.adam(learning_rate)),
        "hyperparams": {"learning_rate": 0.1},
        # where two programs differ in the last bit of float32, a moment may go to its other neighbour in bfloat16
        "rtol": 1e-2,
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
    "median_momentum": {"factory": scale_by_median_momentum, "hyperparams": {"tau": 0.3}},
    "median_momentum_huber": {
        "factory": scale_by_median_momentum,
        "hyperparams": {"tau": 0.3, "kind": "huber", "mu": 0.1},
        "static_args": ("kind",),
        "laws": ("stable_state", "dtype", "inject_hyperparams", "zero_gradients"),
    },
    "normalized_momentum": {"factory": normalized_momentum, "hyperparams": {"learning_rate": 0.1, "beta": 0.5}},
    "o2nc": {"factory": o2nc, "hyperparams": {"learning_rate": 0.1, "radius": 0.2, "reset_interval": 3}},
    "optimistic_omd": {"factory": optimistic_omd, "hyperparams": {"learning_rate": 0.1}},
    "optimistic_omd_sea": {
        "factory": optimistic_omd_sea,
        "hyperparams": {"diameter": 2.0, "grad_bound": 1.0, "smoothness": 1.0},
        # what the variation adds: a sum over all parameters
        "laws": ("stable_state", "jit", "no_retrace", "scan", "vmap", "sharded"),
    },
    "orthogonalize_gradients": {"factory": orthogonalize_gradients, "hyperparams": {"eps": 1e-30}},
    "psps": {
        "factory": psps,
        "hyperparams": {"preconditioner": "adam", "slack": "l1"},
        "static_args": ("preconditioner", "slack", "init_probes"),
    },
    "psps_hutchinson": {
        "factory": psps,
        "hyperparams": {"max_lr": 1.0, "slack": "l2", "init_probes": 2},
        "static_args": ("preconditioner", "slack", "init_probes"),
        # what probes of its own could break
        "laws": ("stable_state", "dtype", "jit", "no_retrace", "vmap", "sharded"),
    },
    "ranger21": {
        "factory": ranger21,
        "hyperparams": {"learning_rate": 0.1, "num_iterations": 5},
        "static_args": ("num_iterations", "centralize", "normalize", "amsgrad", "channel_axis"),
    },
    "scale_by_mean_residual": {
        "factory": scale_by_mean_residual,
        "hyperparams": {},
        "extra_args": with_mean_residual,
        "laws": ("stable_state", "dtype", "extra_args", "jit", "vmap", "multi_steps", "zero_gradients", "non_finite"),
    },
    "sgd_freeze_embed": {
        "factory": sgd_freeze_embed,
        "hyperparams": {"learning_rate": 0.1, "frozen": lambda params: jax.tree.map(lambda p: p.ndim > 1, params)},
        "static_args": ("frozen", "nesterov"),
        # the NaN is in the matrix, which is frozen
        "non_finite": "stays_finite",
    },
    "sgd_sai": {"factory": sgd_sai, "hyperparams": {"learning_rate": 0.1}},
    "sgdp": {
        "factory": sgdp,
        "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1, "delta": 2.0},
        "static_args": ("nesterov", "channel_axis"),
        # the rest it has in common with adamp
        "laws": ("stable_state", "jit", "scan", "vmap", "sharded", "inject_hyperparams"),
    },
    "sgdw": {"factory": sgdw, "hyperparams": {"learning_rate": 0.1, "weight_decay": 0.1}},
    # a rate at which some trials of the three steps fail
    "smb": {
        "factory": smb,
        "hyperparams": {"learning_rate": 0.9, "schedule_period": 2},
        "static_args": ("schedule_period",),
        # its own loss and gradient are of one batch; without jit every call compiles its loop, which takes a second
        "except_": ("multi_steps", "partition", "pure"),
    },
    "smb_independent": {
        "factory": smb,
        "hyperparams": {"learning_rate": 1.5, "independent_batch": True},
        "static_args": ("independent_batch",),
        "laws": ("stable_state", "dtype", "no_retrace", "scan", "vmap"),
    },
    "snsm": {
        "factory": snsm,
        "hyperparams": {"learning_rate": 0.1, "rank": 2, "update_interval": 2},
        "static_args": ("rank", "projection", "seed", "subset", "bias_correction"),
    },
    # max_precond_dim below the longer side of the (8, 4) matrix: on the null space of its 8 x 8 factor any basis is
    # right, and two runs need not choose the same. Refreshes amplify float32 rounding, hence the wider tolerance
    "soap": {
        "factory": soap,
        "hyperparams": {"learning_rate": 0.1, "max_precond_dim": 4, "precondition_frequency": 1},
        "static_args": ("max_precond_dim", "stacked_axes"),
        "rtol": 1e-3,
    },
    "spl_plus": {"factory": spl_plus, "hyperparams": {"lr_params": 0.1, "lr_alpha": 0.2}},
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
    "subspace_momentum_of_rows": {
        "factory": scale_by_subspace_momentum,
        "hyperparams": {"rank": 2, "update_interval": 2, "projection": "topk"},
        # the laws that the choice of rows could break
        "laws": ("stable_state", "jit", "no_retrace", "scan", "vmap", "sharded"),
    },
}


@pytest.mark.parametrize("name", CASES)
def test_keeps_the_laws(name):
    check_gradient_transformation(**CASES[name])
