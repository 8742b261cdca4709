"""Early-learning regularization: stay with what the model said of an example before it learned the wrong labels."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import check_labels, check_memory, check_same_logits, surprise, widened

_TINY = float(np.finfo(np.float32).tiny)


def _clipped(logits: Array, clip: Number) -> Array:
    return jnp.clip(jax.nn.softmax(widened(logits), axis=-1), clip, 1 - clip)


def elr_regularizer(
    logits: Float[Array, "*batch n"], targets: Float[Array, "..."], *, clip: Number = 1e-4
) -> Float[Array, "*batch"]:
    r"""The term that pulls a prediction towards its target: lowest where all of both is on one class.

    .. math:: \log\big(1 - \langle p, t \rangle\big), \qquad p = \mathrm{clip}(\mathrm{softmax}(z), c, 1 - c).

    It is at most 0 and at least :math:`\log c`. Its gradient by :math:`z_k`, where nothing is clipped, is
    :math:`-p_k (t_k - \langle p, t\rangle) / (1 - \langle p, t\rangle)`; a clipped entry passes none. The targets are
    not differentiated.

    Args:
      logits: ``(..., n)``, the class axis last.
      targets: ``(..., n)``, not negative, with a sum of 1 at most, as :func:`elr_targets` gives them.
      clip: :math:`c` in (0, 0.5]; may be traced.

    Returns:
      ``(...)``, one value for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, or a clip out of range.

    Source: Liu, Niles-Weed, Razavian, Fernandez-Granda (2020), arXiv 2007.00151.

    >>> logits, targets = jnp.log(jnp.array([[0.75, 0.25]])), jnp.array([[1.0, 0.0]])
    >>> round(float(elr_regularizer(logits, targets)[0]), 4)  # log(1 - 0.75)
    -1.3863
    """
    check_same_logits("elr_regularizer", "targets", logits, targets)
    check_finite_number("clip", clip, low=_TINY, high=0.5)
    t = widened(jax.lax.stop_gradient(targets))
    # where rounding brings the product above 1 - clip, the logarithm must not see a number below it
    left = jnp.maximum(1 - jnp.sum(_clipped(logits, clip) * t, axis=-1), clip * (1 - 1e-3))
    return jnp.log(left).astype(logits.dtype)


def elr_loss(
    logits: Float[Array, "*batch n"],
    labels: Int[Array, "..."],
    targets: Float[Array, "..."],
    *,
    lam: Number = 3.0,
    clip: Number = 1e-4,
) -> Float[Array, "*batch"]:
    r"""Cross-entropy plus a pull towards the running prediction, for labels of which some are wrong.

    .. math:: -\log p_y + \lambda \log\big(1 - \langle p, t \rangle\big)

    Early in training a model is right about many examples whose label is wrong; :math:`t` keeps that. Once it is
    confident, the second gradient cancels the first for a wrong label, and it keeps right labels in play whose first
    gradient has faded. The loss may be negative.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      labels: ``(...)`` classes in ``[0, n)``.
      targets: ``(..., n)`` of the same examples, already moved by this batch (:func:`elr_targets`).
      lam: :math:`\lambda` ≥ 0; 3 for CIFAR-10 and 7 for CIFAR-100 in the paper; may be traced.
      clip: probabilities are kept in ``[clip, 1 - clip]`` in the second term; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, a label or a number out of range.

    Source: Liu, Niles-Weed, Razavian, Fernandez-Granda (2020), arXiv 2007.00151.

    >>> logits, targets = jnp.log(jnp.array([[0.75, 0.25]])), jnp.array([[1.0, 0.0]])
    >>> round(float(elr_loss(logits, jnp.array([1]), targets, lam=0.5)[0]), 4)  # log 4 + log(1 - 0.75) / 2
    0.6931
    """
    labels = check_labels("elr_loss", logits, labels)
    check_finite_number("lam", lam, low=0.0)
    pull = elr_regularizer(widened(logits), targets, clip=clip)
    return (surprise(logits, labels) + lam * pull).astype(logits.dtype)


def elr_plus_loss(
    logits: Float[Array, "*batch n"],
    label_probs: Float[Array, "..."],
    targets: Float[Array, "..."],
    *,
    step: Number,
    rampup_steps: Number,
    lam: Number = 3.0,
    clip: Number = 1e-4,
) -> Float[Array, "*batch"]:
    r"""The same with label distributions, as mixup makes them, and a pull that is switched on slowly.

    .. math:: -\sum_k y_k \log p_k + \lambda \, e^{-5 (1 - \min(s / S, 1))^2} \log\big(1 - \langle p, t \rangle\big)

    In ELR+ two models are trained, and the targets of each come from the averaged weights (EMA) of the other:
    ``elr_targets(…, clip=0.0)`` updated with its logits of the unmixed inputs. For an input mixed as
    :math:`\ell x_i + (1 - \ell) x_j` labels and targets are mixed alike.

    Args:
      logits: ``(..., n)``, the class axis last.
      label_probs: ``(..., n)`` distributions.
      targets: ``(..., n)``, mixed as the labels are.
      step: :math:`s` ≥ 0; may be traced.
      rampup_steps: :math:`S` ≥ 0; 0 leaves the factor at 1; may be traced.
      lam: :math:`\lambda` ≥ 0; may be traced.
      clip: as in :func:`elr_loss`.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, or a number out of range.

    Source: Liu, Niles-Weed, Razavian, Fernandez-Granda (2020), arXiv 2007.00151, section 5.

    >>> logits, targets = jnp.log(jnp.array([[0.75, 0.25]])), jnp.array([[1.0, 0.0]])
    >>> how = dict(label_probs=jnp.array([[0.0, 1.0]]), step=0, rampup_steps=10)
    >>> round(float(elr_plus_loss(logits, targets=targets, lam=1.0, **how)[0]), 4)  # log 4 (1 - e^-5)
    1.377
    """
    check_same_logits("elr_plus_loss", "label_probs", logits, label_probs)
    for name, value in (("step", step), ("rampup_steps", rampup_steps), ("lam", lam)):
        check_finite_number(name, value, low=0.0)
    z = widened(logits)
    entropy = -jnp.sum(label_probs * jax.nn.log_softmax(z, axis=-1), axis=-1)
    # no ramp is a ramp at its end
    none = jnp.asarray(rampup_steps) == 0
    done = jnp.where(none, 1.0, jnp.minimum(step / jnp.where(none, 1, rampup_steps), 1.0))
    pull = elr_regularizer(z, targets, clip=clip)
    return (entropy + lam * jnp.exp(-5 * (1 - done) ** 2).astype(z.dtype) * pull).astype(logits.dtype)


class ElrTargets(NamedTuple):
    """State of :func:`elr_targets`: the running prediction of every example."""

    targets: Float[Array, "examples classes"]


class ElrTargetsFns(NamedTuple):
    """``init() -> ElrTargets`` and ``update(state, indices, logits) -> (targets of the batch, ElrTargets)``."""

    init: Callable[[], ElrTargets]
    update: Callable[..., tuple[Float[Array, "batch classes"], ElrTargets]]


def elr_targets(
    num_examples: int,
    num_classes: int,
    *,
    beta: Number = 0.7,
    clip: Number = 1e-4,
    dtype: DTypeLike = jnp.float32,
) -> ElrTargetsFns:
    r"""The running predictions that :func:`elr_loss` pulls towards: a pair ``(init, update)``.

    .. math:: t_i \leftarrow \beta t_i + (1 - \beta) \frac{p_i}{\sum_k p_{ik}}, \qquad t_i = 0 \text{ at first},

    for the examples of the batch, with :math:`p_i` clipped and not differentiated. They start at 0 and are not
    corrected for it, so the pull grows over the first visits. The loss takes the targets that ``update`` returns: moved
    first. In a training step they are part of the model state: ``num_examples · num_classes`` numbers, sharded over the
    examples like any array. Indices should differ within a batch; of equal ones some one wins.

    Args:
      num_examples: of the training set, ≥ 1; indices of a batch are in ``[0, num_examples)``.
      num_classes: ≥ 2.
      beta: :math:`\beta` in [0, 1]; 0.7 for CIFAR-10 and 0.9 for CIFAR-100 in the paper; may be traced.
      clip: probabilities are kept in ``[clip, 1 - clip]``; 0 leaves them as they are; may be traced.
      dtype: of the targets.

    Returns:
      :class:`ElrTargetsFns`; its update raises ``ValueError`` where shapes disagree or an index is out of range.

    Raises:
      ValueError: a size or a number out of range.

    Source: Liu, Niles-Weed, Razavian, Fernandez-Granda (2020), arXiv 2007.00151.

    >>> memory = elr_targets(3, 2, beta=0.75)
    >>> now, state = memory.update(memory.init(), jnp.array([2]), jnp.zeros((1, 2)))
    >>> now.tolist(), state.targets[0].tolist()
    ([[0.125, 0.125]], [0.0, 0.0])
    """
    num_examples = static_int("num_examples", num_examples, low=1)
    num_classes = static_int("num_classes", num_classes, low=2)
    check_finite_number("beta", beta, low=0.0, high=1.0)
    check_finite_number("clip", clip, low=0.0, high=0.5)

    def init() -> ElrTargets:
        return ElrTargets(jnp.zeros((num_examples, num_classes), dtype))

    def update(state, indices, logits):
        check_memory("elr_targets", logits, indices, num_examples, num_classes)
        p = _clipped(jax.lax.stop_gradient(logits), clip)
        moved = beta * state.targets[indices] + (1 - beta) * p / jnp.sum(p, axis=-1, keepdims=True)
        moved = moved.astype(state.targets.dtype)
        return moved, ElrTargets(state.targets.at[indices].set(moved))

    return ElrTargetsFns(init, update)
