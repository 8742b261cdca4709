"""Golden steps of SMB and SMBi: ``python tests/golden/make_smb_model_building.py PATH/smb.py`` (needs [reference]).

The file is source/smbsolve/smb.py of github.com/sibirbil/SMB at commit 17fb8ba4f440a5e36e66d701385ecdef6cb05723; its logger
is replaced. A small network is fitted to batches of random data, in float64; the rate changes on the way, except where
the automatic schedule moves it.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
logger = types.ModuleType("smbexperiments.experimentlogger")
logger.get_logger = lambda name: None
sys.modules |= {"smbexperiments": types.ModuleType("smbexperiments"), "smbexperiments.experimentlogger": logger}
namespace = {"__name__": "smb"}
exec(Path(sys.argv[1]).read_text(), namespace)

STEPS, BATCH = 40, 8
CASES = {
    "smb": {"lr": 1.0},
    "strict": {"lr": 0.5, "c": 0.4, "eta": 0.5},
    "scheduled": {"lr": 0.5, "autoschedule": True, "n_batches_per_epoch": 5, "gamma": 0.3, "lr_max": 0.7},
    "independent": {"lr": 1.0, "independent_batch": True},
    "independent_scheduled": {
        "lr": 1.0,
        "independent_batch": True,
        "autoschedule": True,
        "n_batches_per_epoch": 5,
        "gamma": 0.5,
    },
}

rng = np.random.default_rng(0)
first = {"matrix": rng.normal(size=(3, 4)), "scalar": rng.normal(size=()), "vector": rng.normal(size=4)}
x, y = rng.normal(size=(STEPS, BATCH, 3)), rng.normal(size=(STEPS, BATCH))
out = {f"first/{k}": v for k, v in first.items()} | {"x": x, "y": y}
for case, options in CASES.items():
    params = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in first.items()}
    optimizer = namespace["SMB"](list(params.values()), **options)
    iterates = []
    for t in range(STEPS):
        if t == 25 and not options.get("autoschedule"):
            optimizer.param_groups[0]["lr"] *= 0.5
        inputs, targets = torch.tensor(x[t]), torch.tensor(y[t])

        def closure(inputs=inputs, targets=targets, params=params, optimizer=optimizer):
            optimizer.zero_grad()
            predicted = torch.tanh(inputs @ params["matrix"]) @ params["vector"] + params["scalar"]
            return torch.mean((predicted - targets) ** 2)

        optimizer.step(closure)
        iterates.append(np.concatenate([p.detach().numpy().ravel() for p in params.values()]))
    out[f"iterates/{case}"] = np.array(iterates)
np.savez_compressed(
    Path(__file__).parent / "smb_model_building.npz",
    torch_version=torch.__version__,
    commit="17fb8ba4f440a5e36e66d701385ecdef6cb05723",
    **out,
)
