"""Exponential moving averages of the parameters that training does not see."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.averaging._base import accumulator_like, at, params_after, toward
from jaxtrain.core import Number, Params, check_finite_number


class ParamsEmaState(NamedTuple):
    """State of :func:`params_ema`.

    Completed steps, the sum of the weights of the iterates that are averaged (less than 1 in the beginning), and the
    average (float32 at least, shaped like the params).
    """

    step: Int[Array, ""]
    mass: Float[Array, ""]
    average: Params
    observes = True
    started = True

    def read(self):
        return (self.average,)


def params_ema(
    decay: Number | optax.Schedule, *, debias: bool = True, start_step: Number = 0, use_updated_params: bool = True
) -> optax.GradientTransformationExtraArgs:
    r"""An exponential moving average of the parameters (optax's ``ema`` averages updates).

    .. math:: \bar\theta_k = \beta_k\,\bar\theta_{k-1} + (1 - \beta_k)\,\theta_k

    With ``debias`` the sum of the weights is divided out, so that the initial parameters have no part in it:
    :math:`\bar\theta_k = \sum_i w_i \theta_i / \sum_i w_i` with :math:`w_i = (1 - \beta_i)\prod_{j>i}\beta_j`. The
    division is in the step, :math:`\bar\theta \leftarrow \bar\theta + \frac{1-\beta_k}{W_k}(\theta_k - \bar\theta)` with
    :math:`W_k = \beta_k W_{k-1} + 1 - \beta_k`: what is stored can always be read. The updates pass unchanged.
    :func:`averaged_params` reads the average. A step reads the parameters once and the average once, and writes it.

    Args:
      decay: :math:`\beta` in [0, 1], or a schedule of it over completed steps, such as :func:`ema_decay_warmup` or
        :func:`ema_decay_for_batch_size`.
      debias: weights that sum to one over the iterates; otherwise the average starts at the parameters of
        ``start_step - 1``, by default the initial ones.
      start_step: first averaged step, ≥ 0; the average equals the live parameters before.
      use_updated_params: average the parameters after the step; False: before it, as some papers write it.

    Returns:
      A transformation with :class:`ParamsEmaState`. Its update raises ``ValueError`` without ``params``.

    Raises:
      ValueError: a number out of range.

    Source: Polyak, Juditsky (1992); Busbridge et al. (2023), arXiv 2307.13813; bias correction as in Kingma, Ba (2014),
    arXiv 1412.6980.

    >>> from jaxtrain.averaging import averaged_params
    >>> tx = optax.chain(optax.sgd(1.0), params_ema(0.5))
    >>> params = jnp.array(4.0)
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    ...     print(float(params), round(float(averaged_params(state, params)), 4))
    3.0 3.0
    2.0 2.3333
    """
    if not callable(decay):
        check_finite_number("decay", decay, low=0.0, high=1.0)
    check_finite_number("start_step", start_step, low=0)

    def init(params):
        return ParamsEmaState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), accumulator_like(params))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        new = params_after("params_ema", params, updates)
        step = optax.safe_increment(state.step)
        share = 1.0 - at(decay, state.step)
        active = step >= start_step
        # kept in both forms, so that the state has one shape
        mass = jnp.where(active, state.mass + share * (1.0 - state.mass), 0.0)
        weight = jnp.where(mass > 0, share / jnp.where(mass > 0, mass, 1.0), 0.0) if debias else share
        average = toward(state.average, new if use_updated_params else params, jnp.where(active, weight, 1.0))
        return updates, ParamsEmaState(step, mass.astype(state.mass.dtype), average)

    return optax.GradientTransformationExtraArgs(init, update)


def annealed_ema(
    decay_max: Number = 0.999, *, power: Number = 0.67, start: Number = 0
) -> optax.GradientTransformationExtraArgs:
    r"""An exponential moving average whose decay rises with time: a share of the past at first, a fixed memory at last.

    .. math:: \bar\theta_{t+1} = (1 - \gamma_t)\,\bar\theta_t + \gamma_t\,\theta_{t+1}, \qquad
       \gamma_t = \max\bigl(1 - \beta_{\max}, (t - s + 1)^{-p}\bigr)

    From :math:`\gamma = 1`: the first averaged model replaces what was there, no bias correction is needed. With
    :math:`p = 1` and :math:`\beta_{\max} = 1` it is the uniform average of all iterates.

    Args:
      decay_max: the final decay :math:`\beta_{\max}` in [0, 1].
      power: :math:`p` in (0, 1]: how fast the past is forgotten; 1 is uniform.
      start: completed steps :math:`s` before the first averaged one, ≥ 0.

    Returns:
      A transformation with :class:`ParamsEmaState`. Its update raises ``ValueError`` without ``params``.

    Raises:
      ValueError: a number out of range.

    Source: Block, Foster, Krishnamurthy, Simchowitz, Zhang (2023), arXiv 2310.11428.

    >>> from jaxtrain.averaging import averaged_params
    >>> tx = optax.chain(optax.sgd(1.0), annealed_ema(1.0, power=1.0))
    >>> params = jnp.array(4.0)
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> float(averaged_params(state, params))  # mean of 3 and 2
    2.5
    """
    check_finite_number("decay_max", decay_max, low=0.0, high=1.0)
    check_finite_number("power", power, low=0.0, high=1.0)
    check_finite_number("start", start, low=0)

    def decay(step):
        age = jnp.maximum(at(step, step) - start, 0.0) + 1.0
        return jnp.minimum(decay_max, 1.0 - age ** (-jnp.asarray(power, age.dtype)))

    return params_ema(decay, debias=False, start_step=start + 1)
