"""Golden steps of Distributed Shampoo: ``python tests/golden/make_shampoo.py FOLDER`` (needs [reference]).

FOLDER is a clone of github.com/facebookresearch/optimizers at commit f60660661194de26d3ee78bae6d15820ff8e583d. Factors and
roots are kept in float64 by its own options. It holds the rate in float32; the rates here are exact in that.
"""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, sys.argv[1])
from distributed_shampoo.distributed_shampoo import DistributedShampoo
from distributed_shampoo.preconditioner.matrix_functions_types import CoupledNewtonConfig, EigenConfig
from distributed_shampoo.shampoo_types import (
    AdaGradPreconditionerConfig,
    AdamPreconditionerConfig,
    ClassicMomentumConfig,
    RMSpropPreconditionerConfig,
    RootInvShampooPreconditionerConfig,
    SGDPreconditionerConfig,
    WeightDecayType,
)

logging.disable(logging.WARNING)
torch.set_default_dtype(torch.float64)
STEPS = 30
SHAPES = {"matrix": (7, 5), "kernel": (2, 3, 2, 3), "vector": (6,), "scalar": ()}
GRAFTS = {
    "adam": AdamPreconditionerConfig(beta2=0.99, epsilon=1e-8),
    "rmsprop": RMSpropPreconditionerConfig(beta2=0.99, epsilon=1e-8),
    "adagrad": AdaGradPreconditionerConfig(epsilon=1e-8),
    "sgd": SGDPreconditionerConfig(),
    None: None,
}


def momentum(**options):
    return ClassicMomentumConfig(**options)


CASES = {
    # blocks of 4, with rests of 3 and 1
    "blocks": (("matrix",), "adam", {"max_preconditioner_dim": 4}, {}),
    # with 5 nothing of the kernel is merged: four axes
    "kernel": (("kernel",), "adagrad", {"max_preconditioner_dim": 5, "precondition_frequency": 3}, {}),
    # with 1024 each is one vector
    "vectors": (("matrix", "vector", "scalar"), "sgd", {"max_preconditioner_dim": 1024, "betas": (0.0, 1.0)}, {}),
    "decaying": (
        ("matrix",),
        "rmsprop",
        {
            "max_preconditioner_dim": 8,
            "betas": (0.8, 0.95),
            "precondition_frequency": 4,
            "start_preconditioning_step": 6,
            "weight_decay": 0.1,
            "iterate_averaging_config": momentum(momentum=0.5),
        },
        {},
    ),
    "l2_nesterov": (
        ("matrix",),
        None,
        {
            "max_preconditioner_dim": 8,
            "weight_decay": 0.1,
            "weight_decay_type": WeightDecayType.L2,
            "use_bias_correction": False,
            "betas": (0.9, 0.9),
            "iterate_averaging_config": momentum(momentum=0.5, use_nesterov=True),
        },
        {},
    ),
    "newton": (
        ("matrix",),
        "adam",
        {"max_preconditioner_dim": 8, "epsilon": 1e-3},
        {"amortized_computation_config": CoupledNewtonConfig(tolerance=1e-13)},
    ),
}

rng = np.random.default_rng(0)
first = {k: rng.normal(size=shape) for k, shape in SHAPES.items()}
grads = {k: rng.normal(size=(STEPS, *shape)) * np.exp(rng.normal(size=shape)) for k, shape in SHAPES.items()}
out = {f"first/{k}": x for k, x in first.items()} | {f"grads/{k}": x for k, x in grads.items()}
for name, (leaves, graft, options, more) in CASES.items():
    params = {k: torch.nn.Parameter(torch.tensor(first[k])) for k in leaves}
    config = RootInvShampooPreconditionerConfig(
        **({"amortized_computation_config": EigenConfig()} | more),
        factor_matrix_dtype=torch.float64,
        inv_factor_matrix_dtype=torch.float64,
    )
    optimizer = DistributedShampoo(
        list(params.values()),
        lr=0.0625,
        **({"epsilon": 1e-6} | options),
        grafting_config=GRAFTS[graft],
        preconditioner_config=config,
    )
    iterates = {k: [] for k in leaves}
    for t in range(STEPS):
        if t == 20:
            for group in optimizer.param_groups:
                group["lr"] = 0.015625
        for k, p in params.items():
            p.grad = torch.tensor(grads[k][t])
        optimizer.step()
        for k, p in params.items():
            iterates[k].append(p.detach().numpy().copy())
    out |= {f"{name}/{k}": np.array(x) for k, x in iterates.items()}
commit = subprocess.run(["git", "-C", sys.argv[1], "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
np.savez_compressed(Path(__file__).parent / "shampoo.npz", torch_version=torch.__version__, commit=commit, **out)
