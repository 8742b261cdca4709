"""Golden values of PyWavelets' Haar transform, scikit-image's HOG, PSNR and SSIM: ``python tests/golden/make_image_detail.py``.

Needs PyWavelets and scikit-image, and nothing else of [reference]. scikit-image's HOG votes for one bin only. ``hog_1``
and ``hog_2`` are of images whose gradients all point at centres of bins, where one vote and shared votes are the same:
squares of a coordinate, whose central differences are exact. Only cells away from the border are kept, where it is so.
"""

from importlib import metadata
from pathlib import Path

import numpy as np
import pywt
from skimage.feature import hog
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

rng = np.random.default_rng(0)
image = rng.uniform(size=(8, 6))
_, (horizontal, vertical, diagonal) = pywt.dwt2(image, "haar")
low = pywt.dwt2(image, "haar")[0]

rows, columns = np.meshgrid(np.arange(32.0), np.arange(32.0), indexing="ij")
angles = np.deg2rad(20 * np.arange(9) + 10)
aligned = np.stack([(columns * np.cos(a) + rows * np.sin(a) + 0.3) ** 2 / 100 for a in angles])
options = {"orientations": 9, "pixels_per_cell": (8, 8), "block_norm": "L2"}
blocks = {
    n: np.stack([hog(x, cells_per_block=(n, n), feature_vector=False, **options)[1:-1, 1:-1] for x in aligned])
    for n in (1, 2)
}
noise = rng.uniform(size=(2, 16, 16))
hard = np.stack([hog(x, cells_per_block=(1, 1), **options) for x in noise])

a = rng.uniform(size=(3, 14, 16))
b = np.clip(a + 0.2 * rng.normal(size=a.shape), 0, 1)
similar = [
    structural_similarity(x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
    for x, y in zip(a, b, strict=True)
]
np.savez_compressed(
    Path(__file__).parent / "image_detail.npz",
    pywavelets_version=metadata.version("PyWavelets"),
    skimage_version=metadata.version("scikit-image"),
    image=image,
    ll=low,
    lh=vertical,
    hl=horizontal,
    hh=diagonal,
    hog_1=blocks[1].reshape(9, 2, 2, 9),
    hog_2=blocks[2].reshape(9, 1, 1, 36),
    noise=noise,
    hog_hard=hard,
    a=a,
    b=b,
    ssim=similar,
    psnr=[peak_signal_noise_ratio(x, y, data_range=1.0) for x, y in zip(a, b, strict=True)],
)
