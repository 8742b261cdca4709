"""Golden losses of SAF and MESA: ``python tests/golden/make_saf.py PATH/SAF_train.py PATH/MESA_train.py``.

Needs [reference]. The files are those of github.com/AngusDujw/SAF at 6e856004c59f. Of these long training scripts the statements that
store logits and add the trajectory loss are taken out and run as they stand, over eight epochs of made-up logits, float64.
"""

import argparse
import ast
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F


def statements(path, wanted):
    """The first statements of ``train_one_epoch`` whose source has one of the given starts, compiled one by one."""
    tree = ast.parse(Path(path).read_text())
    (body,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "train_one_epoch")
    found = []
    for start in wanted:
        node = next(n for n in ast.walk(body) if isinstance(n, ast.stmt) and ast.unparse(n).startswith(start))
        found.append(compile(ast.Module([node], []), path, "exec"))
    return found


store, add_saf = statements(sys.argv[1], ["train_logits[indices, epoch %", "if epoch > args.kl_start_epoch"])
(add_mesa,) = statements(sys.argv[2], ["if epoch > args.kl_start_epoch"])

EPOCHS, EXAMPLES, CLASSES, WINDOW = 8, 10, 4, 2
args = argparse.Namespace(minus_epoch=WINDOW, kl_start_epoch=3, kl_end_epoch=7, temperature=5, reinforce=0.3)
rng = np.random.default_rng(0)
logits = 3 * rng.normal(size=(EPOCHS, EXAMPLES, CLASSES))
ema_logits = 3 * rng.normal(size=(EPOCHS, EXAMPLES, CLASSES))
labels = rng.integers(0, CLASSES, EXAMPLES)
orders = np.stack([rng.permutation(EXAMPLES) for _ in range(EPOCHS)])
out = {
    "logits": logits,
    "ema_logits": ema_logits,
    "labels": labels,
    "orders": orders,
    "torch_version": torch.__version__,
}
out |= {"window": WINDOW, "start": 3, "end": 7, "temperature": 5.0, "lam": 0.3}
memory = np.zeros((EXAMPLES, WINDOW + 1, CLASSES))
for name in ("saf", "mesa"):
    losses, gradients = [], []
    for epoch in range(EPOCHS):
        for indices in orders[epoch].reshape(2, -1):  # two batches
            output = torch.tensor(logits[epoch, indices], requires_grad=True)
            target = torch.tensor(labels[indices])
            space = {"F": F, "torch": torch, "args": args, "epoch": epoch, "indices": indices, "output": output}
            space |= {"train_logits": memory, "target": target, "loss": F.cross_entropy(output, target)}
            space |= {"ema_output": torch.tensor(ema_logits[epoch, indices])}
            for code in (store, add_saf) if name == "saf" else (add_mesa,):
                exec(code, space)
            space["loss"].backward()
            losses.append(space["loss"].item())
            gradients.append(output.grad.numpy())
    out[f"{name}_losses"], out[f"{name}_gradients"] = np.array(losses), np.array(gradients)
np.savez(Path(__file__).parent / "saf.npz", **out)
