"""Decoupled weight decay as its paper writes it: the decay follows the schedule, not the base learning rate."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxtrain.core import Number, check_decays, check_finite_number
from jaxtrain.core.types import Scalar
from jaxtrain.optimizers._accumulators import in_accumulators


def _scaled(factor: Number, schedule: optax.Schedule | None) -> optax.ScalarOrSchedule:
    return factor if schedule is None else lambda count: factor * schedule(count)


def adamw_original(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    *,
    schedule: optax.Schedule | None = None,
    mask: Any = None,
) -> optax.GradientTransformation:
    r"""AdamW with the paper's decay: :math:`\theta \leftarrow \theta - \eta_t\,(\alpha\,u_t + \lambda\,\theta)`.

    :math:`u_t` is Adam's direction. ``optax.adamw`` and ``torch.optim.AdamW`` multiply the decay by the whole learning
    rate, :math:`\eta_t\alpha(u_t + \lambda'\theta)`: the same with :math:`\lambda' = \lambda/\alpha`, but there another
    :math:`\alpha` is another decay. With PyTorch's default numbers, :math:`\alpha = 10^{-3}` and
    :math:`\lambda' = 10^{-2}`, :math:`\lambda = 10^{-5}`.

    Args:
      learning_rate: :math:`\alpha`, a number.
      b1, b2, eps: Adam's.
      weight_decay: :math:`\lambda`, the share of a parameter that a step with :math:`\eta_t = 1` takes.
      schedule: :math:`\eta_t`, a multiplier in [0, 1], such as :func:`jaxtrain.schedules.cosine_restarts`; None: 1.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation with Adam's state, in float32 at least, whose update needs ``params``.

    Raises:
      TypeError: ``learning_rate`` is a schedule.
      ValueError: a number out of range.

    Source: Loshchilov, Hutter (2019), arXiv 1711.05101, algorithm 2.

    >>> tx = adamw_original(0.5, weight_decay=0.25, schedule=lambda t: 0.5)
    >>> w = jnp.array([4.0])
    >>> tx.update(w, tx.init(w), w)[0].round(5).tolist()  # -0.5 (0.5 · 1 + 0.25 · 4)
    [-0.75]
    """
    _check(learning_rate, weight_decay)
    check_decays(b1=b1, b2=b2)
    check_finite_number("eps", eps, low=0.0)
    return optax.chain(
        in_accumulators(optax.scale_by_adam(b1, b2, eps)),
        optax.scale(learning_rate),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(1.0 if schedule is None else schedule),
    )


def sgdw(
    learning_rate: optax.ScalarOrSchedule = 0.05,
    momentum: Number = 0.9,
    weight_decay: Number = 0.0,
    *,
    schedule: optax.Schedule | None = None,
    mask: Any = None,
) -> optax.GradientTransformation:
    r"""SGD with momentum and decoupled decay.

    .. math:: m_t = \beta\,m_{t-1} + \eta_t\alpha\,g_t, \qquad \theta \leftarrow \theta - m_t - \eta_t\lambda\,\theta.

    The step size is inside the momentum, so that a falling :math:`\eta_t` does not shrink what was gathered before; and
    the decay is outside, where L2 would be remembered by the momentum :math:`1/(1 - \beta)` times.

    Args:
      learning_rate: :math:`\alpha`, a number.
      momentum: :math:`\beta`, in [0, 1].
      weight_decay: :math:`\lambda`, the share of a parameter that a step with :math:`\eta_t = 1` takes.
      schedule: :math:`\eta_t`, a multiplier in [0, 1]; None: 1.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation with one number for each parameter, in float32 at least, whose update needs ``params``.

    Raises:
      TypeError: ``learning_rate`` is a schedule.
      ValueError: a number out of range.

    Source: Loshchilov, Hutter (2019), arXiv 1711.05101, algorithm 1.

    >>> tx = sgdw(0.5, momentum=0.5, weight_decay=0.25)
    >>> w, state = jnp.array([4.0]), tx.init(jnp.array([4.0]))
    >>> for _ in range(2):
    ...     u, state = tx.update(jnp.array([2.0]), state, w)  # m = 1, then 1.5
    ...     w = w + u
    >>> w.tolist()  # 4 - 1 - 1, then 2 - 1.5 - 0.5
    [0.0]
    """
    _check(learning_rate, weight_decay)
    check_finite_number("momentum", momentum, low=0.0, high=1.0)
    return optax.chain(
        optax.scale_by_learning_rate(_scaled(learning_rate, schedule), flip_sign=False),
        in_accumulators(optax.trace(momentum)),
        optax.add_decayed_weights(_scaled(weight_decay, schedule), mask),
        optax.scale(-1.0),
    )


def adam_l2(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    l2: Number = 0.0,
    *,
    mask: Any = None,
) -> optax.GradientTransformation:
    r"""Adam of the loss with :math:`\tfrac{\lambda}{2}\|\theta\|^2` added: the decay that the paper argues against.

    The gradient is :math:`g_t + \lambda\theta` before the moments, so that a parameter with large gradients decays less.
    PyTorch's ``Adam(weight_decay=…)``.

    Args:
      learning_rate: a number or a schedule.
      b1, b2, eps: Adam's.
      l2: :math:`\lambda`, ≥ 0.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation whose update needs ``params``.

    Raises:
      ValueError: a number out of range.

    Source: Loshchilov, Hutter (2019), arXiv 1711.05101, algorithm 2.

    >>> tx = adam_l2(0.5, l2=0.5)
    >>> w = jnp.array([4.0])
    >>> tx.update(jnp.array([-1.0]), tx.init(w), w)[0].round(5).tolist()  # the sign of -1 + 0.5 · 4
    [-0.5]
    """
    check_decays(b1=b1, b2=b2)
    check_finite_number("eps", eps, low=0.0)
    check_finite_number("l2", l2, low=0.0)
    return optax.chain(
        optax.add_decayed_weights(l2, mask),
        in_accumulators(optax.scale_by_adam(b1, b2, eps)),
        optax.scale_by_learning_rate(learning_rate),
    )


def normalized_weight_decay(norm_decay: Number, *, batch_size: Number, num_train: Number, epochs: Number) -> Scalar:
    r"""The decay for a budget: :math:`\lambda = \lambda_\text{norm}\sqrt{b / (B\,T)}`.

    One :math:`\lambda_\text{norm}` (the paper's runs have 0.025 and 0.05) then serves short and long runs: four times
    the steps halve the decay of a step. The authors' program leaves out the batch size b, that is b = 1.

    Args:
      norm_decay: :math:`\lambda_\text{norm}`, ≥ 0.
      batch_size: b, examples in a batch, > 0.
      num_train: B, examples in the data, > 0.
      epochs: T, passes over the data; within warm restarts those until the next one, > 0.

    Returns:
      The weight decay for :func:`adamw_original` or :func:`sgdw`.

    Raises:
      ValueError: a number out of range.

    Source: Loshchilov, Hutter (2019), arXiv 1711.05101, appendix B.1.

    >>> float(normalized_weight_decay(0.5, batch_size=4, num_train=100, epochs=4))
    0.05000000074505806
    """
    check_finite_number("norm_decay", norm_decay, low=0.0)
    for name, value in {"batch_size": batch_size, "num_train": num_train, "epochs": epochs}.items():
        check_finite_number(name, value, low=float(np.finfo(np.float32).tiny))
    return jnp.asarray(norm_decay * jnp.sqrt(batch_size / (num_train * epochs)))


def _check(learning_rate: Any, weight_decay: Any) -> None:
    if callable(learning_rate):
        raise TypeError(
            "learning_rate is the base step size, which the decay does not follow, and must be a number; give what moves "
            "as schedule=, a multiplier of both"
        )
    check_finite_number("learning_rate", learning_rate, low=0.0)
    check_finite_number("weight_decay", weight_decay, low=0.0)
