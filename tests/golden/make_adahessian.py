"""Golden steps of AdaHessian: ``python tests/golden/make_adahessian.py PATH/optim_adahessian.py`` (needs [reference]).

The file is image_classification/optim_adahessian.py of github.com/amirgholami/adahessian at commit
85ebc00ce873c8497a64ca80bbfa5d996109efea. A small convolutional model is trained by it in float64, from the 21st step on
with a tenth of the learning rate; kept are the gradients and the products of probes and Hessian-vector products that it
saw, and the parameters after every step.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

spec = importlib.util.spec_from_file_location("official_adahessian", sys.argv[1])
official = importlib.util.module_from_spec(spec)
spec.loader.exec_module(official)

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
STEPS, CHANGE = 40, 20
CASES = {
    "default": {},
    "power": {"hessian_power": 0.5, "weight_decay": 0.1, "lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3},
    "momentum": {"hessian_power": 0.0, "lr": 0.02},
}

x, y = torch.randn(16, 2, 4, 5), torch.randn(16, 2)
shapes = {"kernel": (2, 2, 2, 3), "dense": (2, 2), "bias": (2,), "scale": ()}
first = {name: torch.randn(shape) * 0.5 for name, shape in shapes.items()}


def loss_of(p):
    hidden = torch.tanh(torch.nn.functional.conv2d(x, p["kernel"])).mean(dim=(2, 3))
    return ((p["scale"] * hidden @ p["dense"] + p["bias"] - y) ** 2).mean()


out = {f"first/{name}": value.numpy() for name, value in first.items()}
for case, options in CASES.items():
    p = {name: torch.nn.Parameter(value.clone()) for name, value in first.items()}
    optimizer = official.Adahessian(p.values(), **options)
    plain_grad, seen = torch.autograd.grad, []

    def recording_grad(*args, plain_grad=plain_grad, seen=seen, **kwargs):
        products = plain_grad(*args, **kwargs)
        seen.append([(z * hz).detach().numpy().copy() for z, hz in zip(kwargs["grad_outputs"], products, strict=True)])
        return products

    record = {name: ([], []) for name in p}
    for t in range(STEPS):
        if t == CHANGE:
            optimizer.param_groups[0]["lr"] *= 0.1
        optimizer.zero_grad()
        loss_of(p).backward(create_graph=True)
        for name, value in p.items():
            record[name][0].append(value.grad.detach().numpy().copy())
        torch.autograd.grad = recording_grad
        optimizer.step()
        torch.autograd.grad = plain_grad
        for value in p.values():
            value.grad = None
        for name, value in p.items():
            record[name][1].append(value.detach().numpy().copy())
    for i, (name, (grads, iterates)) in enumerate(record.items()):
        out[f"{case}/{name}/grads"] = np.array(grads)
        out[f"{case}/{name}/diag"] = np.array([s[i] for s in seen])
        out[f"{case}/{name}/iterates"] = np.array(iterates)
np.savez_compressed(
    Path(__file__).parent / "adahessian.npz",
    torch_version=torch.__version__,
    commit="85ebc00ce873c8497a64ca80bbfa5d996109efea",
    **out,
)
