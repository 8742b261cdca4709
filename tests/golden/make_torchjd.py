"""Golden values of torchjd's UPGrad: ``python tests/golden/make_torchjd.py`` (needs [reference])."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torchjd.aggregation import UPGrad

rng = np.random.default_rng(0)
jacobians = {
    "documentation": np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]),
    "gaussian_5x20": rng.normal(size=(5, 20)),
    "gaussian_16x40": rng.normal(size=(16, 40)),
    "conflicting_8x6": rng.normal(size=(8, 6)) - 0.8,
    "rank_deficient_6x10": rng.normal(size=(6, 3)) @ rng.normal(size=(3, 10)),
}
out = {"versions": np.array([version("torchjd"), torch.__version__])}
for name, jacobian in jacobians.items():
    out[f"jacobian_{name}"] = jacobian
    out[f"upgrad_{name}"] = UPGrad()(torch.tensor(jacobian)).numpy()
np.savez(Path(__file__).parent / "torchjd.npz", **out)
