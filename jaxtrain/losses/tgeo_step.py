"""The bilevel step of TGeo-KD: the student learns from teacher and labels, and their ratio from what that did to it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, Params, Scalar
from jaxtrain.losses._logits import check_labels, widened
from jaxtrain.losses.tgeo import fusion_ratio, kd_fusion_loss, trilateral_features


class TGeoBatch(NamedTuple):
    """Inputs, the teacher's logits for them (not read of validation data), and labels."""

    inputs: Any
    teacher_logits: Any
    labels: Any


class TGeoState(NamedTuple):
    """State of :func:`tgeo_bilevel_step`: parameters of the student and of the network of the ratio, and the states of their
    optimizers."""

    student: Params
    student_state: optax.OptState
    ratio: Params
    ratio_state: optax.OptState


class TGeoMetrics(NamedTuple):
    """Of a step: the student's training loss, its validation loss after it, and the ratio of each training example."""

    loss: Scalar
    validation_loss: Scalar
    alpha: Float[Array, " batch"]


def tgeo_bilevel_step(
    state: TGeoState,
    train_batch: TGeoBatch,
    val_batch: TGeoBatch,
    *,
    apply: Callable[[Params, Any], Array],
    student_tx: optax.GradientTransformation,
    ratio_tx: optax.GradientTransformation,
    class_means: Float[Array, "classes classes"],
    temperature: Number = 1.5,
) -> tuple[TGeoState, TGeoMetrics]:
    r"""A step of the student, and one of its ratio through it.

    .. math:: \theta' = \theta - u\bigl(\nabla_\theta\,\mathrm{mean}_i\,\ell_i(\theta, \alpha_i(\omega))\bigr), \qquad
       \omega' = \omega - v\bigl(\nabla_\omega\,\mathrm{CE}_{val}(\theta'(\omega))\bigr)

    with the updates :math:`u, v` of the two optimizers; the gradient of ω is that through the student's whole update.
    It costs about twice the student's gradient more. Updates that have no slope at a gradient of zero make it NaN: give
    Adam an ``eps_root`` such as 1e-8.

    Args:
      state: ``TGeoState(student, student_tx.init(student), ratio, ratio_tx.init(ratio))``.
      train_batch: what the student learns from.
      val_batch: what the ratio learns from; its ``teacher_logits`` may be None.
      apply: ``(student, inputs) -> (batch, n)`` logits.
      student_tx: the student's optimizer.
      ratio_tx: that of the parameters of :func:`fusion_ratio`.
      class_means: the table :func:`class_mean_teacher` of the training data.
      temperature: as in :func:`kd_fusion_loss`.

    Returns:
      The new state and metrics.

    Raises:
      ValueError: shapes that disagree, a label that is no class.

    Source: Hu, Wu, Li, Ma, Chen, Wang, Yan, Liu (2024), arXiv 2312.15112.

    >>> ratio = [{"w": jnp.zeros((18, 1)), "b": jnp.zeros(1)}]
    >>> sgd = optax.sgd(1.0)
    >>> state = TGeoState(jnp.zeros((1, 2)), sgd.init(jnp.zeros((1, 2))), ratio, sgd.init(ratio))
    >>> x, y = jnp.ones((1, 1)), jnp.array([0])
    >>> wrong = TGeoBatch(x, jnp.array([[0.0, 9.0]]), y)
    >>> options = dict(apply=lambda w, x: x @ w, student_tx=sgd, ratio_tx=sgd, class_means=jnp.eye(2))
    >>> state, metrics = tgeo_bilevel_step(state, wrong, TGeoBatch(x, None, y), **options)
    >>> float(metrics.alpha[0]), bool(state.ratio[0]["b"][0] < 0)  # less of a teacher that is wrong
    (0.5, True)
    """
    x, teacher_logits, labels = train_batch
    labels = check_labels("tgeo_bilevel_step", teacher_logits, labels)
    teacher = jax.nn.softmax(jax.lax.stop_gradient(widened(teacher_logits)))
    onehot = jax.nn.one_hot(labels, teacher.shape[-1], dtype=teacher.dtype)

    def train_loss(student: Params, ratio: Params) -> tuple[Array, Array]:
        logits = apply(student, x)
        probs = jax.nn.softmax(widened(logits))
        alpha = fusion_ratio(ratio, trilateral_features(probs, teacher, onehot, class_means[labels]))
        return jnp.mean(kd_fusion_loss(logits, teacher_logits, labels, alpha, temperature=temperature)), alpha

    def after(ratio: Params) -> tuple[Array, Any]:
        (loss, alpha), grads = jax.value_and_grad(train_loss, has_aux=True)(state.student, ratio)
        updates, student_state = student_tx.update(grads, state.student_state, state.student)
        student = optax.apply_updates(state.student, updates)
        logits = widened(apply(student, val_batch.inputs))
        held = check_labels("tgeo_bilevel_step, validation", logits, val_batch.labels)
        val = jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, held))
        return val, (student, student_state, loss, alpha)

    (val, (student, student_state, loss, alpha)), grads = jax.value_and_grad(after, has_aux=True)(state.ratio)
    updates, ratio_state = ratio_tx.update(grads, state.ratio_state, state.ratio)
    ratio = optax.apply_updates(state.ratio, updates)
    return TGeoState(student, student_state, ratio, ratio_state), TGeoMetrics(loss, val, alpha)
