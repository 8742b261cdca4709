"""Grams: the size of a step from its momentum, the direction from the gradient; and cautious steps, its neighbour."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import zeros_accumulator
from jaxtrain.optimizers._fused import map_leaves


class GramsState(NamedTuple):
    """State of :func:`scale_by_grams`: Adam's two moments, in float32 at least."""

    count: Int[Array, ""]
    mu: Params
    nu: Params


def _rewritten(inner: optax.GradientTransformation, rewrite: Any) -> optax.GradientTransformationExtraArgs:
    """``rewrite(gradient, update)`` of every leaf that an inner transformation returns; its state is the inner one's."""
    inner = optax.with_extra_args_support(inner)

    def update(updates, state, params=None, **extra_args):
        inner_updates, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(rewrite, updates, inner_updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def scale_by_grad_sign(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Turns every coordinate of an update so that it agrees with the current gradient: Grams over any method.

    .. math:: u_t \leftarrow \operatorname{sign}(g_t)\,|u_t|.

    A coordinate without a gradient stands still. ``inner`` comes before the learning rate; over a whole optimizer,
    whose updates point downhill already, write
    ``optax.chain(scale_by_grad_sign(optimizer), optax.scale(-1))``.

    Args:
      inner: any transformation.

    Returns:
      A transformation with the state of ``inner``; extra arguments are handed on.

    Source: Cao, Li, Song (2024), arXiv 2412.17107.

    >>> tx = scale_by_grad_sign(optax.trace(0.9))
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([1.0, 1.0]), state)
    >>> print((10 * tx.update(jnp.array([-0.5, 0.0]), state)[0]).round())  # momentum alone: [4. 9.]
    [-4.  0.]
    """
    return _rewritten(inner, lambda g, u: jnp.sign(g).astype(u.dtype) * jnp.abs(u))


def scale_by_cautious(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Drops every coordinate of an update that opposes the current gradient, and rescales the others.

    For each tensor, with the mean over its entries,

    .. math:: u_t \leftarrow \frac{\phi_t}{\max(\operatorname{mean}\phi_t,\ 10^{-3})}\,u_t, \qquad
       \phi_t = \mathbb{1}[u_t g_t > 0].

    ``inner`` comes before the learning rate and before decoupled weight decay, which is not masked; for a whole
    optimizer see :func:`cautious`.

    Args:
      inner: any transformation.

    Returns:
      A transformation with the state of ``inner``; extra arguments are handed on.

    Source: Liang, Chen, Liu, Liu (2024), arXiv 2411.16085.

    >>> tx = scale_by_cautious(optax.trace(0.9))
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([1.0, 1.0]), state)
    >>> print(tx.update(jnp.array([-0.5, 0.5]), state)[0])  # momentum alone: [0.4 1.4]
    [0.  2.8]
    """
    return _rewritten(inner, lambda g, u: _cautious(g, u, 1))


def cautious(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""A whole optimizer that drops what opposes the current gradient, see :func:`scale_by_cautious`.

    Its updates :math:`\Delta\theta` point downhill, therefore :math:`\phi = \mathbb{1}[\Delta\theta\, g < 0]`. Weight
    decay that the optimizer holds is masked with the rest; to keep it whole, put it behind :func:`scale_by_cautious`.

    Args:
      optimizer: any optimizer, its learning rate and minus sign included.

    Returns:
      A transformation with the state of ``optimizer``; extra arguments are handed on.

    Source: Liang, Chen, Liu, Liu (2024), arXiv 2411.16085.

    >>> tx = cautious(optax.sgd(1.0, momentum=0.9))
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([1.0, 1.0]), state)
    >>> print(tx.update(jnp.array([-0.5, 0.5]), state)[0])
    [-0.  -2.8]
    """
    return _rewritten(optimizer, lambda g, u: _cautious(g, u, -1))


def _cautious(g: Array, u: Array, direction: int) -> Array:
    # signs and not products, which underflow; a NaN of either stays one
    agrees = jnp.sign(g).astype(u.dtype) * jnp.sign(u) * direction
    mask = jnp.maximum(agrees, 0)
    kind = jnp.promote_types(u.dtype, jnp.float32)
    # whole numbers can be added in any order: XLA then counts by rows in one pass, and does not store the mask
    counted = ((agrees > 0).astype(jnp.int32), jnp.isnan(agrees).astype(jnp.int32))
    if u.ndim:
        zero = jnp.zeros((), jnp.int32)
        counted = jax.lax.reduce(counted, (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (u.ndim - 1,))
    kept, spoiled = (jnp.sum(x.astype(kind)) for x in jax.lax.optimization_barrier(counted))
    share = jnp.where(spoiled > 0, jnp.nan, kept / u.size)
    return u * (mask / jnp.maximum(share, 1e-3)).astype(u.dtype)


def scale_by_grams(b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-6) -> optax.GradientTransformation:
    r"""Adam's step sizes in the direction of the current gradient.

    .. math::
       m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad
       u_t = \operatorname{sign}(g_t)\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\, \frac{|m_t|}{\sqrt{v_t} + \epsilon}.

    :math:`\epsilon` stands beside :math:`\sqrt{v_t}` before the bias correction, as in the released code. The paper's
    :math:`|\hat m_t| / (\sqrt{\hat v_t} + \epsilon)` is ``scale_by_grad_sign(optax.scale_by_adam(b1, b2, eps))``. A
    coordinate without a gradient stands still; a gradient that is not a number spoils its coordinates for good.

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the root of the second moment, ≥ 0.

    Returns:
      A transformation with :class:`GramsState`, two numbers for each parameter.

    Raises:
      ValueError: a number out of range.

    Source: Cao, Li, Song (2024), arXiv 2412.17107.

    >>> tx = scale_by_grams()
    >>> _, state = tx.update(jnp.array([1.0, -3.0, 2.0]), tx.init(jnp.zeros(3)))
    >>> print(tx.update(jnp.array([1.0, 3.0, 0.0]), state)[0].round(3))  # Adam's: [1. 0.053 0.67]
    [1.    0.053 0.   ]
    """
    check_decays(b1=b1, b2=b2)
    check_finite_number("eps", eps, low=0.0)

    def init(params):
        return GramsState(jnp.zeros((), jnp.int32), zeros_accumulator(params), zeros_accumulator(params))

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        scale = jnp.sqrt(1 - b2**count) / (1 - b1**count)

        def step(g, m, v):
            g32 = g.astype(m.dtype)
            m = (b1 * m + (1 - b1) * g32).astype(m.dtype)
            v = (b2 * v + (1 - b2) * g32**2).astype(v.dtype)
            u = jnp.sign(g32) * jnp.abs(m) * scale / (jnp.sqrt(v) + eps)
            return u.astype(g.dtype), m, v

        updates, mu, nu = map_leaves(step, 3, updates, state.mu, state.nu)
        return updates, GramsState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def grams(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-6,
    weight_decay: Number = 0.0,
    *,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Grams: :math:`\theta \leftarrow \theta - \eta\,(u_t + \lambda\,\theta)`, see :func:`scale_by_grams`.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      b1, b2, eps: see :func:`scale_by_grams`.
      weight_decay: :math:`\lambda` ≥ 0, decoupled.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation whose update needs ``params``.

    Raises:
      ValueError: a number out of range.

    Source: Cao, Li, Song (2024), arXiv 2412.17107.

    >>> tx = grams(learning_rate=0.1)
    >>> w = jnp.array([1.0, -1.0])
    >>> updates, _ = tx.update(w, tx.init(w), w)  # the gradient of |w|²/2
    >>> print(updates.round(3))
    [-0.1  0.1]
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    return optax.chain(
        scale_by_grams(b1, b2, eps),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
