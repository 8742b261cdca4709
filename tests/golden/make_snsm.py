"""Golden steps of subset norm and subspace momentum: ``python tests/golden/make_snsm.py FOLDER`` (needs [reference]).

FOLDER is a clone of github.com/timmytonga/sn-sm at commit a4c1a4a5f255bfe8f1e0749b4c1964484b5bdd88. It casts what it
decomposes to float32; here the casts are made casts to float64, so that the rule and not the rounding is compared.

On a refresh the released code makes new zeros for the momentum, but goes on with the old momentum in the new subspace for
that step, and then loses what was added. The paper starts from zero. The cases run as the paper says (its reset is
switched off, and the momentum is zeroed here before the step); ``snsm_released`` runs as released, to say how far it is off.
"""

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, sys.argv[1])
versions = types.ModuleType("transformers.utils.versions")
versions.require_version = lambda *args, **kwargs: None
sys.modules |= {name: types.ModuleType(name) for name in ("transformers", "transformers.utils")}
sys.modules["transformers.utils.versions"] = versions
from GenericOptim import GenericOptim  # noqa: E402

torch.set_default_dtype(torch.float64)
torch.float = torch.float64
torch.Tensor.float = torch.Tensor.double

STEPS, GAP = 36, 7
SHAPES = {"tall": (7, 5), "wide": (4, 6), "vector": (5,), "scalar": ()}
SUBSPACE = {"rank": 2, "update_proj_gap": GAP}
SN, SM = {"second_moment_type": "sn"}, {"momentum_type": "sm"}
CASES = {
    "rows": ({"subset_size": "heuristics"}, SN | {"weight_decay": 0.1}),
    "size": ({"subset_size": 6}, SN),
    "sqrt": ({"subset_size": -1}, SN | {"betas": (0.8, 0.9), "eps": 1e-3}),
    "adagrad": ({"subset_size": "heuristics"}, SN | {"betas": (0.0, 1.0), "correct_bias": False}),
    "sm_svd": (SUBSPACE | {"proj_type": "svd"}, SM | {"second_moment_type": "none", "correct_bias": False}),
    "sm_topk": (SUBSPACE | {"proj_type": "topk"}, SM | {"second_moment_type": "none", "correct_bias": False}),
    "snsm": (SUBSPACE | {"proj_type": "svd", "subset_size": "heuristics"}, SN | SM | {"weight_decay": 0.1}),
    "snsm_released": (SUBSPACE | {"proj_type": "svd", "subset_size": "heuristics"}, SN | SM | {"weight_decay": 0.1}),
}

rng = np.random.default_rng(0)
first = {k: rng.normal(size=shape) for k, shape in SHAPES.items()}
grads = {k: rng.normal(size=(STEPS, *shape)) + 0.3 for k, shape in SHAPES.items()}
out = {f"first/{k}": x for k, x in first.items()} | {f"grads/{k}": x for k, x in grads.items()}
for name, (matrix_options, options) in CASES.items():
    params = {k: torch.nn.Parameter(torch.tensor(x)) for k, x in first.items()}
    released = name.endswith("released")
    group = matrix_options | ({} if released or "rank" not in matrix_options else {"overlap_state": True})
    matrices = [params["tall"], params["wide"]]
    groups = [{"params": matrices, **group}, {"params": [params["vector"], params["scalar"]]}]
    optimizer = GenericOptim(groups, lr=0.05, **options)
    iterates = {k: [] for k in SHAPES}
    for t in range(1, STEPS + 1):
        if t == 21:
            for one in optimizer.param_groups:
                one["lr"] = 0.01
        if "overlap_state" in group and t > 1 and t % GAP == 0:
            for p in matrices:
                optimizer.state[p]["exp_avg"].zero_()
        for k, p in params.items():
            p.grad = torch.tensor(grads[k][t - 1])
        optimizer.step()
        for k, p in params.items():
            iterates[k].append(p.detach().numpy().copy())
    out |= {f"{name}/{k}": np.array(x) for k, x in iterates.items()}
commit = subprocess.run(["git", "-C", sys.argv[1], "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
np.savez_compressed(Path(__file__).parent / "snsm.npz", torch_version=torch.__version__, commit=commit, **out)
