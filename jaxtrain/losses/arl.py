"""Asymmetric representation learning: modalities are relied on inversely to their variance, by scaled gradients."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, check_same_logits, widened


@jax.custom_jvp
def _scaled(x: Array, scale: Array) -> Array:
    return x


@_scaled.defjvp
def _scaled_jvp(primals, tangents):
    x, scale = primals
    # not x itself: a second derivative goes through the value too
    return _scaled(x, scale), ((1 + scale) * tangents[0]).astype(x.dtype)


def grad_scale(x: Float[Array, "..."], scale: Number) -> Float[Array, "..."]:
    r"""The identity, whose gradient is multiplied by :math:`1 + s`; between an encoder and what follows.

    Args:
      x: any shape.
      scale: :math:`s`, a scalar or of a shape that broadcasts to ``x``; a constant to differentiation. -1 stops the
        gradient, -2 turns it round.

    Returns:
      ``x``.

    Raises:
      ValueError: a scale that is not finite, or whose shape would enlarge ``x``.

    Source: Wei, Luo, Luo (2025), arXiv 2507.10203.

    >>> float(jax.grad(lambda x: grad_scale(x, 0.5) ** 2)(3.0))
    9.0
    """
    check_finite_number("scale", scale)
    x, scale = jnp.asarray(x), jnp.asarray(scale)
    padded = (1,) * (x.ndim - scale.ndim) + scale.shape
    if len(padded) != x.ndim or any(n not in (1, m) for n, m in zip(padded, x.shape, strict=True)):
        raise ValueError(f"grad_scale: a scale of shape {scale.shape} does not broadcast to x of shape {x.shape}")
    return _scaled(x, jax.lax.stop_gradient(widened(scale)))


def _check_modalities(where: str, logits_list: Sequence[Array], count: int | None = None) -> None:
    if len(logits_list) < 2 or (count is not None and len(logits_list) != count):
        wanted = "2 at least" if count is None else f"exactly {count}"
        raise ValueError(f"{where}: logits of {len(logits_list)} modalities; give {wanted}")
    for logits in logits_list:
        if logits.ndim != 2 or logits.shape != logits_list[0].shape:
            shapes = [x.shape for x in logits_list]
            raise ValueError(f"{where}: logits of shapes {shapes}; give (batch, classes), all alike")


def _shares(x: Array) -> Array:
    """Parts of the sum; equal ones where all are 0."""
    total = x.sum()
    return jnp.where(total > 0, x / jnp.where(total > 0, total, 1.0), 1 / len(x))


def modality_variance_weights(
    logits_list: Sequence[Float[Array, "batch classes"]], *, floor: Number = 0.3
) -> Float[Array, " modalities"]:
    r"""How much each modality should be relied on: inversely to its variance, for which the entropy stands.

    With :math:`H_m` the mean entropy over the batch of the predictions by modality :math:`m` alone,

    .. math:: v_m = \frac{1 / h_m}{\sum_k 1 / h_k}, \qquad h_m = \max\Big(\frac{H_m}{\sum_k H_k}, c\Big).

    Args:
      logits_list: ``(batch, classes)`` of each modality alone, 2 at least. They are constants; -inf masks a class out.
      floor: :math:`c` in (0, 1], the least share of the entropy that counts; may be traced. With 0.3, two modalities
        weigh at most as 7 to 3 where neither is ignored, and as 10 to 3 in the limit.

    Returns:
      ``(modalities,)`` weights that sum to 1, in float32 at least.

    Raises:
      ValueError: less than two modalities, shapes that disagree, a floor out of range.

    Source: Wei, Luo, Luo (2025), arXiv 2507.10203.

    >>> two_left = jnp.array([[0.0, 0.0, -1e4, -1e4]])  # entropies log 2 and log 4
    >>> [round(float(v), 4) for v in modality_variance_weights([two_left, jnp.zeros((1, 4))])]
    [0.6667, 0.3333]
    """
    check_finite_number("floor", floor, low=1e-6, high=1.0)
    _check_modalities("modality_variance_weights", logits_list)
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(widened(jnp.stack(list(logits_list)))))
    p = jnp.exp(log_p)
    entropy = -jnp.sum(p * jnp.where(p > 0, log_p, 0.0), axis=-1).mean(axis=-1)
    return _shares(1 / jnp.maximum(_shares(entropy), floor))


def arl_coefficients(
    logits_list: Sequence[Float[Array, "batch classes"]], *, temperature: Number = 8.0, floor: Number = 0.3
) -> Float[Array, "2"]:
    r"""By how much more the gradient into each of two encoders counts: for :func:`grad_scale`.

    With :math:`v` the :func:`modality_variance_weights`, and :math:`d_m` the share of modality :math:`m` in the sum over
    classes of the batch's mean of :math:`|\mathrm{logit}|` (how much it is relied on now),

    .. math:: c = \mathrm{softmax}\big(T\, [d_b v_a,\; d_a v_b]\big).

    The coefficients are equal where :math:`d_a / d_b = v_a / v_b`; a modality that is relied on less than that gets more.
    Use them after some epochs of warm-up (5 in the paper's code), with no scaling before.

    Args:
      logits_list: ``(batch, classes)`` of the two modalities alone: with a sum of two linear heads, each head; with a
        linear head on concatenated features, its output with the features of the other at 0. They are constants; a
        class that is masked out by -inf adds nothing to the size.
      temperature: :math:`T` ≥ 0; may be traced.
      floor: of :func:`modality_variance_weights`.

    Returns:
      ``(2,)``, sums to 1, in float32 at least.

    Raises:
      ValueError: other than two modalities, shapes that disagree, a number out of range.

    Source: Wei, Luo, Luo (2025), arXiv 2507.10203.

    >>> arl_coefficients([jnp.array([[1.0, -1.0]]), jnp.array([[-1.0, 1.0]])]).tolist()
    [0.5, 0.5]
    """
    check_finite_number("temperature", temperature, low=0.0)
    _check_modalities("arl_coefficients", logits_list, 2)
    v = modality_variance_weights(logits_list, floor=floor)
    z = jax.lax.stop_gradient(widened(jnp.stack(list(logits_list))))
    size = jnp.where(jnp.isneginf(z), 0.0, jnp.abs(z))
    d = _shares(size.mean(axis=1).sum(axis=-1))
    return jax.nn.softmax(temperature * d[::-1] * v)


def arl_loss(
    fused_logits: Float[Array, "batch classes"],
    unimodal_logits: Sequence[Float[Array, "..."]],
    labels: Int[Array, "..."],
    *,
    gamma: Number = 1.0,
) -> Float[Array, " batch"]:
    r"""Cross-entropy of the fused prediction and of each modality alone, which holds their biases down.

    .. math:: \mathrm{CE}(z, y) + \gamma \sum_m \mathrm{CE}(z_m, y)

    Args:
      fused_logits: ``(batch, classes)``.
      unimodal_logits: ``(batch, classes)`` of each modality alone, through the same head (see :func:`arl_coefficients`).
      labels: ``(batch,)`` integers.
      gamma: :math:`\gamma` ≥ 0; 0 is joint training. May be traced.

    Returns:
      ``(batch,)``, in the dtype of the fused logits.

    Raises:
      ValueError: shapes that disagree, a label that is no class, a negative ``gamma``.

    Source: Wei, Luo, Luo (2025), arXiv 2507.10203.

    >>> z = jnp.zeros((1, 2))
    >>> round(float(arl_loss(z, [z, z], jnp.array([0]), gamma=0.5)[0] / jnp.log(2.0)), 4)
    2.0
    """
    check_finite_number("gamma", gamma, low=0.0)
    labels = check_labels("arl_loss", fused_logits, labels)
    ce = optax.losses.softmax_cross_entropy_with_integer_labels
    total = ce(widened(fused_logits), labels)
    for i, logits in enumerate(unimodal_logits):
        check_same_logits("arl_loss", f"unimodal_logits[{i}]", fused_logits, logits)
        total = total + gamma * ce(widened(logits), labels)
    return total.astype(fused_logits.dtype)
