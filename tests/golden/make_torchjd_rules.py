"""Golden values of torchjd's rules other than UPGrad: ``python tests/golden/make_torchjd_rules.py``.

Needs [reference], and cvxpy, clarabel and ecos for CAGrad and Nash-MTL. What torch draws is kept beside what came of it.
"""

import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torchjd.aggregation import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    GradDrop,
    GradVac,
    NashMTL,
    PCGrad,
)

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
jacobians = {
    "documentation": np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]),
    "gaussian_5x20": rng.normal(size=(5, 20)),
    "conflicting_8x12": rng.normal(size=(8, 12)) - 0.6,
    "rank_deficient_6x10": rng.normal(size=(6, 3)) @ rng.normal(size=(3, 10)),
    "lengths_6x30": rng.normal(size=(6, 30)) * np.array([0.3, 1.0, 3.0, 0.5, 2.0, 1.0])[:, None],
}
rules = {
    "mgda": lambda m: MGDA(epsilon=1e-9, max_iters=20_000),
    "mgda_as_shipped": lambda m: MGDA(),
    "dualproj": lambda m: DualProj(),
    "cagrad_0.5": lambda m: CAGrad(c=0.5),
    "cagrad_2": lambda m: CAGrad(c=2.0),
    "nash_mtl": lambda m: NashMTL(n_tasks=m, max_norm=1.0, optim_niter=100),
    "fairgrad_1": lambda m: FairGrad(alpha=1.0),
    "fairgrad_2": lambda m: FairGrad(alpha=2.0),
    "imtl_g": lambda m: IMTLG(),
    "config": lambda m: ConFIG(),
    "aligned_mtl_min": lambda m: AlignedMTL(),
    "aligned_mtl_median": lambda m: AlignedMTL(scale_mode="median"),
    "aligned_mtl_rmse": lambda m: AlignedMTL(scale_mode="rmse"),
}
out = {"versions": np.array([version("torchjd"), torch.__version__, version("cvxpy"), version("clarabel")])}
for name, jacobian in jacobians.items():
    m, n = jacobian.shape
    matrix = torch.tensor(jacobian)
    out[f"jacobian_{name}"] = jacobian
    for rule, make in rules.items():
        out[f"{rule}_{name}"] = make(m)(matrix).numpy()

    torch.manual_seed(1)
    out[f"pcgrad_{name}"] = PCGrad()(matrix).numpy()
    torch.manual_seed(1)
    out[f"pcgrad_orders_{name}"] = np.stack([torch.randperm(m).numpy() for _ in range(m)])

    vaccine, steps, orders = GradVac(beta=0.5), [], []
    for t in range(3):
        torch.manual_seed(t)
        steps.append(vaccine(matrix * (1 + t) - t).numpy())
        torch.manual_seed(t)
        rows = []
        for i in range(m):
            others = [j for j in range(m) if j != i]
            rows.append([*(others[k] for k in torch.randperm(m - 1).tolist()), i])
        orders.append(rows)
    out[f"gradvac_{name}"], out[f"gradvac_orders_{name}"] = np.stack(steps), np.array(orders)

    leak = np.linspace(0.0, 0.5, m)
    for kind, rule in {"graddrop": GradDrop(), "graddrop_leak": GradDrop(leak=torch.tensor(leak))}.items():
        torch.manual_seed(3)
        out[f"{kind}_{name}"] = rule(matrix).numpy()
    torch.manual_seed(3)
    out[f"graddrop_uniform_{name}"] = torch.rand(n, dtype=torch.float64).numpy()

# where torchjd fails: values that a test shows to be wrong
wide = jacobians["gaussian_5x20"] * np.array([1e-2, 0.1, 1.0, 10.0, 1.0])[:, None]
out["jacobian_wide"] = wide
out["nash_mtl_wide"] = NashMTL(n_tasks=5, max_norm=1.0)(torch.tensor(wide)).numpy()
out["imtl_g_large"] = IMTLG()(torch.tensor(1e13 * jacobians["gaussian_5x20"])).numpy()
out["dualproj_small"] = DualProj()(torch.tensor(1e-3 * jacobians["documentation"])).numpy()
out["cagrad_small"] = CAGrad(c=0.5)(torch.tensor(1e-3 * jacobians["documentation"])).numpy()
opposed = np.array([[10.0, 0.0], [-10.0, 0.0], [0.0, 1.0]])
out["jacobian_opposed"] = opposed
out["cagrad_opposed"] = CAGrad(c=0.5)(torch.tensor(opposed)).numpy()
np.savez_compressed(Path(__file__).parent / "torchjd_rules.npz", **out)
