"""Golden averages from torch.optim.swa_utils: ``python tests/golden/make_torch_averages.py`` (needs [reference])."""

from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

STEPS, SIZE, DECAY = 12, 7, 0.9
SETTINGS = [(0, 1), (0, 3), (4, 1), (5, 2)]


class Vector(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.p = torch.nn.Parameter(torch.tensor(value))


rng = np.random.default_rng(0)
first, iterates = rng.normal(size=SIZE), rng.normal(size=(STEPS, SIZE))
out = {"first": first, "iterates": iterates, "settings": np.array(SETTINGS), "decay": np.array(DECAY)}
for start, period in SETTINGS:
    model = Vector(first)
    average = AveragedModel(model)
    for k, value in enumerate(iterates, 1):
        model.p.data = torch.tensor(value)
        if k >= start and (k - start) % period == 0:
            average.update_parameters(model)
    out[f"swa_{start}_{period}"] = average.module.p.detach().numpy()
model = Vector(first)
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
ema.update_parameters(model)  # torch starts its average at the first model it sees: the initial one here
for value in iterates:
    model.p.data = torch.tensor(value)
    ema.update_parameters(model)
out["ema"] = ema.module.p.detach().numpy()
np.savez(Path(__file__).parent / "torch_averages.npz", torch_version=torch.__version__, **out)
