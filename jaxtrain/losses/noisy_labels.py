"""Losses that bound what one wrong label can cost: generalized and symmetric cross-entropy."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, surprise
from jaxtrain.losses.comp_sum import comp_sum_loss


def generalized_cross_entropy_loss(
    logits: Float[Array, "*batch n"], labels: Int[Array, "..."], *, q: Number = 0.7
) -> Float[Array, "*batch"]:
    r"""Between cross-entropy (q → 0) and the mean absolute error (q = 1), for labels of which some are wrong.

    .. math:: \ell = \frac{1 - p_y^q}{q}, \qquad \nabla \ell = p_y^q \, \nabla (-\log p_y).

    A label that the model finds improbable pulls less. At :math:`q = 1` it is :math:`1 - p_y = \tfrac12 \|p - e_y\|_1`,
    whose sum over all labels is constant: labels that are wrong evenly do not move its minimum. It is
    :func:`comp_sum_loss` with :math:`\tau = 1 + q`.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      labels: ``(...)`` classes in ``[0, n)``.
      q: in [0, 1]; at 0 it is cross-entropy itself; may be traced.

    Returns:
      ``(...)``, one loss for each example, at most :math:`1/q`, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, a label or q out of range.

    Source: Zhang, Sabuncu (2018), arXiv 1805.07836.

    >>> logits, labels = jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0])
    >>> [round(float(generalized_cross_entropy_loss(logits, labels, q=q)[0]), 4) for q in (0.0, 0.5, 1.0)]
    [1.3863, 1.0, 0.75]
    """
    labels = check_labels("generalized_cross_entropy_loss", logits, labels)
    check_finite_number("q", q, low=0.0, high=1.0)
    return comp_sum_loss(logits, labels, tau=1 + q)


def symmetric_cross_entropy_loss(
    logits: Float[Array, "*batch n"],
    labels: Int[Array, "..."],
    *,
    alpha: Number,
    beta: Number,
    log_zero: Number = -4.0,
) -> Float[Array, "*batch"]:
    r"""Cross-entropy plus its reverse, in which prediction and label change places.

    .. math:: \ell = -\alpha \log p_y - \beta \sum_k p_k \log e_{yk} = -\alpha \log p_y - \beta A (1 - p_y), \qquad
       \log 0 := A < 0.

    The first term learns, the second is bounded by :math:`-\beta A` and robust to wrong labels. The second is
    :math:`-\beta A` times :func:`generalized_cross_entropy_loss` at q = 1, so A only scales :math:`\beta`.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      labels: ``(...)`` classes in ``[0, n)``.
      alpha: :math:`\alpha` ≥ 0 of cross-entropy; 0.1 for CIFAR-10 and 6 for CIFAR-100 in the paper; may be traced.
      beta: :math:`\beta` ≥ 0 of the reverse; 1 and 0.1 in the paper; may be traced.
      log_zero: :math:`A` < 0, what the logarithm of 0 is taken to be; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, a label or a number out of range.

    Source: Wang, Ma, Chen, Luo, Yi, Bailey (2019), arXiv 1908.06112.

    >>> logits, labels = jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0])
    >>> round(float(symmetric_cross_entropy_loss(logits, labels, alpha=1.0, beta=0.5)[0]), 4)  # log 4 + 0.5 * 4 * 0.75
    2.8863
    """
    labels = check_labels("symmetric_cross_entropy_loss", logits, labels)
    for name, value in (("alpha", alpha), ("beta", beta)):
        check_finite_number(name, value, low=0.0)
    check_finite_number("log_zero", log_zero, high=-float(np.finfo(np.float32).tiny))
    z = surprise(logits, labels)
    return (alpha * z + beta * log_zero * jnp.expm1(-z)).astype(logits.dtype)
