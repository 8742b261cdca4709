"""Golden steps of MARS from the authors' file: ``python tests/golden/make_mars.py PATH/mars.py`` (needs [reference]).

The file is MARS/optimizers/mars.py of github.com/AGI-Arena/MARS at commit 4831e28eba863a4e69d7e9474ff8e73bc1b410fe. Its
Newton-Schulz iteration is compiled and runs in bfloat16; here it runs plainly in the parameters' float64, so that the
rule and not the rounding is compared. In the case "exact" the gradients at the previous point are given numbers, put where
the file keeps them. Besides, the script prints how far pytorch_optimizer's MARS is away.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_optimizer
import torch
import torch_runs

text = Path(sys.argv[1]).read_text().replace("@torch.compile", "").replace("M.bfloat16()", "M")
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "mars.py"
    file.write_text(text)
    official = torch_runs.module(file).MARS

first, grads = torch_runs.problem(extra={"kernel": (3, 2, 2, 2), "tall": (6, 2)})
rng = np.random.default_rng(1)
before = {name: g + 0.5 * rng.normal(size=g.shape) for name, g in grads.items()}


class Exact(official):
    """Puts the given gradients where the file keeps them; at the first step it keeps zeros."""

    def step(self):
        number = getattr(self, "number", 0)
        if number:
            for p, h in zip(self.param_groups[0]["params"], before.values(), strict=True):
                self.state[p]["last_grad"] = torch.tensor(h[number])
        self.number = number + 1
        return super().step()


small = {name: 0.1 * g for name, g in grads.items()}  # most of these are not clipped
cases = {
    "adamw": torch_runs.iterates(official, first, grads),
    "everywhere": torch_runs.iterates(partial(official, optimize_1d=True, gamma=0.5, weight_decay=0.1), first, grads),
    "small": torch_runs.iterates(
        partial(official, optimize_1d=True, betas=(0.8, 0.9), eps=0.01, lr_1d=0.3), first, small
    ),
    "lion": torch_runs.iterates(partial(official, mars_type="mars-lion", weight_decay=0.1), first, grads),
    "shampoo": torch_runs.iterates(partial(official, mars_type="mars-shampoo", optimize_1d=True), first, grads),
    "exact": torch_runs.iterates(partial(Exact, is_approx=False, gamma=1.0, optimize_1d=True), first, grads),
}
options = {"optimize_1d": True, "gamma": 0.5, "weight_decay": 0.1, "weight_decouple": True, "betas": (0.95, 0.99)}
peer = torch_runs.iterates(partial(pytorch_optimizer.MARS, **options), first, grads)
print("pytorch_optimizer:", torch_runs.worst(peer, cases["everywhere"]))
arrays = {f"before/{name}": h for name, h in before.items()}
torch_runs.save("mars", first, grads, cases, commit="4831e28eba863a4e69d7e9474ff8e73bc1b410fe", **arrays)
