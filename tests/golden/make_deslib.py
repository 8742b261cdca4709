"""Golden values of DESlib's diversity measures: ``python tests/golden/make_deslib.py`` (needs deslib)."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from deslib.util.diversity import Q_statistic, ratio_errors

rng = np.random.default_rng(0)
labels = rng.integers(0, 4, 300)
preds = np.where(rng.random((5, 300)) < np.linspace(0.4, 0.9, 5)[:, None], labels, rng.integers(0, 4, (5, 300)))
pairs = [(i, j) for i in range(5) for j in range(i)]
out = {
    "labels": labels,
    "preds": preds,
    "pairs": np.array(pairs),
    "q": np.array([Q_statistic(labels, preds[i], preds[j]) for i, j in pairs]),
    "ratio": np.array([ratio_errors(labels, preds[i], preds[j]) for i, j in pairs]),
    "version": version("deslib"),
}
np.savez(Path(__file__).parent / "deslib.npz", **out)
