"""Golden steps of AWP from the authors' files: ``python tests/golden/make_awp.py AT_AWP/utils_awp.py trades_AWP/utils_awp.py``.

Needs [reference]. The files are those of github.com/csdongxian/AWP at a7acf5d842fc; the order of calls is that of its training
scripts. A network with one hidden layer, SGD with momentum, float64. No weight decay: the scripts step before they restore, so
that decay would act on the perturbed weights.
"""

import copy
import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


STEPS, GAMMA, BETA = 4, 0.2, 6.0
rng = np.random.default_rng(0)
start = {
    "0.weight": rng.normal(size=(6, 5)),
    "0.bias": rng.normal(size=6),
    "2.weight": rng.normal(size=(3, 6)),
    "2.bias": rng.normal(size=3),
}
x, y = rng.normal(size=(STEPS, 8, 5)), rng.integers(0, 3, (STEPS, 8))
x_adv = x + 0.3 * rng.choice([-1.0, 1.0], x.shape)
out = {f"start_{k[0]}_{k[2:]}": v for k, v in start.items()}
out |= {"x": x, "y": y, "x_adv": x_adv, "gamma": GAMMA, "beta": BETA, "torch_version": torch.__version__}

for name, path in (("at", sys.argv[1]), ("trades", sys.argv[2])):
    official = load(path, f"official_{name}")
    model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()
    model.load_state_dict({k: torch.tensor(v) for k, v in start.items()})
    proxy = copy.deepcopy(model)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    proxy_sgd = torch.optim.SGD(proxy.parameters(), lr=0.01)
    adversary = {"at": "AdvWeightPerturb", "trades": "TradesAWP"}[name]
    adversary = getattr(official, adversary)(model=model, proxy=proxy, proxy_optim=proxy_sgd, gamma=GAMMA)
    iterates, losses = [], []
    for clean, adv, labels in zip(torch.tensor(x), torch.tensor(x_adv), torch.tensor(y), strict=True):
        if name == "at":
            awp = adversary.calc_awp(inputs_adv=adv, targets=labels)
            adversary.perturb(awp)
            loss = F.cross_entropy(model(adv), labels)
        else:
            awp = adversary.calc_awp(inputs_adv=adv, inputs_clean=clean, targets=labels, beta=BETA)
            adversary.perturb(awp)
            robust = F.kl_div(F.log_softmax(model(adv), 1), F.softmax(model(clean), 1), reduction="batchmean")
            loss = F.cross_entropy(model(clean), labels) + BETA * robust
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        adversary.restore(awp)
        iterates.append(np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]))
        losses.append(loss.item())
    out[f"{name}_iterates"], out[f"{name}_losses"] = np.array(iterates), np.array(losses)
np.savez(Path(__file__).parent / "awp.npz", **out)
