"""Golden steps of adaptive methods: ``python tests/golden/make_adaptive.py FOLDER`` (needs [reference]).

FOLDER holds the authors' files, in float64 here:

- ``adan.py`` of github.com/sail-sg/Adan at 2c65beaf400775753b155da4082c3819fea689b9,
- ``ademamix.py``: pytorch/ademamix.py of github.com/apple/ml-ademamix at c3d73c09f1287e5c33b95189bb0aa7de0a5a7667,
- ``adabound.py``: adabound/adabound.py of github.com/Luolc/AdaBound at 2e928c3007a2fc44af0e4c97e343e1fed6986e44,
- ``AdaBelief.py``: version 0.2.1 in pypi_packages of github.com/juntang-zhuang/Adabelief-Optimizer at
  2855178eff6776762793f915ce2c615f776a1e4b (it imports tabulate and colorama).

AMSGrad, Adafactor, AdamW and Adam with L2 are PyTorch's. All see the same gradients of a matrix, a vector and a scalar;
the learning rate falls to 0.3 of itself after step 20.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
FOLDER = Path(sys.argv[1])
STEPS, CHANGE = 36, 20
SHAPES = {"matrix": (2, 3), "vector": (3,), "scalar": ()}


def official(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


adan, ademamix = official("adan").Adan, official("ademamix").AdEMAMix
bound = official("adabound")


def adabelief(params, **options):
    quiet = {"print_change_log": False, "degenerated_to_sgd": True}
    return official("AdaBelief").AdaBelief(params, **quiet, **options)


CASES = {
    "amsgrad": (torch.optim.Adam, {"lr": 0.1, "betas": (0.9, 0.99), "amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.3}),
    "adam_l2": (torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.3}),
    "adan": (adan, {"lr": 0.1, "weight_decay": 0.3}),
    "adan_no_prox": (adan, {"lr": 0.1, "weight_decay": 0.3, "no_prox": True, "betas": (0.9, 0.8, 0.95), "eps": 1e-3}),
    "adan_clipped": (adan, {"lr": 0.1, "weight_decay": 0.3, "max_grad_norm": 1.0}),
    "ademamix": (ademamix, {"lr": 0.1, "alpha": 5.0, "weight_decay": 0.1}),
    "ademamix_warmup": (
        ademamix,
        {"lr": 0.1, "betas": (0.9, 0.99, 0.999), "alpha": 8.0, "beta3_warmup": 30, "alpha_warmup": 25},
    ),
    "adabound": (bound.AdaBound, {"lr": 0.1, "final_lr": 0.5, "gamma": 0.1, "weight_decay": 0.1}),
    "amsbound": (bound.AdaBound, {"lr": 0.1, "betas": (0.9, 0.9), "final_lr": 0.05, "gamma": 0.01, "amsbound": True}),
    "adabound_w": (bound.AdaBoundW, {"lr": 0.1, "final_lr": 0.5, "gamma": 0.1, "weight_decay": 0.02}),
    "adabelief": (adabelief, {"lr": 0.1, "rectify": False, "weight_decay": 0.1}),
    "adabelief_l2": (
        adabelief,
        {"lr": 0.1, "rectify": False, "weight_decouple": False, "weight_decay": 0.1, "eps": 1e-3},
    ),
    "adabelief_rectified": (adabelief, {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}),
    "adabelief_amsgrad": (adabelief, {"lr": 0.1, "betas": (0.9, 0.8), "eps": 1e-8, "rectify": False, "amsgrad": True}),
    # lr is the largest relative step there; eps[0]² bounds the second moment in place of being added to the square
    "adafactor": (torch.optim.Adafactor, {"lr": 0.3, "eps": (1e-15, 1e-3)}),
    "adafactor_fixed": (torch.optim.Adafactor, {"lr": 0.01, "eps": (1e-15, 0.5), "beta2_decay": -0.5, "d": 1.2}),
}

rng = np.random.default_rng(0)
first = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
scales = {name: np.exp(rng.normal(size=shape)) for name, shape in SHAPES.items()}
# a mean besides the noise: else no momentum ever matters
grads = {name: scales[name] * (0.5 + rng.normal(size=(STEPS, *shape))) for name, shape in SHAPES.items()}
out = {f"first/{name}": x for name, x in first.items()} | {f"grads/{name}": x for name, x in grads.items()}
for case, (make, options) in CASES.items():
    # a vector of one entry where a scalar is meant: the norm of Adan's clipping has that shape
    params = {name: torch.nn.Parameter(torch.tensor(np.atleast_1d(x))) for name, x in first.items()}
    optimizer = make(list(params.values()), **options)
    iterates = {name: [] for name in params}
    for step in range(STEPS):
        if step == CHANGE:
            for group in optimizer.param_groups:
                group["lr"] = 0.3 * options["lr"]
        for name, p in params.items():
            p.grad = torch.tensor(np.atleast_1d(grads[name][step]))
        optimizer.step()
        for name, p in params.items():
            iterates[name].append(p.detach().numpy().copy().reshape(SHAPES[name]))
    out |= {f"{case}/{name}": np.array(x) for name, x in iterates.items()}
np.savez_compressed(Path(__file__).parent / "adaptive.npz", torch_version=torch.__version__, **out)
