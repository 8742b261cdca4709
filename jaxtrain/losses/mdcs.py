"""MDCS: experts for common, middling and rare classes, each steadied by its own answers to a weakly augmented view."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, check_same_logits, surprise, tempered_kl
from jaxtrain.losses.long_tail import adjusted_logits, logit_adjusted_loss

_TINY = float(np.finfo(np.float32).tiny)


def diversity_softmax_loss(
    logits: Float[Array, "*batch n"], labels: Int[Array, "..."], class_counts: Num[Array, "..."], *, lam: Number
) -> Float[Array, "*batch"]:
    r"""Cross-entropy of logits shifted by a power of the class counts, which decides what classes an expert is for.

    .. math:: -\log \frac{n_y^\lambda e^{z_y}}{\sum_c n_c^\lambda e^{z_c}}

    It is :func:`logit_adjusted_loss` with :math:`\tau = \lambda`. At 1 it is the balanced softmax and the raw logits :math:`z` are fit for equally common classes;
    at 0 the cross-entropy; above 1 they favour rare classes, below 0 common ones. Counts and frequencies give the same.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      labels: ``(...)`` classes in ``[0, n)``.
      class_counts: ``(n,)`` training examples of each class, or their shares, > 0.
      lam: :math:`\lambda`, any number; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, a label out of range, a count that is not positive.

    Source: Zhao, Jiang, Hu, Zhang, Liu (2023), arXiv 2308.09922.

    >>> loss = diversity_softmax_loss(jnp.zeros((1, 2)), jnp.array([1]), jnp.array([3, 1]), lam=1.0)
    >>> round(float(loss[0]), 4)  # log 4: the second class is a quarter of the examples
    1.3863
    """
    labels = check_labels("diversity_softmax_loss", logits, labels)
    check_finite_number("lam", lam)
    return logit_adjusted_loss(logits, labels, class_counts, tau=lam)


def consistency_self_distillation(
    weak_logits: Float[Array, "*batch n"],
    strong_logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    temperature: Number = 1.0,
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
    r"""An expert's answer to the strongly augmented view is drawn to the one to the weak view, where that is right.

    .. math:: m_i \, T^2\, \mathrm{KL}\big(\mathrm{softmax}(z^w_i / T) \,\|\, \mathrm{softmax}(z^s_i / T)\big), \qquad
       m_i = 1[\arg\max_c z^w_{ic} = y_i]

    Only the strong view is differentiated. In MDCS the logits are those of :func:`diversity_softmax_loss`, shifted by the
    counts, and the mean is over the selected examples.

    Args:
      weak_logits: ``(..., n)``, the class axis last, of the weakly augmented inputs: the teacher.
      strong_logits: ``(..., n)`` of the same inputs, strongly augmented: the student.
      labels: ``(...)`` classes in ``[0, n)``.
      temperature: :math:`T` > 0; may be traced.

    Returns:
      ``(loss, selected)``: ``(...)`` losses, 0 where an example is not selected, in the dtype of the logits, and the mask.

    Raises:
      ValueError: shapes that disagree, a label or a temperature out of range.

    Source: Zhao, Jiang, Hu, Zhang, Liu (2023), arXiv 2308.09922.

    >>> weak, strong = jnp.log(jnp.array([[0.8, 0.2], [0.5, 0.5]])), jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))
    >>> loss, selected = consistency_self_distillation(weak, strong, jnp.array([0, 1]))
    >>> [round(float(x), 4) for x in loss], selected.tolist()  # log 2 less the entropy of 0.8
    ([0.1927, 0.0], [True, False])
    """
    labels = check_labels("consistency_self_distillation", weak_logits, labels)
    check_same_logits("consistency_self_distillation", "strong_logits", weak_logits, strong_logits)
    check_finite_number("temperature", temperature, low=_TINY)
    weak = jax.lax.stop_gradient(weak_logits)
    selected = jnp.argmax(weak, axis=-1) == labels
    divergence = tempered_kl(weak, strong_logits, temperature)
    return jnp.where(selected, divergence, 0.0).astype(strong_logits.dtype), selected


def mdcs_loss(
    expert_logits_weak: Float[Array, "batch experts n"],
    expert_logits_strong: Float[Array, "..."],
    labels: Int[Array, "..."],
    class_counts: Num[Array, "..."],
    *,
    lams: Sequence[float] | Array = (-0.5, 1.0, 2.5),
    distill_weight: Number = 0.6,
    ramp: Number = 1.0,
) -> Float[Array, " batch"]:
    r"""The loss of all experts: each for its classes on both views, and consistent with itself.

    .. math:: L_i = \sum_k \Big(\tfrac12 \big(\ell_{\lambda_k}(z^w_{ik}) + \ell_{\lambda_k}(z^s_{ik})\big)
       + w\, r\, \frac{B}{\max(\sum_j m_{jk}, 1)}\, m_{ik}\, \mathrm{KL}_{ik}\Big)

    with :func:`diversity_softmax_loss` :math:`\ell_\lambda` and :func:`consistency_self_distillation` of the shifted
    logits. The mean over the batch is the published loss, so an example depends on its batch through the number of
    selected ones. Predict with the mean of the experts' raw logits.

    Args:
      expert_logits_weak: ``(batch, experts, n)``, the class axis last, of weakly augmented inputs.
      expert_logits_strong: the same of the inputs strongly augmented.
      labels: ``(batch,)`` classes in ``[0, n)``.
      class_counts: ``(n,)`` training examples of each class, > 0.
      lams: :math:`\lambda_k` for each expert; may be traced.
      distill_weight: :math:`w` ≥ 0; may be traced.
      ramp: :math:`r` in [0, 1], in the paper the epoch over 20 and 1 from then on; may be traced.

    Returns:
      ``(batch,)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, or a label, a count or a number out of range.

    Source: Zhao, Jiang, Hu, Zhang, Liu (2023), arXiv 2308.09922.

    >>> same = jnp.zeros((1, 3, 2))  # three times log 2, and no divergence
    >>> round(float(mdcs_loss(same, same, jnp.array([0]), jnp.array([5, 5]))[0]), 4)
    2.0794
    """
    lams = jnp.asarray(lams)
    if expert_logits_weak.ndim != 3 or lams.shape != expert_logits_weak.shape[1:2]:
        raise ValueError(
            f"mdcs_loss: logits of shape {expert_logits_weak.shape} for {lams.shape} lams; give (batch, experts, n) and "
            "one lam for each expert"
        )
    check_same_logits("mdcs_loss", "expert_logits_strong", expert_logits_weak, expert_logits_strong)
    labels = check_labels("mdcs_loss", expert_logits_weak[:, 0], labels)
    check_finite_number("lams", lams)
    check_finite_number("distill_weight", distill_weight, low=0.0)
    check_finite_number("ramp", ramp, low=0.0, high=1.0)
    each = jnp.broadcast_to(labels[:, None], expert_logits_weak.shape[:2])
    views = expert_logits_weak, expert_logits_strong
    weak, strong = (adjusted_logits("mdcs_loss", z, class_counts, lams[:, None]) for z in views)
    diversity = (surprise(weak, each) + surprise(strong, each)) / 2
    consistency, selected = consistency_self_distillation(weak, strong, each)
    share = jnp.maximum(jnp.sum(selected, axis=0), 1) / len(selected)
    return jnp.sum(diversity + distill_weight * ramp * consistency / share, axis=1).astype(expert_logits_weak.dtype)
