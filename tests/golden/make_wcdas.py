"""Golden logits, losses and gradients of WCDAS: ``python tests/golden/make_wcdas.py PATH/models/Loss.py``.

Needs [reference] and pytorch_optimizer. The file is that of github.com/boranhan/WCDAS_code at 9bbaa332f4da; its classes are run as
they stand, float64. pytorch_optimizer gives LDAM.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytorch_optimizer
import torch

space = {}
exec(compile(Path(sys.argv[1]).read_text(), sys.argv[1], "exec"), space)
torch.set_default_dtype(torch.float64)
BATCH, DIM, CLASSES = 7, 6, 4
rng = np.random.default_rng(0)
features, weights = rng.normal(size=(BATCH, DIM)), rng.normal(size=(CLASSES, DIM))
labels, gamma_raw = rng.integers(0, CLASSES, BATCH), np.array([-1.0, 0.0, 1.0, 4.0])
out = {"features": features, "weights": weights, "labels": labels, "gamma_raw": gamma_raw, "scale_raw": 3.0}
out |= {"torch_version": torch.__version__, "pytorch_optimizer_version": version("pytorch_optimizer")}
for name, trainable in (("learned", True), ("fixed", False)):
    head = space["WCDAS"](DIM, CLASSES, s_trainable=trainable).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor(weights))
        head.g.copy_(torch.tensor(gamma_raw))
        head.s_.fill_(3.0)
    x = torch.tensor(features, requires_grad=True)
    logits, loss, _, _ = head(x, torch.tensor(labels), None)
    loss.backward()
    out |= {f"{name}_logits": logits.detach().numpy(), f"{name}_loss": loss.item()}
    out |= {f"{name}_grad_features": x.grad.numpy(), f"{name}_grad_weights": head.weight.grad.numpy()}
    out |= {f"{name}_grad_gamma": head.g.grad.numpy()}

counts = [500, 60, 12, 3]
cosines = torch.tensor(rng.uniform(-1, 1, (BATCH, CLASSES)), requires_grad=True)
loss = pytorch_optimizer.LDAMLoss(counts, max_m=0.5, s=30.0)(cosines, torch.tensor(labels))
loss.backward()
out |= {
    "counts": counts,
    "cosines": cosines.detach().numpy(),
    "ldam_loss": loss.item(),
    "ldam_grad": cosines.grad.numpy(),
}
np.savez_compressed(Path(__file__).parent / "wcdas.npz", **out)
