"""Golden steps of SOAP from the authors' file: ``python tests/golden/make_soap.py PATH/soap.py`` (needs [reference]).

The file is soap.py of github.com/nikhilvyas/SOAP at commit a1e553530fde97d0e6b307d7c82ac6d38b072340. It casts what it
decomposes to float32 even for float64 parameters; here the casts are made casts to float64, so that the rule and not
the rounding is compared. Every case has bases that the data determine: for a matrix rotated on both sides that means
square, since the null space of a rank-deficient factor has no basis of its own.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

spec = importlib.util.spec_from_file_location("official_soap", sys.argv[1])
official = importlib.util.module_from_spec(spec)
spec.loader.exec_module(official)

torch.set_default_dtype(torch.float64)
torch.float = torch.float64
torch.Tensor.float = torch.Tensor.double

STEPS = 40
CASES = {
    "every_step": ((6, 6), {"precondition_frequency": 1}),
    "every_tenth": ((6, 6), {"precondition_frequency": 10}),
    "one_sided": ((5, 9), {"precondition_frequency": 3, "max_precond_dim": 6}),
    "kernel": ((3, 3, 2, 4), {"precondition_frequency": 2}),
    "vector": ((2,), {"precondition_frequency": 2, "precondition_1d": True}),
    "plain_vector": ((7,), {}),
    "normalized": ((4, 4), {"precondition_frequency": 4, "normalize_grads": True, "correct_bias": False}),
    "own_rate": ((4, 4), {"precondition_frequency": 5, "shampoo_beta": 0.8, "betas": (0.9, 0.99), "weight_decay": 0.1}),
}

rng = np.random.default_rng(0)
out = {}
for name, (shape, options) in CASES.items():
    first = rng.normal(size=shape)
    grads = rng.normal(size=(STEPS, *shape)) * np.exp(rng.normal(size=shape))
    p = torch.nn.Parameter(torch.tensor(first))
    optimizer = official.SOAP([p], lr=0.03, **options)
    iterates = []
    for g in grads:
        p.grad = torch.tensor(g)
        optimizer.step()
        iterates.append(p.detach().numpy().copy())
    out |= {f"{name}/first": first, f"{name}/grads": grads, f"{name}/iterates": np.array(iterates)}
np.savez_compressed(
    Path(__file__).parent / "soap.npz",
    torch_version=torch.__version__,
    commit="a1e553530fde97d0e6b307d7c82ac6d38b072340",
    **out,
)
