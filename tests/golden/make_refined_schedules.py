"""Golden schedules: ``python tests/golden/make_refined_schedules.py PATH/find_schedule.py`` (needs [reference]).

The file is find_schedule.py of github.com/facebookresearch/adaptive_scheduling at commit
37a8a9ba057089a6cf4937c579cc1764cea14184. It holds the closed form and the numerical bound but no smoothing. The
smoothing is SciPy's median filter, edges as the repository's visual.py treats them: nearest on the left, two widths of
reflection on the right.
"""

import importlib.util
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import scipy
import torch
from scipy.ndimage import median_filter

spec = importlib.util.spec_from_file_location("official_schedules", sys.argv[1])
official = importlib.util.module_from_spec(spec)
spec.loader.exec_module(official)

rng = np.random.default_rng(0)
out = {}
for steps in (7, 60, 201):
    t = np.linspace(0, 1, steps)
    norms = (1 + 4 * np.exp(-8 * t) + t**4) * np.exp(0.2 * rng.normal(size=steps))
    sgd = official.find_closed_form_schedule(norms)
    adam = official.find_closed_form_schedule(norms, weights=norms**-1)
    width = 2 * (int(0.1 * steps) // 2) + 1
    padded = np.pad(norms, (0, 2 * width), mode="reflect")
    smooth = median_filter(padded, size=width, mode="nearest")[: -2 * width]
    smoothed = official.find_closed_form_schedule(smooth)
    out |= {
        f"{steps}/norms": norms,
        f"{steps}/sgd": sgd / sgd.max(),
        f"{steps}/adam": adam / adam.max(),
        f"{steps}/smooth": smooth,
        f"{steps}/smoothed": smoothed / smoothed.max(),
    }
with redirect_stdout(io.StringIO()):
    out["numerical/constant"] = official.find_schedule(torch.ones(50, dtype=torch.float64))
np.savez_compressed(
    Path(__file__).parent / "refined_schedules.npz",
    scipy_version=scipy.__version__,
    torch_version=torch.__version__,
    **out,
)
