"""Golden losses of MDCS: ``python tests/golden/make_mdcs.py PATH/model/loss.py``.

Needs [reference]. The file is that of github.com/fistyee/MDCS at 1a1d54e55f11. Its class runs as it stands on a CPU, in float64, on made-up logits.
"""

import sys
from pathlib import Path

import numpy as np
import torch

torch.Tensor.cuda = lambda self: self
path = Path(sys.argv[1])
space = {}
exec(compile(path.read_text(), str(path), "exec"), space)

BATCH, CLASSES, COUNTS = 8, 5, [500, 120, 40, 9, 2]
rng = np.random.default_rng(0)
criterion = space["MDCSLoss"](COUNTS)
criterion.prior = criterion.prior.double()
labels = rng.integers(0, CLASSES, BATCH)
out = {"counts": COUNTS, "labels": labels, "torch_version": torch.__version__}
for i, (epoch, size) in enumerate([(0, 1.0), (5, 3.0), (20, 3.0), (90, 8.0)]):
    # some experts are right about some weak views
    views = size * rng.normal(size=(2, BATCH, 3, CLASSES)) + 4 * size * np.eye(CLASSES)[labels][:, None] * (
        rng.random((2, BATCH, 3, 1)) < 0.5
    )
    z = torch.tensor(views, requires_grad=True)
    experts = [torch.cat([z[0, :, k], z[1, :, k]]) for k in range(3)]
    loss = criterion(None, torch.tensor(np.concatenate([labels, labels])), {"epoch": epoch, "logits": experts})
    loss.backward()
    out |= {f"views_{i}": views, f"epoch_{i}": epoch, f"loss_{i}": loss.item(), f"grad_{i}": z.grad.numpy()}
np.savez_compressed(Path(__file__).parent / "mdcs.npz", **out)
