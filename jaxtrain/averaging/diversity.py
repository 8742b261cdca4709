"""Why averages of models work: the parts of an ensemble's error, and how differently two models err."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.averaging._models import check_models, wide
from jaxtrain.core import Number, Params, Scalar, check_finite_number


class Decomposition(NamedTuple):
    """The parts of the squared error of an average of weights, see :func:`bvcl_decomposition`."""

    bias: Scalar
    variance: Scalar
    covariance: Scalar
    locality: Scalar


def bvcl_decomposition(
    member_preds: Float[Array, "..."], targets: Float[Array, "..."], wa_preds: Float[Array, "..."]
) -> Decomposition:
    r"""The squared error of weight averaging, split into squared bias, variance, covariance and locality.

    .. math:: \operatorname{E}(f_\text{WA} - y)^2 =
        \underbrace{(\bar f - y)^2}_\text{bias}
        + \frac1M \operatorname{var} + \frac{M-1}{M} \operatorname{cov} + \text{locality}

    Expectations are over ``repeats``: repeated draws of M members (new training sets, initialisations, orders). Within
    a repeat the members share what is common to them, hence the covariance between them; with
    :math:`\bar f` the mean over all, the first three add up to the error of the ensemble of outputs exactly. Locality
    is what the average of weights differs by: :math:`O(\Delta^2)` in :func:`squared_locality`, zero for models linear
    in their parameters. Diversity lowers the covariance.

    Args:
      member_preds: ``(repeats, member, examples, …)`` predictions of every member, at least 2 repeats of at least 2.
      targets: ``(examples, …)``, what they should be.
      wa_preds: ``(repeats, examples, …)`` predictions of the averaged weights.

    Returns:
      Four scalars: means over examples and outputs. Plug-in estimates: they are exact for the given draws; as
      estimates of expectations they are off by terms of one over the number of repeats.

    Raises:
      ValueError: shapes that disagree, fewer than 2 repeats or members.

    Source: Ramé et al. 2022, "Diverse Weight Averaging for Out-of-Distribution Generalization", arXiv 2205.09739,
    equations 3 to 5; bias, variance and covariance of ensembles: Ueda & Nakano 1996.

    >>> preds = jnp.array([[[0.0], [2.0]], [[1.0], [1.0]]])  # two repeats of two members
    >>> parts = bvcl_decomposition(preds, jnp.array([0.0]), preds.mean(axis=1))
    >>> [float(x) for x in parts]  # 1 + 0.5 / 2 - 0.5 / 2 + 0
    [1.0, 0.5, -0.5, 0.0]
    """
    shape = jnp.shape(member_preds)
    if len(shape) < 2 or shape[0] < 2 or shape[1] < 2:
        raise ValueError(
            f"bvcl_decomposition needs at least 2 repeats of at least 2 members, got predictions of shape {shape}: one "
            "repeat says nothing about a covariance"
        )
    if jnp.shape(targets) != shape[2:] or jnp.shape(wa_preds) != (shape[0], *shape[2:]):
        raise ValueError(
            f"bvcl_decomposition: for member_preds of shape {shape} targets needs {shape[2:]}, got "
            f"{jnp.shape(targets)}, and wa_preds {(shape[0], *shape[2:])}, got {jnp.shape(wa_preds)}"
        )
    dtype = jnp.result_type(member_preds, targets, wa_preds)
    preds, targets, averaged = (wide(jnp.asarray(x, dtype)) for x in (member_preds, targets, wa_preds))
    members = shape[1]
    centred = preds - jnp.mean(preds, axis=(0, 1))
    ensemble = jnp.mean(preds, axis=1)
    variance = jnp.mean(jnp.square(centred))
    # pairs of different members: all pairs without those of a member with itself
    all_pairs = jnp.mean(jnp.square(jnp.mean(centred, axis=1)))
    covariance = (members * all_pairs - variance) / (members - 1)
    bias = jnp.mean(jnp.square(jnp.mean(preds, axis=(0, 1)) - targets))
    # a difference of squares as a product: it stays exact where the two agree
    locality = jnp.mean((averaged - ensemble) * (averaged + ensemble - 2 * targets))
    return Decomposition(*(x.astype(dtype) for x in (bias, variance, covariance, locality)))


def squared_locality(stacked: Params) -> Scalar:
    r"""The largest squared distance of a model to the mean of all, :math:`\max_m \|\theta_m - \bar\theta\|^2`.

    Args:
      stacked: tree with leaves ``(member, ...)``.

    Returns:
      A scalar, in single precision at least.

    Raises:
      ValueError: leading axes that disagree or are empty.

    Source: Ramé et al. 2022, arXiv 2205.09739, lemma 1.

    >>> float(squared_locality(jnp.array([[0.0, 0.0], [2.0, 0.0]])))
    1.0
    """
    check_models(stacked, where="squared_locality")

    def distances(x: Array) -> Array:
        centred = wide(x) - jnp.mean(wide(x), axis=0)
        return jnp.sum(jnp.square(centred), axis=tuple(range(1, x.ndim)))

    return jnp.max(sum(distances(x) for x in jax.tree.leaves(stacked)))


def _counts(preds_a: Array, preds_b: Array, labels: Array, *, where: str) -> tuple[Array, ...]:
    """How often both are right, only the first, only the second, none."""
    if not jnp.shape(preds_a) == jnp.shape(preds_b) == jnp.shape(labels) or jnp.ndim(labels) != 1:
        raise ValueError(
            f"{where} needs predicted classes and labels of one shape (n,), got {jnp.shape(preds_a)}, "
            f"{jnp.shape(preds_b)} and {jnp.shape(labels)}"
        )
    if not jnp.shape(labels)[0]:
        raise ValueError(f"{where}: there are no examples")
    a, b = preds_a == labels, preds_b == labels
    return tuple(jnp.sum(x).astype(jnp.result_type(float)) for x in (a & b, a & ~b, ~a & b, ~a & ~b))


def diversity_ratio_error(preds_a: Int[Array, " a"], preds_b: Int[Array, " b"], labels: Int[Array, " n"]) -> Scalar:
    r"""How often exactly one of two models errs, for each time that both do: :math:`(N_{10} + N_{01}) / N_{00}`.

    Higher is more diverse. Infinite where they never err together; 0 where neither ever errs.

    Args:
      preds_a: ``(n,)`` classes that one model predicts.
      preds_b: those of the other.
      labels: the right ones.

    Returns:
      A scalar ≥ 0.

    Raises:
      ValueError: shapes that disagree, no example.

    Source: Aksela 2003; as used by Ramé et al. 2022, arXiv 2205.09739.

    >>> float(diversity_ratio_error(jnp.array([1, 0, 2, 2]), jnp.array([0, 1, 1, 1]), jnp.zeros(4, int)))  # 2 / 2
    1.0
    """
    _, first, second, none = _counts(preds_a, preds_b, labels, where="diversity_ratio_error")
    single = first + second
    return jnp.where(none > 0, single / jnp.where(none > 0, none, 1), jnp.where(single > 0, jnp.inf, 0.0))


def q_diversity(preds_a: Int[Array, " a"], preds_b: Int[Array, " b"], labels: Int[Array, " n"]) -> Scalar:
    r"""One minus Yule's Q statistic of the errors of two models.

    .. math:: 1 - \frac{N_{11} N_{00} - N_{10} N_{01}}{N_{11} N_{00} + N_{10} N_{01}}

    0: they err on the same examples; 1: independently; 2: on different ones. 1 where the quotient is 0/0.

    Args:
      preds_a: ``(n,)`` classes that one model predicts.
      preds_b: those of the other.
      labels: the right ones.

    Returns:
      A scalar in [0, 2].

    Raises:
      ValueError: shapes that disagree, no example.

    Source: Kuncheva & Whitaker 2003, "Measures of Diversity in Classifier Ensembles"; Ramé et al. 2022,
    arXiv 2205.09739.

    >>> preds = jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1])
    >>> float(q_diversity(*preds, jnp.zeros(4, int)))
    1.0
    """
    both, first, second, none = _counts(preds_a, preds_b, labels, where="q_diversity")
    n = both + first + second + none
    # products of shares: counts of a large set would overflow what single precision holds exactly
    same, other = (both / n) * (none / n), (first / n) * (second / n)
    return 1 - jnp.where(same + other > 0, (same - other) / jnp.where(same + other > 0, same + other, 1), 0.0)


def false_false_true_rate(
    preds_a: Int[Array, " a"], preds_b: Int[Array, " b"], preds_ensemble: Int[Array, " e"], labels: Int[Array, " n"]
) -> Scalar:
    """The share of examples on which both models are wrong and their ensemble is right.

    Args:
      preds_a: ``(n,)`` classes that one model predicts.
      preds_b: those of the other.
      preds_ensemble: those of their ensemble, of outputs or of weights.
      labels: the right ones.

    Returns:
      A scalar in [0, 1].

    Raises:
      ValueError: shapes that disagree, no example.

    Source: Lin et al. 2023, "Spurious Feature Diversification Improves Out-of-distribution Generalization",
    arXiv 2309.17230.

    >>> labels = jnp.zeros(4, int)
    >>> float(false_false_true_rate(jnp.array([1, 0, 1, 1]), jnp.array([2, 1, 2, 1]), jnp.array([0, 0, 2, 1]), labels))
    0.25
    """
    _counts(preds_a, preds_b, labels, where="false_false_true_rate")
    _counts(preds_ensemble, preds_b, labels, where="false_false_true_rate")
    found = (preds_a != labels) & (preds_b != labels) & (preds_ensemble == labels)
    return jnp.mean(found.astype(jnp.result_type(float)))


def ensemble_ood_accuracy(num_invariant: int, num_spurious: int, num_classes: int, p: Number) -> Float[Array, "..."]:
    r"""The accuracy, out of distribution, of a classifier that counts the votes of its features.

    Invariant features always vote for the right one of K classes; every spurious one, independently, with
    probability p for a class drawn evenly from all K (the right one among them), else for the right one. The class with
    the most votes wins, ties are broken evenly. An ensemble of two models without common features is one model with the
    features of both: with K = 3 a model with 2 and 3 has accuracy :math:`1 - 5p^3/27`, two of them
    :math:`1 - 2p^5/81 - 17p^6/729`. So spurious features help where they are diverse.

    Exact: a sum over how the wrong votes can fall, in double precision; its coefficients do not depend on p.

    Args:
      num_invariant: how many invariant features, ≥ 0.
      num_spurious: how many spurious ones, from 0 to 150.
      num_classes: K ≥ 2.
      p: in [0, 1]; may be traced, of any shape.

    Returns:
      The accuracy, of the shape of ``p``.

    Raises:
      ValueError: a number out of range.

    Source: Lin et al. 2023, arXiv 2309.17230, section 3 and proposition 1.

    >>> round(float(ensemble_ood_accuracy(2, 3, 3, 0.9)), 4), round(float(ensemble_ood_accuracy(4, 6, 3, 0.9)), 4)
    (0.865, 0.973)
    """
    for name, value, low, high in (
        ("num_invariant", num_invariant, 0, math.inf),
        ("num_spurious", num_spurious, 0, 150),
        ("num_classes", num_classes, 2, math.inf),
    ):
        check_finite_number(name, value, low=low, high=high)
    check_finite_number("p", p, low=0.0, high=1.0)
    p = jnp.asarray(p, jnp.result_type(float))
    right, wrong = 1 - p + p / num_classes, p / num_classes
    total = jnp.zeros_like(p)
    for lost in range(num_spurious + 1):
        share = _share_won(num_invariant + num_spurious - lost, lost, num_classes - 1)
        total = total + share * math.comb(num_spurious, lost) * right ** (num_spurious - lost) * wrong**lost
    return total


def _share_won(votes: int, lost: int, others: int) -> float:
    """The sum, over all ways in which ``lost`` voters choose among ``others`` classes, of the share of the win."""
    # exponential generating functions: a class with i voters is z^i / i!
    below = np.zeros(lost + 1)
    below[: min(votes, lost + 1)] = [1 / math.factorial(i) for i in range(min(votes, lost + 1))]

    def times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.convolve(a, b)[: lost + 1]

    found = 0.0
    for tied in range(others + 1):
        if tied * votes > lost:
            break
        series = np.zeros(lost + 1)
        series[tied * votes] = math.comb(others, tied) / math.factorial(votes) ** tied
        power, rest = below, others - tied
        while rest:  # below ** rest by squaring
            if rest & 1:
                series = times(series, power)
            power, rest = times(power, power), rest >> 1
        found += series[lost] * math.factorial(lost) / (tied + 1)
    return float(found)
