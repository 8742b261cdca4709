"""Golden losses of vector scaling and LDAM with deferred weights: ``python tests/golden/make_saddle_escape.py PATH/losses.py``.

Needs [reference]. The file is that of github.com/val-iisc/Saddle-LongTail at 48328fb; its classes are run as they stand, with
CUDA's tensors replaced by float64 ones. The weights are the three lines of its cifar_train_sam.py.
"""

import sys
from pathlib import Path

import numpy as np
import torch

torch.cuda.FloatTensor = torch.DoubleTensor
space = {}
exec(compile(Path(sys.argv[1]).read_text(), sys.argv[1], "exec"), space)
torch.set_default_dtype(torch.float64)
counts, BATCH = [500, 60, 12, 3], 9
rng = np.random.default_rng(0)
logits, labels = 2 * rng.standard_normal((BATCH, 4)), rng.integers(0, 4, BATCH)
effective = 1.0 - np.power(0.9999, counts)
weights = (1.0 - 0.9999) / np.array(effective)
weights = weights / np.sum(weights) * len(counts)
out = {"counts": counts, "logits": logits, "labels": labels, "weights": weights, "torch_version": torch.__version__}
for name, criterion in {
    "vs": space["VSLoss"](counts),
    "vs_strong": space["VSLoss"](counts, gamma=1.5, tau=0.5),
    "vs_weighted": space["VSLoss"](counts, weight=torch.tensor(weights)),
}.items():
    z = torch.tensor(logits, requires_grad=True)
    loss = criterion(z, torch.tensor(labels))
    loss.backward()
    out |= {f"{name}_loss": loss.item(), f"{name}_grad": z.grad.numpy()}
np.savez_compressed(Path(__file__).parent / "saddle_escape.npz", **out)
