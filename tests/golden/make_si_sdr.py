"""Golden SI-SDR of torchmetrics: ``python tests/golden/make_si_sdr.py`` (needs torch and torchmetrics)."""

from pathlib import Path

import numpy as np
import torch
import torchmetrics
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

rng = np.random.default_rng(0)
ref = rng.normal(size=(6, 60))
# nearly right, too loud, of the wrong sign, mostly noise, with an offset, unrelated
noise = rng.normal(size=ref.shape)
scale, amount = np.array([1, 5, -2, 0.3, 1, 0.0])[:, None], np.array([0.01, 0.5, 0.3, 3, 0, 1])[:, None]
est = scale * ref + amount * noise + np.array([0, 0, 0, 0, 0.7, 0])[:, None]
wanted = scale_invariant_signal_distortion_ratio(torch.tensor(est), torch.tensor(ref), zero_mean=False).numpy()
np.savez_compressed(
    Path(__file__).parent / "si_sdr.npz",
    torchmetrics_version=torchmetrics.__version__,
    ref=ref,
    est=est,
    si_sdr=wanted,
)
