"""Golden losses and weights of Bias Loss: ``python tests/golden/make_bias_loss.py PATH/bias_loss/biasloss.py``.

Needs [reference]. The file is that of github.com/lusinlu/biasloss_skipblocknet at b557bca; its class is run as it stands,
float64, on batches one after the other, as its global mode remembers the lowest variance so far.
"""

import sys
from pathlib import Path

import numpy as np
import torch

space = {}
exec(compile(Path(sys.argv[1]).read_text(), sys.argv[1], "exec"), space)
torch.set_default_dtype(torch.float64)
STEPS, BATCH, CLASSES = 5, 6, 4
rng = np.random.default_rng(0)
# the first batch has the lowest variance of all, so that the later ones are normalized by what is remembered
sizes = rng.uniform(0.5, 2.0, (STEPS, BATCH)) * np.where(np.arange(STEPS) == 0, 0.3, 1.0)[:, None]
features = rng.standard_normal((STEPS, BATCH, 3, 3, 2)) * sizes[:, :, None, None, None]
logits, labels = rng.standard_normal((STEPS, BATCH, CLASSES)), rng.integers(0, CLASSES, (STEPS, BATCH))
out = {"features": features, "logits": logits, "labels": labels, "torch_version": torch.__version__}
for mode in ("local", "global"):
    criterion = space["BiasLoss"](normalisation_mode=mode)
    losses, grads = [], []
    for f, z, y in zip(features, logits, labels, strict=True):
        z = torch.tensor(z, requires_grad=True)
        loss = criterion(torch.tensor(f), z, torch.tensor(y))
        loss.backward()
        losses.append(loss.item())
        grads.append(z.grad.numpy())
    out |= {f"{mode}_loss": losses, f"{mode}_grad": np.stack(grads)}
np.savez_compressed(Path(__file__).parent / "bias_loss.npz", **out)
