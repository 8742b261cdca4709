"""Golden fits of CoLiDE: ``python tests/golden/make_colide.py PATH/model.py``.

Needs numpy, scipy and tqdm. The file is that of github.com/SAMiatto/colide at f3697593c4a8. Its classes are run as they stand, float64,
on made-up data; every fit gets a list of its own for ``s``, because the release adds to the one that it is given (and to its default).
"""

import sys
from pathlib import Path

import numpy as np

space = {}
exec(compile(Path(sys.argv[1]).read_text(), sys.argv[1], "exec"), space)

NODES, EXAMPLES = 5, 120
rng = np.random.default_rng(0)
truth = np.triu(rng.choice([0.0, -1.5, 0.8, 2.0], (NODES, NODES)), 1)
order = rng.permutation(NODES)
truth = truth[order][:, order]
noise = rng.normal(size=(EXAMPLES, NODES)) * np.sqrt([0.5, 4.0, 1.0, 2.0, 0.7])
x = noise @ np.linalg.inv(np.eye(NODES) - truth) + 3.0

SHORT = {"T": 3, "warm_iter": 300, "max_iter": 500, "checkpoint": 100}
CASES = {
    "calm": {"lr": 0.01, "s": [1.0, 0.9, 0.8]},
    # steps out of the domain: halved where s > 0.9, the stage anew elsewhere
    "wild": {"lr": 0.5, "s": [1.0, 1.0, 0.7]},
    # the same at 0.9 itself, which still begins anew
    "border": {"lr": 0.5, "s": [0.9, 0.9, 0.9]},
    # the first stage starts anew too, and stages end early
    "narrow": {"lr": 0.2, "s": [0.3, 0.2], "checkpoint": 10},
}
out = {"x": x, "truth": truth, "numpy_version": np.__version__}
for variances in ("ev", "nv"):
    for name, options in CASES.items():
        fit = space[f"colide_{variances}"]()
        starts, minimize = [], fit.minimize
        fit.minimize = lambda *a, minimize=minimize, starts=starts, **k: starts.append(a[4]) or minimize(*a, **k)
        w, sigma = fit.fit(x.copy(), 0.05, **(SHORT | options | {"s": list(options["s"])}))
        out |= {f"{variances}_{name}_w": w, f"{variances}_{name}_sigma": sigma, f"{variances}_{name}_starts": starts}
        print(variances, name, np.round(starts, 2), np.round(w, 2).tolist(), sigma)
np.savez_compressed(Path(__file__).parent / "colide.npz", **out)
