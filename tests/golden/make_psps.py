"""Golden steps of PSPS: ``python tests/golden/make_psps.py FOLDER``.

The folder holds optimizers.py and utils.py of github.com/fxrshed/ScaledSPS, the research code of the method, at commit
46517ee6a46fc1cb6758bcbcca2f35ba55db8cd9 (needs [reference]). Its Hutchinson estimates are replaced by given diagonals, so
that both sides see the same; the price of slack changes on the way.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
folder = Path(sys.argv[1])
utils = types.ModuleType("utils")
exec((folder / "utils.py").read_text(), utils.__dict__)
sys.modules["utils"] = utils
official = {}
exec((folder / "optimizers.py").read_text(), official)

STEPS = 40
SHAPES = {"matrix": (4, 3), "scalar": (), "vector": (5,)}

rng = np.random.default_rng(0)
first = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
grads = {name: rng.normal(size=(STEPS, *shape)) for name, shape in SHAPES.items()}
# some negative, some below the floor
curvatures = {name: rng.normal(size=(STEPS, *shape)) ** 3 for name, shape in SHAPES.items()}
values = rng.exponential(size=STEPS)
out = {f"first/{k}": v for k, v in first.items()} | {f"grads/{k}": v for k, v in grads.items()}
out |= {f"curvatures/{k}": v for k, v in curvatures.items()}
for preconditioner in ("none", "hutch"):
    for slack in ("none", "L1", "L2"):
        params = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in first.items()}
        optimizer = official["PSPS"](list(params.values()), preconditioner, slack, lmd=0.1)
        iterates = []
        for t in range(STEPS):
            lmd = 0.1 if t < 25 else 0.4
            optimizer.lmd, optimizer.lmd_hat = lmd, 1 / (1 + lmd)
            if optimizer.preconditioner:
                newest = [curvatures[k][t] for k in params]
                optimizer.preconditioner.diag_estimate = lambda *_, d=newest: [torch.tensor(x) for x in d]

            def closure(t=t, params=params):
                # the value and the gradients that are given
                away = sum(((p - p.detach()) * torch.tensor(grads[k][t])).sum() for k, p in params.items())
                return values[t] + away

            optimizer.step(closure)
            iterates.append(np.concatenate([p.detach().numpy().ravel() for p in params.values()]))
        out[f"iterates/{preconditioner}_{slack}"] = np.array(iterates)
np.savez_compressed(
    Path(__file__).parent / "psps.npz",
    torch_version=torch.__version__,
    commit="46517ee6a46fc1cb6758bcbcca2f35ba55db8cd9",
    values=values,
    **out,
)
