"""Golden steps of clipped AdaGrad and Adam: ``python tests/golden/make_clip_radagradd.py PATH/optimizer.py``.

The file is ALBERT_fine_tuning/classes/optimizer.py of github.com/Andron00e/Clipped-AdaGrad-and-Adam at commit
d2ff43fed401a54667d6acc5c74012d7dbefb5ca (needs [reference]). PyTorch divides by the norm plus 1e-6 when it clips; here
that is made the norm, so that the rule and not this constant is compared.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

spec = importlib.util.spec_from_file_location("official", sys.argv[1])
official = importlib.util.module_from_spec(spec)
spec.loader.exec_module(official)
torch.set_default_dtype(torch.float64)


def clip_grad_norm_(p, limit):
    p.grad.mul_(min(1.0, limit / p.grad.norm().item()))


torch.nn.utils.clip_grad_norm_ = clip_grad_norm_

STEPS = 40
SHAPES = {"matrix": (4, 3), "scalar": (), "vector": (5,)}
CASES = {
    "adam_leaf": (official.AdamClip, {"clipping": "local", "max_grad_norm": 1.5, "betas": (0.8, 0.95), "eps": 0.0}),
    "adam_element": (official.AdamClip, {"clipping": "elementwise", "max_grad_norm": 0.4, "eps": 0.0}),
    "adam_delayed": (
        official.AdamClip_Delayed_Etta,
        {"clipping": "local", "max_grad_norm": 1.5, "betas": (0.8, 0.95), "eps": 1e-3, "etta": 0.3},
    ),
    "adagrad": (official.AdagradClip, {"clipping": "elementwise", "max_grad_norm": 0.4, "eps": 1e-3}),
    "adagrad_delayed": (
        official.AdaGradClip_Delayed_Etta,
        {"clipping": "local", "max_grad_norm": 1.5, "eps": 1e-3, "etta": 0.3},
    ),
}

rng = np.random.default_rng(0)
first = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
# heavy tails: some gradients are far above the limit, some below
grads = {name: 0.3 * rng.standard_t(1.5, size=(STEPS, *shape)) for name, shape in SHAPES.items()}
out = {f"first/{k}": v for k, v in first.items()} | {f"grads/{k}": v for k, v in grads.items()}
for case, (factory, options) in CASES.items():
    params = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in first.items()}
    optimizer = factory(params.values(), lr=0.03, **options)
    iterates = []
    for t in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.03 if t < 25 else 0.01
        for k, p in params.items():
            p.grad = torch.tensor(grads[k][t])
        optimizer.step()
        iterates.append(np.concatenate([p.detach().numpy().ravel() for p in params.values()]))
    out[f"iterates/{case}"] = np.array(iterates)
np.savez_compressed(
    Path(__file__).parent / "clip_radagradd.npz",
    torch_version=torch.__version__,
    commit="d2ff43fed401a54667d6acc5c74012d7dbefb5ca",
    **out,
)
