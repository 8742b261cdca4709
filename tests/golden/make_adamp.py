"""Golden steps of AdamP and SGDP: ``python tests/golden/make_adamp.py adamp.py sgdp.py`` (needs [reference]).

The files are adamp/adamp.py and adamp/sgdp.py of github.com/clovaai/AdamP at commit
7f6f0383ff6ad3839d5c7f79f1db0a44c5a12fdb; of the second one line, whose ``required`` PyTorch no longer has, is changed.
Kernels have PyTorch's layout, output channels first. Without nesterov the second file projects the very array that it
keeps as momentum: that case is "sgdp_in_place"; pytorch_optimizer's SGDP does not. It is run for "sgdp", where it is
the paper's rule. A threshold delta of 1 makes both views fire now and then; the script prints how often they do.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_optimizer
import torch_runs

adamp = torch_runs.module(sys.argv[1]).AdamP
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "sgdp.py"
    text = Path(sys.argv[2]).read_text()
    file.write_text(text.replace("import Optimizer, required", "import Optimizer").replace("lr=required", "lr=1.0"))
    sgdp = torch_runs.module(file).SGDP

first, grads = torch_runs.problem(extra={"kernel": (3, 2, 2, 2)})
often = {"delta": 1.0, "wd_ratio": 0.3, "weight_decay": 0.1}
cases = {
    "adamp": torch_runs.iterates(adamp, first, grads),
    "adamp_often": torch_runs.iterates(partial(adamp, **often), first, grads),
    "adamp_nesterov": torch_runs.iterates(partial(adamp, nesterov=True, **often), first, grads),
    "sgdp": torch_runs.iterates(partial(pytorch_optimizer.SGDP, momentum=0.9, **often), first, grads),
    "sgdp_in_place": torch_runs.iterates(partial(sgdp, momentum=0.9, **often), first, grads),
    "sgdp_nesterov": torch_runs.iterates(
        partial(sgdp, momentum=0.8, dampening=0.3, nesterov=True, **often), first, grads
    ),
}
for name in ("matrix", "kernel"):
    before = np.concatenate([first[name][None], cases["adamp_often"][name][:-1]])

    def cosine(view, name=name, before=before):
        g, w = (x.reshape(torch_runs.STEPS, *view) for x in (grads[name], before))
        c = abs((g * w).sum(-1)) / (np.linalg.norm(g, axis=-1) * np.linalg.norm(w, axis=-1))
        return c.max(axis=1) < 1 / np.sqrt(view[1])

    rows = len(first[name])
    channel, layer = cosine((rows, first[name].size // rows)), cosine((1, first[name].size))
    print(name, "steps by channel:", channel.sum(), "by layer:", (layer & ~channel).sum(), "of", torch_runs.STEPS)
peer = torch_runs.iterates(partial(pytorch_optimizer.AdamP, weight_decay=0.0), first, grads)
print("pytorch_optimizer, AdamP:", torch_runs.worst(peer, cases["adamp"]))
small = {name: 1e-7 * g for name, g in grads.items()}
pair = [torch_runs.iterates(make, first, small) for make in (partial(pytorch_optimizer.AdamP, weight_decay=0.0), adamp)]
print("pytorch_optimizer, AdamP, gradients of 1e-7:", torch_runs.worst(*pair))
peer = torch_runs.iterates(
    partial(pytorch_optimizer.SGDP, momentum=0.8, dampening=0.3, nesterov=True, **often), first, grads
)
print("pytorch_optimizer, SGDP with nesterov:", torch_runs.worst(peer, cases["sgdp_nesterov"]))
print("SGDP in place from the paper's:", torch_runs.worst(cases["sgdp_in_place"], cases["sgdp"]))
torch_runs.save("adamp", first, grads, cases, commit="7f6f0383ff6ad3839d5c7f79f1db0a44c5a12fdb")
