"""Golden losses and gradients of Break-A-Scene by PyTorch: ``python tests/golden/make_break_a_scene.py`` (needs [reference]).

The loss of train.py in github.com/google/break-a-scene (commit b142cf2451c5ff2a98ff06b4e56316c49c288d7a) for one image at
a time, as the release trains; PyTorch brings the masks to both resolutions and differentiates, through the maximum too.
Masks of 20 pixels for 8 and 6 are no whole multiples.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
LAMBDA = 0.3
rng = np.random.default_rng(0)
images, concepts = 4, 3
noise = rng.normal(size=(2, images, 8, 8, 2))
attention = rng.gamma(1.0, 0.1, size=(images, concepts, 6, 6))
masks = (rng.random((images, concepts, 20, 20)) < 0.3).astype(np.float64)
named = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1]], bool)

out = {"pred": noise[0], "target": noise[1], "attention": attention, "masks": masks, "named": named, "lambda": LAMBDA}
losses, to_pred, to_attention = [], [], []
for i in range(images):
    pred = torch.tensor(noise[0, i]).permute(2, 0, 1)[None].requires_grad_()
    target = torch.tensor(noise[1, i]).permute(2, 0, 1)[None]
    maps = torch.tensor(attention[i]).requires_grad_()
    chosen = np.flatnonzero(named[i])
    own = torch.tensor(masks[i, chosen])[:, None]
    union = F.interpolate(own.max(dim=0).values[None], size=(8, 8))
    loss = F.mse_loss(pred * union, target * union)
    small = F.interpolate(own, size=(6, 6))
    for k, concept in enumerate(chosen):
        loss = loss + LAMBDA * F.mse_loss(maps[concept] / maps[concept].max(), small[k, 0])
    loss.backward()
    losses.append(loss.item())
    to_pred.append(pred.grad[0].permute(1, 2, 0).numpy())
    to_attention.append(maps.grad.numpy())
out |= {"loss": np.array(losses), "to_pred": np.stack(to_pred), "to_attention": np.stack(to_attention)}
np.savez_compressed(Path(__file__).with_name("break_a_scene.npz"), torch=torch.__version__, **out)
