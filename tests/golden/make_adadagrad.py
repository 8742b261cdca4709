"""Golden batch sizes of the tests of AdAdaGrad: ``python tests/golden/make_adadagrad.py PATH/tests.py`` (needs [reference]).

The file is tests.py of github.com/timlautk/AdAdaGrad at commit cc126fba4b57c8ea1ffcd5ff5d30dc8891bf9f17.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch

litgpt = types.ModuleType("litgpt.utils")  # imported there, not needed here
litgpt.chunked_cross_entropy = None
sys.modules |= {"litgpt": types.ModuleType("litgpt"), "litgpt.utils": litgpt}
spec = importlib.util.spec_from_file_location("official_tests", sys.argv[1])
official = importlib.util.module_from_spec(spec)
spec.loader.exec_module(official)

rng = np.random.default_rng(0)
out = {}
for i in range(12):
    b = int(rng.integers(3, 20))
    signal = np.exp(rng.normal())
    stack = {
        "w": signal * rng.normal(size=(3, 4)) + rng.normal(size=(b, 3, 4)),
        "b": 0.3 * rng.normal(size=5) + np.exp(rng.normal()) * rng.normal(size=(b, 5)),
    }
    both = {name: torch.tensor(x) for name, x in stack.items()}
    one = {"w": both["w"]}
    out |= {f"{i}/w": stack["w"], f"{i}/b": stack["b"]}
    out[f"{i}/norm"] = official.norm_test(both, 0.3)
    out[f"{i}/inner"] = official.inner_product_test(one, 0.2)
    out[f"{i}/orthogonal"] = official.orthogonality_test(one, 0.3)
    out[f"{i}/inner_of_layers"] = official.inner_product_test(both, 0.2)
np.savez_compressed(Path(__file__).parent / "adadagrad.npz", torch_version=torch.__version__, **out)
