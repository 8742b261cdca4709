"""How the decay of an average, and what goes with it, follow the batch size."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number

_TINY = float(np.finfo(np.float32).tiny)


def scale_ema_decay(decay: Number, kappa: Number) -> Number:
    r"""The decay for a batch :math:`\kappa` times as large: :math:`\hat\rho = \rho^\kappa` (the EMA scaling rule).

    One step of the large batch stands for :math:`\kappa` steps of the small one, and over them a parameter that stands
    still enters an average with weight :math:`1 - \rho^\kappa`, exactly. The linear rule :math:`1 - \kappa(1 - \rho)`
    agrees to first order only, and turns negative where :math:`\kappa(1 - \rho) > 1`.

    Args:
      decay: :math:`\rho` in [0, 1].
      kappa: ratio of the batch sizes, > 0; below 1 for a smaller batch.

    Returns:
      The decay for the other batch size.

    Raises:
      ValueError: a number out of range.

    Source: Busbridge, Ramapuram, Ablin, Likhomanenko, Dhekane, Suau, Webb (2023), arXiv 2307.13813.

    >>> round(scale_ema_decay(0.99, 8), 6)
    0.922745
    """
    check_finite_number("decay", decay, low=0.0, high=1.0)
    check_finite_number("kappa", kappa, low=_TINY)
    return decay**kappa


def ema_time_constant(decay: Number, batch_size: Number) -> Number:
    r"""The examples over which an average forgets all but :math:`1/e`: :math:`B / (-\log\rho)`; the rule keeps it.

    Args:
      decay: :math:`\rho` in (0, 1).
      batch_size: :math:`B` in examples, > 0.

    Raises:
      ValueError: a number out of range.

    Source: Busbridge et al. (2023), arXiv 2307.13813.

    >>> round(ema_time_constant(0.99, 128)), round(ema_time_constant(scale_ema_decay(0.99, 8), 1024))
    (12736, 12736)
    """
    check_finite_number("decay", decay, low=_TINY, high=1.0 - 1e-16)
    check_finite_number("batch_size", batch_size, low=_TINY)
    log = jnp.log if hasattr(decay, "aval") else np.log
    return -batch_size / log(decay)


def ema_decay_for_batch_size(
    decay: Number, *, base_batch_size: Number, batch_size: Callable[[Array], Number]
) -> optax.Schedule:
    r"""The EMA scaling rule as a schedule: :math:`\rho(t) = \rho^{B(t)/B_0}` for a batch size that changes (progressive
    scaling).

    Args:
      decay: :math:`\rho` in [0, 1] at the base batch size.
      base_batch_size: :math:`B_0` in examples, > 0.
      batch_size: :math:`B` over completed steps, in examples; any schedule.

    Returns:
      A schedule for :func:`params_ema` or :func:`switch_ema`.

    Raises:
      ValueError: a number out of range.

    Source: Busbridge et al. (2023), arXiv 2307.13813, progressive scaling.

    >>> batch_size = optax.piecewise_constant_schedule(128, {100: 8})
    >>> schedule = ema_decay_for_batch_size(0.99, base_batch_size=128, batch_size=batch_size)
    >>> [round(float(schedule(step)), 4) for step in (0, 200)]
    [0.99, 0.9227]
    """
    check_finite_number("decay", decay, low=0.0, high=1.0)
    check_finite_number("base_batch_size", base_batch_size, low=_TINY)

    def schedule(step: Number) -> Float[Array, ""]:
        kappa = batch_size(jnp.asarray(step)) / base_batch_size
        return jnp.asarray(decay, jnp.result_type(float)) ** kappa

    return schedule


def scale_hyperparameters(
    *,
    learning_rate: Number,
    batch_size: Number,
    ema_decay: Number,
    kappa: Number,
    optimizer: str = "sgd",
    b1: Number | None = None,
    b2: Number | None = None,
    eps: Number | None = None,
) -> dict[str, Number]:
    r"""All that changes when the batch grows by :math:`\kappa`: batch size, learning rate, decay, Adam's constants.

    SGD: :math:`\hat\eta = \kappa\eta`, momentum unchanged. Adam and RMSProp: :math:`\hat\eta = \sqrt\kappa\,\eta`,
    :math:`\hat\beta_i = 1 - \kappa(1 - \beta_i)`, :math:`\hat\epsilon = \epsilon/\sqrt\kappa`. Both:
    :math:`\hat\rho = \rho^\kappa`. Warm-up and length are meant in examples: steps divide by :math:`\kappa`.

    Args:
      learning_rate: :math:`\eta`.
      batch_size: in examples.
      ema_decay: :math:`\rho` in [0, 1].
      kappa: ratio of the batch sizes, > 0.
      optimizer: ``sgd`` or ``adam`` (also RMSProp, with b2 alone).
      b1: Adam's first decay, if it is to be scaled.
      b2: Adam's second decay.
      eps: Adam's epsilon.

    Returns:
      The same names with the scaled values; what was not given is not in it.

    Raises:
      ValueError: an unknown optimizer, Adam's constants for SGD, or a kappa so large that a decay would be negative.

    Source: Busbridge et al. (2023), arXiv 2307.13813; Goyal et al. (2017), arXiv 1706.02677; Malladi et al. (2022), arXiv
    2205.10287.

    >>> scale_hyperparameters(learning_rate=0.1, batch_size=128, ema_decay=0.5, kappa=4)
    {'batch_size': 512, 'learning_rate': 0.4, 'ema_decay': 0.0625}
    """
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"optimizer must be 'sgd' or 'adam', got {optimizer!r}")
    given = {name: value for name, value in (("b1", b1), ("b2", b2), ("eps", eps)) if value is not None}
    if optimizer == "sgd" and given:
        raise ValueError(f"SGD has no {' and '.join(given)}; they scale with optimizer='adam'")
    scaled = {
        "batch_size": kappa * batch_size,
        "learning_rate": learning_rate * (kappa if optimizer == "sgd" else kappa**0.5),
        "ema_decay": scale_ema_decay(ema_decay, kappa),
    }
    for name in ("b1", "b2"):
        if name in given:
            scaled[name] = 1 - kappa * (1 - given[name])
            try:
                check_finite_number(name, scaled[name], low=0.0, high=1.0)
            except ValueError:
                raise ValueError(
                    f"kappa {kappa} scales {name} = {given[name]} to {scaled[name]}, which is no decay; the rule holds "
                    f"up to kappa = {1 / (1 - given[name]):g}"
                ) from None
    if "eps" in given:
        scaled["eps"] = eps / kappa**0.5
    return scaled
