"""TRADES: the loss on clean examples plus how far an adversary moves the predicted distribution."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, check_same_logits, tempered_kl, widened


def trades_loss(
    logits: Float[Array, "*batch n"],
    logits_adv: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    beta: Number = 6.0,
) -> Float[Array, "*batch"]:
    r"""Cross-entropy of clean examples plus the divergence between clean and adversarial predictions (TRADES).

    .. math:: -\log p_y(x) + \beta \, \mathrm{KL}\big(p(x) \,\|\, p(x')\big)

    The gradient flows through both predictions. :math:`x'` is for the caller to find: TRADES wants the point of the
    ball around :math:`x` where the divergence is largest, by projected gradient ascent from a point near :math:`x`
    (at :math:`x` itself the gradient is zero).

    Args:
      logits: ``(..., n)`` at :math:`x`, the class axis last, n ≥ 2.
      logits_adv: ``(..., n)`` at :math:`x'`.
      labels: ``(...)`` classes in ``[0, n)``.
      beta: weight of robustness, ≥ 0; 6 in the released code; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, a label or ``beta`` out of range.

    Source: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan (2019), arXiv 1901.08573.

    >>> clean, adv = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.8, 0.2]]))
    >>> loss = trades_loss(clean, adv, jnp.array([0]), beta=2.0)
    >>> round(float(loss[0]), 4)  # log 2 + 2 · (log(0.5/0.8) + log(0.5/0.2)) / 2
    1.1394
    """
    check_finite_number("beta", beta, low=0.0)
    labels = check_labels("trades_loss", logits, labels)
    check_same_logits("trades_loss", "logits_adv", logits, logits_adv)
    natural = optax.losses.softmax_cross_entropy_with_integer_labels(widened(logits), labels)
    return (natural + beta * tempered_kl(logits, logits_adv)).astype(jnp.result_type(logits))
