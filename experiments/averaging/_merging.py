"""What the claims on merging share: a pretrained network, fine-tuning from it, shifted test images.

The pretrained model is an MLP on MNIST at 8 × 8 pixels; it is fine-tuned on scikit-learn's digits, which other people
wrote and another process scanned.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import supervised as s
from experiments.data import mnist_5k

SIZES = (64, 64, 64, 10)
TRAIN, BATCH, EPOCHS, BEFORE = 500, 32, 10, 5
RATE = 1e-2
TUNED = (
    "the learning rate of fine-tuning, 0.01, is the best of 0.0003, 0.001, 0.003 and 0.01 by the mean validation error of "
    "single runs of 3 other seeds on a quarter of the training images held out (the largest that was tried); all arms use "
    "the same fine-tuned models"
)
GROUND = (
    "MLP 64-64-64-10 pretrained on 5,000 MNIST digits at 8 × 8 pixels (Adam, 5 epochs), fine-tuned on 500 of "
    "scikit-learn's digits (10 epochs of batches of 32)"
)


@functools.cache
def mnist_8x8() -> s.Data:
    """The 5,000 MNIST digits, the middle 24 × 24 pixels in means of 3 × 3, in [-1, 1]; none is held out."""
    x, y = mnist_5k()
    x = x.reshape(-1, 28, 28)[:, 2:26, 2:26].reshape(-1, 8, 3, 8, 3).mean(axis=(2, 4)).reshape(-1, 64)
    x = (2 * x - 1).astype(np.float32)
    return s.Data(x, y, x, y)


def pretrain(key: jax.Array, *, epochs: int) -> list[dict[str, jax.Array]]:
    """A network trained on MNIST by Adam with cosine decay."""
    data = mnist_8x8()
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, epochs * (len(data.x) // 100)))
    init = functools.partial(s.mlp, sizes=SIZES)
    return s.train(key, tx, data, init=init, epochs=epochs, batch_size=100)[0].params


def finetune(key, start, tx, x, y, *, epochs, loss=s.cross_entropy):
    """The final training state of a run from ``start``."""
    data = s.Data(x, y, x, y)
    return s.train(key, tx, data, init=lambda _: start, epochs=epochs, batch_size=BATCH, loss=loss)[0]


def adam(epochs: int, rate=RATE) -> optax.GradientTransformation:
    """What models are fine-tuned by: Adam with cosine decay over the run."""
    return optax.adam(optax.cosine_decay_schedule(rate, epochs * (TRAIN // BATCH)))


def tuned_rate() -> float:
    """How ``RATE`` was found."""

    def validation_error(key, rate):
        data = s.digits(TRAIN, validation=True)
        start, run = jax.random.split(key)
        state = finetune(run, pretrain(start, epochs=BEFORE), adam(EPOCHS, rate), data.x, data.y, epochs=EPOCHS)
        return 1 - s.accuracy(state.params, data.held_x, data.held_y)

    return float(s.best(validation_error, (3e-4, 1e-3, 3e-3, 1e-2)))


def rotated(x: np.ndarray, degrees: float) -> np.ndarray:
    """Images turned about their centre; what comes in from outside is background."""
    from scipy.ndimage import rotate

    images = np.asarray(x).reshape(-1, 8, 8)
    turned = rotate(images, degrees, axes=(1, 2), reshape=False, order=1, cval=-1.0)
    return turned.reshape(-1, 64).astype(np.float32)


def noisy(x: np.ndarray, std: float) -> np.ndarray:
    """The same images with the same Gaussian noise in every call."""
    noise = np.random.default_rng(0).normal(size=np.shape(x))
    return (np.asarray(x) + std * noise).astype(np.float32)


def shifts(x: np.ndarray) -> np.ndarray:
    """Three shifted test sets, ``(3, n, 64)``: turned by 20° either way, and noise of 0.7 on pixels in [-1, 1]."""
    return np.stack([rotated(x, 20.0), rotated(x, -20.0), noisy(x, 0.7)])


def shifted_accuracy(params, data: s.Data) -> jax.Array:
    """The mean accuracy on the shifted test images."""
    return jnp.mean(jax.vmap(lambda x: s.accuracy(params, x, data.held_y))(jnp.asarray(shifts(data.held_x))))


def at(stacked, i):
    """One member of a stack."""
    return jax.tree.map(lambda x: x[i], stacked)


def once(fn):
    """All arms of a claim come from one computation: ``fn(keys, smoke)``, kept for the same number of seeds."""
    kept = {}

    @functools.wraps(fn)
    def call(keys, smoke):
        if (len(keys), smoke) not in kept:
            kept[len(keys), smoke] = jax.block_until_ready(fn(keys, smoke))
        return kept[len(keys), smoke]

    return call
