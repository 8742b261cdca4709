"""Golden values of mergekit's merge methods: ``python tests/golden/make_mergekit.py`` (needs mergekit and torch).

One tensor in float64. The models lie around a base with a common part, so that cosines are positive: mergekit does not
clip negative ones.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from mergekit.merge_methods.base import PerInputValues, TensorGroup
from mergekit.merge_methods.registry import get

rng = np.random.default_rng(0)
base = rng.normal(size=(6, 7))
models = base + 0.1 * (rng.normal(size=(6, 7)) + rng.normal(size=(5, 6, 7)))
weights = np.array([1.0, 0.5, 2.0, 1.0, 0.25])


def merge(method, models, *, with_base=True, **parameters):
    ids = [f"m{i}" for i in range(len(models))]
    per_input = {
        name: PerInputValues([(i, float(v)) for i, v in zip(ids, np.broadcast_to(values, len(ids)), strict=True)])
        for name, values in parameters.items()
        if name in ("weight", "density")
    }
    tensors = [torch.tensor(m) for m in models]
    if with_base:
        tensors, ids = [torch.tensor(base), *tensors], ["base", *ids]
    group = TensorGroup.from_tensors(tensors, ids=ids, base_index=0 if with_base else None)
    return get(method)([group], parameters=parameters | per_input)[0].numpy()


out = {"base": base, "models": models, "weights": weights, "version": version("mergekit")}
out["linear"] = merge("linear", models, with_base=False, weight=weights)
for k in (2, 3, 5):
    out[f"model_stock_{k}"] = merge("model_stock", models[:k])
# differences whose lengths multiply to less than its floor of 1e-6: the cosine comes out too small
out["model_stock_small"] = merge("model_stock", base + 1e-4 * (models[:2] - base))
out["task_arithmetic"] = merge("task_arithmetic", models, weight=weights, normalize=False, **{"lambda": 0.4})
for density, normalize, scale in ((0.2, True, 1.0), (0.5, True, 0.7), (0.5, False, 1.0)):
    out[f"ties_{density}_{normalize}_{scale}"] = merge(
        "ties", models, weight=weights, density=density, normalize=normalize, **{"lambda": scale}
    )
np.savez(Path(__file__).parent / "mergekit.npz", **out)
