"""diffGrad: Adam, slowed down where the gradient stopped changing."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_finite_number
from jaxtrain.core.numerics import in_place_of, zeros_accumulator
from jaxtrain.optimizers._fused import map_leaves


class DiffGradState(NamedTuple):
    """State of :func:`scale_by_diffgrad`, in float32 at least.

    ``previous`` is the gradient of the step before; None without ``use_previous``.
    """

    count: Int[Array, ""]
    mu: Params
    nu: Params
    previous: Params | None


def scale_by_diffgrad(
    b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8, use_previous: bool = True
) -> optax.GradientTransformation:
    r"""Adam with a friction on every coordinate that grows as its gradient stops changing.

    With :math:`m_t, v_t` as in Adam and :math:`g_0 = 0`,

    .. math::
       \xi_t = \frac{1}{1 + e^{-|g_{t-1} - g_t|}} \in [\tfrac12, 1), \qquad
       u_t = \xi_t\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\, \frac{m_t}{\sqrt{v_t} + \epsilon}.

    The friction slows the step, not the stored :math:`m_t`; :math:`\epsilon` stands beside :math:`\sqrt{v_t}` before the
    bias correction, as in the released code. Without scale: gradients far below 1 give half of Adam's step. A gradient
    that is not a number spoils its coordinates for good.

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the root of the second moment, ≥ 0.
      use_previous: False: :math:`\xi_t = 1/2` always, as in the first released code, which kept the
        gradient's own buffer as the previous one (but for its first step, which had :math:`g_0 = 0`). A Python boolean.

    Returns:
      A transformation with :class:`DiffGradState`, three numbers for each parameter (two without ``use_previous``).

    Raises:
      ValueError: a number out of range.

    Source: Dubey, Chakraborty, Roy, Mukherjee, Singh, Chaudhuri (2019), arXiv 1909.11015.

    >>> tx = scale_by_diffgrad(eps=0.0)
    >>> g = jnp.array([1.0, 1e-3])
    >>> first, state = tx.update(g, tx.init(g))
    >>> print(first.round(3), tx.update(g, state)[0].round(3))  # sigmoid(|g|), and then 1/2
    [0.731 0.5  ] [0.5 0.5]
    """
    for name, value in {"b1": b1, "b2": b2}.items():
        check_finite_number(name, value, low=0.0, high=1.0)
    check_finite_number("eps", eps, low=0.0)

    def init(params):
        zeros = [zeros_accumulator(params) for _ in range(3)]
        return DiffGradState(jnp.zeros((), jnp.int32), zeros[0], zeros[1], zeros[2] if use_previous else None)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        scale = jnp.sqrt(1 - b2**count) / (1 - b1**count)

        def step(g, m, v, previous):
            g32 = g.astype(m.dtype)
            m = (b1 * m + (1 - b1) * g32).astype(m.dtype)
            v = (b2 * v + (1 - b2) * g32**2).astype(v.dtype)
            friction = 0.5 if previous is None else jax.nn.sigmoid(jnp.abs(previous - g32))
            u = (friction * scale * m / (jnp.sqrt(v) + eps)).astype(g.dtype)
            return u, m, v, None if previous is None else in_place_of(previous, g32, count)

        updates, *moments = map_leaves(step, 4, updates, state.mu, state.nu, state.previous)
        return updates, DiffGradState(count, *moments)

    return optax.GradientTransformation(init, update)


def diffgrad(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    *,
    mask: Any = None,
    use_previous: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""diffGrad: :math:`\theta \leftarrow \theta - \eta\,u_t`, see :func:`scale_by_diffgrad`.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      b1, b2, eps, use_previous: see :func:`scale_by_diffgrad`.
      weight_decay: :math:`\lambda` of an L2 term: :math:`\lambda\theta` is added to the gradient, as in the released
        code.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation whose update needs ``params``.

    Raises:
      ValueError: as :func:`scale_by_diffgrad`.

    Source: Dubey, Chakraborty, Roy, Mukherjee, Singh, Chaudhuri (2019), arXiv 1909.11015.

    >>> tx = diffgrad(learning_rate=0.1)
    >>> w = jnp.array([100.0, -1.0])
    >>> print((1000 * tx.update(w, tx.init(w), w)[0]).round())  # the gradient of |w|²/2
    [-100.   73.]
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        scale_by_diffgrad(b1, b2, eps, use_previous),
        optax.scale_by_learning_rate(learning_rate),
    )
