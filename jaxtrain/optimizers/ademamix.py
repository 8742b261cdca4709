"""AdEMAMix: optax's rule with the paper's schedules, which optax leaves to the user."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxtrain.core import Number, check_decays, check_finite_number
from jaxtrain.core.numerics import step_number
from jaxtrain.optimizers._accumulators import in_accumulators


def _share(count: Number, warmup_steps: Number) -> Array:
    return step_number(count) / warmup_steps


def ademamix_alpha_schedule(alpha: Number, warmup_steps: Number) -> optax.Schedule:
    r"""The weight of the slow mean at step t: :math:`\min(\alpha\,t/T,\ \alpha)`.

    Args:
      alpha: :math:`\alpha`, ≥ 0.
      warmup_steps: T ≥ 1; the paper recommends all steps of the run.

    Returns:
      A schedule over optax's counter, which is t - 1: the first update has :math:`\alpha/T`.

    Raises:
      ValueError: a number out of range.

    Source: Pagliardini, Ablin, Grangier (2024), arXiv 2409.03137.

    >>> [float(ademamix_alpha_schedule(8.0, 4)(count)) for count in (0, 1, 3, 4)]
    [2.0, 4.0, 8.0, 8.0]
    """
    check_finite_number("alpha", alpha, low=0.0)
    check_finite_number("warmup_steps", warmup_steps, low=1)
    return lambda count: alpha * jnp.minimum(_share(count, warmup_steps), 1.0)


def ademamix_b3_schedule(b3: Number, b1: Number, warmup_steps: Number) -> optax.Schedule:
    r"""The slow decay at step t, from :math:`\beta_1` to :math:`\beta_3`, nearly linear in the half-life:

    .. math::
       \beta_3(t) = \exp\frac{\ln\beta_1\,\ln\beta_3}{(1 - t/T)\ln\beta_3 + (t/T)\ln\beta_1} \quad (t < T), \qquad
       \beta_3(t) = \beta_3 \quad (t \ge T),

    that is, :math:`1/\ln\beta` goes linearly. The authors' code adds :math:`10^{-8}` to both decays before the
    logarithm, which at :math:`\beta_3 = 0.9999` makes the half-life longer by a part in :math:`10^4`.

    Args:
      b3: :math:`\beta_3`, in [0, 1).
      b1: where it starts, in [0, 1). Below :math:`10^{-8}` either stands for that before T.
      warmup_steps: T ≥ 1.

    Returns:
      A schedule over optax's counter, which is t - 1.

    Raises:
      ValueError: a number out of range.

    Source: Pagliardini, Ablin, Grangier (2024), arXiv 2409.03137.

    >>> schedule = ademamix_b3_schedule(0.5 ** (1 / 9), 0.5, 4)  # half-lives of 1 to 9 steps
    >>> [round(float(jnp.log(0.5) / jnp.log(schedule(count))), 3) for count in (0, 1, 3, 9)]
    [3.0, 5.0, 9.0, 9.0]
    """
    check_decays(b3=b3, b1=b1)
    check_finite_number("warmup_steps", warmup_steps, low=1)

    def schedule(count):
        share = _share(count, warmup_steps)
        start, end = (jnp.log(jnp.maximum(b, 1e-8)) for b in (b1, b3))
        between = jnp.exp(start * end / ((1 - share) * end + share * start))
        return jnp.where(share < 1, between, b3)

    return schedule


def ademamix(
    learning_rate: optax.ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    b3: optax.ScalarOrSchedule = 0.9999,
    alpha: optax.ScalarOrSchedule = 5.0,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    *,
    warmup_steps: Number | None = None,
    mask: Any = None,
) -> optax.GradientTransformation:
    r"""AdEMAMix: Adam with a second, slow mean of the gradients beside the fast one.

    .. math::
       m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad s_t = \beta_3(t)\,s_{t-1} + (1 - \beta_3(t))\,g_t, \quad
       v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2,

    .. math::
       \theta \leftarrow \theta - \eta\,\Big(\frac{m_t/(1 - \beta_1^t) + \alpha(t)\,s_t}{\sqrt{v_t/(1 - \beta_2^t)} +
       \epsilon} + \lambda\,\theta\Big).

    The rule is ``optax.contrib.ademamix``, which agrees with the authors' code; here its schedules come along and its
    state is in float32 at least. ``alpha=0`` is AdamW. The slow mean is not corrected for its start at zero: the
    schedules take that part, and without them a run of fewer than :math:`1/(1 - \beta_3)` steps hardly sees it.
    Not-a-number gradients stay in the state.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      b1: decay of the fast mean, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      b3: decay of the slow mean, in [0, 1), or a schedule of its own.
      alpha: its weight, ≥ 0, or a schedule of its own.
      eps: added to the root, ≥ 0.
      weight_decay: :math:`\lambda`, decoupled.
      warmup_steps: T of :func:`ademamix_alpha_schedule` and :func:`ademamix_b3_schedule`, in which ``alpha`` and ``b3``
        are then the last values. The paper recommends all steps of the run. None: no warm-up.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation with ``optax.contrib.ScaleByAdemamixState``, three numbers for each parameter, whose update needs
      ``params``.

    Raises:
      ValueError: a number out of range.
      TypeError: ``warmup_steps`` beside schedules.

    Source: Pagliardini, Ablin, Grangier (2024), arXiv 2409.03137.

    >>> tx = ademamix(1.0, b3=0.5, alpha=4.0)
    >>> g = jnp.array([3.0])
    >>> tx.update(g, tx.init(g), g)[0].round(4).tolist()  # -(1 + 4 · 0.5)
    [-3.0]
    """
    check_decays(b1=b1, b2=b2)
    check_finite_number("eps", eps, low=0.0)
    check_finite_number("weight_decay", weight_decay, low=0.0)
    if not callable(b3):
        check_decays(b3=b3)
    if not callable(alpha):
        check_finite_number("alpha", alpha, low=0.0)
    if warmup_steps is not None:
        if callable(b3) or callable(alpha):
            raise TypeError(
                "warmup_steps makes the schedules of b3 and alpha: give numbers for both, or no warmup_steps"
            )
        b3, alpha = ademamix_b3_schedule(b3, b1, warmup_steps), ademamix_alpha_schedule(alpha, warmup_steps)
    return optax.chain(
        in_accumulators(optax.contrib.scale_by_ademamix(b1, b2, b3, alpha, eps)),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
