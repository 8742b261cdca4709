"""Distillation with two heads: labels teach one, the teacher's logits the other, and both teach what they share."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Params, check_finite_number
from jaxtrain.core.tree import safe_norm
from jaxtrain.losses._logits import check_labels, check_same_logits, widened


def _softened(where: str, student: Array, teacher: Array, temperature: Number) -> tuple[Array, Array]:
    """Both over the temperature, in float32 at least; the teacher's are constants."""
    check_same_logits(where, "teacher_logits", student, teacher)
    check_finite_number("temperature", temperature, low=1e-30)
    return widened(student) / temperature, jax.lax.stop_gradient(widened(teacher)) / temperature


def _log_cosh(x: Array) -> Array:
    """With all its digits near 0 too, where |x| + log(1 + e^(-2|x|)) - log 2 has none; exactly even."""
    x = jnp.abs(x)
    near = x < 1
    # each branch sees only what it can bear, as gradients pass through both
    small = jnp.log1p(2 * jnp.square(jnp.sinh(jnp.where(near, x, 0.0) / 2)))
    far = jnp.where(near, 1.0, x)
    return jnp.where(near, small, far + jnp.log1p(jnp.exp(-2 * far)) - jnp.log(2.0))


def binary_kl_norm_loss(
    student_logits: Float[Array, "*batch n"], teacher_logits: Float[Array, "..."], *, temperature: Number = 2.0
) -> Float[Array, "*batch"]:
    r"""How far a student's logits are from a teacher's, class by class, through the sigmoid of their difference.

    .. math:: \tau^2 \sum_k \mathrm{KL}\bigl(\mathrm{B}(\tfrac12)\,\|\,\mathrm{B}(\sigma(d_k))\bigr)
       = \tau^2 \sum_k \log\cosh\frac{d_k}2, \qquad d = \frac{z_s - z_t}\tau.

    Near the teacher it is an eighth of the squared distance of the logits, far from it the slope in each of them is at
    most :math:`\tau / 2`. Unlike :func:`kd_loss` it is zero at the teacher's logits only, not at those plus a constant.

    Args:
      student_logits: ``(…, n)``.
      teacher_logits: of the same shape; no gradient flows into them.
      temperature: :math:`\tau` > 0; may be traced.

    Returns:
      Losses ``(…)`` ≥ 0, in the dtype of the student's logits, computed in float32 at least. A class that both mask
      out by -inf counts for nothing.

    Raises:
      ValueError: shapes that disagree, or a temperature that is not positive.

    Source: Yang, Zong, Huang, Feng, An (2024), arXiv 2411.08937.

    >>> loss = binary_kl_norm_loss(jnp.array([[4.0, 0.0], [1.0, 2.0]]), jnp.array([[0.0, 0.0], [1.0, 2.0]]))
    >>> [round(float(x), 4) for x in loss]  # 4 log cosh 1, and the teacher's own
    [1.7351, 0.0]
    """
    student, teacher = _softened("binary_kl_norm_loss", student_logits, teacher_logits, temperature)
    masked = jnp.isneginf(student) & jnp.isneginf(teacher)
    apart = jnp.where(masked, 0.0, student) - jnp.where(masked, 0.0, teacher)
    loss = temperature**2 * jnp.sum(_log_cosh(apart / 2), axis=-1)
    return loss.astype(student_logits.dtype)


def binary_kl_loss(
    student_logits: Float[Array, "*batch n"], teacher_logits: Float[Array, "..."], *, temperature: Number = 2.0
) -> Float[Array, "*batch"]:
    r"""The divergence of a student's softened predictions from a teacher's, with every class a question of its own.

    .. math:: \tau^2 \sum_k \mathrm{KL}\bigl(\mathrm{B}(\sigma(z_{t,k} / \tau))\,\|\,\mathrm{B}(\sigma(z_{s,k} / \tau))\bigr).

    Computed from logarithms of sigmoids, so that nothing has to be clipped.

    Args:
      student_logits: ``(…, n)``.
      teacher_logits: of the same shape; no gradient flows into them.
      temperature: :math:`\tau` > 0; may be traced.

    Returns:
      Losses ``(…)``, in the dtype of the student's logits, computed in float32 at least. Masked as there.

    Raises:
      ValueError: shapes that disagree, or a temperature that is not positive.

    Source: Yang, Zong, Huang, Feng, An (2024), arXiv 2411.08937, as the loss that theirs is made of.

    >>> loss = binary_kl_loss(jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 0.0]]), temperature=1.0)
    >>> round(float(loss[0]), 4)  # log cosh 1, as sigmoid(0) = 1/2
    0.4338
    """
    student, teacher = _softened("binary_kl_loss", student_logits, teacher_logits, temperature)
    p, q = jax.nn.sigmoid(teacher), jax.nn.sigmoid(-teacher)
    yes = jax.nn.log_sigmoid(teacher) - jax.nn.log_sigmoid(student)
    no = jax.nn.log_sigmoid(-teacher) - jax.nn.log_sigmoid(-student)
    # an answer that the teacher never gives counts for nothing: -inf - (-inf) where both mask a class out
    parts = p * jnp.where(p > 0, yes, 0.0) + q * jnp.where(q > 0, no, 0.0)
    return (temperature**2 * jnp.sum(parts, axis=-1)).astype(student_logits.dtype)


def dhkd_loss(
    main_logits: Float[Array, "*batch n"],
    aux_logits: Float[Array, "..."],
    teacher_logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    alpha: Number,
    gamma: Number = 1.0,
    temperature: Number = 2.0,
) -> Float[Array, "*batch"]:
    r"""Labels for the main head, a teacher's logits for an auxiliary one.

    .. math:: \gamma\,\mathrm{CE}(z_{main}, y) + \alpha\,\mathrm{BinaryKL}_{norm}(z_{aux}, z_t).

    Both heads are linear maps of the same features. Only the main one predicts; the auxiliary one is dropped after
    training. On one head the two losses pull its weights against each other.

    Args:
      main_logits: ``(…, n)`` of the main head.
      aux_logits: of the same shape, of the auxiliary head.
      teacher_logits: of the same shape; no gradient flows into them.
      labels: ``(…)`` integers.
      alpha: the weight of the teacher, ≥ 0; may be traced.
      gamma: the weight of the labels, ≥ 0; may be traced.
      temperature: as in :func:`binary_kl_norm_loss`.

    Returns:
      Losses ``(…)`` ≥ 0, in the dtype of the main head's logits.

    Raises:
      ValueError: shapes that disagree, a label that is no class, or a number out of range.

    Source: Yang, Zong, Huang, Feng, An (2024), arXiv 2411.08937.

    >>> main, aux, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[4.0, 0.0]]), jnp.array([[0.0, 0.0]])
    >>> round(float(dhkd_loss(main, aux, teacher, jnp.array([0]), alpha=0.5)[0]), 4)  # log 2 + 2 log cosh 1
    1.5607
    """
    labels = check_labels("dhkd_loss", main_logits, labels)
    check_same_logits("dhkd_loss", "aux_logits", main_logits, aux_logits)
    check_finite_number("alpha", alpha, low=0.0)
    check_finite_number("gamma", gamma, low=0.0)
    main = optax.losses.softmax_cross_entropy_with_integer_labels(widened(main_logits), labels)
    aux = binary_kl_norm_loss(widened(aux_logits), teacher_logits, temperature=temperature)
    return (gamma * main + alpha * aux).astype(main_logits.dtype)


def align_auxiliary_gradient(g_main: Params, g_aux: Params) -> Params:
    r"""Takes from an auxiliary gradient what goes against the main one; the main one is never changed.

    .. math:: g_{aux} - \min\Big(0, \frac{\langle g_{aux}, g_{main}\rangle}{\|g_{main}\|^2}\Big)\, g_{main}

    over all leaves together: half of PCGrad, see :func:`jaxtrain.aggregation.pcgrad`, which changes both. Give the
    gradients of what both losses share. The step goes along ``g_main`` plus what comes back.

    Args:
      g_main: tree.
      g_aux: tree like it.

    Returns:
      A tree like ``g_aux``: the same where the two do not conflict, or where ``g_main`` is zero. A gradient that is not
      finite makes it NaN.

    Raises:
      ValueError: trees of different structure or shapes.

    Source: Yang, Zong, Huang, Feng, An (2024), arXiv 2411.08937.

    >>> align_auxiliary_gradient(jnp.array([2.0, 0.0]), jnp.array([-3.0, 1.0])).tolist()
    [0.0, 1.0]
    """
    if jax.tree.structure(g_main) != jax.tree.structure(g_aux):
        raise ValueError("align_auxiliary_gradient: g_main and g_aux are trees of different structure")
    shapes = [[jnp.shape(g) for g in jax.tree.leaves(tree)] for tree in (g_main, g_aux)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"align_auxiliary_gradient: g_main has leaves of shapes {shapes[0]}, g_aux of {shapes[1]}")
    length = safe_norm(g_main)
    # the square of a length overflows long before the length does
    scale = jnp.where(length == 0, 1.0, length)
    unit = jax.tree.map(lambda g: g.astype(length.dtype) / scale, g_main)
    against = jnp.minimum(optax.tree.vdot(unit, jax.tree.map(widened, g_aux)), 0.0)
    return jax.tree.map(lambda a, u: (a - against * u).astype(a.dtype), g_aux, unit)
