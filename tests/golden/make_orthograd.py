"""Golden steps of ⊥Grad from the authors' files: ``python tests/golden/make_orthograd.py FOLDER`` (needs [reference]).

FOLDER holds orthograd.py of github.com/LucasPrietoAl/grokking-at-the-edge-of-numerical-stability at commit
0cc9e8dc62ce5ed66d29d80eebbaf14da2f71c67. The functions s and log_stablemax of its utils.py are written below as
formulas, since that file imports the whole project. The released class moves scalars at random (rounding noise is rescaled
to full length), so there are none here.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, sys.argv[1])
from orthograd import OrthoGrad

torch.set_default_dtype(torch.float64)
STEPS = 40
SHAPES = {"matrix": (5, 3), "kernel": (2, 3, 2), "vector": (4,)}
BASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.8}),
    "adamw": (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}),
}

rng = np.random.default_rng(0)
first = {k: rng.normal(size=shape) for k, shape in SHAPES.items()}
grads = {k: rng.normal(size=(STEPS, *shape)) + 0.5 for k, shape in SHAPES.items()}
out = {f"first/{k}": x for k, x in first.items()} | {f"grads/{k}": x for k, x in grads.items()}
for name, (base, options) in BASES.items():
    params = {k: torch.nn.Parameter(torch.tensor(x)) for k, x in first.items()}
    optimizer = OrthoGrad(list(params.values()), base, **options)
    iterates = {k: [] for k in SHAPES}
    for t in range(STEPS):
        if t == 20:
            for group in optimizer.base_optimizer.param_groups:
                group["lr"] = 0.02
        for k, p in params.items():
            p.grad = torch.tensor(grads[k][t])
        optimizer.step()
        for k, p in params.items():
            iterates[k].append(p.detach().numpy().copy())
    out |= {f"{name}/{k}": np.array(x) for k, x in iterates.items()}

logits = np.concatenate([rng.normal(size=(20, 6)) * 10.0 ** rng.integers(-2, 5, size=(20, 1)), np.zeros((1, 6))])
x = torch.tensor(logits, requires_grad=True)
s = torch.where(x < 0, 1 / (1 - x + 1e-30), x + 1)
log_p = torch.log(s / s.sum(dim=-1, keepdim=True))
loss = -log_p[torch.arange(21), torch.arange(21) % 6]
loss.sum().backward()
out |= {
    "logits": logits,
    "log_stablemax": log_p.detach().numpy(),
    "loss": loss.detach().numpy(),
    "grad": x.grad.numpy(),
}
np.savez_compressed(
    Path(__file__).parent / "orthograd.npz",
    torch_version=torch.__version__,
    commit="0cc9e8dc62ce5ed66d29d80eebbaf14da2f71c67",
    **out,
)
