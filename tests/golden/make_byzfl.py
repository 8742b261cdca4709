"""Golden values of byzfl's centered clipping: ``python tests/golden/make_byzfl.py`` (needs [reference]).

byzfl imports torchvision and plotting, which are not needed here. An instance keeps its last result as the next start.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

for name in ("torchvision", "torchvision.transforms", "torchvision.models", "torchvision.datasets", "matplotlib"):
    sys.modules[name] = MagicMock()
sys.modules["matplotlib.pyplot"] = sys.modules["seaborn"] = sys.modules["byzfl.benchmark"] = MagicMock()

from byzfl import CenteredClipping  # noqa: E402

x = np.random.default_rng(0).normal(size=(4, 9, 6)) * 2
out = {"x": x, "version": version("byzfl")}
for iterations, tau in ((1, 1.0), (3, 0.5), (1, 100.0)):
    aggregator = CenteredClipping(L=iterations, tau=tau)
    out[f"{iterations}_{tau}"] = np.array([aggregator(rows) for rows in x])
np.savez(Path(__file__).parent / "byzfl.npz", **out)
