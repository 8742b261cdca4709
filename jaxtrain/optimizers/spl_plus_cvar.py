"""SPL+: the stochastic prox-linear method for the mean of the worst losses, the conditional value at risk."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Params, Scalar, check_finite_number
from jaxtrain.optimizers._inner import common_dtype, scaled, squared_norm, the_value

BELOW_ONE = float(np.nextafter(1.0, 0.0))


class SplPlusState(NamedTuple):
    """State of :func:`spl_plus`: completed updates, and the estimate of the quantile of the losses."""

    count: Int[Array, ""]
    alpha: Float[Array, ""]


def _check_beta(beta: Number) -> None:
    check_finite_number("beta", beta, low=0.0, high=BELOW_ONE)


def _check_losses(losses: Array, where: str) -> Array:
    losses = jnp.asarray(losses)
    if losses.ndim != 1 or not losses.size:
        raise ValueError(f"{where} needs one loss for each example, got an array of shape {losses.shape}")
    return losses


def cvar_objective(losses: Float[Array, " n"], alpha: Number, *, beta: Number) -> Scalar:
    r"""Rockafellar and Uryasev's function, whose minimum over :math:`\alpha` is the conditional value at risk.

    .. math:: \alpha + \frac{1}{1 - \beta}\,\frac1n \sum_i (\ell_i - \alpha)_+

    Args:
      losses: of n examples.
      alpha: :math:`\alpha`, in the losses' unit; at the minimum the :math:`\beta`-quantile.
      beta: in [0, 1): 0.9 means the worst tenth, 0 the mean.

    Returns:
      A number.

    Raises:
      ValueError: ``beta`` out of range, losses that are not a vector.

    Source: Rockafellar & Uryasev (2000), "Optimization of conditional value-at-risk".

    >>> float(cvar_objective(jnp.array([1.0, 2.0, 3.0, 8.0]), jnp.float32(3.0), beta=0.75))
    8.0
    """
    _check_beta(beta)
    losses = _check_losses(losses, "cvar_objective")
    return alpha + jnp.mean(jax.nn.relu(losses - alpha)) / (1 - beta)


def empirical_var(losses: Float[Array, " n"], *, beta: Number) -> Scalar:
    r"""The value at risk: the smallest loss that at least the share :math:`\beta` of the losses does not exceed.

    Args:
      losses: of n examples.
      beta: in [0, 1).

    Returns:
      One of the losses.

    Raises:
      ValueError: ``beta`` out of range, losses that are not a vector.

    Source: Rockafellar & Uryasev (2000).

    >>> float(empirical_var(jnp.array([8.0, 1.0, 3.0, 2.0]), beta=0.75))
    3.0
    """
    _check_beta(beta)
    ordered = jnp.sort(_check_losses(losses, "empirical_var"))
    # in double precision where it is known: single precision counts no more than a million losses one by one
    at = jnp if isinstance(beta, jax.core.Tracer) else np
    share = at.asarray(beta, jnp.result_type(float) if at is jnp else np.float64)
    # 0.95 · 20 is 19.000000000000004 in binary, and must be 19
    index = at.ceil(len(ordered) * share * (1 - 8 * jnp.finfo(share.dtype).eps))
    return ordered[at.maximum(index.astype(np.int32) - 1, 0)]


def empirical_cvar(losses: Float[Array, " n"], *, beta: Number) -> Scalar:
    r"""The conditional value at risk: the mean of the worst :math:`(1 - \beta) n` losses, one of them in part if need be.

    Args:
      losses: of n examples.
      beta: in [0, 1).

    Returns:
      A number. Its derivative gives the worst losses their weights.

    Raises:
      ValueError: ``beta`` out of range, losses that are not a vector.

    Source: Rockafellar & Uryasev (2000).

    >>> float(empirical_cvar(jnp.array([8.0, 1.0, 3.0, 2.0]), beta=0.5))
    5.5
    """
    alpha = empirical_var(losses, beta=beta)
    return cvar_objective(losses, alpha, beta=beta)


def cvar_subgradient_step(
    params: Params, alpha: Number, loss: Number, grad: Params, *, beta: Number, lr: Number
) -> tuple[Params, Scalar]:
    r"""One step of the stochastic subgradient method on :func:`cvar_objective`, jointly in parameters and quantile.

    .. math:: \theta \leftarrow \theta - \gamma \frac{[\ell > \alpha]}{1 - \beta}\,g, \qquad
       \alpha \leftarrow \alpha - \gamma\Big(1 - \frac{[\ell > \alpha]}{1 - \beta}\Big)

    Args:
      params: :math:`\theta`.
      alpha: :math:`\alpha`.
      loss, grad: loss and gradient of one example.
      beta: in [0, 1).
      lr: :math:`\gamma`, ≥ 0.

    Returns:
      New parameters and quantile.

    Raises:
      ValueError: a number out of range.

    Source: Meng & Gower (2023), arXiv 2305.17498.

    >>> x, alpha = cvar_subgradient_step(jnp.array(1.0), 0.5, 2.0, jnp.array(3.0), beta=0.5, lr=0.1)
    >>> round(float(x), 4), round(float(alpha), 4)
    (0.4, 0.6)
    """
    _check_beta(beta)
    check_finite_number("lr", lr, low=0.0)
    kind = common_dtype(grad)
    weight = jnp.where(jnp.asarray(loss, kind) > alpha, 1 / (1 - beta), 0).astype(kind)
    params = jax.tree.map(lambda p, u: p - u, params, scaled(lr * weight, grad))
    return params, alpha - lr * (1 - weight)


def _multiplier(gap: Array, square: Array, beta: Number, lr_params: Number, lr_alpha: Number) -> Array:
    """The share of the loss in the step: 0 where the model stays below α, at most 1/(1 - β)."""
    over, under = gap + lr_alpha, lr_params * square + lr_alpha
    # without gradient and step of α nothing can reach the kink
    eta = jnp.where(under > 0, over / jnp.where(under > 0, under, 1), jnp.where(over > 0, jnp.inf, over))
    return jnp.clip(eta, 0, 1 / (1 - beta)).astype(gap.dtype)


def cvar_prox_linear_step(
    params: Params,
    alpha: Number,
    loss: Number,
    grad: Params,
    *,
    beta: Number,
    lr_params: Number,
    lr_alpha: Number,
) -> tuple[Params, Scalar, Scalar]:
    r"""One step of the stochastic prox-linear method: the loss is linearised, the maximum in :func:`cvar_objective` is not.

    .. math:: \operatorname*{argmin}_{\theta', \alpha'}\ \alpha' +
       \frac{(\ell + \langle g, \theta' - \theta\rangle - \alpha')_+}{1 - \beta}
       + \frac{\|\theta' - \theta\|^2}{2 \gamma_\theta} + \frac{(\alpha' - \alpha)^2}{2 \gamma_\alpha}

    has the solution

    .. math:: \eta = \operatorname{clip}\Big(\frac{\ell - \alpha + \gamma_\alpha}
       {\gamma_\theta \|g\|^2 + \gamma_\alpha},\ 0,\ \frac{1}{1 - \beta}\Big), \qquad
       \theta' = \theta - \gamma_\theta\,\eta\,g, \qquad \alpha' = \alpha - \gamma_\alpha (1 - \eta).

    Between its bounds the step lands on the kink, where the linearised loss equals :math:`\alpha'`.

    Args:
      params, alpha, loss, grad, beta: see :func:`cvar_subgradient_step`.
      lr_params: :math:`\gamma_\theta` ≥ 0.
      lr_alpha: :math:`\gamma_\alpha` ≥ 0, in the losses' unit. Equal ones make it SPL.

    Returns:
      New parameters, new quantile and :math:`\eta`.

    Raises:
      ValueError: a number out of range.

    Source: Meng & Gower (2023), arXiv 2305.17498.

    >>> x, alpha, eta = cvar_prox_linear_step(
    ...     jnp.array(1.0), 0.5, 2.0, jnp.array(3.0), beta=0.9, lr_params=0.1, lr_alpha=0.1
    ... )
    >>> round(float(x), 4), round(float(alpha), 4), round(float(eta), 4)  # 2 + 3 (0.52 - 1) = 0.56
    (0.52, 0.56, 1.6)
    """
    _check_beta(beta)
    check_finite_number("lr_params", lr_params, low=0.0)
    check_finite_number("lr_alpha", lr_alpha, low=0.0)
    square = squared_norm(grad)
    gap = jnp.asarray(loss, square.dtype) - alpha
    eta = _multiplier(gap, square, beta, lr_params, lr_alpha)
    params = jax.tree.map(lambda p, u: p - u, params, scaled(lr_params * eta, grad))
    return params, alpha - lr_alpha * (1 - eta), eta


def spl_plus(
    lr_params: optax.ScalarOrSchedule = 0.1,
    lr_alpha: optax.ScalarOrSchedule = 0.1,
    beta: Number = 0.95,
    *,
    alpha0: Number = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""SPL+: minimises the mean of the worst losses by the :func:`cvar_prox_linear_step`; the quantile lives in the state.

    The quantile has the unit of the loss, and the parameters have not, hence two step sizes: when the loss is multiplied
    by c, ``lr_alpha`` times c and ``lr_params`` over c give the same parameters. The paper lets both fall as
    :math:`1/\sqrt{t + 1}`. The rule is exact for the loss of one example; the update wants it as ``value=``, which
    :func:`jaxtrain.training.make_step` gives. For a batch that is the mean loss, and the quantile that of batches: for
    one of examples apply :func:`cvar_prox_linear_step` to each by ``vmap`` and average.

    It takes the whole step: put it last in a chain, without ``scale_by_learning_rate``.

    Args:
      lr_params: :math:`\gamma_\theta`, ≥ 0, a number or a schedule.
      lr_alpha: :math:`\gamma_\alpha`, ≥ 0, in the loss's unit, a number or a schedule.
      beta: in [0, 1): 0.95 means the worst twentieth.
      alpha0: the quantile at the start.

    Returns:
      A transformation with :class:`SplPlusState`: two numbers.

    Raises:
      ValueError: a number out of range; from its update: no ``value``.

    Source: Meng & Gower (2023), "A Model-Based Method for Minimizing CVaR and Beyond", arXiv 2305.17498.

    >>> tx = spl_plus(0.1, 0.1, 0.9, alpha0=0.5)
    >>> u, state = tx.update(jnp.array(3.0), tx.init(jnp.array(1.0)), value=2.0)
    >>> round(float(u), 4), round(float(state.alpha), 4)
    (-0.48, 0.56)
    """
    _check_beta(beta)
    check_finite_number("alpha0", alpha0)
    for name, rate in {"lr_params": lr_params, "lr_alpha": lr_alpha}.items():
        if not callable(rate):
            check_finite_number(name, rate, low=0.0)

    def init(params):
        return SplPlusState(jnp.zeros((), jnp.int32), jnp.array(alpha0, common_dtype(params)))

    def update(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        of_params, of_alpha = (rate(state.count) if callable(rate) else rate for rate in (lr_params, lr_alpha))
        kind = state.alpha.dtype
        gap = the_value(value, kind, where="spl_plus") - state.alpha
        eta = _multiplier(gap, squared_norm(updates).astype(kind), beta, of_params, of_alpha)
        alpha = (state.alpha - of_alpha * (1 - eta)).astype(kind)
        return scaled(-of_params * eta, updates), SplPlusState(optax.safe_increment(state.count), alpha)

    return optax.GradientTransformationExtraArgs(init, update)
