"""Golden losses of pytorch-metric-learning's SupConLoss: ``python tests/golden/make_supcon.py`` (needs pytorch-metric-learning)."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.reducers import DoNothingReducer

rng = np.random.default_rng(0)
labels = np.array([0, 1, 0, 2, 1, 0, 3, 1])  # of 2 and 3 there is but one
embeddings = rng.normal(size=(8, 5)) * rng.choice([0.1, 1.0, 10.0], (8, 1))
out = {
    "labels": labels,
    "embeddings": embeddings,
    "temperatures": [0.1, 0.5, 2.0],
    "version": version("pytorch-metric-learning"),
}
for t in out["temperatures"]:
    z = torch.tensor(embeddings, requires_grad=True)
    losses = SupConLoss(temperature=t, reducer=DoNothingReducer())(z, torch.tensor(labels))["loss"]["losses"]
    losses.sum().backward()
    out |= {f"losses_{t}": losses.detach().numpy(), f"gradient_{t}": z.grad.numpy()}
np.savez_compressed(Path(__file__).parent / "supcon.npz", **out)
