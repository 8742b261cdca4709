"""Golden values of sliced Wasserstein: ``python tests/golden/make_sliced_wasserstein.py PATH/utils.py`` ([reference]).

The file is GradientFlow/utils.py of github.com/khainb/CV-SW at commit
faee4a836ee6c4aa596218a93a899f1468ab1b65. Its directions are recorded, so that the values belong to
the same ones. POT gives the one-dimensional distances, with weights and unequal sizes, and the plain estimate.
"""

import functools
import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import ot
import torch

spec = importlib.util.spec_from_file_location("official", sys.argv[1])
official = importlib.util.module_from_spec(spec)
spec.loader.exec_module(official)
torch.set_default_dtype(torch.float64)

rng = np.random.default_rng(0)
out = {"versions": np.array([version("POT"), torch.__version__])}
for case, (n, m, d, shift, scale) in {
    "shifted": (30, 30, 5, 1.0, 1.0),
    "spread": (30, 30, 5, 0.1, 3.0),
    "high": (20, 20, 40, 0.5, 1.5),
}.items():
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) * scale + shift
    directions = rng.normal(size=(12, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    official.rand_projections = functools.partial(lambda given, *_: given, torch.tensor(directions))
    out |= {f"{case}/x": x, f"{case}/y": y, f"{case}/directions": directions}
    for p in (1, 2, 3):
        for name, function in (("sw", official.SW), ("lcv", official.LCVSW), ("ucv", official.UCVSW)):
            tx, ty = torch.tensor(x, requires_grad=True), torch.tensor(y)
            value = function(tx, ty, L=12, p=p)
            value.backward()
            out |= {f"{case}/{name}{p}": value.item(), f"{case}/{name}{p}_gradient": tx.grad.numpy()}
        out[f"{case}/pot{p}"] = ot.sliced_wasserstein_distance(x, y, projections=directions.T, p=p)
u, v, wu, wv = rng.normal(size=7), rng.normal(size=11) * 2, rng.uniform(size=7), rng.uniform(size=11)
out |= {"u": u, "v": v, "wu": wu, "wv": wv}
for p in (1, 2, 3):
    out[f"plain{p}"] = ot.wasserstein_1d(u, v, p=p) ** (1 / p)
    out[f"weighted{p}"] = ot.wasserstein_1d(u, v, wu / wu.sum(), wv / wv.sum(), p=p) ** (1 / p)
np.savez_compressed(Path(__file__).parent / "sliced_wasserstein.npz", **out)
