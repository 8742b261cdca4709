"""Label-distributionally robust losses: the worst weighting of the classes, and a temperature for each example."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, widened

_TINY = float(np.finfo(np.float32).tiny)


def ldr_kl_loss(
    logits: Float[Array, "*batch n"], labels: Int[Array, "..."], *, lam: Number = 1.0, margin: Number = 0.0
) -> Float[Array, "*batch"]:
    r"""The worst mean of the margins over weightings of the classes that stay near the uniform one.

    With :math:`\delta_k = f_k - f_y + c\,[k \ne y]`,

    .. math:: \max_{p \in \Delta} \sum_k p_k \delta_k - \lambda\, \mathrm{KL}(p \,\|\, 1/K)
       = \lambda \log\Big(\frac1K \sum_k e^{\delta_k / \lambda}\Big).

    At :math:`\lambda = 1`, :math:`c = 0` it is cross-entropy less :math:`\log K` (negative for right answers);
    :math:`\lambda \to 0` gives the hinge of Crammer and Singer, :math:`\lambda \to \infty` the mean of :math:`\delta`.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      labels: ``(...)`` classes in ``[0, n)``.
      lam: :math:`\lambda` > 0, the temperature: a number or ``(...)``; may be traced.
      margin: :math:`c` ≥ 0; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits; computed in float32 at least.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, a label or a number out of range.

    Source: Zhu, Ying, Yang (2023), arXiv 2112.14869.

    >>> logits, labels = jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0])
    >>> round(float(ldr_kl_loss(logits, labels)[0]), 4)  # log 4 - log 2
    0.6931
    >>> round(float(ldr_kl_loss(logits, labels, lam=1e-3)[0]), 2)  # the margin itself: log 3
    1.1
    """
    delta, lam = _deltas("ldr_kl_loss", logits, labels, lam, margin)
    return _worst_mean(delta, lam).astype(logits.dtype)


def ldr_weights(
    logits: Float[Array, "*batch n"], labels: Int[Array, "..."], *, lam: Number = 1.0, margin: Number = 0.0
) -> Float[Array, "*batch n"]:
    r"""The weights of the classes at which :func:`ldr_kl_loss` is attained: :math:`\mathrm{softmax}(\delta/\lambda)`.

    The gradient of the loss in the logits is these less the one-hot label.

    Args:
      logits: ``(..., n)``.
      labels: ``(...)`` classes.
      lam: the temperature > 0, a number or ``(...)``; may be traced.
      margin: ≥ 0; may be traced.

    Returns:
      ``(..., n)`` ≥ 0, which sum to 1.

    Raises:
      ValueError: as :func:`ldr_kl_loss`.

    Source: Zhu, Ying, Yang (2023), arXiv 2112.14869.

    >>> weights = ldr_weights(jnp.log(jnp.array([[1.0, 2.0]])), jnp.array([0]), lam=0.5)
    >>> [round(float(p), 3) for p in weights[0]]
    [0.2, 0.8]
    """
    delta, lam = _deltas("ldr_weights", logits, labels, lam, margin)
    return jax.nn.softmax(_scaled(delta, lam), axis=-1).astype(logits.dtype)


def aldr_kl_loss(
    logits: Float[Array, "*batch n"],
    labels: Int[Array, "..."],
    lam: Float[Array, "..."],
    *,
    lam0: Number = 1.0,
    alpha: Number = 2.0,
    margin: Number = 1.0,
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    r"""LDR-KL with a temperature for each example that falls where the model is sure, and one step of that.

    .. math:: \lambda^+ = \lambda_0 \Big(1 - \frac{\mathrm{KL}(p \,\|\, 1/K)}{\alpha \log K}\Big), \quad
       p = \mathrm{softmax}(f/\lambda), \qquad
       \ell = \lambda^+ \log\Big(\frac1K \sum_k e^{\delta_k/\lambda^+}\Big)
       - \frac{\alpha \log K}{2\lambda_0} (\lambda^+ - \lambda_0)^2.

    An example of which the model is unsure, as often one with a wrong label, keeps :math:`\lambda_0`; a sure one goes
    down to :math:`\lambda_0(1 - 1/\alpha)`. As in the authors' code, :math:`p` gets 1e-5 added to each class (and is
    normalised) and knows neither label nor margin, and :math:`\lambda^+` is a constant to the gradient. Store it by
    the example: ``lams = lams.at[ids].set(new)``, from an array of :math:`\lambda_0`.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2; the authors normalise them, :func:`l1_normalize_logits`.
      labels: ``(...)`` classes in ``[0, n)``.
      lam: ``(...)``, the temperature of each example as it was returned last, > 0.
      lam0: :math:`\lambda_0` > 0; may be traced.
      alpha: how far sure examples may go, > 1; may be traced.
      margin: :math:`c` ≥ 0; may be traced.

    Returns:
      ``(...)`` losses in the dtype of the logits, and ``(...)`` new temperatures, float32 at least.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, a label or a number out of range.

    Source: Zhu, Ying, Yang (2023), arXiv 2112.14869.

    >>> logits, labels = jnp.array([[0.0, 0.0], [9.0, 0.0]]), jnp.array([0, 0])
    >>> loss, lam = aldr_kl_loss(logits, labels, jnp.ones(2))
    >>> [round(float(x), 3) for x in lam]  # unsure and sure
    [1.0, 0.501]
    """
    where = "aldr_kl_loss"
    check_finite_number("lam0", lam0, low=_TINY)
    check_finite_number("alpha", alpha, low=1.0)
    if not isinstance(alpha, jax.core.Tracer) and np.any(np.asarray(alpha) <= 1):
        raise ValueError(f"alpha must be greater than 1, or lam could reach 0; got {alpha}")
    if jnp.shape(lam) != labels.shape:
        raise ValueError(f"{where}: lam of shape {jnp.shape(lam)} for labels {labels.shape}; give one for each example")
    delta, old = _deltas(where, logits, labels, lam, margin)
    n = logits.shape[-1]
    p = jax.nn.softmax(_scaled(jax.lax.stop_gradient(widened(logits)), old), axis=-1) + 1e-5
    p = p / jnp.sum(p, axis=-1, keepdims=True)
    share = jnp.sum(p * jnp.log(n * p), axis=-1) / np.log(n)
    new = jax.lax.stop_gradient(lam0 * (1 - share / alpha))
    price = alpha * np.log(n) / (2 * lam0) * (new - lam0) ** 2
    return (_worst_mean(delta, new[..., None]) - price).astype(logits.dtype), new


def l1_normalize_logits(logits: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    r"""Logits whose mean absolute value is 1: :math:`f_k \mapsto K f_k / \lVert f \rVert_1`; zeros stay.

    Args:
      logits: ``(..., n)``, the class axis last.

    Returns:
      ``(..., n)``, in the dtype of the logits.

    Source: Zhu, Ying, Yang (2023), arXiv 2112.14869, experiments.

    >>> l1_normalize_logits(jnp.array([[3.0, -1.0]])).tolist()
    [[1.5, -0.5]]
    """
    x = widened(logits)
    # divided by the largest first, so that the sum does not overflow
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    x = x / jnp.where(size > 0, size, 1)
    mean = jnp.mean(jnp.abs(x), axis=-1, keepdims=True)
    return (x / jnp.where(mean > 0, mean, 1)).astype(logits.dtype)


def _deltas(where, logits, labels, lam, margin):
    """delta, and lam with an axis for the classes."""
    labels = check_labels(where, logits, labels)
    check_finite_number("lam", lam, low=_TINY)
    check_finite_number("margin", margin, low=0.0)
    f = widened(logits)
    other = ~jax.nn.one_hot(labels, f.shape[-1], dtype=bool)
    delta = f - jnp.take_along_axis(f, labels[..., None], axis=-1)
    return jnp.where(other, delta + margin, 0), jnp.asarray(lam, f.dtype)[..., None]


def _scaled(x: Array, lam: Array) -> Array:
    """x / lam less its maximum: ≤ 0, so that a small lam cannot make it overflow to +inf."""
    return (x - jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))) / lam


def _worst_mean(delta: Array, lam: Array) -> Array:
    # the largest is 0 already: logsumexp would look for it in a pass of its own
    log_mean = jnp.log(jnp.sum(jnp.exp(_scaled(delta, lam)), axis=-1)) - np.log(delta.shape[-1])
    # the maximum is a constant in both places; together they have the right gradient
    return jax.lax.stop_gradient(jnp.max(delta, axis=-1)) + lam[..., 0] * log_mean
