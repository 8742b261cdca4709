"""Golden losses of torch.nn.KLDivLoss between Bernoullis: ``python tests/golden/make_dual_head.py`` (needs [reference])."""

from pathlib import Path

import numpy as np
import torch

rng = np.random.default_rng(0)
student = torch.tensor(3 * rng.normal(size=(8, 5)), requires_grad=True)
teacher = torch.tensor(3 * rng.normal(size=(8, 5)))
divergence = torch.nn.KLDivLoss(reduction="none")


def of_questions(p_student, p_teacher):
    """Every class answered with yes or no; the divergence of the two answers, over the classes of an example."""
    answers = [torch.stack([p, 1 - p]) for p in (p_student, p_teacher)]
    return divergence(answers[0].log(), answers[1]).sum(dim=(0, -1))


out = {"student": student.detach().numpy(), "teacher": teacher.numpy()}
for tau in (1.0, 2.0, 4.0):
    losses = {
        "binary_kl": of_questions((student / tau).sigmoid(), (teacher / tau).sigmoid()),
        "binary_kl_norm": of_questions(((student - teacher) / tau).sigmoid(), torch.full_like(teacher, 0.5)),
    }
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(tau**2 * loss.sum(), student)
        out |= {f"{name}_{tau:g}": tau**2 * loss.detach().numpy(), f"{name}_{tau:g}_grad": gradient.numpy()}
np.savez_compressed(Path(__file__).parent / "dual_head.npz", torch_version=torch.__version__, **out)
