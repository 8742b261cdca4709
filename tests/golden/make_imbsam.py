"""Golden steps of SAM and ImbSAM from the authors' file: ``python tests/golden/make_imbsam.py PATH/imbsam.py``.

Needs [reference]. The file is imbsam.py of github.com/cool-xuan/Imbalanced_SAM at c65f41eb6ea5; the order of calls and the factor 2 of
the rare classes are those of its training script. A linear classifier, SGD with momentum, float64.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

spec = importlib.util.spec_from_file_location("official_imbsam", sys.argv[1])
official = importlib.util.module_from_spec(spec)
spec.loader.exec_module(official)

STEPS, RHO = 5, 0.4
rng = np.random.default_rng(0)
w, b = rng.normal(size=(3, 5)), rng.normal(size=3)
x, y = rng.normal(size=(STEPS, 12, 5)), rng.integers(0, 3, (STEPS, 12))
y[2] %= 2  # a batch without the rare class 2
out = {"w": w, "b": b, "x": x, "y": y, "rho": RHO, "torch_version": torch.__version__}
for name in ("sam", "imbsam"):
    model = torch.nn.Linear(5, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor(w))
        model.bias.copy_(torch.tensor(b))
    sgd = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    rule = {"sam": official.SAM, "imbsam": official.ImbSAM}[name](sgd, model, rho=RHO)
    iterates = []
    for bx, by in zip(torch.tensor(x), torch.tensor(y), strict=True):
        tail = by == 2

        def losses(bx=bx, by=by):
            return torch.nn.functional.cross_entropy(model(bx), by, reduction="none")  # noqa: B023

        if name == "sam":
            losses().mean().backward()
            rule.first_step()
            losses().mean().backward()
            rule.second_step()
        else:
            values = losses()
            (values[~tail].sum() / len(by)).backward(retain_graph=True)
            rule.first_step()
            (2 * values[tail].sum() / len(by)).backward()
            rule.second_step()
            (2 * losses()[tail].sum() / len(by)).backward()
            rule.third_step()
        iterates.append(np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]))
    out[f"{name}_iterates"] = np.array(iterates)
np.savez(Path(__file__).parent / "imbsam.npz", **out)
