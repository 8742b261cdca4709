"""Golden losses of torch.nn.functional.kl_div: ``python tests/golden/make_kd_loss.py`` (needs [reference])."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

rng = np.random.default_rng(0)
student = torch.tensor(4 * rng.normal(size=(8, 5)), requires_grad=True)
teacher = torch.tensor(4 * rng.normal(size=(8, 5)))
out = {"student": student.detach().numpy(), "teacher": teacher.numpy(), "temperatures": np.array([0.5, 1.0, 5.0, 20.0])}
for t in out["temperatures"]:
    terms = F.kl_div(F.log_softmax(student / t, -1), F.softmax(teacher / t, -1), reduction="none")
    loss = t**2 * terms.sum(-1)
    batchmean = t**2 * F.kl_div(F.log_softmax(student / t, -1), F.softmax(teacher / t, -1), reduction="batchmean")
    (gradient,) = torch.autograd.grad(batchmean, student)
    out |= {f"loss_{t}": loss.detach().numpy(), f"mean_{t}": batchmean.detach().numpy(), f"grad_{t}": gradient.numpy()}
np.savez_compressed(Path(__file__).parent / "kd_loss.npz", torch_version=torch.__version__, **out)
