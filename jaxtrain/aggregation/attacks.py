"""Attacks that a robust aggregator is tried with: what Byzantine workers send, or train on."""

from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.core.tree import check_stack


def alie_attack(good_updates: Any, *, num_byzantine: int, z: Number | None = None) -> Any:
    r"""A little is enough: what hides within the spread of the good workers.

    .. math:: \bar g - z\,\sigma, \qquad z = \Phi^{-1}\Big(\frac{n - m - s}{n - m}\Big), \quad
        s = \lfloor n/2 + 1 \rfloor - m

    with the coordinates' means and unbiased standard deviations, n workers, of whom m are Byzantine.

    Args:
      good_updates: pytree, every leaf ``(n - m, ...)``, n - m ≥ 2.
      num_byzantine: m ≥ 1.
      z: how many standard deviations; default as above. May be traced.

    Returns:
      The tree without the leading axis: every Byzantine worker sends the same.

    Raises:
      ValueError: fewer than two good workers, or so many Byzantine ones (a majority) that the default has no value.

    Source: Baruch, Baruch & Goldberg 2019, "A Little Is Enough: Circumventing Defenses For Distributed Learning",
    arXiv 1902.06156.

    >>> alie_attack(jnp.array([[1.0], [3.0]]), num_byzantine=1, z=0.0).tolist()
    [2.0]
    """
    good = check_stack(good_updates, where="alie_attack")
    if good < 2 or num_byzantine < 1:
        raise ValueError(f"alie_attack needs 2 good workers and 1 Byzantine one, got {good} and {num_byzantine}")
    if z is None:
        supporters = (good + num_byzantine) // 2 + 1 - num_byzantine
        if not 0 < good - supporters < good:
            raise ValueError(
                f"alie_attack: no z for {num_byzantine} Byzantine among {good + num_byzantine} workers; give z"
            )
        z = NormalDist().inv_cdf((good - supporters) / good)
    return jax.tree.map(lambda g: (jnp.mean(g, axis=0) - z * jnp.std(g, axis=0, ddof=1)).astype(g.dtype), good_updates)


def ipm_attack(good_updates: Any, *, epsilon: Number = 0.1) -> Any:
    r"""Inner product manipulation: :math:`-\epsilon\,\bar g`, which turns the inner product with the mean negative.

    Args:
      good_updates: pytree, every leaf ``(n, ...)``.
      epsilon: > 0; may be traced.

    Returns:
      The tree without the leading axis.

    Source: Xie, Koyejo & Gupta 2019, "Fall of Empires", arXiv 1903.03936.

    >>> ipm_attack(jnp.array([[1.0], [3.0]]), epsilon=0.5).tolist()
    [-1.0]
    """
    check_stack(good_updates, where="ipm_attack")
    return jax.tree.map(lambda g: (-epsilon * jnp.mean(g, axis=0)).astype(g.dtype), good_updates)


def mimic_attack(good_updates: Any, *, target: Number = 0) -> Any:
    """Every Byzantine worker sends what one good worker sends, round after round: that worker's data counts for more.

    It can be told from nothing, and hurts where the workers' data differ and a rule trusts agreement.

    Args:
      good_updates: pytree, every leaf ``(n, ...)``.
      target: number of the good worker, from 0 to n − 1; may be traced.

    Returns:
      The tree without the leading axis.

    Raises:
      ValueError: there is no such worker.

    Source: Karimireddy, He & Jaggi 2022, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
    arXiv 2006.09365.

    >>> mimic_attack(jnp.array([[1.0], [3.0]]), target=1).tolist()
    [3.0]
    """
    good = check_stack(good_updates, where="mimic_attack")
    check_finite_number("target", target, low=0, high=good - 1)
    return jax.tree.map(lambda g: g[target], good_updates)


def gaussian_attack(key: Key, good_updates: Any, *, num_byzantine: int, mu: Number = 0.0, sigma: Number = 1.0) -> Any:
    r"""Noise: every Byzantine worker sends its own draw of :math:`\mathcal N(\mu, \sigma^2 I)`.

    Args:
      key: decides the draws.
      good_updates: pytree, every leaf ``(n, ...)``; only shapes and dtypes matter.
      num_byzantine: number of draws, ≥ 1.
      mu: mean; may be traced.
      sigma: standard deviation, ≥ 0; may be traced.

    Returns:
      A stack, every leaf ``(num_byzantine, ...)``.

    Raises:
      ValueError: ``num_byzantine`` below 1, a negative or infinite number.

    >>> gaussian_attack(jax.random.key(0), jnp.zeros((3, 2)), num_byzantine=4, mu=2.0, sigma=0.0).tolist()[0]
    [2.0, 2.0]
    """
    check_key(key, where="gaussian_attack")
    check_stack(good_updates, where="gaussian_attack")
    check_finite_number("mu", mu)
    check_finite_number("sigma", sigma, low=0.0)
    if num_byzantine < 1:
        raise ValueError(f"gaussian_attack: num_byzantine must be at least 1, got {num_byzantine}")
    leaves, structure = jax.tree.flatten(good_updates)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        (mu + sigma * jax.random.normal(k, (num_byzantine, *x.shape[1:]), x.dtype)).astype(x.dtype)
        for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def bit_flip_attack(update: Any) -> Any:
    """The sign bit flipped: a worker sends the negative of its own update.

    >>> bit_flip_attack(jnp.array([1.0, -2.0])).tolist()
    [-1.0, 2.0]
    """
    return jax.tree.map(jnp.negative, update)


def label_flip(labels: Int[Array, "..."], *, num_classes: int) -> Int[Array, "..."]:
    """The labels a poisoned worker trains on: ``num_classes - 1 - label``.

    >>> label_flip(jnp.array([0, 1, 9]), num_classes=10).tolist()
    [9, 8, 0]
    """
    return num_classes - 1 - labels
