"""AMSGrad in its three readings, and AdamNC: Adam with a second moment that remembers long enough to converge."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import zeros_accumulator
from jaxtrain.optimizers._accumulators import in_accumulators
from jaxtrain.optimizers._fused import map_leaves

CORRECTIONS = ("none", "before_max", "after_max")


def scale_by_amsgrad(
    b1: Number = 0.9, b2: Number = 0.99, eps: Number = 1e-8, *, bias_correction: str = "none"
) -> optax.GradientTransformation:
    r"""Rescales updates by the largest second moment so far.

    .. math::
       m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
       \hat v_t = \max(\hat v_{t-1}, v_t), \quad u_t = \frac{m_t}{\sqrt{\hat v_t} + \epsilon}.

    Three methods go by the name. They differ in the correction for moments that start at zero, and not only at the
    start, since a maximum is remembered:

    ===============  =====================================================  =======================
    bias_correction  the update                                             whose
    ===============  =====================================================  =======================
    ``none``         as above                                               the paper
    ``before_max``   :math:`m_t/(1-\beta_1^t)`, and the maximum is that     ``optax.amsgrad``
                     of :math:`v_t/(1-\beta_2^t)`
    ``after_max``    :math:`m_t/(1-\beta_1^t)` over                         ``torch.optim.Adam``
                     :math:`\sqrt{\hat v_t/(1-\beta_2^t)} + \epsilon`       with ``amsgrad=True``
    ===============  =====================================================  =======================

    optax has the first two (``bias_correction_mu=False, bias_correction_nu=False`` is the paper's), which are taken
    from there; the third is made of it. A momentum that fades, :math:`\beta_1 \lambda^{t-1}`, as in the paper's theorem:
    ``optax.inject_hyperparams(scale_by_amsgrad)(b1=lambda t: 0.9 * 0.99**t)``. Not-a-number gradients stay in the state.

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the root, ≥ 0; the paper has none.
      bias_correction: which of the three.

    Returns:
      A transformation with ``optax.ScaleByAmsgradState``: three numbers for each parameter, in float32 at least.

    Raises:
      ValueError: a number out of range, or an unknown correction.

    Source: Reddi, Kale, Kumar (2018), arXiv 1904.09237.

    >>> tx = scale_by_amsgrad(b1=0.0, b2=0.75, eps=0.0)
    >>> u, state = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))
    >>> v, state = tx.update(jnp.array([0.5]), state)  # the second moment falls, its maximum stays 1
    >>> u.tolist(), v.tolist()
    ([2.0], [0.5])
    """
    check_decays(b1=b1, b2=b2)
    check_finite_number("eps", eps, low=0.0)
    if bias_correction not in CORRECTIONS:
        raise ValueError(f"bias_correction must be one of {', '.join(CORRECTIONS)}, got {bias_correction!r}")
    first, second = bias_correction != "none", bias_correction == "before_max"
    plain = optax.scale_by_amsgrad(b1, b2, eps, bias_correction_mu=first, bias_correction_nu=second)
    if bias_correction != "after_max":
        return in_accumulators(plain)

    def update(updates, state, params=None):
        # m / (√(v̂/c) + ε) = √c · m / (√v̂ + ε √c)
        root = jnp.sqrt(1 - b2 ** optax.safe_increment(state.count))
        now = optax.scale_by_amsgrad(b1, b2, eps * root, bias_correction_nu=False)
        updates, state = now.update(updates, state, params)
        return jax.tree.map(lambda u: root * u, updates), state

    return in_accumulators(optax.GradientTransformation(plain.init, update))


def amsgrad(
    learning_rate: optax.ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.99,
    eps: Number = 1e-8,
    *,
    bias_correction: str = "none",
) -> optax.GradientTransformation:
    r"""AMSGrad: :math:`\theta \leftarrow \theta - \alpha_t\,u_t`, see :func:`scale_by_amsgrad`.

    The theorem has :math:`\alpha_t = \alpha/\sqrt t` (``lambda t: alpha / jnp.sqrt(t + 1)``) and, with constraints, a
    projection, which for a box is ``optax.projections.projection_box`` of the parameters after the step.

    Args:
      learning_rate: :math:`\alpha_t`, a number or a schedule.
      b1, b2, eps, bias_correction: see :func:`scale_by_amsgrad`.

    Returns:
      A transformation.

    Raises:
      ValueError: as :func:`scale_by_amsgrad`.

    Source: Reddi, Kale, Kumar (2018), arXiv 1904.09237.

    >>> tx = amsgrad(0.5, b1=0.0, b2=0.75, eps=0.0)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))[0].tolist()
    [-1.0]
    """
    return optax.chain(
        scale_by_amsgrad(b1, b2, eps, bias_correction=bias_correction), optax.scale_by_learning_rate(learning_rate)
    )


class AdamNCState(NamedTuple):
    """State of :func:`scale_by_adam_nc`: moments shaped like the parameters, in float32 at least."""

    count: Int[Array, ""]
    mu: Params
    nu: Params


def _mean_decay(t: Array) -> Array:
    return 1 - 1 / t


def scale_by_adam_nc(
    b1: Number = 0.9, b2_fn: Callable[[Array], Array] | None = None, eps: Number = 1e-8
) -> optax.GradientTransformation:
    r"""Rescales updates by a second moment whose decay grows: by default the mean of all squared gradients.

    .. math::
       m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_{2t} v_{t-1} + (1 - \beta_{2t}) g_t^2, \quad
       u_t = \frac{m_t}{\sqrt{v_t} + \epsilon}, \quad \beta_{2t} = 1 - 1/t.

    Without momentum and with the learning rate :math:`\alpha/\sqrt t` this is AdaGrad. No bias correction.
    In single precision :math:`1 - \beta_{2t}` is a multiple of 6e-8: the mean stands still after :math:`10^7` steps.
    Not-a-number gradients stay in the state.

    Args:
      b1: decay of the first moment, in [0, 1).
      b2_fn: :math:`t \mapsto \beta_{2t}` for t = 1, 2, …; None: :math:`1 - 1/t`.
      eps: added to the root, ≥ 0.

    Returns:
      A transformation with :class:`AdamNCState`: two numbers for each parameter.

    Raises:
      ValueError: a number out of range.

    Source: Reddi, Kale, Kumar (2018), arXiv 1904.09237.

    >>> tx = scale_by_adam_nc(b1=0.0, eps=0.0)
    >>> u, state = tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))
    >>> v, state = tx.update(jnp.array([7.0]), state)
    >>> round(float(v[0]), 4), state.nu.tolist()  # 7/5 and (1 + 49)/2
    (1.4, [25.0])
    """
    check_decays(b1=b1)
    check_finite_number("eps", eps, low=0.0)
    decay = _mean_decay if b2_fn is None else b2_fn

    def init(params):
        return AdamNCState(jnp.zeros((), jnp.int32), zeros_accumulator(params), zeros_accumulator(params))

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        b2 = decay(count.astype(jnp.result_type(float)))

        def step(g, m, v):
            g32 = g.astype(m.dtype)
            m = (b1 * m + (1 - b1) * g32).astype(m.dtype)
            v = (b2 * v + (1 - b2) * g32**2).astype(v.dtype)
            return (m / (jnp.sqrt(v) + eps)).astype(g.dtype), m, v

        updates, mu, nu = map_leaves(step, 3, updates, state.mu, state.nu)
        return updates, AdamNCState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def adam_nc(
    learning_rate: optax.ScalarOrSchedule,
    b1: Number = 0.9,
    b2_fn: Callable[[Array], Array] | None = None,
    eps: Number = 1e-8,
) -> optax.GradientTransformation:
    r"""AdamNC: :math:`\theta \leftarrow \theta - \alpha_t\,u_t`, see :func:`scale_by_adam_nc`.

    Args:
      learning_rate: :math:`\alpha_t`; the theorem has ``lambda t: alpha / jnp.sqrt(t + 1)``.
      b1, b2_fn, eps: see :func:`scale_by_adam_nc`.

    Returns:
      A transformation.

    Raises:
      ValueError: as :func:`scale_by_adam_nc`.

    Source: Reddi, Kale, Kumar (2018), arXiv 1904.09237.

    >>> tx = adam_nc(0.5, b1=0.0, eps=0.0)
    >>> tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))[0].tolist()
    [-0.5]
    """
    return optax.chain(scale_by_adam_nc(b1, b2_fn, eps), optax.scale_by_learning_rate(learning_rate))
