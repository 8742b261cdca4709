"""Golden values of EDM2's released code: ``python tests/golden/make_edm2.py PATH/edm2`` (needs [reference]).

PATH/edm2 is github.com/NVlabs/edm2 at the commit below, whose training/phema.py and training/networks_edm2.py are run.
Kernels are stored as Flax has them, outputs last.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, sys.argv[1])
from training import networks_edm2, phema

rng = np.random.default_rng(0)
std = np.array([0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.2886])
out = {"std": std, "exp": phema.std_to_exp(std)}
out["std_again"] = phema.exp_to_std(out["exp"])
out["t_next"] = np.array([1.0, 2.0, 50.0, 1e5])
out["beta"] = phema.power_function_beta(std[:, None], out["t_next"][None], 1.0)
a_t, b_t = rng.uniform(1, 100, 20), rng.uniform(1, 100, 20)
a_std, b_std = rng.uniform(0.02, 0.28, 20), rng.uniform(0.02, 0.28, 20)
out |= {"a_t": a_t, "a_std": a_std, "b_t": b_t, "b_std": b_std}
out["inner"] = phema.power_function_correlation(a_t, a_std, b_t, b_std)
in_t = np.repeat(np.arange(1, 11) * 20.0, 2)
in_std = np.tile([0.05, 0.1], 10)
out_t, out_std = np.array([200.0, 200.0, 170.0, 110.0]), np.array([0.05, 0.15, 0.2, 0.08])
out |= {"in_t": in_t, "in_std": in_std, "out_t": out_t, "out_std": out_std}
out["coefficients"] = phema.solve_posthoc_coefficients(in_t, in_std, out_t, out_std)

# the class that tracks averages, on a walk
net = torch.nn.Linear(5, 1, bias=False, dtype=torch.float64)
ema = phema.PowerFunctionEMA(net, stds=[0.05, 0.1])
walk = rng.normal(size=(40, 5)).cumsum(0)
for step, value in enumerate(walk, 1):
    net.weight.data = torch.tensor(value[None])
    ema.update(cur_nimg=step * 8, batch_size=8)
out |= {"walk": walk, "tracked": np.stack([e.weight.detach().numpy()[0] for e in ema.emas])}

a, b = torch.tensor(rng.normal(size=(4, 6))), torch.tensor(rng.normal(size=(4, 6)))
out |= {"a": a.numpy(), "b": b.numpy(), "mp_silu": networks_edm2.mp_silu(a).numpy()}
out["mp_sum"] = networks_edm2.mp_sum(a, b, t=0.3).numpy()
out["mp_cat"] = networks_edm2.mp_cat(a, b[:, :2], t=0.3).numpy()
layer = networks_edm2.MPConv(6, 3, []).double()
layer.weight.data *= 5
out["dense_kernel"] = layer.weight.detach().numpy().T.copy()
out["dense"] = layer(a, gain=0.7).detach().numpy()
out["dense_forced"] = layer.weight.detach().numpy().T.copy()
conv = networks_edm2.MPConv(2, 3, [3, 3]).double()
image = torch.tensor(rng.normal(size=(2, 2, 5, 5)))
out["conv_kernel"] = conv.weight.detach().numpy().transpose(2, 3, 1, 0).copy()
out |= {"image": image.numpy().transpose(0, 2, 3, 1), "conv": conv(image).detach().numpy().transpose(0, 2, 3, 1)}

commit = (
    sys.argv[2]
    if len(sys.argv) > 2
    else subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=sys.argv[1], capture_output=True, text=True, check=True
    ).stdout.strip()
)
np.savez_compressed(Path(__file__).parent / "edm2.npz", torch_version=torch.__version__, commit=commit, **out)
