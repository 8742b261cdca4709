"""Adan: Nesterov momentum, rewritten with differences of gradients, and scaled by coordinate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_finite_number
from jaxtrain.core.numerics import in_place_of, zeros_accumulator
from jaxtrain.optimizers._decay import DecayState
from jaxtrain.optimizers._fused import map_leaves


class AdanState(NamedTuple):
    """State of :func:`scale_by_adan`: four trees shaped like the parameters, in float32 at least."""

    count: Int[Array, ""]
    mu: Params
    diff: Params
    nu: Params
    previous: Params


def scale_by_adan(
    b1: Number = 0.98, b2: Number = 0.92, b3: Number = 0.99, eps: Number = 1e-8
) -> optax.GradientTransformation:
    r"""Rescales updates by Adan's rule.

    With :math:`\delta_t = g_t - g_{t-1}` (:math:`\delta_1 = 0`) and decays :math:`\beta` (one less the paper's):

    .. math::
       m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad d_t = \beta_2 d_{t-1} + (1 - \beta_2)\,\delta_t, \quad
       n_t = \beta_3 n_{t-1} + (1 - \beta_3)\,(g_t + \beta_2\,\delta_t)^2,

    .. math::
       u_t = \frac{m_t/(1 - \beta_1^t) + \beta_2\,d_t/(1 - \beta_2^t)}{\sqrt{n_t/(1 - \beta_3^t)} + \epsilon}.

    ``optax.adan`` (0.2.8) has :math:`1 - \beta_2` in the two places where :math:`\beta_2` stands in front of a
    difference, 0.08 for 0.92: nearly no Nesterov term. Not-a-number gradients stay in the state.

    Args:
      b1: decay of the mean of gradients, in [0, 1].
      b2: decay of the mean of their differences, in [0, 1], and their weight.
      b3: decay of the second moment, in [0, 1].
      eps: added to the root, ≥ 0.

    Returns:
      A transformation with :class:`AdanState`: four numbers for each parameter.

    Raises:
      ValueError: a number out of range.

    Source: Xie, Zhou, Li, Lin, Yan (2022), arXiv 2208.06677, algorithm 1.

    >>> tx = scale_by_adan(b1=0.0, b2=0.5, b3=0.0, eps=0.0)
    >>> u, state = tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))
    >>> v, state = tx.update(jnp.array([4.0]), state)  # (4 + 0.5 · (0.5 · 3)/(1 - 0.25)) / |4 + 0.5 · 3|
    >>> u.tolist(), round(float(v[0]), 5)
    ([1.0], 0.90909)
    """
    for name, value in {"b1": b1, "b2": b2, "b3": b3}.items():
        check_finite_number(name, value, low=0.0, high=1.0)
    check_finite_number("eps", eps, low=0.0)

    def init(params):
        return AdanState(jnp.zeros((), jnp.int32), *(zeros_accumulator(params) for _ in range(4)))

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        first = state.count == 0
        c1, c2, c3 = 1 - b1**count, b2 / (1 - b2**count), 1 - b3**count

        def step(g, m, d, n, previous):
            g32 = g.astype(m.dtype)
            delta = jnp.where(first, 0, g32 - previous)
            m = (b1 * m + (1 - b1) * g32).astype(m.dtype)
            d = (b2 * d + (1 - b2) * delta).astype(d.dtype)
            n = (b3 * n + (1 - b3) * (g32 + b2 * delta) ** 2).astype(n.dtype)
            u = (m / c1 + c2 * d) / (jnp.sqrt(n / c3) + eps)
            return u.astype(g.dtype), m, d, n, in_place_of(previous, g32, count, d, n)

        updates, *state = map_leaves(step, 5, updates, *state[1:])
        return updates, AdanState(count, *state)

    return optax.GradientTransformation(init, update)


def _proximal_decay(learning_rate: optax.ScalarOrSchedule, weight_decay: Number) -> optax.GradientTransformation:
    r""":math:`\theta \leftarrow (\theta + u)/(1 + \eta\lambda)`."""

    def init(params):
        del params
        return DecayState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("adan decays the parameters: call tx.update(updates, state, params) with the parameters")
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        pull = rate * weight_decay

        def decay(u, p):
            # (θ + u)/(1 + ηλ) - θ without the difference of near numbers
            return ((u - pull * p) / (1 + pull)).astype(u.dtype)

        return jax.tree.map(decay, updates, params), DecayState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def adan(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: Number = 0.98,
    b2: Number = 0.92,
    b3: Number = 0.99,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    *,
    proximal: bool = True,
    mask: Any = None,
) -> optax.GradientTransformation:
    r"""Adan: :math:`\theta \leftarrow (\theta - \eta\,u_t)/(1 + \eta\lambda)`, see :func:`scale_by_adan`.

    The authors train with ``optax.clip_by_global_norm`` in front, of 1 or 5, and weight decays of about 0.02. Learning
    rates are five to ten times Adam's.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      b1, b2, b3, eps: see :func:`scale_by_adan`.
      weight_decay: :math:`\lambda`, ≥ 0.
      proximal: as above; False: AdamW's form, :math:`\theta \leftarrow (1 - \eta\lambda)\,\theta - \eta\,u_t`.
      mask: which parameters decay: a tree of booleans, or a function from the parameters to one; None: all.

    Returns:
      A transformation whose update needs ``params``.

    Raises:
      ValueError: a number out of range; from its update: without ``params``.

    Source: Xie, Zhou, Li, Lin, Yan (2022), arXiv 2208.06677, algorithm 1.

    >>> tx = adan(1.0, weight_decay=0.25)
    >>> w = jnp.array([5.0])
    >>> round(float(w[0] + tx.update(w, tx.init(w), w)[0][0]), 5)  # (5 - 1)/1.25
    3.2
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    if proximal:
        decay = _proximal_decay(learning_rate, weight_decay)
        decay = decay if mask is None else optax.masked(decay, mask)
        tail = (optax.scale_by_learning_rate(learning_rate), decay)
    else:
        tail = (optax.add_decayed_weights(weight_decay, mask), optax.scale_by_learning_rate(learning_rate))
    return optax.chain(scale_by_adan(b1, b2, b3, eps), *tail)
