"""Golden scores and losses of the release: ``python tests/golden/make_icnn.py PATH/FSL-Loss/algorithms/icnn_loss.py``.

Needs [reference]. The file is that of github.com/maumruiz/FSL-Loss at 249405f50421, run as it stands, in float64; the module of
globals that it imports is not used by what is called here.
"""

import runpy
import sys
import types
from pathlib import Path

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
sys.modules["util"] = types.ModuleType("util")
sys.modules["util.globals"] = sys.modules["util"].globals = types.ModuleType("util.globals")
release = runpy.run_path(sys.argv[1])
rng = np.random.default_rng(0)
y = np.repeat(np.arange(4), 5)
centres = rng.normal(size=(4, 3))
CASES = {  # spread of the centres, labels, k, items per class
    "mixed": (1.0, y, 4, None),
    "wide": (1.5, y, 4, 9),
    "one": (1.5, y, 1, None),
    "shuffled": (3.0, rng.permutation(y), 4, None),
    "apart": (100.0, y, 3, 3),
    "few": (1.0, y[3:8], 4, None),
    "strangers": (1.0, np.arange(6), 2, None),
}
out = {}
for name, (spread, labels, k, ipc) in CASES.items():
    x = spread * centres[np.minimum(np.arange(len(labels)) // 5, 3)] + rng.normal(size=(len(labels), 3))
    x = torch.tensor(x, requires_grad=True)
    score = release["modified_score"](x, torch.tensor(labels), k=k, ipc=ipc)
    (gradient,) = torch.autograd.grad(score, x)
    out |= {f"{name}_x": x.detach().numpy(), f"{name}_y": labels, f"{name}_k": [k, ipc or 0]}
    out |= {f"{name}_score": score.detach().numpy(), f"{name}_grad": gradient.numpy()}
queries, asked = torch.tensor(2 * rng.normal(size=(12, 3)), requires_grad=True), rng.integers(0, 4, 12)
ends = torch.tensor(2 * rng.normal(size=(4, 3)), requires_grad=True)
triplet = release["proto_triplet_loss"](queries, torch.tensor(asked), ends, torch.arange(4), way=4, margin=0.5)
gradients = torch.autograd.grad(triplet, (queries, ends))
out |= {"queries": queries.detach().numpy(), "asked": asked, "ends": ends.detach().numpy()}
out |= {"triplet": triplet.detach().numpy(), "to_queries": gradients[0].numpy(), "to_ends": gradients[1].numpy()}
np.savez_compressed(Path(__file__).parent / "icnn.npz", torch_version=torch.__version__, **out)
