"""Golden values of robust rules from byzfl, torchjd and three authors' repositories (needs [reference]).

``python tests/golden/make_robust.py GAS FLAG MONNA``: folders of github.com/YuchenLiu-a/byzantine-gas at ff1e544a58d5,
github.com/hamidralmasi/FlagAggregator at 1ae2c4536753 and github.com/LPD-EPFL/robust-collaborative-learning at 3425aa12c365.
byzfl imports torchvision and plotting, which are not needed here.
"""

import importlib.util
import sys
import types
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

for name in ("torchvision", "torchvision.transforms", "torchvision.models", "torchvision.datasets", "matplotlib"):
    sys.modules[name] = MagicMock()
sys.modules["matplotlib.pyplot"] = sys.modules["seaborn"] = sys.modules["byzfl.benchmark"] = MagicMock()

import byzfl  # noqa: E402
from torchjd.aggregation import Krum as TorchjdKrum  # noqa: E402


def load(file, package):
    """One file of a repository, whose package is replaced by something that registers nothing."""
    stub = types.ModuleType(package)
    stub.__path__, stub.register = [str(file.parent)], lambda *_, **__: None
    sys.modules[package] = stub
    spec = importlib.util.spec_from_file_location(f"{package}.{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


gas_folder, flag_folder, monna_folder = map(Path, sys.argv[1:4])
sys.modules["tools"] = MagicMock()
sys.modules["aggregators"] = MagicMock()
cva = load(monna_folder / "aggregators" / "cva.py", "monna_repository")
lpd_krum = load(monna_folder / "aggregators" / "krum.py", "monna_repository")
flag = load(flag_folder / "aggregators" / "center_algorithms_torch.py", "flag_repository")
spec = importlib.util.spec_from_file_location("utils", gas_folder / "utils" / "utils.py")
sys.modules["utils"] = utils = importlib.util.module_from_spec(spec)
spec.loader.exec_module(utils)
gas = load(gas_folder / "server" / "agg_funs.py", "gas_repository").agg_funs

rng = np.random.default_rng(0)
F = 2
out = {"versions": np.array([f"{p} {version(p)}" for p in ("byzfl", "torchjd", "torch")]), "f": F}
for n in (9, 10):
    x = rng.normal(size=(n, 12)) * 2 + 1
    out[f"x_{n}"] = x
    rules = {
        "median": byzfl.Median(),
        "trimmed_mean": byzfl.TrMean(F),
        "mean_around_median": byzfl.Meamed(F),
        "geometric_median": byzfl.GeometricMedian(nu=1e-9, T=3000),
        "nearest_neighbor_mixing": byzfl.NNM(F),
        "nearest_neighbor_average": byzfl.MoNNA(F, idx=3),
        "mimic": byzfl.Mimic(epsilon=4),
        "sign_flip": byzfl.SignFlipping(),
        "ipm": byzfl.InnerProductManipulation(tau=0.7),
        "alie": byzfl.ALittleIsEnough(tau=1.5),
    }
    for name, rule in rules.items():
        out[f"{name}_{n}"] = rule(x.copy())
    vectors = list(torch.tensor(x))
    out[f"cva_{n}"] = cva.aggregate(vectors, F, honest_index=3).numpy()

# gradient splitting: the server's loop over groups of permuted coordinates, with its own base rules
x, order, groups = out["x_9"], rng.permutation(12), 5
out |= {"gas_order": order, "gas_groups": groups}
knowledge = types.SimpleNamespace(n_byz=F)
for name in ("median", "rbtm", "krum"):
    scores = torch.zeros(9, dtype=torch.float64)
    for part in torch.chunk(torch.tensor(order), groups):
        group = torch.tensor(x)[:, part]
        scores += (group - gas[name](group, knowledge, None)).square().sum(dim=-1).sqrt()
    out[f"gas_{name}"] = scores.numpy()
out["gas_multi_krum"] = gas["krum"](torch.tensor(x), knowledge, None).numpy()

# the flag median's iteration, from the singular vectors of the plain columns, without and with the pairs
columns = (x / np.linalg.norm(x, axis=1, keepdims=True)).T
data = [torch.tensor(columns[:, [i]]) for i in range(9)]
for rank, weight in ((1, 0.0), (3, 0.0), (3, 5.0)):
    y = torch.tensor(np.linalg.svd(columns, full_matrices=False)[0][:, :rank])
    for iteration in range(1, 5):
        y = flag.flag_mean_iteration(data, y, "sine", iteration, lambda_=weight)
        out[f"flag_{rank}_{weight:g}_{iteration}"] = (y @ y.T @ torch.tensor(columns).mean(1)).numpy()

# which of nine workers Krum selects, 400 times
rows = np.random.default_rng(7).normal(size=(400, 9, 4))
out["krum_sum"] = rows.sum()


def index_of(row, table):
    return int(np.argmin(np.abs(table - np.asarray(row)).sum(1)))


out["krum_byzfl"] = np.array([index_of(byzfl.Krum(F)(t.copy()), t) for t in rows], np.uint8)
out["krum_torchjd"] = np.array([index_of(TorchjdKrum(F)(torch.tensor(t)), t) for t in rows], np.uint8)
out["krum_lpd"] = np.array([index_of(lpd_krum.aggregate(list(torch.tensor(t)), F), t) for t in rows], np.uint8)

# MoNNA over rounds: six nodes with their own quadratics, one Byzantine that sends the negative of the mean
targets, grads_noise = rng.normal(size=(6, 3)), rng.normal(size=(5, 6, 3))
theta, momentum, path = np.zeros((6, 3)), np.zeros((6, 3)), []
for noise in grads_noise:
    momentum = 0.9 * momentum + 0.1 * (theta - targets + noise)
    half = theta - 0.5 * momentum
    sent = np.concatenate([half, -half.mean(0, keepdims=True)])
    theta = np.array([byzfl.MoNNA(1, idx=i)(sent.copy()) for i in range(6)])
    path.append(theta)
out |= {"monna_targets": targets, "monna_noise": grads_noise, "monna_path": np.array(path)}
np.savez(Path(__file__).parent / "robust.npz", **out)
