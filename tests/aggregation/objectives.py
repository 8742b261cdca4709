"""The rules of several objectives, and random matrices of the types for which they promise something."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain import aggregation as a


class Rule(NamedTuple):
    """What a rule promises.

    Attributes:
      aggregate: of a stack, with its defaults or the settings named.
      degree: gradients that are all scaled by c give c^degree times the result.
      non_conflicting: its weights, as a function of the Gramian, and its regularisation ε: no inner product with gradient
        i is below -m ε w_i |g_i|². ``None`` where it promises nothing.
      strongly_stationary: zero only where a positive combination of the gradients is.
    """

    aggregate: Callable[[Any], Any]
    degree: float = 1.0
    non_conflicting: tuple[Callable[[Any], Any], float] | None = None
    strongly_stationary: bool = False


KEY = 7
RULES = {
    "upgrad": Rule(a.upgrad, non_conflicting=(a.upgrad_weights, 1e-4), strongly_stationary=True),
    "dualproj": Rule(a.dualproj, non_conflicting=(a.dualproj_weights, 1e-4), strongly_stationary=True),
    "mgda": Rule(a.mgda, non_conflicting=(a.mgda_weights, 1e-5)),
    "cagrad": Rule(lambda s, axis_name=None: a.cagrad(s, c=0.5, axis_name=axis_name)),
    "cagrad_1": Rule(
        lambda s, axis_name=None: a.cagrad(s, c=1.0, axis_name=axis_name),
        non_conflicting=(lambda g: a.cagrad_weights(g, c=1.0), 1e-5),
    ),
    "nash_mtl": Rule(a.nash_mtl, degree=0.0),
    "fairgrad": Rule(lambda s, axis_name=None: a.fairgrad(s, alpha=2.0, axis_name=axis_name), degree=-1 / 3),
    "imtl_g": Rule(a.imtl_g),
    "config": Rule(a.config),
    "aligned_mtl": Rule(a.aligned_mtl),
    "pcgrad": Rule(lambda s, axis_name=None: a.pcgrad(jax.random.key(KEY), s, axis_name=axis_name)),
}


def _complement(rng: np.random.Generator, basis: np.ndarray) -> np.ndarray:
    """Orthonormal columns orthogonal to those of ``basis``, in uniformly random directions."""
    m, k = basis.shape
    x = rng.normal(size=(m, m - k))
    return np.linalg.qr(x - basis @ (basis.T @ x))[0]


def _from_left(rng, left, n, rank):
    # singular values away from zero: else a matrix of one type lies, to rounding, among those of another
    values = 0.1 + np.abs(rng.normal(size=rank))
    right = _complement(rng, np.zeros((n, 0)))[:, :rank]
    return left[:, :rank] * values @ right.T


def _unit(v):
    return (v / np.linalg.norm(v))[:, None]


def of_rank(rng, m, n, rank):
    """Random singular vectors and ``rank`` random singular values."""
    return _from_left(rng, _complement(rng, np.zeros((m, 0))), n, rank)


def strongly_stationary(rng, m, n, rank):
    """Some v > 0 has vᵀJ = 0: the left singular vectors are orthogonal to it."""
    return _from_left(rng, _complement(rng, _unit(np.abs(rng.normal(size=m)))), n, rank)


def weakly_stationary(rng, m, n, rank):
    """Some v ≥ 0, v ≠ 0 has vᵀJ = 0, but no v > 0: a non-negative singular vector lives where v does not."""
    order, split = rng.permutation(m), rng.integers(1, m)
    v, other = np.zeros(m), np.zeros(m)
    v[order[:split]] = np.abs(rng.normal(size=split))
    other[order[split:]] = np.abs(rng.normal(size=m - split))
    both = np.concatenate([_unit(v), _unit(other)], axis=1)
    return _from_left(rng, np.concatenate([both[:, 1:], _complement(rng, both)], axis=1), n, rank)


def not_stationary(rng, m, n, rank):
    """No v ≥ 0, v ≠ 0 has vᵀJ = 0: one left singular vector is positive."""
    u = _unit(np.abs(rng.normal(size=m)))
    return _from_left(rng, np.concatenate([u, _complement(rng, u)], axis=1), n, rank)


def stacks(m: int, n: int, draws: int = 3) -> dict[str, np.ndarray]:
    """For every type several matrices ``(draws, m, n)``, over all ranks."""
    rng = np.random.default_rng(m)
    full = min(m, n)
    ranks = {
        of_rank: [1, full // 2, full],
        strongly_stationary: [1, full // 2, min(m - 1, n)],
        weakly_stationary: [1, full // 2, min(m - 1, n)],
        not_stationary: [1, full // 2, full],
    }
    found = {
        kind.__name__: np.stack([kind(rng, m, n, max(r, 1)) for r in tried for _ in range(draws)])
        for kind, tried in ranks.items()
    }
    return found | {"zero": np.zeros((1, m, n))}


SCALES = [0.0, 1e-10, 1e3, 1e5, 1e10, 1e15]
