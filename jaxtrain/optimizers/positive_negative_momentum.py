"""Positive-negative momentum: two momenta of alternate gradients, one of them subtracted."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import zeros_accumulator
from jaxtrain.optimizers._fused import map_leaves


class PositiveNegativeMomentumState(NamedTuple):
    """State of :func:`scale_by_positive_negative_momentum`, in float32 at least.

    ``odd`` and ``even`` are the averages of the gradients of odd and of even steps, the first step being 1.
    """

    count: Int[Array, ""]
    odd: Params
    even: Params
    nu: Params
    nu_max: Params | None


def scale_by_positive_negative_momentum(
    b0: Number = 0.9,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    softplus_beta: Number | None = 50.0,
    amsgrad: bool = True,
) -> optax.GradientTransformation:
    r"""Adam with two momenta of alternate gradients, one of them subtracted, and a softened denominator.

    .. math::
       m_t = \beta_1^2 m_{t-2} + (1 - \beta_1^2) g_t, \qquad
       p_t = \frac{(1 + \beta_0)\,m_t - \beta_0\,m_{t-1}}{\sqrt{(1 + \beta_0)^2 + \beta_0^2}}, \qquad
       v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2,

    .. math::
       u_t = \frac{1}{1 - \beta_1^t}\,
       \frac{p_t}{s\big(\sqrt{\max_{i \le t} v_i} / \sqrt{1 - \beta_2^t} + \epsilon\big)}, \qquad
       s(x) = \tfrac1b \log(1 + e^{b x}).

    The difference of the two momenta is noise of known size with hardly a change of the mean. A gradient that is not a
    number spoils its coordinates for good.

    Args:
      b0: :math:`\beta_0` ≥ 0, how much is subtracted; AdaPNM's own default is 1.
      b1, b2: decays, in [0, 1).
      eps: ε ≥ 0.
      softplus_beta: :math:`b` > 0, which keeps the denominator above :math:`\log(2)/b`; None: :math:`s(x) = x`, AdaPNM.
      amsgrad: whether the maximum is taken, else :math:`v_t`. A Python boolean.

    Returns:
      A transformation with :class:`PositiveNegativeMomentumState`: four numbers for each parameter, three without
      ``amsgrad``.

    Raises:
      ValueError: a number out of range.

    Source: Xie, Yuan, Zhu, Sugiyama (2021), arXiv 2103.17182; Tong, Liang, Bi (2019), arXiv 1908.00700.

    >>> tx = scale_by_positive_negative_momentum(b0=1.0, b1=0.0, b2=0.0, softplus_beta=None)
    >>> first, state = tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))
    >>> second, _ = tx.update(jnp.array([3.0]), state)
    >>> print((5**0.5 * first).round(3), (5**0.5 * second).round(3))  # 2 m_1, then 2 m_2 - m_1
    [2.] [1.]
    """
    check_finite_number("b0", b0, low=0.0)
    check_decays(b1=b1, b2=b2)
    check_finite_number("eps", eps, low=0.0)
    if softplus_beta is not None:
        check_finite_number("softplus_beta", softplus_beta, low=float(np.finfo(np.float32).tiny))

    def init(params):
        zeros = [zeros_accumulator(params) for _ in range(4)]
        return PositiveNegativeMomentumState(jnp.zeros((), jnp.int32), *zeros[:3], zeros[3] if amsgrad else None)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        scale = 1 / ((1 - b1**count) * jnp.sqrt((1 + b0) ** 2 + b0**2))
        root = jnp.sqrt(1 - b2**count)

        is_odd = count % 2 == 1

        def step(g, odd, even, v, most):
            g32 = g.astype(v.dtype)

            def averaged(old):
                return (b1**2 * old + (1 - b1**2) * g32).astype(v.dtype)

            # each stays where it is: handed on from newer to older, both would be copied
            odd, even = jnp.where(is_odd, averaged(odd), odd), jnp.where(is_odd, even, averaged(even))
            m, newer = jnp.where(is_odd, odd, even), jnp.where(is_odd, even, odd)
            v = (b2 * v + (1 - b2) * g32**2).astype(v.dtype)
            if amsgrad:
                most = jnp.maximum(most, v)
            below = jnp.sqrt(most if amsgrad else v) / root + eps
            if softplus_beta is not None:
                below = jax.nn.softplus(softplus_beta * below) / softplus_beta
            u = scale * ((1 + b0) * m - b0 * newer) / below
            return u.astype(g.dtype), odd, even, v, most

        updates, *moments = map_leaves(step, 5, updates, *state[1:])
        return updates, PositiveNegativeMomentumState(count, *moments)

    return optax.GradientTransformation(init, update)
