"""Golden steps of diffGrad from the authors' files: ``python tests/golden/make_diffgrad.py V2.py V1.py`` (needs [reference]).

They are diffGrad_v2.py and diffGrad.py of github.com/shivram1987/diffGrad at commit
73233ba4708701cf552bcecb1f065d46d2d77164. They are written for a PyTorch of 2019, whose ``add_(number, tensor)`` became
``add_(tensor, alpha=number)``; the text is brought up to date before it is run. The second file keeps the gradient's
own buffer; here gradients are written into that buffer, as PyTorch does when it accumulates. Besides, the script prints
how far pytorch_optimizer's DiffGrad is away.
"""

import re
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_optimizer
import torch
import torch_runs


def modern(path):
    """The optimizer class of a file after the signatures of tensor methods are brought up to date."""
    text = Path(path).read_text().replace("import torch.nn as nn\n", "")
    text = re.sub(r"\.add_\((1 - beta1|group\['weight_decay'\]), ([\w.]+)\)", r".add_(\2, alpha=\1)", text)
    text = text.replace("addcmul_(1 - beta2, grad, grad)", "addcmul_(grad, grad, value=1 - beta2)")
    text = text.replace("addcdiv_(-step_size, exp_avg1, denom)", "addcdiv_(exp_avg1, denom, value=-step_size)")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "official.py"
        file.write_text(text)
        return torch_runs.module(file).diffgrad


def reusing_buffers(make, first, grads):
    """As torch_runs.iterates, with every gradient written into the same buffer."""
    p = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in first.items()}
    optimizer, found = make(list(p.values()), lr=torch_runs.RATES[0]), {name: [] for name in first}
    for t in range(torch_runs.STEPS):
        optimizer.param_groups[0]["lr"] = torch_runs.RATES[t >= torch_runs.CHANGE]
        for name, x in p.items():
            x.grad = torch.zeros_like(x) if x.grad is None else x.grad
            x.grad.copy_(torch.tensor(grads[name][t]))
        optimizer.step()
        for name, x in p.items():
            found[name].append(x.detach().numpy().copy())
    return {name: np.array(x) for name, x in found.items()}


official = modern(sys.argv[1])
first, grads = torch_runs.problem()
cases = {
    "plain": torch_runs.iterates(official, first, grads),
    "options": torch_runs.iterates(partial(official, betas=(0.8, 0.95), eps=1e-2, weight_decay=0.1), first, grads),
    "first_release": reusing_buffers(modern(sys.argv[2]), first, grads),
}
peer = torch_runs.iterates(pytorch_optimizer.DiffGrad, first, grads)
print("pytorch_optimizer:", torch_runs.worst(peer, cases["plain"]))
small = {name: 1e-7 * g for name, g in grads.items()}
pair = [torch_runs.iterates(make, first, small) for make in (pytorch_optimizer.DiffGrad, official)]
print("pytorch_optimizer, gradients of 1e-7:", torch_runs.worst(*pair))
torch_runs.save("diffgrad", first, grads, cases, commit="73233ba4708701cf552bcecb1f065d46d2d77164")
