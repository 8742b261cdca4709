"""Sharpness-aware training for free: stay close to what the model said some epochs ago (SAF), or to its average (MESA)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, check_memory, check_same_logits, tempered_kl, widened


def saf_trajectory_loss(
    logits: Float[Array, "*batch n"], past_logits: Float[Array, "..."], *, temperature: Number = 5.0
) -> Float[Array, "*batch"]:
    r"""How far softened predictions have moved from those of an earlier model, which is not differentiated.

    .. math:: T^2\,\mathrm{KL}\big(\mathrm{softmax}(z^{\text{past}}/T) \,\|\, \mathrm{softmax}(z/T)\big)

    Where training goes down a steep wall the predictions of one epoch differ much from those a few epochs before; the
    sum of such drops along the trajectory stands for the sharpness that SAM measures with a second gradient. As
    :math:`T \to \infty` it is :math:`\frac{1}{2n} \sum_k (d_k - \bar d)^2` with :math:`d = z - z^{\text{past}}`.

    Args:
      logits: ``(..., n)``, the class axis last.
      past_logits: ``(..., n)`` of the same examples.
      temperature: :math:`T` > 0; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of ``logits``.

    Raises:
      ValueError: shapes that disagree, or a temperature out of range.

    Source: Du, Zhou, Feng, Tan, Zhou (2022), arXiv 2205.14083.

    >>> now, past = jnp.log(jnp.array([[0.8, 0.2]])), jnp.log(jnp.array([[0.5, 0.5]]))
    >>> round(float(saf_trajectory_loss(now, past, temperature=1.0)[0]), 4)  # (log(0.5/0.8) + log(0.5/0.2)) / 2
    0.2231
    """
    check_finite_number("temperature", temperature, low=float(np.finfo(np.float32).tiny))
    check_same_logits("saf_trajectory_loss", "past_logits", logits, past_logits)
    return tempered_kl(jax.lax.stop_gradient(past_logits), logits, temperature).astype(logits.dtype)


def saf_loss(
    logits: Float[Array, "*batch n"],
    labels: Int[Array, "..."],
    past_logits: Float[Array, "..."],
    *,
    epoch: Number,
    lam: Number = 0.3,
    start_epoch: Number = 5,
    end_epoch: Number = np.inf,
    temperature: Number = 5.0,
) -> Float[Array, "*batch"]:
    r"""Cross-entropy plus, between two epochs, the trajectory loss (SAF).

    .. math:: -\log p_y + \lambda \, [\text{start} < \text{epoch} < \text{end}] \,
       T^2\,\mathrm{KL}\big(\mathrm{softmax}(z^{\text{past}}/T) \,\|\, \mathrm{softmax}(z/T)\big)

    The past logits come from :func:`logits_memory`. Costs no pass through the model.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      labels: ``(...)`` classes in ``[0, n)``.
      past_logits: ``(..., n)`` of the same examples, some epochs old; read only while the trajectory loss is on.
      epoch: of now, from 0; may be traced.
      lam: :math:`\lambda` ≥ 0; 0.3 in the paper.
      start_epoch: the last epoch without; not below the window of the memory, or there is no past yet.
      end_epoch: the first epoch without again.
      temperature: :math:`T` > 0.

    Returns:
      ``(...)``, one loss for each example, in the dtype of ``logits``.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, a label or a number out of range.

    Source: Du, Zhou, Feng, Tan, Zhou (2022), arXiv 2205.14083.

    >>> now, past = jnp.log(jnp.array([[0.8, 0.2]])), jnp.log(jnp.array([[0.5, 0.5]]))
    >>> for epoch in (5, 6):
    ...     loss = saf_loss(now, jnp.array([0]), past, epoch=epoch, lam=1.0, temperature=1.0)
    ...     print(round(float(loss[0]), 4))
    0.2231
    0.4463
    """
    check_finite_number("lam", lam, low=0.0)
    labels = check_labels("saf_loss", logits, labels)
    natural = optax.losses.softmax_cross_entropy_with_integer_labels(widened(logits), labels)
    on = (jnp.asarray(epoch) > start_epoch) & (jnp.asarray(epoch) < end_epoch)
    # before there is a past its place may hold anything: chosen before the loss, so that the gradient is finite too
    past = jnp.where(on, past_logits, jax.lax.stop_gradient(logits))
    moved = saf_trajectory_loss(widened(logits), widened(past), temperature=temperature)
    return (natural + jnp.where(on, lam, 0) * moved).astype(logits.dtype)


def mesa_loss(
    logits: Float[Array, "*batch n"],
    ema_logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    epoch: Number,
    lam: Number = 0.8,
    start_epoch: Number = 5,
    end_epoch: Number = np.inf,
    temperature: Number = 5.0,
) -> Float[Array, "*batch"]:
    r"""SAF without a memory: the past is what an exponential moving average of the parameters says (MESA).

    :func:`saf_loss` with ``ema_logits`` for the past and the released weight 0.8. Costs one forward pass more, by the
    averaged parameters (released decay 0.9998), on the same inputs.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      ema_logits: ``(..., n)`` by the averaged parameters.
      labels: ``(...)`` classes in ``[0, n)``.
      epoch: of now, from 0; may be traced.
      lam: weight of the trajectory loss, ≥ 0.
      start_epoch: the last epoch without.
      end_epoch: the first epoch without again.
      temperature: :math:`T` > 0; 5 in the released code.

    Returns:
      ``(...)``, one loss for each example, in the dtype of ``logits``.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, a label or a number out of range.

    Source: Du, Zhou, Feng, Tan, Zhou (2022), arXiv 2205.14083.

    >>> now, ema = jnp.log(jnp.array([[0.8, 0.2]])), jnp.log(jnp.array([[0.5, 0.5]]))
    >>> round(float(mesa_loss(now, ema, jnp.array([0]), epoch=6, temperature=1.0)[0]), 4)  # 0.2231 (1 + 0.8)
    0.4017
    """
    how = dict(epoch=epoch, lam=lam, start_epoch=start_epoch, end_epoch=end_epoch, temperature=temperature)
    return saf_loss(logits, labels, ema_logits, **how)


class LogitsMemory(NamedTuple):
    """State of :func:`logits_memory`: the logits of every example in the last epochs, a ring of ``window + 1`` slots."""

    logits: Float[Array, "examples slots classes"]


class LogitsMemoryFns(NamedTuple):
    """``init() -> LogitsMemory`` and ``update(memory, indices, logits, *, epoch) -> (past logits, LogitsMemory)``."""

    init: Callable[[], LogitsMemory]
    update: Callable[..., tuple[Float[Array, "batch classes"], LogitsMemory]]


def logits_memory(
    num_examples: int, num_classes: int, *, window: int = 3, dtype: DTypeLike = jnp.float32
) -> LogitsMemoryFns:
    """What the model said of every example ``window`` epochs ago: a pair ``(init, update)``.

    ``update`` stores the logits of a batch, without their gradient, in slot ``epoch mod (window + 1)`` and returns those
    of the same examples of epoch ``epoch - window``. An example that an epoch left out keeps what is older in that slot;
    one that was never seen has zeros, an even prediction. In a training step the memory is part of the model state; of
    all examples it holds ``num_examples · (window + 1) · num_classes`` numbers, sharded over the examples like any array.

    Args:
      num_examples: of the training set, ≥ 1; indices of a batch are in ``[0, num_examples)``.
      num_classes: ≥ 1.
      window: epochs between the past and now, ≥ 1; 3 in the paper.
      dtype: of the memory; bfloat16 halves it.

    Returns:
      :class:`LogitsMemoryFns`; its update raises ``ValueError`` where shapes disagree or an index is out of range.

    Raises:
      ValueError: a size below 1.

    Source: Du, Zhou, Feng, Tan, Zhou (2022), arXiv 2205.14083.

    >>> memory = logits_memory(num_examples=2, num_classes=1, window=2)
    >>> state = memory.init()
    >>> for epoch in range(4):
    ...     past, state = memory.update(state, jnp.array([0, 1]), jnp.array([[1.0], [10.0]]) * (epoch + 1), epoch=epoch)
    >>> past.tolist()  # of epoch 1
    [[2.0], [20.0]]
    """
    for name, value in (("num_examples", num_examples), ("num_classes", num_classes), ("window", window)):
        if value < 1:
            raise ValueError(f"logits_memory: {name} must be at least 1, got {value}")
    slots = window + 1

    def init() -> LogitsMemory:
        return LogitsMemory(jnp.zeros((num_examples, slots, num_classes), dtype))

    def update(memory, indices, logits, *, epoch):
        check_memory("logits_memory", logits, indices, num_examples, num_classes)
        epoch = jnp.asarray(epoch)
        # + 1 is - window in the ring, and stays positive
        past = memory.logits[indices, (epoch + 1) % slots].astype(logits.dtype)
        now = jax.lax.stop_gradient(logits).astype(memory.logits.dtype)
        return past, LogitsMemory(memory.logits.at[indices, epoch % slots].set(now))

    return LogitsMemoryFns(init, update)
