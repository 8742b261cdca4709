"""Golden steps of ALR-SMAG: ``python tests/golden/make_generalized_polyak_momentum.py PATH/alr_smag.py``.

The file is stepback/optim/alr_smag.py of github.com/fabian-sp/step-back at commit
94f055b12732f42dafde3a7fa1fb98a91c316a41 (needs [reference]); its relative import of type names is cut. Losses lie above the lower bound: below it the file would step uphill.
"""

import sys
from pathlib import Path

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
source = Path(sys.argv[1]).read_text().replace("from ..types import Params, LossClosure, OptFloat", "")
namespace = {name: object for name in ("Params", "LossClosure", "OptFloat")}
exec(source, namespace)

STEPS = 40
SHAPES = {"matrix": (4, 3), "scalar": (), "vector": (5,)}
CASES = {
    "free": {"lr": 1e9, "beta": 0.9},
    "capped": {"lr": 0.05, "beta": 0.7, "lb": 0.5, "c": 0.5, "weight_decay": 0.1},
}

rng = np.random.default_rng(0)
first = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
grads = {name: rng.normal(size=(STEPS, *shape)) for name, shape in SHAPES.items()}
values = 0.5 + rng.exponential(size=STEPS)
out = {f"first/{k}": v for k, v in first.items()} | {f"grads/{k}": v for k, v in grads.items()}
for case, options in CASES.items():
    params = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in first.items()}
    optimizer = namespace["AlrSmag"](list(params.values()), **options)
    iterates = []
    for t in range(STEPS):
        if t == 25:
            optimizer.param_groups[0]["lr"] *= 0.5
        for k, p in params.items():
            p.grad = torch.tensor(grads[k][t])
        optimizer.step(loss=torch.tensor(values[t]))
        iterates.append(np.concatenate([p.detach().numpy().ravel() for p in params.values()]))
    out[f"iterates/{case}"] = np.array(iterates)
np.savez_compressed(
    Path(__file__).parent / "generalized_polyak_momentum.npz",
    torch_version=torch.__version__,
    commit="94f055b12732f42dafde3a7fa1fb98a91c316a41",
    values=values,
    **out,
)
