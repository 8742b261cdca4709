"""Golden steps of SGD-SaI from the authors' file: ``python tests/golden/make_sgd_sai.py PATH`` (needs [reference]).

The file is sgd_sai/sgd_sai.py of github.com/AnonymousAlethiometer/SGD_SaI at commit
e21308038ddb46b98b1cc61550bf182fd454de18. Its scalars have a ratio of 1 / eps; a second vector stands in for them here.
Besides, the script prints how far pytorch_optimizer's SGDSaI is away.
"""

import sys
from functools import partial

import pytorch_optimizer
import torch_runs

official = torch_runs.module(sys.argv[1]).SGD_sai
first, grads = torch_runs.problem(extra={"pair": (2,), "kernel": (2, 2, 1, 3)})
del first["scalar"], grads["scalar"]
rates = (1e-2, 1e-3)
cases = {
    "plain": torch_runs.iterates(partial(official, weight_decay=0.0), first, grads, rates),
    "options": torch_runs.iterates(partial(official, momentum=0.6, eps=0.1, weight_decay=0.3), first, grads, rates),
}
peer = partial(pytorch_optimizer.SGDSaI, momentum=0.9, weight_decay=0.0)
print("pytorch_optimizer:", torch_runs.worst(torch_runs.iterates(peer, first, grads, rates), cases["plain"]))
torch_runs.save("sgd_sai", first, grads, cases, commit="e21308038ddb46b98b1cc61550bf182fd454de18")
