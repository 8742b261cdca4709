"""Golden losses of ELR and ELR+: ``python tests/golden/make_elr.py PATH/ELR/model/loss.py PATH/ELR_plus/model/loss.py``.

Needs [reference]. The files are those of github.com/shengliu66/ELR at 934af53434a3. Their classes are run as they stand, float64, on
made-up logits; the configuration and the ramp that they import are given here.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch

LAM, BETA, EXAMPLES, CLASSES, EPOCHS, RAMP = 3.0, 0.7, 10, 4, 6, 7
CONFIG = {"train_loss": {"args": {"lambda": LAM}}, "coef_step": RAMP}


def ramp(current, length):
    """The ramp of the release's utils, from its formula."""
    return 1.0 if length == 0 else float(np.exp(-5 * (1 - np.clip(current, 0, length) / length) ** 2))


modules = {"parse_config": {"ConfigParser": types.SimpleNamespace(get_instance=lambda: CONFIG)}}
modules["utils"] = dict.fromkeys(("sigmoid_rampdown", "cosine_rampup", "cosine_rampdown", "linear_rampup"))
modules["utils"]["sigmoid_rampup"] = ramp
for name, content in modules.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(content)
spaces = [{}, {}]
for space, path in zip(spaces, sys.argv[1:3], strict=True):
    exec(compile(Path(path).read_text(), path, "exec"), space)

rng = np.random.default_rng(0)
torch.set_default_dtype(torch.float64)
# sizes from calm to beyond the clip of 1e-4
logits = rng.normal(size=(EPOCHS, EXAMPLES, CLASSES)) * rng.choice([1.0, 3.0, 8.0], (EPOCHS, EXAMPLES, 1))
labels = rng.integers(0, CLASSES, EXAMPLES)
orders = np.stack([rng.permutation(EXAMPLES) for _ in range(EPOCHS)])
out = {"logits": logits, "labels": labels, "orders": orders, "lam": LAM, "beta": BETA, "ramp": RAMP}
out["torch_version"] = torch.__version__

elr = spaces[0]["elr_loss"](EXAMPLES, CLASSES, BETA)
losses, gradients = [], []
for epoch in range(EPOCHS):
    for index in orders[epoch].reshape(2, -1):  # two batches
        z = torch.tensor(logits[epoch, index], requires_grad=True)
        loss = elr(torch.tensor(index), z, torch.tensor(labels[index]))
        loss.backward()
        losses.append(loss.item())
        gradients.append(z.grad.numpy())
out |= {"elr_losses": losses, "elr_gradients": gradients, "elr_targets": elr.target.numpy()}

plus = spaces[1]["elr_plus_loss"](EXAMPLES, CONFIG, "cpu", CLASSES, BETA)
losses, gradients = [], []
for step, index in enumerate(orders.reshape(-1, 5)):
    z = torch.tensor(logits[step // 2, index], requires_grad=True)
    mixed = torch.tensor([2, 0, 4, 1, 3])
    plus.update_hist(0, z.detach() / 2, torch.tensor(index), mixed, 0.6)
    y = torch.nn.functional.one_hot(torch.tensor(labels[index]), CLASSES).double()
    loss, _ = plus(step, z, 0.6 * y + 0.4 * y[mixed])
    loss.backward()
    losses.append(loss.item())
    gradients.append(z.grad.numpy())
out |= {"plus_losses": losses, "plus_gradients": gradients}
np.savez_compressed(Path(__file__).parent / "elr.npz", **out)
