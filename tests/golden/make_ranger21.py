"""Golden steps of Ranger21 from the authors' file: ``python tests/golden/make_ranger21.py PATH/ranger21.py`` (needs [reference]).

The file is ranger21/ranger21.py of github.com/lessw2020/Ranger21 at commit 1a96777278cdd14bc11afd865112724386d26a44; its
import of matplotlib, which only draws, is taken out. So is the second normalisation of what becomes the momentum, after
which gradients differ in the eighth digit from those that became the second moment. It applies weight decay and norm loss to the last array alone,
therefore every array here is a problem of its own. Layouts are PyTorch's. Besides, the script prints how far
pytorch_optimizer's Ranger21 is away.
"""

import contextlib
import io
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytorch_optimizer
import torch_runs

text = Path(sys.argv[1]).read_text().replace("import matplotlib.pyplot as plt", "")
before, second, after = text.partition(
    "grad = normalize_gradient(grad)\n\n                    if not self.use_adabelief"
)
assert second
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "ranger21.py"
    file.write_text(before + second.replace("normalize_gradient(grad)", "grad") + after)
    official = torch_runs.module(file).Ranger21

first, grads = torch_runs.problem(extra={"kernel": (3, 2, 2, 2)})
make = partial(official, num_epochs=1, num_batches_per_epoch=torch_runs.STEPS)
plain = {"lookahead_active": False, "using_normgc": False, "softplus": False, "use_adaptive_gradient_clipping": False}
peer = partial(
    pytorch_optimizer.Ranger21,
    num_iterations=torch_runs.STEPS,
    weight_decay=1e-4,
    norm_loss_factor=1e-4,
    beta0=1 - 1e-12,
)
cases = {"whole": {}, "plain": {}}
for leaf in ("matrix", "kernel", "vector"):
    one, steps = {leaf: first[leaf]}, {leaf: grads[leaf]}
    with contextlib.redirect_stdout(io.StringIO()):
        cases["whole"] |= torch_runs.iterates(make, one, steps, (0.03, 0.03))
        cases["plain"] |= torch_runs.iterates(partial(make, **plain), one, steps, (0.03, 0.03))
    found = torch_runs.iterates(peer, one, steps, (0.03, 0.03))
    print("pytorch_optimizer,", leaf, torch_runs.worst(found, {leaf: cases["whole"][leaf]}))
first, grads = ({n: x for n, x in tree.items() if n != "scalar"} for tree in (first, grads))
torch_runs.save("ranger21", first, grads, cases, commit="1a96777278cdd14bc11afd865112724386d26a44")
