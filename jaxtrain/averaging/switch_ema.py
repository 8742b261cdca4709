"""Switch EMA: an average of the parameters that training is put back on now and then."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.averaging._base import accumulator_like, at, params_after, toward
from jaxtrain.core import Number, Params, check_finite_number


class SwitchEmaState(NamedTuple):
    """State of :func:`switch_ema`: completed steps and the average (float32 at least, shaped like the params)."""

    step: Int[Array, ""]
    average: Params
    observes = False
    started = True

    def read(self):
        return (self.average,)


def switch_ema(
    decay: Number | optax.Schedule, switch_every: Number | None, *, start_step: Number = 0
) -> optax.GradientTransformationExtraArgs:
    r"""An exponential moving average of the parameters, on which training is put back every ``switch_every`` steps.

    After every step :math:`\bar\theta \leftarrow \beta\,\bar\theta + (1 - \beta)\,\theta`, from
    :math:`\bar\theta = \theta_0`; where the number of completed steps is a multiple of ``switch_every``,
    :math:`\theta \leftarrow \bar\theta`. The state of the optimizer before it in the chain is left alone. The switch is
    emitted as an update, :math:`\bar\theta - \theta_{t-1}`, so ``optax.apply_updates`` lands on the average up to one
    rounding. :func:`averaged_params` reads the average. In a chain it stands behind the optimizer and before averages
    that only look, such as :func:`swa`, which then see the parameters after the switch.

    Limits: ``switch_every=None`` is a plain EMA, ``decay=0`` the optimizer alone, and ``switch_every=1`` scales every
    update by :math:`1 - \beta`.

    Args:
      decay: :math:`\beta` in [0, 1], or a schedule of it such as :func:`ema_decay_warmup`, over completed steps.
      switch_every: steps between switches, usually an epoch, ≥ 1; None: never.
      start_step: no switch before this many completed steps, ≥ 0.

    Returns:
      A transformation with :class:`SwitchEmaState`. Its update raises ``ValueError`` without ``params``.

    Raises:
      ValueError: a number out of range.

    Source: Li, Liu, Wang, Wang, Tan, Wang, Li (2024), arXiv 2402.09240.

    >>> from jaxtrain.averaging import averaged_params
    >>> tx = optax.chain(optax.sgd(1.0), switch_ema(decay=0.5, switch_every=2))
    >>> params = jnp.array(4.0)
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    ...     print(float(params), float(averaged_params(state, params)))
    3.0 3.5
    2.75 2.75
    """
    if not callable(decay):
        check_finite_number("decay", decay, low=0.0, high=1.0)
    if switch_every is not None:
        check_finite_number("switch_every", switch_every, low=1)
    check_finite_number("start_step", start_step, low=0)

    def init(params):
        return SwitchEmaState(jnp.zeros((), jnp.int32), accumulator_like(params))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        new = params_after("switch_ema", params, updates)
        step = optax.safe_increment(state.step)
        average = toward(state.average, new, 1.0 - at(decay, state.step))
        if switch_every is not None:
            switch = (step >= start_step) & (step % switch_every == 0)

            def to_average(u, average, p):
                return jnp.where(switch, (average - p.astype(average.dtype)).astype(u.dtype), u)

            updates = jax.tree.map(to_average, updates, average, params)
        return updates, SwitchEmaState(step, average)

    return optax.GradientTransformationExtraArgs(init, update)


def ema_decay_warmup(
    decay: Number, *, kind: str = "exp", total: Number = 2000, warmup_steps: Number = 100, warmup_ratio: Number = 0.9
) -> optax.Schedule:
    r"""A decay that starts low and rises to its final value, as the released hooks of Switch EMA have it.

    For the momentum :math:`m = 1 - \beta`: ``exp``: :math:`m_t = (1 - m)\,e^{-(1 + t)/T} + m`; ``linear``:
    :math:`m_t = \max(m, (1 - m)(1 - t/w)(1 - r))`; the decay is :math:`1 - m_t`.

    Args:
      decay: final decay :math:`\beta` in [0, 1].
      kind: ``exp``, ``linear`` or ``constant``.
      total: time constant :math:`T` of ``exp`` in steps.
      warmup_steps: length :math:`w` of ``linear``.
      warmup_ratio: :math:`r` of ``linear``.

    Raises:
      ValueError: an unknown kind or a decay out of range.

    >>> schedule = ema_decay_warmup(0.999)
    >>> round(float(schedule(0)), 4), round(float(schedule(20_000)), 4)
    (0.0005, 0.999)
    """
    check_finite_number("decay", decay, low=0.0, high=1.0)
    if kind not in ("exp", "linear", "constant"):
        raise ValueError(f"kind must be 'exp', 'linear' or 'constant', got {kind!r}")
    final = 1.0 - decay

    def schedule(step: Number) -> Float[Array, ""]:
        t = jnp.asarray(step, jnp.promote_types(jnp.float32, jnp.result_type(float)))
        if kind == "exp":
            momentum = (1.0 - final) * jnp.exp(-(1.0 + t) / total) + final
        elif kind == "linear":
            momentum = jnp.maximum(final, (1.0 - final) * (1.0 - t / warmup_steps) * (1.0 - warmup_ratio))
        else:
            momentum = jnp.full_like(t, final)
        return 1.0 - momentum

    return schedule
