"""Adversarial debiasing that is robust to where the unfairness hides: ROAD, and BROAD in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.numerics import segment_mean
from jaxtrain.losses._logits import widened
from jaxtrain.losses.local_fairness import as_segments, check_ids

_TINY = float(np.finfo(np.float32).tiny)


def _mean_of_own(x: Array, ids: Array, count: int) -> Array:
    """For each example the mean over its group."""
    return segment_mean(x, ids, count)[ids]


def broad_weights(
    adversary_losses: Float[Array, " batch"],
    groups: Int[Array, "..."],
    *,
    temperature: Number,
    num_groups: int | None = None,
) -> Float[Array, " batch"]:
    r"""The worst case in closed form: more weight where the adversary finds the group easily, mean 1 in each group.

    .. math:: r_i = \frac{e^{-\ell_i / \tau}}{\mathrm{mean}_{j:\, s_j = s_i}\, e^{-\ell_j / \tau}}

    minimises the mean of :func:`road_ratio_loss` under the constraint on the means. For large :math:`\tau` all weights
    are 1 (plain adversarial debiasing), for small ones only the examples that are given away most count. The examples of
    a batch are coupled; no gradient flows through the weights. Examples that only fill the batch up: a group of their own.

    Args:
      adversary_losses: ``(batch,)`` losses :math:`\ell` of predicting the group from the prediction.
      groups: ``(batch,)`` integers :math:`s`; for equalised odds, pairs of group and label.
      temperature: :math:`\tau` > 0, in the unit of the losses; may be traced.
      num_groups: groups are then 0 … num_groups - 1, which saves a sort.

    Returns:
      ``(batch,)`` weights, in the dtype of the losses.

    Raises:
      TypeError: groups that are not integers.
      ValueError: shapes that disagree; a temperature that is not positive; a group out of range.

    Source: Grari, Laugel, Hashimoto, Lamprier, Detyniecki (2024), arXiv 2310.18413.

    >>> losses = jnp.log(jnp.array([1.0, 3.0, 5.0]))  # in the first group the weights are as 1 to 1/3
    >>> [round(float(r), 4) for r in broad_weights(losses, jnp.array([0, 0, 1]), temperature=1.0)]
    [1.5, 0.5, 1.0]
    """
    check_finite_number("temperature", temperature, low=_TINY)
    check_ids("broad_weights", "groups", groups, adversary_losses)
    ids, count = as_segments("broad_weights", "groups", groups, num_groups)
    losses = jax.lax.stop_gradient(widened(adversary_losses))
    # less the group's smallest, so that its largest weight is 1 before the division: exp(-loss) alone vanishes
    least = jax.ops.segment_min(losses, ids, count)[ids]
    raw = jnp.exp((least - losses) / temperature)
    return (raw / _mean_of_own(raw, ids, count)).astype(adversary_losses.dtype)


def normalize_ratio(
    raw: Float[Array, " batch"], groups: Int[Array, "..."], *, num_groups: int | None = None
) -> Float[Array, " batch"]:
    r"""A positive network's outputs over their mean within each group of the batch.

    Args:
      raw: ``(batch,)``, ≥ 0, say the exponential of a network of input and group. Gradients flow, through the mean too.
      groups: ``(batch,)`` integers; for equalised odds, pairs of group and label.
      num_groups: groups are then 0 … num_groups - 1, which saves a sort.

    Returns:
      ``(batch,)`` ratios with mean 1 in each group, in the dtype of ``raw``; 1 where a whole group is 0.

    Raises:
      TypeError: groups that are not integers.
      ValueError: shapes that disagree; a group out of range.

    Source: Grari, Laugel, Hashimoto, Lamprier, Detyniecki (2024), arXiv 2310.18413.

    >>> normalize_ratio(jnp.array([1.0, 3.0, 5.0]), jnp.array([0, 0, 1]), num_groups=2).tolist()
    [0.5, 1.5, 1.0]
    """
    check_ids("normalize_ratio", "groups", groups, raw)
    ids, count = as_segments("normalize_ratio", "groups", groups, num_groups)
    x = widened(raw)
    mean = _mean_of_own(x, ids, count)
    ratio = jnp.where(mean > 0, x / jnp.where(mean > 0, mean, 1.0), 1.0)
    return ratio.astype(raw.dtype)


def road_ratio_loss(
    ratio: Float[Array, " batch"], adversary_losses: Float[Array, "..."], *, temperature: Number
) -> Float[Array, " batch"]:
    r"""What the ratio minimises: weight on small losses of the adversary, but not too unequal.

    .. math:: r_i\, \ell_i + \tau\, r_i \log r_i

    Args:
      ratio: ``(batch,)``, from :func:`normalize_ratio`.
      adversary_losses: ``(batch,)`` losses :math:`\ell` of predicting the group; constants here.
      temperature: :math:`\tau` ≥ 0; may be traced.

    Returns:
      ``(batch,)``, in the dtype of the ratio; the objective is the mean.

    Raises:
      ValueError: shapes that disagree; a negative temperature.

    Source: Grari, Laugel, Hashimoto, Lamprier, Detyniecki (2024), arXiv 2310.18413.

    >>> road_ratio_loss(jnp.array([1.0, 2.0, 0.0]), jnp.array([0.5, 1.0, 9.0]), temperature=0.0).tolist()
    [0.5, 2.0, 0.0]
    """
    check_finite_number("temperature", temperature, low=0.0)
    if ratio.shape != adversary_losses.shape:
        raise ValueError(f"road_ratio_loss: ratio {ratio.shape} and adversary_losses {adversary_losses.shape} disagree")
    r, losses = widened(ratio), jax.lax.stop_gradient(widened(adversary_losses))
    # the slope of r log r at 0 is infinite, and an exponential that underflowed would make it NaN
    log_r = jnp.log(jnp.where(r > _TINY, r, _TINY))
    return (r * losses + temperature * r * log_r).astype(ratio.dtype)


def road_predictor_loss(
    task_losses: Float[Array, " batch"],
    adversary_losses: Float[Array, "..."],
    ratio: Float[Array, "..."],
    *,
    lam: Number,
) -> Float[Array, " batch"]:
    r"""What the predictor minimises: its task, and against the adversary where the ratio says.

    .. math:: \ell^Y_i - \lambda\, r_i\, \ell^S_i

    The gradient goes through both losses to the predictor, not through the ratio; the adversary's parameters are held.

    Args:
      task_losses: ``(batch,)``.
      adversary_losses: ``(batch,)`` losses of predicting the group from the predictor's output.
      ratio: ``(batch,)``, from :func:`broad_weights` (BROAD), :func:`normalize_ratio` (ROAD), or ones.
      lam: :math:`\lambda` ≥ 0; 0 is plain training. May be traced.

    Returns:
      ``(batch,)``, in the dtype of the task's losses.

    Raises:
      ValueError: shapes that disagree; a negative ``lam``.

    Source: Grari, Laugel, Hashimoto, Lamprier, Detyniecki (2024), arXiv 2310.18413.

    >>> one = jnp.ones(2)
    >>> road_predictor_loss(one, 0.5 * one, jnp.array([0.5, 1.5]), lam=2.0).tolist()
    [0.5, -0.5]
    """
    check_finite_number("lam", lam, low=0.0)
    for name, other in (("adversary_losses", adversary_losses), ("ratio", ratio)):
        if other.shape != task_losses.shape:
            raise ValueError(f"road_predictor_loss: task_losses {task_losses.shape} and {name} {other.shape} disagree")
    weighted = jax.lax.stop_gradient(widened(ratio)) * widened(adversary_losses)
    return (widened(task_losses) - lam * weighted).astype(task_losses.dtype)
