"""How much to learn from the teacher, for each example: a small network decides, and validation data teach it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, check_same_logits, widened
from jaxtrain.losses.distillation import kd_loss
from jaxtrain.losses.icnn import prototypes


def class_mean_teacher(
    probs: Float[Array, "n classes"], labels: Int[Array, "..."], *, num_classes: int
) -> Float[Array, "classes classes"]:
    """A teacher's mean prediction for the examples of each class, see :func:`prototypes`.

    Args:
      probs: ``(n, classes)`` the teacher's probabilities.
      labels: ``(n,)`` integers.
      num_classes: how many classes there are; a row of zeros where one has no examples.

    Returns:
      ``(num_classes, classes)``, in the dtype of the probabilities.

    Raises:
      ValueError: shapes that disagree, a label that is no class.

    Source: Hu, Wu, Li, Ma, Chen, Wang, Yan, Liu (2024), arXiv 2312.15112.

    >>> class_mean_teacher(jnp.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), jnp.array([0, 0, 1]), num_classes=2).tolist()
    [[0.75, 0.25], [0.0, 1.0]]
    """
    return prototypes(probs, labels, num_classes)


def trilateral_features(
    student_probs: Float[Array, "batch n"],
    teacher_probs: Float[Array, "..."],
    onehot: Float[Array, "..."],
    class_mean_teacher: Float[Array, "..."],
) -> Float[Array, "batch features"]:
    r"""What the ratio depends on: the triangle of student S, teacher T and truth G, and the teacher's class mean T̄.

    .. math:: [S, T, G, \bar T, (\bar T - S)^2, (G - S)^2, (T - S)^2, (T - G)^2, (\bar T - G)^2]

    Args:
      student_probs: ``(batch, n)``.
      teacher_probs: of the same shape.
      onehot: of the same shape.
      class_mean_teacher: of the same shape: the row of the table :func:`class_mean_teacher` that belongs to each label.

    Returns:
      ``(batch, 9 n)``, in the dtype of the student's probabilities; constant in differentiation.

    Raises:
      ValueError: shapes that disagree.

    Source: Hu, Wu, Li, Ma, Chen, Wang, Yan, Liu (2024), arXiv 2312.15112.

    >>> s, g = jnp.array([[0.5, 0.5]]), jnp.array([[1.0, 0.0]])
    >>> trilateral_features(s, g, g, s)[0, 8:].tolist()  # the five squares, of two classes each
    [0.0, 0.0, 0.25, 0.25, 0.25, 0.25, 0.0, 0.0, 0.25, 0.25]
    """
    named = {"teacher_probs": teacher_probs, "onehot": onehot, "class_mean_teacher": class_mean_teacher}
    for name, other in named.items():
        check_same_logits("trilateral_features", name, student_probs, other)
    s, t, g, mean = (jax.lax.stop_gradient(x.astype(student_probs.dtype)) for x in (student_probs, *named.values()))
    squares = [jnp.square(a - b) for a, b in ((mean, s), (g, s), (t, s), (t, g), (mean, g))]
    return jnp.concatenate([s, t, g, mean, *squares], axis=-1)


def fusion_ratio(params: Sequence[Any], features: Float[Array, "batch features"]) -> Float[Array, " batch"]:
    """How much the teacher weighs against the labels, between 0 and 1: a network of leaky rectifiers under a sigmoid.

    Args:
      params: layers ``{"w": (inputs, outputs), "b": (outputs,)}``; the last has one output. The paper has 32 and 16 between.
      features: ``(batch, features)`` of :func:`trilateral_features`.

    Returns:
      ``(batch,)``.

    Raises:
      ValueError: a last layer of several outputs, or features of another number.

    Source: Hu, Wu, Li, Ma, Chen, Wang, Yan, Liu (2024), arXiv 2312.15112.

    >>> fusion_ratio([{"w": jnp.zeros((18, 1)), "b": jnp.zeros(1)}], jnp.ones((2, 18))).tolist()
    [0.5, 0.5]
    """
    if not params or params[-1]["w"].shape[-1] != 1 or params[0]["w"].shape[0] != features.shape[-1]:
        shapes = [tuple(layer["w"].shape) for layer in params]
        raise ValueError(f"fusion_ratio: layers of shapes {shapes} for {features.shape[-1]} features and one ratio")
    for layer in params[:-1]:
        features = jax.nn.leaky_relu(features @ layer["w"] + layer["b"])
    return jax.nn.sigmoid(features @ params[-1]["w"] + params[-1]["b"])[:, 0]


def kd_fusion_loss(
    student_logits: Float[Array, "*batch n"],
    teacher_logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    alpha: Any,
    *,
    temperature: Number = 1.5,
) -> Float[Array, "*batch"]:
    r"""Teacher and labels, in a ratio for each example.

    .. math:: \alpha\,T^2\,\mathrm{KL}\bigl(\mathrm{softmax}(z_t / T)\,\|\,\mathrm{softmax}(z_s / T)\bigr)
       + (1 - \alpha)\,\mathrm{CE}(z_s, y)

    Args:
      student_logits: ``(…, n)``.
      teacher_logits: of the same shape; no gradient flows into them.
      labels: ``(…)`` integers.
      alpha: one number or ``(…)``, in [0, 1]; it is differentiated.
      temperature: T > 0; 1.5 in the release; may be traced.

    Returns:
      ``(…)`` losses ≥ 0, in the dtype of the student's logits, computed in float32 at least.

    Raises:
      ValueError: shapes that disagree, a label that is no class, a number out of range.

    Source: Hu, Wu, Li, Ma, Chen, Wang, Yan, Liu (2024), arXiv 2312.15112; :func:`kd_loss`.

    >>> student, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 0.0]])
    >>> round(float(kd_fusion_loss(student, teacher, jnp.array([0]), 0.25)[0]), 4)  # 3/4 log 2
    0.5199
    """
    labels = check_labels("kd_fusion_loss", student_logits, labels)
    check_finite_number("alpha", alpha, low=0.0, high=1.0)
    if jnp.shape(alpha) not in ((), labels.shape):
        raise ValueError(
            f"kd_fusion_loss: alpha of shape {jnp.shape(alpha)}; give one number or one for each of {labels.shape}"
        )
    student = widened(student_logits)
    teacher = kd_loss(student, widened(teacher_logits), temperature=temperature)
    truth = optax.losses.softmax_cross_entropy_with_integer_labels(student, labels)
    return (alpha * teacher + (1 - alpha) * truth).astype(student_logits.dtype)
