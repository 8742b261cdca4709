"""Golden schedules and window means: ``python tests/golden/make_cooldown.py PATH/src/optim`` (needs [reference]).

The folder is src/optim of github.com/epfml/schedules-and-scaling at commit 17e78d600a7054bc6609a5ca6d050d141d4ad79e: wsd_schedule of utils.py, and
WeightAverager of weight_averaging.py over a walk of parameters. Its mirror image of the cosine is called miror_cosine.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch

sys.modules["wandb"] = types.ModuleType("wandb")  # imported there, not needed here
package = types.ModuleType("optim")
package.__path__ = [sys.argv[1]]
sys.modules["optim"] = package


def load(name):
    spec = importlib.util.spec_from_file_location(f"optim.{name}", Path(sys.argv[1]) / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"optim.{name}"] = module
    spec.loader.exec_module(module)
    return module


utils, averaging = load("utils"), load("weight_averaging")

out = {}
for shape, theirs in {
    "one_minus_sqrt": "sqrt",
    "linear": "linear",
    "cosine": "cosine",
    "mirror_cosine": "miror_cosine",
    "square": "square",
    "exp": "exp",
}.items():
    schedule = utils.wsd_schedule(100, 0.05, 10, 100, 0.3, theirs)
    out[f"wsd/{shape}"] = np.array([schedule(k) for k in range(105)])

torch.manual_seed(0)
model = torch.nn.Linear(3, 2).double()
averager = averaging.WeightAverager(model, horizon=6, interval=2, dtype=torch.float64)
walk, means = [], []
for _ in range(33):
    with torch.no_grad():
        model.weight += torch.randn_like(model.weight)
    walk.append(model.weight.detach().numpy().copy())
    averager.step(model)
    if averager.count >= 6:
        means.append(averager.get_latest_like(model).weight.detach().numpy().copy())
out |= {"walk": np.array(walk), "means": np.array(means)}
np.savez_compressed(Path(__file__).parent / "cooldown.npz", torch_version=torch.__version__, **out)
