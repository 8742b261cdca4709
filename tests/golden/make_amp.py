"""Golden steps of AMP from the authors' file: ``python tests/golden/make_amp.py PATH/amp.py``.

Needs [reference]. The file is amp.py of github.com/hiyouga/AMP-Regularizer at 87e689fa2a57. A linear classifier, SGD with Nesterov
momentum and weight decay, float64; one, two and three inner steps, and a ball that binds some of the time.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

spec = importlib.util.spec_from_file_location("official_amp", sys.argv[1])
official = importlib.util.module_from_spec(spec)
spec.loader.exec_module(official)

STEPS, EPSILON, INNER_RATE = 5, 0.3, 0.7
rng = np.random.default_rng(0)
w, b = rng.normal(size=(3, 5)), rng.normal(size=3)
x, y = rng.normal(size=(STEPS, 12, 5)), rng.integers(0, 3, (STEPS, 12))
out = {"w": w, "b": b, "x": x, "y": y, "epsilon": EPSILON, "inner_rate": INNER_RATE, "torch_version": torch.__version__}
for inner in (1, 2, 3):
    model = torch.nn.Linear(5, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor(w))
        model.bias.copy_(torch.tensor(b))
    rule = official.AMP(
        model.parameters(),
        lr=0.3,
        epsilon=EPSILON,
        inner_lr=INNER_RATE,
        inner_iter=inner,
        momentum=0.9,
        weight_decay=1e-2,
        nesterov=True,
    )
    iterates, offsets = [], []
    for bx, by in zip(torch.tensor(x), torch.tensor(y), strict=True):

        def closure(bx=bx, by=by):
            rule.zero_grad()  # noqa: B023
            outputs = model(bx)  # noqa: B023
            loss = torch.nn.functional.cross_entropy(outputs, by)
            loss.backward()
            return outputs, loss

        rule.step(closure)
        iterates.append(np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]))
        offsets.append([rule.state[p]["dev"].norm().item() for p in model.parameters()])
    out[f"iterates_{inner}"], out[f"offsets_{inner}"] = np.array(iterates), np.array(offsets)
np.savez(Path(__file__).parent / "amp.npz", **out)
