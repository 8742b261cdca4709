"""Learning from a teacher's predictions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import tempered_kl


def kd_loss(
    student_logits: Float[Array, "*batch n"], teacher_logits: Float[Array, "..."], *, temperature: Number = 5.0
) -> Float[Array, "*batch"]:
    r"""The divergence of a student's softened predictions from a teacher's, per example.

    .. math:: T^2\,\mathrm{KL}\bigl(\mathrm{softmax}(z_t / T)\,\|\,\mathrm{softmax}(z_s / T)\bigr)

    The factor :math:`T^2` keeps the size of the gradient, which tends to :math:`(z_s - z_t) / n` for centred logits as
    :math:`T \to \infty`. No hard labels take part.

    Args:
      student_logits: ``(…, n)``.
      teacher_logits: of the same shape; no gradient flows into them.
      temperature: :math:`T` > 0; 5 in the configurations of WAKD.

    Returns:
      Losses ``(…)`` ≥ 0, in the dtype of the student's logits, computed in float32 at least. A class that both mask
      out by -inf counts for nothing.

    Raises:
      ValueError: shapes that disagree, or a temperature that is not positive.

    Source: Hinton, Vinyals, Dean (2015), arXiv 1503.02531; Vorobeev, Nedelko, Litvinenko (2023), arXiv 2309.11446.

    >>> student, teacher = jnp.array([[0.0, 0.0], [1.0, 0.0]]), jnp.array([[5.0, 0.0], [1.0, 0.0]])
    >>> [round(float(loss), 3) for loss in kd_loss(student, teacher)]
    [2.774, 0.0]
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"kd_loss: student logits of shape {student_logits.shape}, teacher logits of {teacher_logits.shape}; they "
            "are predictions of the same examples and classes"
        )
    check_finite_number("temperature", temperature, low=1e-30)
    t = jnp.asarray(temperature, jnp.promote_types(student_logits.dtype, jnp.float32))
    return tempered_kl(jax.lax.stop_gradient(teacher_logits), student_logits, t).astype(student_logits.dtype)
