"""PCME++: matching of Gaussian embeddings by their expected distance, so that ambiguous items may say so."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)
_LARGEST = 60.0  # exp(60) leaves room for sums and scales in single precision


def _check_gaussian(caller: str, mu: Array, logvar: Array, name: str) -> None:
    if mu.ndim != 2 or logvar.shape != mu.shape:
        raise ValueError(f"{caller}: mu{name} {mu.shape} and logvar{name} {logvar.shape}; give (items, features)")


def closed_form_sampled_distance(
    mu1: Float[Array, "..."], logvar1: Float[Array, "..."], mu2: Float[Array, "..."], logvar2: Float[Array, "..."]
) -> Float[Array, "n m"]:
    r"""The expected squared distance of samples of two Gaussians with diagonal covariance, for all pairs.

    .. math:: d_{ij} = \mathbb E\|Z_i - Z_j\|^2 = \|\mu_i - \mu_j\|^2 + \sum_k (\sigma_{ik}^2 + \sigma_{jk}^2)

    Unlike a distance between the distributions it is not 0 between equal ones: variance keeps an item far from all others.

    Args:
      mu1: ``(n, d)`` means, as they are; PCME++ normalises them to length 1 before.
      logvar1: ``(n, d)`` logarithms of variances; above 60 they count as 60, without gradient. ``-inf`` is a point.
      mu2: ``(m, d)``.
      logvar2: ``(m, d)``.

    Returns:
      ``(n, m)`` in float32 at least.

    Raises:
      ValueError: shapes that disagree.

    Source: Chun (2024), "Improved Probabilistic Image-Text Representations", arXiv 2305.18171.

    >>> point, wide = jnp.full((1, 2), -jnp.inf), jnp.zeros((1, 2))
    >>> float(closed_form_sampled_distance(jnp.zeros((1, 2)), point, jnp.array([[3.0, 4.0]]), wide)[0, 0])
    27.0
    """
    _check_gaussian("closed_form_sampled_distance", mu1, logvar1, "1")
    _check_gaussian("closed_form_sampled_distance", mu2, logvar2, "2")
    if mu1.shape[1] != mu2.shape[1]:
        raise ValueError(f"closed_form_sampled_distance: {mu1.shape[1]} and {mu2.shape[1]} features cannot be compared")
    x, y = widened(mu1), widened(mu2)
    middle = jax.lax.stop_gradient(jnp.sum(y, axis=0) / max(len(y), 1))  # distances do not see it, cancellation does
    x, y = x - middle, y - middle
    cross = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    between = jnp.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * cross, 0.0)
    spread = [jnp.exp(jnp.minimum(widened(v), _LARGEST)).sum(1) for v in (logvar1, logvar2)]
    return between + spread[0][:, None] + spread[1]


def pcmepp_matching_loss(
    mu1: Float[Array, "..."],
    logvar1: Float[Array, "..."],
    mu2: Float[Array, "..."],
    logvar2: Float[Array, "..."],
    matched: Array,
    *,
    scale: Number = 5.0,
    shift: Number = 5.0,
) -> Float[Array, "n m"]:
    r"""Binary cross-entropy of every pair, match or not, by the expected squared distance.

    .. math:: \ell_{ij} = -m_{ij} \log \sigma(z_{ij}) - (1 - m_{ij}) \log \sigma(-z_{ij}), \qquad
       z_{ij} = -a\, d_{ij} + b

    with the :func:`closed_form_sampled_distance`. The mean over all pairs, doubled, is the release's loss (images to texts
    and texts to images are the same). For points of length 1 it is SigLIP's loss with the temperature :math:`2a` and the
    bias :math:`b - 2a`.

    Args:
      mu1: ``(n, d)`` means.
      logvar1: ``(n, d)`` logarithms of variances.
      mu2: ``(m, d)``.
      logvar2: ``(m, d)``.
      matched: ``(n, m)`` targets in [0, 1]; soft ones for mixed items or by :func:`pseudo_positive_targets`.
      scale: :math:`a` > 0, usually learned; may be traced.
      shift: :math:`b`, usually learned; may be traced.

    Returns:
      ``(n, m)``, one loss for each pair, in the dtype of ``mu1``.

    Raises:
      ValueError: shapes that disagree, or a number out of range.

    Source: Chun (2024), arXiv 2305.18171.

    >>> point = jnp.full((1, 1), -jnp.inf)
    >>> loss = pcmepp_matching_loss(jnp.zeros((1, 1)), point, jnp.ones((1, 1)), point, jnp.ones((1, 1)))
    >>> round(float(loss[0, 0]), 4)  # z = 0: log 2
    0.6931
    """
    check_finite_number("scale", scale, low=_TINY)
    check_finite_number("shift", shift)
    logits = shift - scale * closed_form_sampled_distance(mu1, logvar1, mu2, logvar2)
    if matched.shape != logits.shape:
        raise ValueError(
            f"pcmepp_matching_loss: matched of shape {matched.shape}; give {logits.shape}, one for each pair"
        )
    return optax.losses.sigmoid_binary_cross_entropy(logits, matched.astype(logits.dtype)).astype(mu1.dtype)


def pseudo_positive_targets(logits: Float[Array, "..."], matched: Array) -> Float[Array, "n m"]:
    r"""Targets in which whatever fits an item at least as well as its own match counts as one too.

    .. math:: m'_{ij} = m_{it} \text{ where } z_{ij} \ge z_{it}, \text{ else } m_{ij}, \qquad t = \arg\max_j m_{ij}

    For the other direction give the transposes. PCME++ adds the loss with these targets, in both directions, with weight 0.1.

    Args:
      logits: ``(n, m)``, higher is closer: logits of a match, not distances.
      matched: ``(n, m)`` targets in [0, 1]. A row without any stays as it is.

    Returns:
      ``(n, m)`` targets in the dtype of the logits, constants.

    Raises:
      ValueError: shapes that disagree.

    Source: Chun (2024), arXiv 2305.18171.

    >>> pseudo_positive_targets(jnp.array([[1.0, 2.0, 0.0]]), jnp.array([[1, 0, 0]])).tolist()
    [[1.0, 1.0, 0.0]]
    """
    if logits.ndim != 2 or matched.shape != logits.shape:
        raise ValueError(
            f"pseudo_positive_targets: logits {logits.shape} and matched {matched.shape}; give both as (n, m)"
        )
    z, m = jax.lax.stop_gradient((logits, matched.astype(logits.dtype)))
    own = jnp.argmax(m, axis=1, keepdims=True)
    return jnp.where(z >= jnp.take_along_axis(z, own, 1), jnp.take_along_axis(m, own, 1), m)


def gaussian_vib(mu: Float[Array, "..."], logvar: Float[Array, "..."]) -> Float[Array, " n"]:
    r"""The divergence of each item's Gaussian from the standard one, for one feature in the mean.

    .. math:: \frac1d \mathrm{KL}\big(\mathcal N(\mu, \sigma^2) \,\|\, \mathcal N(0, I)\big)
       = \frac1{2d} \sum_k (\mu_k^2 + \sigma_k^2 - 1 - \log \sigma_k^2)

    It keeps variances from vanishing; PCME++ weighs it by :math:`10^{-4}`.

    Args:
      mu: ``(n, d)`` means.
      logvar: ``(n, d)`` logarithms of variances.

    Returns:
      ``(n,)`` ≥ 0, in the dtype of ``mu``. Its mean is that over all entries.

    Raises:
      ValueError: shapes that disagree.

    Source: Chun (2024), arXiv 2305.18171.

    >>> gaussian_vib(jnp.array([[0.0, 2.0]]), jnp.zeros((1, 2))).tolist()
    [1.0]
    """
    _check_gaussian("gaussian_vib", mu, logvar, "")
    m, v = widened(mu), widened(logvar)
    # expm1(v) - v: exact near the standard Gaussian
    return (0.5 * jnp.mean(m**2 + jnp.expm1(jnp.minimum(v, _LARGEST)) - v, axis=1)).astype(mu.dtype)


def echo_distillation_loss(
    mu: Float[Array, "..."],
    logvar: Float[Array, "..."],
    teacher: Float[Array, "..."],
    matched: Array | None = None,
    *,
    kind: str = "contrastive",
    scale: Number = 5.0,
    shift: Number = 5.0,
) -> Float[Array, " n"]:
    r"""A student with Gaussian embeddings taught by the points of a frozen teacher.

    ``contrastive``: the mean over j of :func:`pcmepp_matching_loss` with the teacher's points; the examples of a batch are
    coupled. ``mse``: the expected squared distance to one's own point, :math:`\|\mu_i - t_i\|^2 + \sum_k \sigma_{ik}^2`,
    over d.

    Args:
      mu: ``(n, d)`` means of the student.
      logvar: ``(n, d)`` logarithms of its variances.
      teacher: ``(m, d)`` embeddings of the teacher, constants; m = n for ``mse`` and without ``matched``.
      matched: ``(n, m)`` targets of the contrastive loss. Default: row i belongs to point i.
      kind: ``contrastive`` or ``mse``.
      scale: as in :func:`pcmepp_matching_loss`; ``shift`` too.
      shift: its :math:`b`.

    Returns:
      ``(n,)``, one loss for each item of the student, in the dtype of ``mu``.

    Raises:
      ValueError: shapes that disagree, an unknown kind, or a number out of range.

    Source: the use of PCME++ in EchoingECG; Chun (2024), arXiv 2305.18171.

    >>> echo_distillation_loss(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]), kind="mse").tolist()
    [13.5]
    """
    if kind not in ("contrastive", "mse"):
        raise ValueError(f"echo_distillation_loss: kind must be 'contrastive' or 'mse', got {kind!r}")
    _check_gaussian("echo_distillation_loss", mu, logvar, "")
    if (kind == "mse" or matched is None) and teacher.shape != mu.shape:
        raise ValueError(f"echo_distillation_loss: mu {mu.shape} and teacher {teacher.shape} disagree")
    point = jax.lax.stop_gradient(widened(teacher))
    if kind == "mse":
        spread = jnp.exp(jnp.minimum(widened(logvar), _LARGEST))
        return jnp.mean((widened(mu) - point) ** 2 + spread, axis=1).astype(mu.dtype)
    target = jnp.eye(len(mu)) if matched is None else matched
    certain = jnp.full(point.shape, -jnp.inf, point.dtype)
    pairs = pcmepp_matching_loss(widened(mu), logvar, point, certain, target, scale=scale, shift=shift)
    return jnp.mean(pairs, axis=1).astype(mu.dtype)
