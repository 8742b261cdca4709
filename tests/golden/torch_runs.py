"""What the scripts that make golden trajectories of PyTorch optimizers share. PyTorch itself is theirs to import."""

import importlib.util
from pathlib import Path

import numpy as np

STEPS, CHANGE = 40, 20
RATES = (0.03, 0.003)
"""Learning rate of the first CHANGE steps and of the rest."""


def problem(seed=0, *, extra=None):
    """Start and gradients of a matrix, a vector and a scalar; entries of mixed size, some gradients exactly zero."""
    rng = np.random.default_rng(seed)
    first, grads = {}, {}
    for name, shape in {"matrix": (4, 3), "vector": (5,), "scalar": (), **(extra or {})}.items():
        first[name] = rng.normal(size=shape)
        grads[name] = rng.normal(size=(STEPS, *shape)) * np.exp(2 * rng.normal(size=shape))
        grads[name] *= rng.uniform(size=(STEPS, *shape)) > 0.05
    return first, grads


def iterates(make, first, grads, rates=RATES):
    """The parameters after every step of ``make([parameters], lr=…)``, in the dtype of the start."""
    import torch

    p = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in first.items()}
    optimizer = make(list(p.values()), lr=rates[0])
    found = {name: [] for name in first}
    for t in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rates[0] if t < CHANGE else rates[1]
        for name, x in p.items():
            x.grad = torch.tensor(grads[name][t])
        optimizer.step()
        for name, x in p.items():
            found[name].append(x.detach().numpy().copy())
    return {name: np.array(x) for name, x in found.items()}


def module(path):
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def save(name, first, grads, cases, **provenance):
    """Writes ``NAME.npz`` beside the scripts."""
    import torch

    arrays = {f"first/{leaf}": x for leaf, x in first.items()} | {f"grads/{leaf}": x for leaf, x in grads.items()}
    arrays |= {f"{case}/{leaf}": x for case, leaves in cases.items() for leaf, x in leaves.items()}
    np.savez_compressed(Path(__file__).parent / f"{name}.npz", torch_version=torch.__version__, **provenance, **arrays)


def worst(a, b):
    """The largest difference of two runs, in units of the largest distance that a parameter of the leaf went."""
    return max(np.abs(a[n] - b[n]).max() / np.abs(b[n] - b[n][0]).max() for n in b)
