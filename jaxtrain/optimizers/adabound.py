"""AdaBound and AMSBound: Adam whose rates are squeezed into those of SGD."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import zeros_accumulator
from jaxtrain.optimizers._fused import map_leaves


def adabound_bounds(step: Number, final: Number = 0.1, gamma: Number = 1e-3) -> tuple[Array, Array]:
    r"""The bounds :math:`F\,(1 - \frac{1}{\gamma t + 1})` and :math:`F\,(1 + \frac{1}{\gamma t})` at step t.

    Args:
      step: t ≥ 1.
      final: :math:`F`, to which both go.
      gamma: how fast, in 1/steps; after :math:`1/\gamma` steps they are F/2 and 2F.

    Returns:
      The lower and the upper bound.

    Source: Luo, Xiong, Liu, Sun (2019), arXiv 1902.09843.

    >>> [float(b) for b in adabound_bounds(4, final=1.0, gamma=0.25)]
    [0.5, 2.0]
    """
    # the lower one without the difference of near numbers while γt is small
    room = 1 + 1 / (jnp.asarray(gamma) * step)
    return final / room, final * room


class AdaBoundState(NamedTuple):
    """State of :func:`scale_by_adabound`, in float32 at least; ``nu_max`` is None without ``amsbound``."""

    count: Int[Array, ""]
    mu: Params
    nu: Params
    nu_max: Params | None


def scale_by_adabound(
    b1: Number = 0.9,
    b2: Number = 0.999,
    final: Number = 100.0,
    gamma: Number = 1e-3,
    eps: Number = 1e-8,
    *,
    amsbound: bool = False,
) -> optax.GradientTransformation:
    r"""Rescales the mean gradient by Adam's rates, clipped between bounds that close.

    .. math::
       m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
       u_t = \operatorname{clip}\Big(\frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,\frac{1}{\sqrt{v_t} + \epsilon},\
       l_t, h_t\Big)\,m_t

    with :math:`l_t, h_t` of :func:`adabound_bounds`. They are in units of the learning rate: a ``final`` of
    :math:`F/\eta`. With ``amsbound`` the largest :math:`v` so far takes the place of :math:`v_t`. The bias correction of
    :math:`m` is part of the clipped rate. The theorem's further :math:`1/\sqrt t` is left to the learning rate, as in
    the authors' code. Not-a-number gradients stay in the state.

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      final: :math:`F/\eta`, ≥ 0.
      gamma: how fast the bounds close, in 1/steps, > 0.
      eps: added to the root, ≥ 0.
      amsbound: the largest :math:`v`.

    Returns:
      A transformation with :class:`AdaBoundState`: two numbers for each parameter, three with ``amsbound``.

    Raises:
      ValueError: a number out of range.

    Source: Luo, Xiong, Liu, Sun (2019), arXiv 1902.09843.

    >>> tx = scale_by_adabound(b1=0.0, final=1.0, gamma=1.0)
    >>> g = jnp.array([0.001, 0.8, 100.0])  # Adam's rates 1000, 1.25 and 0.01; bounds 1/2 and 2
    >>> [round(u, 4) for u in tx.update(g, tx.init(g))[0].tolist()]
    [0.002, 1.0, 50.0]
    """
    check_decays(b1=b1, b2=b2)
    check_finite_number("final", final, low=0.0)
    check_finite_number("gamma", gamma, low=float(np.finfo(np.float32).tiny))
    check_finite_number("eps", eps, low=0.0)

    def init(params):
        largest = zeros_accumulator(params) if amsbound else None
        return AdaBoundState(jnp.zeros((), jnp.int32), zeros_accumulator(params), zeros_accumulator(params), largest)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        low, high = adabound_bounds(count, final, gamma)
        rate = jnp.sqrt(1 - b2**count) / (1 - b1**count)

        def step(g, m, v, largest):
            g32 = g.astype(m.dtype)
            m = (b1 * m + (1 - b1) * g32).astype(m.dtype)
            v = (b2 * v + (1 - b2) * g32**2).astype(v.dtype)
            if amsbound:
                largest = jnp.maximum(largest, v)
            root = jnp.sqrt(largest if amsbound else v) + eps
            return (jnp.clip(rate / root, low, high) * m).astype(g.dtype), m, v, largest

        updates, *moments = map_leaves(step, 4, updates, state.mu, state.nu, state.nu_max)
        return updates, AdaBoundState(count, *moments)

    return optax.GradientTransformation(init, update)


def adabound(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    final_learning_rate: Number = 0.1,
    b1: Number = 0.9,
    b2: Number = 0.999,
    gamma: Number = 1e-3,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    *,
    amsbound: bool = False,
    base_learning_rate: Number | None = None,
) -> optax.GradientTransformation:
    r"""AdaBound: Adam with rates :math:`\eta_t`, in the end SGD with momentum and the rate :math:`F\,\eta_t/\eta`.

    :math:`\theta \leftarrow \theta - \eta_t u_t` with :func:`scale_by_adabound` of ``final`` :math:`F/\eta`. A schedule
    scales the bounds as well, relative to the base rate :math:`\eta`. The momentum is a mean: its rate is
    :math:`1/(1 - \beta_1)` times smaller than that of ``optax.sgd(momentum=β1)``.

    Args:
      learning_rate: :math:`\eta_t` of Adam, a positive number or a schedule.
      final_learning_rate: :math:`F` of SGD.
      b1, b2, gamma, eps, amsbound: see :func:`scale_by_adabound`.
      weight_decay: L2, added to the gradient. The authors' AdaBoundW takes a fixed share w of the parameters instead:
        ``optax.chain(adabound(…), optax.add_decayed_weights(-w))``.
      base_learning_rate: :math:`\eta`; None: the number, or the schedule's value at step 0, which must not be zero. In
        ``optax.inject_hyperparams`` a schedule arrives as the number of the step: give it there.

    Returns:
      A transformation.

    Raises:
      ValueError: a number out of range, or a schedule that starts at zero without ``base_learning_rate``.

    Source: Luo, Xiong, Liu, Sun (2019), arXiv 1902.09843.

    >>> tx = adabound(0.5, final_learning_rate=0.5, b1=0.0, gamma=1.0)
    >>> g = jnp.array([0.001, 0.8, 100.0])
    >>> [round(u, 4) for u in tx.update(g, tx.init(g))[0].tolist()]
    [-0.001, -0.5, -25.0]
    """
    base = base_learning_rate
    if base is None:
        base = learning_rate(0) if callable(learning_rate) else learning_rate
    try:
        check_finite_number("base_learning_rate", base, low=float(np.finfo(np.float32).tiny))
    except ValueError:
        raise ValueError(
            f"adabound: the bounds are relative to the base learning rate, which must be positive, got {base}; "
            "for a schedule that starts at zero give its peak as base_learning_rate="
        ) from None
    check_finite_number("final_learning_rate", final_learning_rate, low=0.0)
    check_finite_number("weight_decay", weight_decay, low=0.0)
    # optax's own shortcut for no decay still asks for the parameters
    undecayed = isinstance(weight_decay, int | float) and weight_decay == 0
    return optax.chain(
        optax.identity() if undecayed else optax.add_decayed_weights(weight_decay),
        scale_by_adabound(b1, b2, final_learning_rate / base, gamma, eps, amsbound=amsbound),
        optax.scale_by_learning_rate(learning_rate),
    )


def amsbound(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    final_learning_rate: Number = 0.1,
    b1: Number = 0.9,
    b2: Number = 0.999,
    gamma: Number = 1e-3,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    *,
    base_learning_rate: Number | None = None,
) -> optax.GradientTransformation:
    r"""AMSBound: :func:`adabound` with the largest second moment so far.

    Args:
      learning_rate, final_learning_rate, b1, b2, gamma, eps, weight_decay, base_learning_rate: see :func:`adabound`.

    Returns:
      A transformation.

    Raises:
      ValueError: as :func:`adabound`.

    Source: Luo, Xiong, Liu, Sun (2019), arXiv 1902.09843.

    >>> tx = amsbound(0.5, final_learning_rate=0.5, b1=0.0, gamma=1.0)
    >>> tx.update(jnp.array([0.8]), tx.init(jnp.zeros(1)))[0].round(4).tolist()
    [-0.5]
    """
    return adabound(
        learning_rate,
        final_learning_rate,
        b1,
        b2,
        gamma,
        eps,
        weight_decay,
        amsbound=True,
        base_learning_rate=base_learning_rate,
    )
