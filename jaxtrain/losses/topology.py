"""Losses that keep thin structures connected: clDice, skeleton recall, and Dice with cross-entropy to compare with."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, widened
from jaxtrain.losses.skeletons import soft_skeletonize

_EPS = 1e-5


def _prepared(where: str, logits: Array, labels: Array) -> tuple[Array, Array]:
    """Log-probabilities and one-hot labels, in float32 at least."""
    if logits.ndim != 4:
        raise ValueError(f"{where}: logits of shape {logits.shape}; give (batch, height, width, classes)")
    labels = check_labels(where, logits, labels)
    log_p = jax.nn.log_softmax(widened(logits))
    return log_p, jax.nn.one_hot(labels, logits.shape[-1], dtype=log_p.dtype)


def _dice(p: Array, onehot: Array) -> Array:
    """Minus the soft Dice score, the mean over all classes; per image."""
    both, either = jnp.sum(p * onehot, axis=(1, 2)), jnp.sum(p + onehot, axis=(1, 2))
    return -jnp.mean((2 * both + _EPS) / (either + _EPS), axis=-1)


def _cross_entropy(log_p: Array, onehot: Array) -> Array:
    return -jnp.mean(jnp.sum(log_p * onehot, axis=-1), axis=(1, 2))


def dice_ce_loss(logits: Float[Array, "batch ..."], labels: Int[Array, "..."]) -> Float[Array, " batch"]:
    r"""Mean cross-entropy of the pixels minus the soft Dice score: what losses for topology are compared with.

    .. math:: -\frac1{|\Omega|} \sum_x \log p_{y}(x) - \frac1C \sum_c
       \frac{2 \sum_x p_c t_c + \epsilon}{\sum_x (p_c + t_c) + \epsilon}, \qquad \epsilon = 10^{-5},

    with :math:`t` the one-hot labels, the background's class among the :math:`C`. Its least value is -1.

    Args:
      logits: ``(batch, height, width, classes)``; class 0 is the background.
      labels: ``(batch, height, width)`` classes.

    Returns:
      ``(batch,)``, one loss for each image.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, or a label out of range.

    Source: Valverde, Koga, Otsuka and others (2025), arXiv 2503.03365.

    >>> labels = jnp.array([[[0, 1], [1, 0]]])
    >>> dice_ce_loss(100 * jax.nn.one_hot(labels, 2), labels).tolist()
    [-1.0]
    """
    log_p, onehot = _prepared("dice_ce_loss", logits, labels)
    return (_cross_entropy(log_p, onehot) + _dice(jnp.exp(log_p), onehot)).astype(logits.dtype)


def cldice_loss(
    logits: Float[Array, "batch ..."],
    labels: Int[Array, "..."],
    *,
    alpha: Number = 0.5,
    num_iters: int = 3,
    smooth: Number = 1.0,
) -> Float[Array, " batch"]:
    r"""Soft Dice mixed with the Dice of centre lines: each skeleton should lie inside the other's mask (clDice).

    With :math:`P, T` the foreground's probabilities and labels and :math:`S_P, S_T` their soft skeletons,

    .. math:: (1 - \alpha) L_{\mathrm{Dice}} + \alpha \Big(1 - \frac{2 a b}{a + b}\Big), \qquad
       a = \frac{\sum S_P T + s}{\sum S_P + s}, \quad b = \frac{\sum S_T P + s}{\sum S_T + s}.

    The sums run over the pixels and foreground classes of one image. (Released code sums them over the batch too, which
    couples the examples.)

    Args:
      logits: ``(batch, height, width, classes)``; class 0 is the background.
      labels: ``(batch, height, width)`` classes.
      alpha: weight of the centre lines, in [0, 1]; may be traced.
      num_iters: layers of :func:`soft_skeletonize`; static.
      smooth: :math:`s`, > 0; may be traced.

    Returns:
      ``(batch,)``, one loss for each image.

    Raises:
      ValueError: shapes that disagree, a label or a number out of range.

    Source: Shit, Paetzold, Sekuboyina and others (2021), arXiv 2003.07311; as in arXiv 2503.03365.

    >>> labels = jnp.array([[[0, 0, 0], [1, 1, 1], [0, 0, 0]]])
    >>> cldice_loss(100 * jax.nn.one_hot(labels, 2), labels, alpha=0.25).tolist()  # -0.75 + 0
    [-0.75]
    """
    check_finite_number("alpha", alpha, low=0.0, high=1.0)
    check_finite_number("smooth", smooth, low=float(np.finfo(np.float32).tiny))
    log_p, onehot = _prepared("cldice_loss", logits, labels)
    p = jnp.exp(log_p)
    images = lambda x: jnp.moveaxis(x[..., 1:], -1, 0).reshape(-1, *x.shape[1:3])  # noqa: E731
    total = lambda x: jnp.sum(x.reshape(-1, len(labels), *labels.shape[1:]), axis=(0, 2, 3))  # noqa: E731
    p1, t1 = images(p), images(onehot)
    thin_p, thin_t = soft_skeletonize(p1, num_iters=num_iters), soft_skeletonize(t1, num_iters=num_iters)
    a = (total(thin_p * t1) + smooth) / (total(thin_p) + smooth)
    b = (total(thin_t * p1) + smooth) / (total(thin_t) + smooth)
    return ((1 - alpha) * _dice(p, onehot) + alpha * (1 - 2 * a * b / (a + b))).astype(logits.dtype)


def skeleton_recall_loss(
    logits: Float[Array, "batch ..."],
    labels: Int[Array, "..."],
    tube: Bool[Array, "..."],
    *,
    weight: Number = 1.0,
) -> Float[Array, " batch"]:
    r"""Cross-entropy minus the soft recall of the labels' skeleton: no gap along a centre line goes unpunished.

    With :math:`K_c` the pixels of class :math:`c` on the thickened skeleton, over the :math:`C - 1` foreground classes,

    .. math:: -\frac1{|\Omega|} \sum_x \log p_y(x)
       - \frac{w}{C - 1} \sum_{c \ge 1} \frac{\sum_{x \in K_c} p_c(x) + \epsilon}{|K_c| + \epsilon},
       \qquad \epsilon = 10^{-5}.

    Only the labels have a skeleton here, so that nothing is differentiated through one.

    Args:
      logits: ``(batch, height, width, classes)``; class 0 is the background.
      labels: ``(batch, height, width)`` classes.
      tube: ``(batch, height, width)``, :func:`skeleton_tube` of ``labels > 0``; made once, with the data.
      weight: :math:`w` ≥ 0; may be traced.

    Returns:
      ``(batch,)``, one loss for each image.

    Raises:
      ValueError: shapes that disagree, a label or ``weight`` out of range.

    Source: Kirchhoff, Rokuss, Roy and others (2024), arXiv 2404.03010; with cross-entropy as in arXiv 2503.03365.

    >>> labels = jnp.array([[[0, 0, 0], [1, 1, 1], [0, 0, 0]]])
    >>> skeleton_recall_loss(100 * jax.nn.one_hot(labels, 2), labels, labels > 0, weight=2.0).tolist()
    [-2.0]
    """
    check_finite_number("weight", weight, low=0.0)
    log_p, onehot = _prepared("skeleton_recall_loss", logits, labels)
    if tube.shape != labels.shape:
        raise ValueError(f"skeleton_recall_loss: tube of shape {tube.shape} for labels {labels.shape}")
    on = (onehot * tube[..., None])[..., 1:]
    recall = (jnp.sum(jnp.exp(log_p[..., 1:]) * on, axis=(1, 2)) + _EPS) / (jnp.sum(on, axis=(1, 2)) + _EPS)
    return (_cross_entropy(log_p, onehot) - weight * jnp.mean(recall, axis=-1)).astype(logits.dtype)
