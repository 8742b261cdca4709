"""Ranger21: eight ideas in one optimizer, each of them a transformation of its own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import static_int
from jaxtrain.optimizers._fused import map_leaves
from jaxtrain.optimizers.decays import add_norm_loss_decay, add_stable_weight_decay
from jaxtrain.optimizers.gradient_transforms import (
    adaptive_gradient_clip,
    centralize_gradients,
    normalize_gradients_std,
)
from jaxtrain.optimizers.positive_negative_momentum import scale_by_positive_negative_momentum


class SlowParamsState(NamedTuple):
    """State of :func:`lookahead`: a copy of the parameters."""

    count: Int[Array, ""]
    slow: Params


def ranger21_schedule(
    peak: Number,
    num_iterations: Number,
    b2: Number = 0.999,
    warmup_fraction: Number = 0.22,
    warmdown_start: Number = 0.72,
    min_lr: Number = 3e-5,
) -> optax.Schedule:
    r"""Linear warm-up, flat, linear warm-down.

    With :math:`t = 1, \dots, T`, :math:`W = \lceil 2 / (1 - \beta_2) \rceil` unless that exceeds 0.45 T (then
    :math:`\lfloor 0.22\,T \rfloor`), and :math:`S = \lfloor 0.72\,T \rfloor`:

    .. math:: \eta_t = \eta \min(1, t / W) \text{ for } t < S, \qquad
       \eta_t = \eta - (\eta - \eta_{min}) \min\!\Big(1, \frac{t + 1 - S}{T - S + 1}\Big) \text{ from there on.}

    Args:
      peak: η.
      num_iterations: T ≥ 1, a Python integer.
      b2: decay of the second moment, which the warm-up waits for.
      warmup_fraction: in place of 0.22.
      warmdown_start: in place of 0.72.
      min_lr: :math:`\eta_{min}`; a peak below it is kept.

    Returns:
      A function from the number of steps done (0 at the first) to the rate.

    Raises:
      ValueError, TypeError: numbers out of range, or a traced ``num_iterations``.

    Source: Wright, Demeure (2021), arXiv 2106.13731; warm-up: Ma, Yarats (2019), arXiv 1910.04209.

    >>> schedule = ranger21_schedule(1.0, 100, min_lr=0.0)
    >>> [round(float(schedule(t)), 3) for t in (0, 10, 21, 70, 71, 99)]  # S is 72: at its step 1 - 1/29
    [0.045, 0.5, 1.0, 1.0, 0.966, 0.0]
    """
    total = static_int("num_iterations", num_iterations, low=1)
    check_finite_number("the peak of the learning rate", peak, low=0.0)
    check_finite_number("min_lr", min_lr, low=0.0)
    check_decays(b2=b2)
    for name, value in {"warmup_fraction": warmup_fraction, "warmdown_start": warmdown_start}.items():
        check_finite_number(name, value, low=0.0, high=1.0)
    # in floating point 2 / (1 - 0.9) is more than 20, and 0.29 · 100 less than 29
    xp = jnp if any(isinstance(x, jax.Array) for x in (b2, warmup_fraction, warmdown_start)) else np
    rule = xp.ceil(2 / (1 - b2) * (1 - 1e-6))
    warmup = xp.maximum(xp.where(rule > 0.45 * total, xp.floor(warmup_fraction * total + 1e-6), rule), 1)
    start = xp.floor(warmdown_start * total + 1e-6)

    def schedule(count):
        t = count + 1
        up = peak * jnp.minimum(1.0, t / warmup)
        down = peak - jnp.maximum(peak - min_lr, 0) * jnp.minimum(1.0, (t + 1 - start) / (total - start + 1))
        return jnp.where(t < start, up, down)

    return schedule


def lookahead(sync_period: Number = 5, slow_step: Number = 0.5) -> optax.GradientTransformation:
    r"""Every k steps goes back some of the way to where the last k steps began; last in a chain.

    .. math:: \theta \leftarrow s + \alpha\,(\theta - s), \qquad s \leftarrow \theta \qquad \text{after every } k
       \text{ steps.}

    The same as ``optax.lookahead``, which keeps the slow parameters beside the fast ones in a pair; here they are state,
    so that parameters stay what they are.

    Args:
      sync_period: k ≥ 1.
      slow_step: α in [0, 1]; 1: nothing changes.

    Returns:
      A transformation with :class:`SlowParamsState`, one number for each parameter, whose update needs ``params``.

    Raises:
      ValueError: a number out of range; from its update: without ``params``.

    Source: Zhang, Lucas, Hinton, Ba (2019), arXiv 1907.08610.

    >>> tx, w, found = lookahead(2, 0.5), jnp.zeros(1), []
    >>> state = tx.init(w)
    >>> for _ in range(4):
    ...     updates, state = tx.update(jnp.ones(1), state, w)
    ...     w = w + updates
    ...     found.append(float(w[0]))
    >>> found
    [1.0, 1.0, 2.0, 2.0]
    """
    check_finite_number("sync_period", sync_period, low=1)
    check_finite_number("slow_step", slow_step, low=0.0, high=1.0)

    def init(params):
        return SlowParamsState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("lookahead needs the parameters: call tx.update(updates, state, params)")
        count = optax.safe_increment(state.count)
        sync = count % sync_period == 0

        def step(u, p, s):
            back = jnp.where(sync, (1 - slow_step) * (p + u - s), 0)
            u = (u - back).astype(u.dtype)
            return u, jnp.where(sync, p + u, s).astype(s.dtype)

        updates, slow = map_leaves(step, 2, updates, params, state.slow)
        return updates, SlowParamsState(count, slow)

    return optax.GradientTransformation(init, update)


def ranger21(
    learning_rate: Number,
    num_iterations: Number,
    *,
    b0: Number = 0.9,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    weight_decay: Number = 1e-4,
    agc_clip: Number = 1e-2,
    agc_eps: Number = 1e-3,
    softplus_beta: Number | None = 50.0,
    norm_loss_factor: Number = 1e-4,
    lookahead_steps: Number = 5,
    lookahead_alpha: Number = 0.5,
    warmup_fraction: Number = 0.22,
    warmdown_start: Number = 0.72,
    min_lr: Number = 3e-5,
    centralize: bool = True,
    normalize: bool = True,
    amsgrad: bool = True,
    channel_axis: int = -1,
) -> optax.GradientTransformationExtraArgs:
    r"""Ranger21: clipping, centralisation and scaling of gradients, two momenta, stable decay, norm loss, lookahead.

    The chain of :func:`adaptive_gradient_clip`, :func:`centralize_gradients`, :func:`normalize_gradients_std`,
    :func:`scale_by_positive_negative_momentum` with :func:`add_stable_weight_decay`, :func:`add_norm_loss_decay`,
    :func:`ranger21_schedule` and :func:`lookahead`. The two decays are added, where the released code shrinks by one after
    the other: they differ by the product, about :math:`\eta^2\lambda f`. A gradient that is not a number spoils all arrays
    for good, through the mean of the stable decay. Scaling and the softplus are the released code's, later than the paper.

    Args:
      learning_rate: peak of the schedule.
      num_iterations: its length, a Python integer.
      b0, b1, b2, eps, softplus_beta, amsgrad: see :func:`scale_by_positive_negative_momentum`.
      weight_decay: see :func:`add_stable_weight_decay`.
      agc_clip, agc_eps: see :func:`adaptive_gradient_clip`; infinity: off.
      norm_loss_factor: see :func:`add_norm_loss_decay`.
      lookahead_steps, lookahead_alpha: see :func:`lookahead`; an alpha of 1: off.
      warmup_fraction, warmdown_start, min_lr: see :func:`ranger21_schedule`.
      centralize, normalize: whether gradients are.
      channel_axis: the axis of output channels: the last in JAX's layouts, 0 in PyTorch's.

    Returns:
      A transformation whose update needs ``params``; five numbers for each parameter.

    Raises:
      ValueError, TypeError: as its parts.

    Source: Wright, Demeure (2021), arXiv 2106.13731.

    >>> tx = ranger21(0.1, num_iterations=10)
    >>> w = jnp.array([[1.0, -2.0], [3.0, 0.5]])
    >>> updates, _ = tx.update(w, tx.init(w), w)
    >>> print(jnp.sign(updates))  # columns are centralised
    [[ 1.  1.]
     [-1. -1.]]
    """
    momentum = scale_by_positive_negative_momentum(b0, b1, b2, eps, softplus_beta, amsgrad)
    schedule = ranger21_schedule(learning_rate, num_iterations, b2, warmup_fraction, warmdown_start, min_lr)
    return optax.chain(
        adaptive_gradient_clip(agc_clip, agc_eps, channel_axis=channel_axis),
        centralize_gradients(channel_axis=channel_axis) if centralize else optax.identity(),
        normalize_gradients_std() if normalize else optax.identity(),
        add_stable_weight_decay(momentum, weight_decay, b2),
        add_norm_loss_decay(norm_loss_factor, eps, channel_axis=channel_axis),
        optax.scale_by_learning_rate(schedule),
        lookahead(lookahead_steps, lookahead_alpha),
    )
