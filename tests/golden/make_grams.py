"""Golden steps of Grams from the authors' file: ``python tests/golden/make_grams.py PATH/grams.py`` (needs [reference]).

The file is grams/src/grams.py of github.com/Gunale0926/Grams at commit f91a375daaa85c5a4644e3f064ca6693c59f6cdb. Besides,
it prints how far pytorch_optimizer's Grams is away.
"""

import sys
from functools import partial

import pytorch_optimizer
import torch_runs

official = torch_runs.module(sys.argv[1]).Grams
first, grads = torch_runs.problem()
cases = {
    "plain": torch_runs.iterates(official, first, grads),
    "options": torch_runs.iterates(partial(official, betas=(0.8, 0.95), eps=1e-2, weight_decay=0.1), first, grads),
}
peer = partial(pytorch_optimizer.Grams, betas=(0.9, 0.999), eps=1e-6)
print("pytorch_optimizer:", torch_runs.worst(torch_runs.iterates(peer, first, grads), cases["plain"]))
torch_runs.save("grams", first, grads, cases, commit="f91a375daaa85c5a4644e3f064ca6693c59f6cdb")
