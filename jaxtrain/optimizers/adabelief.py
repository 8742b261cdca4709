"""AdaBelief with what its authors' package has and optax's lacks: rectification, AMSGrad's maximum, weight decay."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import zeros_accumulator
from jaxtrain.optimizers._fused import map_leaves


class AdaBeliefState(NamedTuple):
    """State of :func:`scale_by_adabelief`, in float32 at least; ``nu_max`` is None without ``amsgrad``."""

    count: Int[Array, ""]
    mu: Params
    nu: Params
    nu_max: Params | None


def _langevin(x: Array) -> Array:
    """coth x - 1/x for x > 0; where that is a difference of near numbers, by Lambert's continued fraction."""
    small, tail = jnp.minimum(x, 1.0), 21.0
    for odd in range(19, 1, -2):
        tail = odd + small**2 / tail
    return jnp.where(x < 1, small / tail, 1 / jnp.tanh(x) - 1 / x)


def scale_by_adabelief(
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-16,
    *,
    rectify: bool = False,
    amsgrad: bool = False,
) -> optax.GradientTransformation:
    r"""Rescales updates by how far the gradient lies from its running mean.

    .. math::
       m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad s_t = \beta_2 s_{t-1} + (1 - \beta_2) (g_t - m_t)^2 + \epsilon,
       \quad u_t = \frac{m_t/(1 - \beta_1^t)}{\sqrt{s_t/(1 - \beta_2^t)} + \epsilon}.

    Both :math:`\epsilon` are one number, as in the paper's second algorithm and the package; the inner one is added at
    every step and grows to :math:`\epsilon/(1 - \beta_2)`. This is ``optax.adabelief(eps=ε, eps_root=ε)``, and the
    defaults of both are those of the package. The paper's :math:`10^{-8}` for images is then a floor of
    :math:`\sqrt{10^{-8}/(1 - \beta_2)} \approx 3\cdot10^{-3}` under the root, not of :math:`10^{-8}` as in Adam.
    A gradient that stands still makes :math:`s` vanish, so that the step grows like :math:`1/\sqrt\epsilon`.

    With ``rectify``, RAdam's rule: with :math:`\rho_\infty = 2/(1 - \beta_2) - 1` and
    :math:`\rho_t = \rho_\infty - 2t\beta_2^t/(1 - \beta_2^t)`, for :math:`\rho_t \ge 5`

    .. math::
       u_t = r_t\,\frac{m_t}{1 - \beta_1^t}\,\frac{\sqrt{1 - \beta_2^t}}{\sqrt{s_t} + \epsilon}, \qquad
       r_t^2 = \frac{(\rho_t - 4)(\rho_t - 2)\,\rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\,\rho_t},

    and before that the plain :math:`m_t/(1 - \beta_1^t)`. With ``amsgrad`` the largest :math:`s` so far takes the place
    of :math:`s_t`. (The package forgets that maximum where it rectifies, which is its default.)
    Not-a-number gradients stay in the state.

    Args:
      b1: decay of the mean, in [0, 1).
      b2: decay of the squared distance from it, in [0, 1); with ``rectify`` above 2/3.
      eps: both :math:`\epsilon`, ≥ 0.
      rectify: RAdam's rule, the package's default since 0.1.
      amsgrad: the largest :math:`s`.

    Returns:
      A transformation with :class:`AdaBeliefState`: two numbers for each parameter, three with ``amsgrad``.

    Raises:
      ValueError: a number out of range.

    Source: Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris, Duncan (2020), arXiv 2010.07468.

    >>> tx = scale_by_adabelief(b1=0.5)
    >>> u, _ = tx.update(jnp.array([8.0]), tx.init(jnp.zeros(1)))  # m = 4, s = 0.001 · 16: 8/4
    >>> u.round(4).tolist()
    [2.0]
    """
    check_decays(b1=b1, b2=b2)
    check_finite_number("eps", eps, low=0.0)
    if rectify:
        # below, ρ∞ < 5: no step would ever be rectified
        check_finite_number("b2 with rectify", b2, low=2 / 3)

    def init(params):
        largest = zeros_accumulator(params) if amsgrad else None
        return AdaBeliefState(jnp.zeros((), jnp.int32), zeros_accumulator(params), zeros_accumulator(params), largest)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        c1, c2 = 1 - b1**count, 1 - b2**count
        if rectify:
            limit = 2 / (1 - b2) - 1
            # ρ∞ - 2t β₂ᵗ/(1 - β₂ᵗ), a difference of numbers near 2/(1 - β₂) while t is small
            half = -jnp.log(b2) / 2
            rho = count + _langevin(half) - count * _langevin(count * half)
            tame = rho >= 5
            safe = jnp.where(tame, rho, 5.0)
            rate = jnp.sqrt(c2 * (safe - 4) * (safe - 2) * limit / ((limit - 4) * (limit - 2) * safe))

        def step(g, m, s, largest):
            g32 = g.astype(m.dtype)
            m = (b1 * m + (1 - b1) * g32).astype(m.dtype)
            # epsilon first: XLA then keeps s in place on CPUs, else it copies the old one
            s = (b2 * s + eps + (1 - b2) * (g32 - m) ** 2).astype(s.dtype)
            if amsgrad:
                largest = jnp.maximum(largest, s)
            spread = largest if amsgrad else s
            if rectify:
                u = m / c1 * jnp.where(tame, rate / (jnp.sqrt(spread) + eps), 1.0)
            else:
                u = m / c1 / (jnp.sqrt(spread / c2) + eps)
            return u.astype(g.dtype), m, s, largest

        updates, *moments = map_leaves(step, 4, updates, state.mu, state.nu, state.nu_max)
        return updates, AdaBeliefState(count, *moments)

    return optax.GradientTransformation(init, update)


def adabelief(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-16,
    weight_decay: Number = 0.0,
    *,
    decouple: bool = True,
    mask: Any = None,
    rectify: bool = False,
    amsgrad: bool = False,
) -> optax.GradientTransformation:
    r"""AdaBelief: :math:`\theta \leftarrow \theta - \eta\,(u_t + \lambda\,\theta)`, see :func:`scale_by_adabelief`.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      b1, b2, eps, rectify, amsgrad: see :func:`scale_by_adabelief`.
      weight_decay: :math:`\lambda`, ≥ 0.
      decouple: as above; False: :math:`\lambda\theta` is added to the gradient.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.

    Returns:
      A transformation whose update needs ``params``.

    Raises:
      ValueError: a number out of range.

    Source: Zhuang et al. (2020), arXiv 2010.07468.

    >>> tx = adabelief(0.25, b1=0.5, weight_decay=0.5)
    >>> w = jnp.array([8.0])
    >>> tx.update(w, tx.init(w), w)[0].round(4).tolist()  # -0.25 (2 + 0.5 · 8)
    [-1.5]
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    rule = scale_by_adabelief(b1, b2, eps, rectify=rectify, amsgrad=amsgrad)
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(*((rule, decay) if decouple else (decay, rule)), optax.scale_by_learning_rate(learning_rate))
