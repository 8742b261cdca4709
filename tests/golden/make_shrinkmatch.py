"""Golden losses of ShrinkMatch: ``python tests/golden/make_shrinkmatch.py PATH/CIFAR/shrinkmatch.py``.

Needs [reference]. The file is that of github.com/LiheYoung/ShrinkMatch at c4339b8109fc. Only its function shrink_loss is run, as it stands, on a CPU, in
float64, on made-up predictions, one example at a time.
"""

import ast
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

torch.Tensor.cuda = lambda self: self
module = ast.parse(Path(sys.argv[1]).read_text())
module.body = [node for node in module.body if getattr(node, "name", "") == "shrink_loss"]
space = {"torch": torch, "F": F}
exec(compile(module, sys.argv[1], "exec"), space)

rng = np.random.default_rng(0)
out = {"torch_version": torch.__version__, "threshold": 0.95}
for classes in (2, 3, 10):
    probs = rng.dirichlet(np.full(classes, 0.4), 24)
    logits = 3 * rng.normal(size=(24, classes))
    losses, gradients, removed = [], [], []
    for p, z in zip(torch.tensor(probs), torch.tensor(logits), strict=True):
        z = z[None].requires_grad_()
        loss, first = space["shrink_loss"](p[None], z, 0.95)
        (gradient,) = torch.autograd.grad(loss, z) if torch.is_tensor(loss) else (torch.zeros_like(z),)
        losses.append(float(loss.detach() if torch.is_tensor(loss) else loss))
        gradients.append(gradient[0].numpy())
        removed.append(first[0] - 1 if first else 0)
    names = {"probs": probs, "logits": logits, "losses": losses, "gradients": gradients, "removed": removed}
    out |= {f"{name}_{classes}": value for name, value in names.items()}
np.savez_compressed(Path(__file__).parent / "shrinkmatch.npz", **out)
