"""Golden zeroth-order gradients and MeZO steps: ``python tests/golden/make_zeroth_order.py PATH/trainer.py``.

Needs [reference] and torchopt 0.7.3. The file is large_models/trainer.py of github.com/princeton-nlp/MeZO at 552cb1b71076; of it the four
methods of a step are executed, unchanged, on a small regression in float64. The directions are written down, as another generator
does not draw them again. torchopt's "forward" is recorded too, to show where it is wrong.
"""

import ast
import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torchopt

METHODS = ("zo_perturb_parameters", "zo_forward", "zo_step", "zo_update")
tree = ast.parse(Path(sys.argv[1]).read_text())
found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in METHODS]
space = {"torch": torch, "np": np}
exec(compile(ast.Module([n for n in found], []), sys.argv[1], "exec"), space)

rng = np.random.default_rng(0)
w, b = rng.normal(size=(4, 3)), rng.normal(size=3)
STEPS = 3
x, y = rng.normal(size=(STEPS, 8, 4)), rng.normal(size=(STEPS, 8, 3))
out = {"w": w, "b": b, "x": x, "y": y, "torch_version": torch.__version__, "torchopt_version": torchopt.__version__}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(w))
        self.bias = torch.nn.Parameter(torch.tensor(b))

    def forward(self, x):
        return torch.tanh(x @ self.w + self.bias)


# MeZO
LR, EPS, DECAY = 0.1, 1e-3, 0.01
model = Model()
trainer = SimpleNamespace(
    args=SimpleNamespace(zo_eps=EPS, non_diff=False, n_gpu=1, gradient_accumulation_steps=1, weight_decay=DECAY),
    lr_scheduler=SimpleNamespace(step=lambda: None),
    _get_learning_rate=lambda: LR,
    _prepare_inputs=lambda inputs: inputs,
    compute_loss_context_manager=contextlib.nullcontext,
    compute_loss=lambda model, inputs: torch.mean((model(inputs[0]) - inputs[1]) ** 2),
)
for name in METHODS:
    setattr(trainer, name, space[name].__get__(trainer))
np.random.seed(0)
for t in range(STEPS):
    loss = trainer.zo_step(model, (torch.tensor(x[t]), torch.tensor(y[t])))
    trainer.zo_update(model)
    torch.manual_seed(trainer.zo_random_seed)
    for name, p in model.named_parameters():
        z = torch.normal(mean=0, std=1, size=p.data.size(), dtype=p.data.dtype)
        out[f"mezo_z_{name}_{t}"] = z.numpy()
        out[f"mezo_{name}_{t}"] = p.detach().numpy().copy()
    out[f"mezo_loss_{t}"] = loss.item()
    out[f"mezo_slope_{t}"] = trainer.projected_grad
out |= {"mezo_lr": LR, "mezo_eps": EPS, "mezo_decay": DECAY}

# torchopt: one tree of directions for each of the samples, in the order in which it asks for them
SAMPLES, SIGMA = 4, 0.1
z_w, z_b = rng.normal(size=(SAMPLES, 4, 3)), rng.normal(size=(SAMPLES, 3))
for method in ("naive", "forward", "antithetic"):
    drawn = iter([torch.tensor(z) for pair in zip(z_w, z_b, strict=True) for z in pair])

    def draw(shape, drawn=drawn):
        z = next(drawn)
        assert z.shape == shape
        return z

    @torchopt.diff.zero_order(draw, method=method, argnums=(0, 1), num_samples=SAMPLES, sigma=SIGMA)
    def loss_fn(w, b):
        return torch.mean((torch.tanh(torch.tensor(x[0]) @ w + b) - torch.tensor(y[0])) ** 2)

    tw, tb = torch.tensor(w, requires_grad=True), torch.tensor(b, requires_grad=True)
    loss_fn(tw, tb).backward()
    out |= {f"torchopt_{method}_w": tw.grad.numpy(), f"torchopt_{method}_b": tb.grad.numpy()}
out |= {"torchopt_z_w": z_w, "torchopt_z_b": z_b, "torchopt_sigma": SIGMA}
np.savez_compressed(Path(__file__).parent / "zeroth_order.npz", **out)
