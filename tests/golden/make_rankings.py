"""Bucket rankings of the authors' Downward Merge: ``python tests/golden/make_rankings.py PATH/app/launcher_classic.py`` (needs [reference]).

The file is from github.com/RobustConsensusRanking/RobustConsensusRanking at commit 9c9d938cb776a775c298378ea2d742fd08b6856b;
only ``_maxpair`` and ``torch_merge_idx`` are taken out of it. Strongly transitive tables are from Plackett-Luce weights;
the others are random with transitive majorities.
"""

import ast
import sys
from pathlib import Path

import numpy as np
import torch

source = Path(sys.argv[1]).read_text()
WANTED = ("_maxpair", "torch_merge_idx")
official = {"torch": torch, "np": np}
for node in ast.parse(source).body:
    if isinstance(node, ast.FunctionDef) and node.name in WANTED:
        # without the decorator torch.jit.script, which wants a file
        node.decorator_list = []
        exec(compile(ast.Module([node], []), sys.argv[1], "exec"), official)

rng = np.random.default_rng(0)


def buckets(p, threshold):
    m = official["_maxpair"](torch.tensor(p), threshold=float(threshold)).numpy()
    before = (m > 0.5).sum(axis=0)
    return np.unique(before, return_inverse=True)[1]


def random_table(n):
    """Majorities are transitive, margins are any."""
    p = np.full((n, n), 0.5)
    for i in range(n):
        for j in range(i + 1, n):
            p[i, j] = 0.5 + 0.5 * rng.uniform() ** 2
            p[j, i] = 1 - p[i, j]
    return p


out = {}
for n in (4, 7):
    weights = np.exp(rng.normal(size=(20, n)) * 0.4)
    tables = weights[:, :, None] / (weights[:, :, None] + weights[:, None, :])
    thresholds = rng.uniform(0.01, 0.2, size=20)
    out[f"plackett_luce_{n}"] = tables
    out[f"thresholds_{n}"] = thresholds
    out[f"buckets_{n}"] = np.array([buckets(p, t) for p, t in zip(tables, thresholds, strict=True)])
tables = np.array([random_table(4) for _ in range(200)])
thresholds = rng.uniform(0.01, 0.2, size=200)
out["random"], out["random_thresholds"] = tables, thresholds
out["random_buckets"] = np.array([buckets(p, t) for p, t in zip(tables, thresholds, strict=True)])
np.savez_compressed(Path(__file__).with_name("rankings.npz"), **out)
