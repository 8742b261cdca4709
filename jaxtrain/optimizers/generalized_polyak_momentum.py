"""Polyak's step size for gradient methods with momentum: ALR-MAG and ALR-HB, and their stochastic forms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxtrain.core import Number, Params, Scalar, check_decays, check_finite_number
from jaxtrain.core.numerics import zeros_accumulator
from jaxtrain.optimizers._inner import check_cap, inner, ratio, squared_norm, the_value


class AlrMagState(NamedTuple):
    """State of :func:`alr_mag`: the sum of gradients with decaying weights, shaped like the parameters, in float32 at
    least."""

    direction: Params


class AlrHeavyBallState(NamedTuple):
    """State of :func:`alr_heavy_ball`: the last update, shaped like the parameters, in float32 at least."""

    last: Params


def polyak_step_size(
    value: Number, grad: Params, *, f_star: Number = 0.0, max_lr: Number = jnp.inf, c: Number = 1.0
) -> Scalar:
    r"""Polyak's step size with a cap, :math:`\min\big((f - f^*)_+ / (c\,\|g\|^2),\ \gamma_{\max}\big)`.

    It minimises the bound on the distance to a minimiser that convexity gives. A gradient of zero gives zero.

    Args:
      value: :math:`f`, the loss.
      grad: :math:`g`, a tree.
      f_star: the smallest loss, or a lower bound of it.
      max_lr: the cap, > 0, may be infinite.
      c: > 0; the smaller, the longer the step.

    Returns:
      A number, in float32 at least.

    Raises:
      ValueError: a number out of range.

    Source: Polyak (1987), "Introduction to Optimization"; Loizou et al. (2021), arXiv 2002.10542 for cap and c.

    >>> x = jnp.array([3.0, 4.0])
    >>> float(polyak_step_size(0.5 * jnp.sum(x**2), x))  # half the way to the minimum
    0.5
    """
    _check(f_star, max_lr, c)
    square = squared_norm(grad)
    return _capped(jnp.maximum(jnp.asarray(value, square.dtype) - f_star, 0), c * square, max_lr)


def _check(f_star: Number, max_lr: Number, c: Number) -> None:
    check_finite_number("f_star", f_star)
    check_cap("max_lr", max_lr)
    check_cap("c", c)


def _capped(gap: Array, square: Array, max_lr: Number) -> Array:
    return jnp.minimum(ratio(gap, square), max_lr)


def alr_mag(
    beta: Number = 0.9,
    max_lr: Number = 1.0,
    f_star: Number = 0.0,
    c: Number = 1.0,
    weight_decay: Number = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""ALR-SMAG: momentum as a moving sum of gradients, with Polyak's step size along it.

    .. math:: d_t = \beta d_{t-1} + g_t, \qquad
       \eta_t = \min\Big(\frac{(f(x_t) - f^*)_+}{c\,\|d_t\|^2},\ \gamma_{\max}\Big), \qquad
       x_{t+1} = (1 - \lambda \eta_t)\,x_t - \eta_t d_t,

    with loss and gradient of the same batch, the norm of the whole tree and :math:`d_0 = 0`. The sum is not an average:
    in the long run it is :math:`1/(1 - \beta)` gradients long. Without a cap, on the full loss, it is ALR-MAG; with
    :math:`\beta = 0` Polyak's step. :math:`d_t = 0` leaves the parameters alone.

    There is no learning rate: put it last in a chain, without ``scale_by_learning_rate``. The update wants ``value=``,
    which :func:`jaxtrain.training.make_step` gives. Inside ``optax.MultiSteps`` that is the loss of the last minibatch.
    Where the square of the sum overflows nothing moves. Gradients that are not finite spoil updates or state:
    put ``optax.apply_if_finite`` around it.

    Args:
      beta: in [0, 1).
      max_lr: :math:`\gamma_{\max}` > 0, may be infinite.
      f_star: a lower bound of the batch's loss, 0 where the model can fit the batch.
      c: > 0; the smaller, the longer the steps.
      weight_decay: :math:`\lambda`.

    Returns:
      A transformation with :class:`AlrMagState`, as large as the parameters; with a weight decay its update needs
      ``params``.

    Raises:
      ValueError: a number out of range; from its update: no ``value``.

    Source: Wang, Johansson, Zhang (2023), "Generalized Polyak Step Size for First Order Optimization with Momentum",
    arXiv 2305.12939.

    >>> tx = alr_mag(beta=0.5)
    >>> x, state = jnp.array(8.0), tx.init(jnp.array(8.0))
    >>> for _ in range(2):
    ...     u, state = tx.update(x, state, x, value=0.5 * x**2)
    ...     x = x + u
    >>> float(x)  # 8 - 0.5 · 8, then 4 - 8/64 · (0.5 · 8 + 4)
    3.0
    """
    check_decays(beta=beta)
    check_finite_number("weight_decay", weight_decay, low=0.0)
    _check(f_star, max_lr, c)
    decays = not (isinstance(weight_decay, int | float) and weight_decay == 0)

    def init(params):
        return AlrMagState(zeros_accumulator(params))

    def update(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        if decays and params is None:
            raise ValueError("alr_mag decays the parameters: call tx.update(grads, state, params, value=…)")
        direction = jax.tree.map(lambda d, g: (beta * d + g).astype(d.dtype), state.direction, updates)
        square = squared_norm(direction)
        gap = jnp.maximum(the_value(value, square.dtype, where="alr_mag") - f_star, 0)
        step = _capped(gap, c * square, max_lr)

        def move(g: Array, d: Array, p: Array | None) -> Array:
            return (-step * (d if p is None else d + weight_decay * p.astype(d.dtype))).astype(g.dtype)

        if decays:
            return jax.tree.map(move, updates, direction, params), AlrMagState(direction)
        return jax.tree.map(lambda g, d: move(g, d, None), updates, direction), AlrMagState(direction)

    return optax.GradientTransformationExtraArgs(init, update)


def alr_heavy_ball(
    beta: Number = 0.9,
    max_lr: Number = 1.0,
    f_star: Number = 0.0,
    c: Number = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""ALR-SHB: the heavy ball :math:`x_{t+1} = x_t - \eta_t g_t + \beta (x_t - x_{t-1})` with Polyak's step size.

    .. math:: \eta_t = \min\Big(
       \frac{(f(x_t) - f^* + \beta\,\langle g_t, x_t - x_{t-1}\rangle)_+}{c\,\|g_t\|^2},\ \gamma_{\max}\Big)

    Without a cap and with :math:`c = 1` this minimises the bound on :math:`\|x_{t+1} - x^*\|` that convexity gives
    (ALR-HB): the step is short where the ball already runs downhill, and so it does not oscillate. With
    :math:`\beta = 0` it is Polyak's step.

    There is no learning rate: put it last in a chain, without ``scale_by_learning_rate``, since the last update counts
    as the ball's velocity. The update wants ``value=``, which :func:`jaxtrain.training.make_step` gives. Inside
    ``optax.MultiSteps`` that is the loss of the last minibatch.

    Args:
      beta: in [0, 1).
      max_lr, f_star, c: see :func:`alr_mag`.

    Returns:
      A transformation with :class:`AlrHeavyBallState`, as large as the parameters.

    Raises:
      ValueError: a number out of range; from its update: no ``value``.

    Source: Wang, Johansson, Zhang (2023), arXiv 2305.12939.

    >>> tx = alr_heavy_ball(beta=0.25)
    >>> x, state = jnp.array(8.0), tx.init(jnp.array(8.0))
    >>> for _ in range(2):
    ...     u, state = tx.update(x, state, x, value=0.5 * x**2)
    ...     x = x + u
    >>> float(x)  # 8 - 0.5 · 8, then η = (8 - 0.25 · 4 · 4) / 16 = 0.25: 4 - 0.25 · 4 - 0.25 · 4
    2.0
    """
    check_decays(beta=beta)
    _check(f_star, max_lr, c)

    def init(params):
        return AlrHeavyBallState(zeros_accumulator(params))

    def update(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        square = squared_norm(updates)
        gap = the_value(value, square.dtype, where="alr_heavy_ball") - f_star + beta * inner(state.last, updates)
        step = _capped(jnp.maximum(gap, 0), c * square, max_lr)
        last = jax.tree.map(lambda v, g: (beta * v - step * g).astype(v.dtype), state.last, updates)
        return jax.tree.map(lambda v, g: v.astype(g.dtype), last, updates), AlrHeavyBallState(last)

    return optax.GradientTransformationExtraArgs(init, update)
