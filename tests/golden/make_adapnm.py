"""Golden steps of AdaPNM from the authors' file: ``python tests/golden/make_adapnm.py PATH/adapnm.py`` (needs [reference]).

The file is pnm_optim/adapnm.py of github.com/zeke-xie/Positive-Negative-Momentum at commit
9ffd201fd2ae3c8fb5fb9766fcf6bcf2c07617df; of its import ``required``, which PyTorch no longer has and the file does not use,
is taken out. The script prints at how many entries and steps the maximum of the second moments is not the last of them.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch_runs

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "adapnm.py"
    file.write_text(Path(sys.argv[1]).read_text().replace("import Optimizer, required", "import Optimizer"))
    official = torch_runs.module(file).AdaPNM

first, grads = torch_runs.problem()
options = {"betas": (0.8, 0.9, 0.5), "eps": 0.01, "weight_decay": 0.1}
cases = {
    "default": torch_runs.iterates(official, first, grads),
    "options": torch_runs.iterates(partial(official, **options), first, grads),
    "without_max": torch_runs.iterates(partial(official, amsgrad=False, **options), first, grads),
}
for name, g in grads.items():
    v, most, older = np.zeros(g.shape[1:]), np.zeros(g.shape[1:]), 0
    for x in g:
        v = 0.9 * v + 0.1 * x**2
        most = np.maximum(most, v)
        older += np.sum(most > v)
    print(name, older, "of", g.size)
torch_runs.save("adapnm", first, grads, cases, commit="9ffd201fd2ae3c8fb5fb9766fcf6bcf2c07617df")
