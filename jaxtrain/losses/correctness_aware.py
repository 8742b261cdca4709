"""Calibration by correctness: confidence goes to 1 where the prediction is right and down where it is wrong."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Scalar, check_finite_number
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import check_labels, over_temperature, surprise, widened

OBJECTIVES = ("ca", "nll", "mse")


def correctness_aware_loss(
    logits: Float[Array, "*batch n"], labels: Int[Array, "..."], temperature: Any, *, p: Number = 2
) -> Float[Array, "*batch"]:
    r"""How far the confidence in a prediction is from whether it is right.

    .. math:: |\hat c - 1[\hat y = y]|^p, \qquad \hat y = \arg\max_k z_k,
       \quad \hat c = \mathrm{softmax}(z / T)_{\hat y}.

    Where the prediction is wrong, the loss falls as its confidence falls to 1/n, whatever mass the right class has;
    cross-entropy may want more confidence there. The classifier is fixed: gradients go to the temperature only.

    Args:
      logits: ``(…, n)``; constants. Of equal largest ones the first is the prediction.
      labels: ``(…)`` integers.
      temperature: T > 0, one number or ``(…)``.
      p: ≥ 1, 2 in the release; may be traced. With 1 the best confidence is 0 or 1 instead of the chance to be right.

    Returns:
      ``(…)`` losses in [0, 1], in the dtype of the logits, computed in float32 at least.

    Raises:
      ValueError: shapes that disagree, a label that is no class, a temperature that is not positive, p below 1.

    Source: Liu, Wang, Zou, Zou, Zheng (2024), arXiv 2404.13016.

    >>> logits = jnp.array([[jnp.log(3.0), 0.0], [jnp.log(3.0), 0.0]])  # confidence 3/4
    >>> [round(float(x), 4) for x in correctness_aware_loss(logits, jnp.array([0, 1]), 1.0)]
    [0.0625, 0.5625]
    """
    labels = check_labels("correctness_aware_loss", logits, labels)
    check_finite_number("p", p, low=1.0)
    check_finite_number("temperature", temperature, low=1e-30)
    shape = jnp.shape(temperature)
    if shape not in ((), labels.shape):
        raise ValueError(
            f"correctness_aware_loss: temperature of shape {shape}; give one number or one for each of {labels.shape}"
        )
    z = jax.lax.stop_gradient(widened(logits))
    t = jnp.asarray(temperature, z.dtype)[..., None]
    predicted = jnp.argmax(z, axis=-1)
    # of -log c, since 1 - c keeps its digits where c is close to 1
    unsure = surprise(over_temperature(z, t), predicted)
    return (jnp.where(predicted == labels, -jnp.expm1(-unsure), jnp.exp(-unsure)) ** p).astype(logits.dtype)


def _mean_loss(objective: str, z: Array, labels: Array, t: Array) -> Array:
    if objective == "ca":
        return jnp.mean(correctness_aware_loss(z, labels, t))
    z = over_temperature(z, t)
    if objective == "nll":
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(z, labels))
    wrong = jax.nn.softmax(z) - jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)
    return jnp.mean(jnp.sum(jnp.square(wrong), axis=-1))


def fit_temperature(
    logits: Float[Array, "batch n"], labels: Int[Array, "..."], *, objective: str = "ca", steps: int = 30
) -> Scalar:
    r"""The one temperature that is best for a fixed classifier's predictions.

    The best of 65 temperatures from 1/100 to 100 times the mean of the largest logit over the mean of the others, then
    bisection of the slope between its neighbours. Scaling the logits scales the result. One evaluation of all
    examples for each temperature and step.

    Args:
      logits: ``(batch, n)`` on examples that the classifier was not trained on; a class masked out by -inf is none.
      labels: ``(batch,)`` integers.
      objective: ``"ca"``: the mean :func:`correctness_aware_loss`; ``"nll"``: the cross-entropy, as is usual;
        ``"mse"``: Brier's score of all classes.
      steps: of bisection; each halves an interval of 15 %.

    Returns:
      T, in float32 at least, constant in differentiation. An end of the range where the loss has no minimum inside, as
      when all predictions are right.

    Raises:
      ValueError: shapes that disagree, no examples, a label that is no class, an unknown objective.

    Source: Guo, Pleiss, Sun, Weinberger (2017), arXiv 1706.04599; Liu, Wang, Zou, Zou, Zheng (2024), arXiv 2404.13016.

    >>> logits = jnp.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> t = fit_temperature(logits, jnp.array([0, 0, 0, 1]), objective="nll")  # confidence 3/4 at 4 / log 3
    >>> round(float(t), 3)
    3.641
    """
    if logits.ndim != 2 or not len(logits):
        raise ValueError(f"fit_temperature: logits {logits.shape} must be (batch, n) of one example at least")
    labels = check_labels("fit_temperature", logits, labels)
    if objective not in OBJECTIVES:
        raise ValueError(f"fit_temperature: objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    steps = static_int("steps", steps, low=0)
    z = jax.lax.stop_gradient(widened(logits))
    top, some = jnp.max(z, axis=-1), ~jnp.isneginf(z)
    others = (jnp.sum(jnp.where(some, z, 0.0), axis=-1) - top) / jnp.maximum(jnp.sum(some, axis=-1) - 1, 1)
    # an example with one class that is not masked out says nothing
    unit = jnp.mean(jnp.where(jnp.sum(some, axis=-1) > 1, top - others, 0.0))
    # without any differences every temperature is as good
    z = z / jnp.where(unit > 0, unit, 1.0)

    def loss(log_t):
        return _mean_loss(objective, z, labels, jnp.exp(log_t))

    grid = jnp.linspace(-jnp.log(100.0), jnp.log(100.0), 65, dtype=z.dtype)
    best = jnp.argmin(jax.lax.map(loss, grid))
    ends = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, len(grid) - 1)]

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        falls = jax.grad(loss)(middle) < 0
        return jnp.where(falls, middle, low), jnp.where(falls, high, middle)

    low, high = jax.lax.fori_loop(0, steps, halve, ends)
    return jax.lax.stop_gradient(jnp.exp((low + high) / 2) * jnp.where(unit > 0, unit, 1.0))


def augmented_top_probs(
    logits: Float[Array, "batch n"], aug_logits: Float[Array, "..."], *, k: int = 4
) -> Float[Array, "batch copies k"]:
    """What changed copies of an example make of the classes that the example itself puts first.

    Args:
      logits: ``(batch, n)`` of the examples.
      aug_logits: ``(copies, batch, n)`` of copies: rotated, in grey, noisy …
      k: how many classes; a Python integer.

    Returns:
      ``(batch, copies, k)`` probabilities in the order of the example's own, in float32 at least, constants.

    Raises:
      ValueError: shapes that disagree, or more classes than there are.

    Source: Liu, Wang, Zou, Zou, Zheng (2024), arXiv 2404.13016.

    >>> copies = jnp.log(jnp.array([[[0.25, 0.5, 0.25]]]))
    >>> augmented_top_probs(jnp.array([[0.0, 1.0, 2.0]]), copies, k=2).round(3).tolist()  # of class 2, then 1
    [[[0.25, 0.5]]]
    """
    if aug_logits.ndim != 3 or aug_logits.shape[1:] != logits.shape:
        raise ValueError(f"augmented_top_probs: logits {logits.shape} and copies {aug_logits.shape} disagree")
    k = static_int("k", k, low=1)
    if k > logits.shape[-1]:
        raise ValueError(f"augmented_top_probs: k is {k}, but there are {logits.shape[-1]} classes")
    probs = jax.nn.softmax(jax.lax.stop_gradient(widened(aug_logits)))
    index = jax.lax.top_k(jax.lax.stop_gradient(logits), k)[1]
    return jnp.moveaxis(jnp.take_along_axis(probs, index[None], axis=-1), 0, 1)


def augmentation_calibrator_apply(
    params: Sequence[Any], topk_probs_aug: Float[Array, "batch ..."], *, low: Number = 0.1
) -> Float[Array, " batch"]:
    r"""A temperature for each example, by a small network of rectifiers that looks at :func:`augmented_top_probs`.

    .. math:: T = T_{low} + \log(1 + e^{f(x)})

    Args:
      params: layers ``{"w": (inputs, outputs), "b": (outputs,)}``; the last has one output.
      topk_probs_aug: ``(batch, …)``; what is behind the first axis is one vector.
      low: the lowest temperature, > 0; may be traced.

    Returns:
      ``(batch,)`` temperatures, for :func:`correctness_aware_loss`.

    Raises:
      ValueError: a last layer of several outputs, inputs of another length, or a bound that is not positive.

    Source: Liu, Wang, Zou, Zou, Zheng (2024), arXiv 2404.13016.

    >>> layer = {"w": jnp.zeros((8, 1)), "b": jnp.zeros(1)}
    >>> round(float(augmentation_calibrator_apply([layer], jnp.ones((1, 2, 4)))[0]), 4)  # 0.1 + log 2
    0.7931
    """
    check_finite_number("low", low, low=1e-30)
    x = topk_probs_aug.reshape(len(topk_probs_aug), -1)
    if not params or params[-1]["w"].shape[-1] != 1 or params[0]["w"].shape[0] != x.shape[-1]:
        shapes = [tuple(layer["w"].shape) for layer in params]
        raise ValueError(
            f"augmentation_calibrator_apply: layers of shapes {shapes} for {x.shape[-1]} inputs and one temperature"
        )
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return low + jax.nn.softplus(x @ params[-1]["w"] + params[-1]["b"])[:, 0]
