"""Golden steps of Gravity from the authors' file: ``python tests/golden/make_gravity.py PATH`` (needs [reference]).

The file is implementations/gravity_optimizer_pytorch.py of github.com/dariush-bahrami/gravity.optimizer at commit
9c12068752097a9336d74c89d841781188c8b9d6. In the case "started" the random velocity of the start is replaced by one that
is kept here. Besides, the script prints how far pytorch_optimizer's Gravity is away. No gradient of a tensor is zero
everywhere: the file divides by the largest one.
"""

import sys
from functools import partial

import numpy as np
import pytorch_optimizer
import torch
import torch_runs

official = torch_runs.module(sys.argv[1]).Gravity
first, grads = torch_runs.problem()
grads["scalar"] = np.where(grads["scalar"] == 0, 0.5, grads["scalar"])
velocity = {name: np.random.default_rng(1).normal(size=x.shape) for name, x in first.items()}


def started(params, lr):
    optimizer = official(params, lr=lr, beta=0.7)
    for p, v in zip(params, velocity.values(), strict=True):
        optimizer.state[p]["v"] = torch.tensor(v)
    return optimizer


cases = {
    "plain": torch_runs.iterates(partial(official, alpha=0.0), first, grads),
    "started": torch_runs.iterates(started, first, grads),
}
peer = torch_runs.iterates(partial(pytorch_optimizer.Gravity, alpha=0.0), first, grads)
print("pytorch_optimizer:", torch_runs.worst(peer, cases["plain"]))
arrays = {f"velocity/{name}": v for name, v in velocity.items()}
torch_runs.save("gravity", first, grads, cases, commit="9c12068752097a9336d74c89d841781188c8b9d6", **arrays)
