"""Distillation by alpha-divergences, of which the student takes the one it is worst at (AlphaNet)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import check_same_logits, widened
from jaxtrain.losses.comp_sum import _expm1


def alpha_divergence(
    teacher_logits: Float[Array, "*batch n"], student_logits: Float[Array, "..."], *, alpha: Number
) -> Float[Array, "*batch"]:
    r"""How far a student's predictions :math:`q` are from a teacher's :math:`p`.

    .. math:: D_\alpha(p \| q) = \frac{1}{\alpha(\alpha - 1)} \Big(\sum_c p_c^\alpha q_c^{1 - \alpha} - 1\Big),
       \qquad D_1 = \mathrm{KL}(p \| q), \quad D_0 = \mathrm{KL}(q \| p).

    Negative :math:`\alpha` punish a student that is unsure of what the teacher excludes, and may be infinite;
    :math:`\alpha` above 1 one that excludes what the teacher does not. :math:`D_{1/2}` is four times the squared
    Hellinger distance. Within 3e-4 of 0 and 1 (1e-8 in float64) the limits stand in.

    Args:
      teacher_logits: ``(..., n)``; no gradient flows into them.
      student_logits: of the same shape.
      alpha: any number; may be traced.

    Returns:
      ``(...)`` ≥ 0, in the dtype of the student's logits, computed in float32 at least.

    Raises:
      ValueError: shapes that disagree, alpha not finite.

    Source: Wang, Gong, Li, Liu, Chandra (2021), arXiv 2102.07954.

    >>> p, q = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.25, 0.75]]))
    >>> [round(float(alpha_divergence(p, q, alpha=a)[0]), 4) for a in (-1.0, 0.0, 0.5, 1.0)]
    [0.125, 0.1308, 0.1363, 0.1438]
    """
    log_p, log_q, alpha = _log_probabilities("alpha_divergence", teacher_logits, student_logits, alpha)
    margin = 1e-8 if log_q.dtype == jnp.float64 else 3e-4  # about the root of rounding, where both errors are alike
    zero, one = jnp.abs(alpha) < margin, jnp.abs(alpha - 1) < margin
    safe = jnp.where(zero | one, 0.5, alpha)
    mass = jax.nn.logsumexp(safe * log_p + (1 - safe) * log_q, axis=-1)
    general = _expm1(mass) / (safe * (safe - 1))
    forward = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
    reverse = jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)
    return jnp.where(zero, reverse, jnp.where(one, forward, general)).astype(student_logits.dtype)


def alpha_divergence_surrogate(
    teacher_logits: Float[Array, "*batch n"], student_logits: Float[Array, "..."], *, alpha: Number, clip: Number = 5.0
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    r"""A divergence with bounded ratios, and a loss that has its gradient.

    .. math:: \nabla D_\alpha = -\sum_c q_c \rho_c \nabla \log q_c, \qquad
       \rho_c = \frac1\alpha \Big(\frac{p_c}{q_c}\Big)^{\alpha}, \quad \rho_c = \log\frac{p_c}{q_c} - 1 \text{ at } 0.

    :math:`(p/q)^\alpha` (at 0: :math:`p/q`) is cut off at ``clip``, in the value and in the gradient. At 1 nothing is,
    as in the authors' code: the gradient is that of cross-entropy. Within 1e-3 of 0 and 1 the limits stand in.

    Args:
      teacher_logits: ``(..., n)``; no gradient flows into them.
      student_logits: of the same shape.
      alpha: any number; may be traced.
      clip: > 0; may be traced.

    Returns:
      ``(...)`` values, to compare and to watch, without gradient; ``(...)`` losses for the gradient, whose values mean
      nothing. In float32 at least.

    Raises:
      ValueError: shapes that disagree, a number out of range.

    Source: Wang, Gong, Li, Liu, Chandra (2021), arXiv 2102.07954.

    >>> p, q = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.25, 0.75]]))
    >>> round(float(alpha_divergence_surrogate(p, q, alpha=-1.0)[0][0]), 4)
    0.125
    """
    check_finite_number("clip", clip, low=float(np.finfo(np.float32).tiny))
    log_p, log_q, alpha = _log_probabilities("alpha_divergence_surrogate", teacher_logits, student_logits, alpha)
    fixed = jax.lax.stop_gradient(log_q)
    q, ratio, bound = jnp.exp(fixed), log_p - fixed, jnp.log(jnp.asarray(clip, log_q.dtype))
    zero, one = jnp.abs(alpha) < 1e-3, jnp.abs(alpha - 1) < 1e-3
    safe = jnp.where(zero | one, 0.5, alpha)
    # cut off before the exponential: q times the ratio is finite where q underflows
    weighted = jnp.exp(fixed + jnp.minimum(safe * ratio, bound))
    bounded = jnp.minimum(ratio, bound)
    value = jnp.where(
        zero,
        -jnp.sum(q * bounded, axis=-1),
        jnp.where(one, jnp.sum(jnp.exp(log_p) * ratio, -1), (jnp.sum(weighted, -1) - 1) / (safe * (safe - 1))),
    )
    slope = jnp.where(zero, q * (bounded - 1), jnp.where(one, jnp.exp(log_p), weighted / safe))
    return value, -jnp.sum(slope * log_q, axis=-1)


def adaptive_alpha_distill_loss(
    teacher_logits: Float[Array, "*batch n"],
    student_logits: Float[Array, "..."],
    *,
    alpha_min: Number = -1.0,
    alpha_max: Number = 1.0,
    clip: Number = 5.0,
) -> Float[Array, "*batch"]:
    """The larger of two alpha-divergences, for each example: neither too sure nor too unsure a student gets away.

    The value is that of :func:`alpha_divergence_surrogate` and the gradient that of its second result, through the
    larger one only. The authors' code returns that second result, whose value is no divergence.

    Args:
      teacher_logits: ``(..., n)``; no gradient flows into them.
      student_logits: of the same shape.
      alpha_min: the one, usually negative; may be traced.
      alpha_max: the other, usually 1 (KL); may be traced.
      clip: of the ratios, > 0; may be traced.

    Returns:
      ``(...)``, in the dtype of the student's logits, computed in float32 at least.

    Raises:
      ValueError: shapes that disagree, a number out of range.

    Source: Wang, Gong, Li, Liu, Chandra (2021), arXiv 2102.07954.

    >>> p, q = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.25, 0.75]]))
    >>> round(float(adaptive_alpha_distill_loss(p, q)[0]), 4), round(float(adaptive_alpha_distill_loss(q, p)[0]), 4)
    (0.1438, 0.1667)
    """
    low, low_loss = alpha_divergence_surrogate(teacher_logits, student_logits, alpha=alpha_min, clip=clip)
    high, high_loss = alpha_divergence_surrogate(teacher_logits, student_logits, alpha=alpha_max, clip=clip)
    worse = low > high
    loss = jnp.where(worse, low_loss, high_loss)
    value = jax.lax.stop_gradient(jnp.where(worse, low, high))
    # the difference has the gradient and no value
    return (value + (loss - jax.lax.stop_gradient(loss))).astype(student_logits.dtype)


def sandwich_subnet_sampler(
    key: Key, space: Mapping[str, Float[Array, "..."]], *, num_random: int = 2
) -> dict[str, Float[Array, "..."]]:
    """Which sub-networks to train in a step: the largest, the smallest and some at random.

    The largest learns from labels; the others from its predictions.

    Args:
      key: a typed key.
      space: name → vector of choices, such as widths.
      num_random: how many at random, each choice evenly.

    Returns:
      name → ``(2 + num_random,)`` choices, of the largest, the smallest and the random ones in this order.

    Raises:
      ValueError: choices that are no vector, a negative number.
      TypeError: a key that is none.

    Source: Wang, Gong, Li, Liu, Chandra (2021), arXiv 2102.07954; the sandwich rule of Yu, Huang (2019).

    >>> found = sandwich_subnet_sampler(jax.random.key(0), {"width": jnp.array([0.5, 0.25, 1.0])})
    >>> found["width"].shape, found["width"][:2].tolist()
    ((4,), [1.0, 0.25])
    """
    check_key(key, where="sandwich_subnet_sampler")
    number = static_int("num_random", num_random, low=0)
    found = {}
    for k, (name, choices) in zip(jax.random.split(key, max(len(space), 1)), sorted(space.items()), strict=False):
        if jnp.ndim(choices) != 1 or len(choices) == 0:
            raise ValueError(f"the choices of {name!r} must be a vector, got shape {jnp.shape(choices)}")
        ends = jnp.stack([jnp.max(choices), jnp.min(choices)])
        found[name] = jnp.concatenate([ends, jax.random.choice(k, choices, (number,))])
    return found


def _log_probabilities(where, teacher, student, alpha):
    check_same_logits(where, "student", teacher, student)
    check_finite_number("alpha", alpha)
    log_p = jax.nn.log_softmax(widened(jax.lax.stop_gradient(teacher)), axis=-1)
    log_q = jax.nn.log_softmax(widened(student), axis=-1)
    return log_p, log_q, jnp.asarray(alpha, log_q.dtype)
