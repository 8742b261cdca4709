"""Power-function averages, and averages of any width made after a run from the snapshots of a few."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from jaxtrain.averaging._base import accumulator_like, averages_in, params_after, toward
from jaxtrain.core import Number, OptState, Params, check_finite_number, check_same_structure

_WIDEST = 1 / np.sqrt(12.0)  # the uniform average


class PowerEmaState(NamedTuple):
    """State of :func:`power_function_ema`: completed steps, exponents, and one average for each (float32 at least)."""

    step: Int[jax.Array, ""]
    exponents: Float[jax.Array, " averages"]
    averages: tuple[Params, ...]
    observes = True
    started = True

    def read(self):
        return self.averages


def _numpy_of(*values: Any) -> Any:
    """NumPy, in float64, unless a value is traced."""
    return jnp if any(isinstance(value, jax.core.Tracer) for value in values) else np


def power_ema_exp_to_std(exp: Number) -> Number:
    r"""The relative width of the profile :math:`\tau^\gamma`: its standard deviation over the length of the run.

    .. math:: \sigma = \sqrt{\frac{\gamma + 1}{(\gamma + 2)^2 (\gamma + 3)}}

    Args:
      exp: :math:`\gamma` ≥ 0; 0 is the uniform average.

    Source: Karras et al. (2023), arXiv 2312.02696, equation 123.

    >>> round(float(power_ema_exp_to_std(16.9722)), 4), round(float(power_ema_exp_to_std(0.0)), 4)
    (0.05, 0.2887)
    """
    check_finite_number("exp", exp, low=0.0)
    xp = _numpy_of(exp)
    exp = xp.asarray(exp) * 1.0
    return xp.sqrt((exp + 1) / ((exp + 2) ** 2 * (exp + 3)))


def power_ema_std_to_exp(std: Number) -> Number:
    r"""The exponent of a relative width: the largest root of
    :math:`\gamma^3 + 7\gamma^2 + (16 - \sigma^{-2})\gamma + 12 - \sigma^{-2} = 0`, in closed form.

    Args:
      std: :math:`\sigma` in (0, 1/√12]; 1/√12 = 0.2887 is the uniform average.

    Returns:
      :math:`\gamma` ≥ 0.

    Raises:
      ValueError: ``std`` out of range: no power of time is wider than the uniform average.

    Source: Karras et al. (2023), arXiv 2312.02696, equation 126.

    >>> [round(float(power_ema_std_to_exp(std)), 4) for std in (0.05, 0.1)]
    [16.9722, 6.9372]
    """
    check_finite_number("std", std, low=1e-6, high=_WIDEST * (1 + 1e-7))
    xp = _numpy_of(std)
    s = (xp.asarray(std) * 1.0) ** -2
    # x = gamma + 7/3 takes the square away; three real roots, by the cosine of a third of an angle
    p, q = 16 - s - 49 / 3, 686 / 27 - 7 * (16 - s) / 3 + 12 - s
    radius = xp.sqrt(-p / 3)
    root = 2 * radius * xp.cos(xp.arccos(xp.clip(-q / (2 * radius**3), -1, 1)) / 3) - 7 / 3
    return xp.maximum(root, 0.0)


def power_ema_beta(step_next: Number, step_delta: Number, *, exponent: Number) -> Number:
    r"""The decay of one step, :math:`\beta = (1 - \Delta t / t)^{\gamma + 1}`, with :math:`t` the time after it.

    Args:
      step_next: :math:`t` after the step, in steps, images or any other unit.
      step_delta: :math:`\Delta t` of the step, in the same unit.
      exponent: :math:`\gamma`.

    Source: Karras et al. (2023), arXiv 2312.02696, equation 127.

    >>> float(power_ema_beta(1.0, 1.0, exponent=5.0)), float(power_ema_beta(2.0, 1.0, exponent=1.0))
    (0.0, 0.25)
    """
    xp = _numpy_of(step_next, step_delta, exponent)
    return (1 - xp.asarray(step_delta) / step_next) ** (xp.asarray(exponent) + 1)


def power_function_ema(stds: Number | Sequence[float]) -> optax.GradientTransformationExtraArgs:
    r"""Averages with a memory that grows with the run: weights proportional to a power of time.

    .. math:: \hat\theta_\gamma(t) = \frac{\gamma + 1}{t^{\gamma + 1}} \int_0^t \tau^\gamma\,\theta(\tau)\,d\tau, \qquad
       \hat\theta \leftarrow \beta\,\hat\theta + (1 - \beta)\,\theta, \quad \beta = (1 - 1/t)^{\gamma + 1}

    The first step has :math:`\beta = 0`, so the initial parameters have no part in it. One average is kept for every
    width, all updated in one pass. ``averaged_params(…, index=i)`` reads the i-th; averages of any other width and any
    earlier time come from snapshots of two of them, see :func:`posthoc_ema`. The updates pass unchanged.

    Args:
      stds: relative widths :math:`\sigma` in (0, 0.2887], as a share of the run's length, one or several; the paper keeps
        0.05 and 0.10. From exponents: :func:`power_ema_exp_to_std`.

    Returns:
      A transformation with :class:`PowerEmaState`. Its update raises ``ValueError`` without ``params``.

    Raises:
      ValueError: a width out of range, or none.

    Source: Karras, Aittala, Lehtinen, Hellsten, Aila, Laine (2023), arXiv 2312.02696, section 3.1.

    >>> from jaxtrain.averaging import averaged_params
    >>> tx = optax.chain(optax.sgd(1.0), power_function_ema([0.05, 0.2886]))
    >>> params = jnp.array(4.0)
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> [round(float(averaged_params(state, params, index=i)), 2) for i in (0, 1)]  # of 3, 2 and 1
    [1.0, 2.0]
    """
    stds = np.asarray(stds) if isinstance(stds, list | tuple) else stds
    if np.ndim(stds) > 1 or np.size(stds) == 0:
        raise ValueError(f"stds is one width or a row of them, got shape {np.shape(stds)}")
    exponents = power_ema_std_to_exp(stds).reshape(-1)

    def init(params):
        return PowerEmaState(
            jnp.zeros((), jnp.int32),
            jnp.asarray(exponents, jnp.float32),
            tuple(accumulator_like(params) for _ in range(len(exponents))),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        new = params_after("power_function_ema", params, updates)
        step = optax.safe_increment(state.step)
        # 1 - β, to the last digit for long runs too
        weights = -jnp.expm1((jnp.asarray(exponents, jnp.result_type(float)) + 1) * jnp.log1p(-1.0 / step))
        averages = tuple(toward(average, new, w) for average, w in zip(state.averages, weights, strict=True))
        return updates, PowerEmaState(step, state.exponents, averages)

    return optax.GradientTransformationExtraArgs(init, update)


def power_ema_snapshot(opt_state: OptState, *, dtype: Any = None) -> PowerEmaState:
    """What to store now and then, some 20 to 100 times in a run, for :func:`posthoc_ema`.

    Args:
      opt_state: the state of a chain with one :func:`power_function_ema`.
      dtype: of the stored averages, such as ``jnp.float16`` to save space; None: as they are.

    Returns:
      The averages with their exponents and their time, on the device; ``jax.device_get`` brings them to the host.

    Raises:
      ValueError: there is no such average in the chain, or there are several.

    >>> snapshot = power_ema_snapshot(power_function_ema([0.05, 0.1]).init(jnp.ones(3)), dtype=jnp.float16)
    >>> len(snapshot.averages), snapshot.averages[0].dtype
    (2, dtype('float16'))
    """
    found = [s for s in averages_in(opt_state) if isinstance(s, PowerEmaState)]
    if len(found) != 1:
        raise ValueError(f"a snapshot needs a chain with one power_function_ema, got {len(found)} of them")
    (state,) = found
    # copies: the next step may take the very arrays (donation)
    averages = jax.tree.map(lambda a: jnp.array(a, dtype or a.dtype), state.averages)
    return PowerEmaState(jnp.array(state.step), jnp.array(state.exponents), averages)


def power_ema_inner_product(t_a: Any, exp_a: Any, t_b: Any, exp_b: Any) -> np.ndarray:
    r"""The inner product of two profiles, :math:`\int p_a p_b\,d\tau` with
    :math:`p(\tau) = (\gamma + 1)\,\tau^\gamma / t^{\gamma + 1}` on :math:`[0, t]`, in float64.

    With :math:`t_a \le t_b`:
    :math:`\frac{(\gamma_a + 1)(\gamma_b + 1)}{\gamma_a + \gamma_b + 1}\,\frac{(t_a/t_b)^{\gamma_b}}{t_b}`.

    Args:
      t_a: times > 0; all four broadcast.
      exp_a: exponents ≥ 0.
      t_b: times of the other profile.
      exp_b: its exponents.

    Source: Karras et al. (2023), arXiv 2312.02696, equation 151.

    >>> float(power_ema_inner_product(1.0, 0.0, 2.0, 0.0))
    0.5
    """
    t_a, exp_a, t_b, exp_b = (np.asarray(x, np.float64) for x in (t_a, exp_a, t_b, exp_b))
    exponent = np.where(t_a < t_b, exp_b, -exp_a)
    product = (exp_a + 1) * (exp_b + 1) * (t_a / t_b) ** exponent / ((exp_a + exp_b + 1) * np.maximum(t_a, t_b))
    return np.asarray(product)


def posthoc_ema_coefficients(in_t: Any, in_exp: Any, out_t: Any, out_exp: Any) -> np.ndarray:
    r"""The combination of stored averages that is nearest to an average of another width, in float64 on the host.

    The coefficients :math:`x` minimise :math:`\|\sum_i x_i p_i - p\|_2` over profiles: :math:`A x = b` with the
    inner products :math:`A_{ij} = \langle p_i, p_j\rangle` and :math:`b_i = \langle p_i, p\rangle`; then they are scaled to
    the sum 1. The equations are ill-conditioned, which harms the coefficients but not their combination.

    Args:
      in_t: times of the stored averages, in steps, ``(n,)`` (or broadcast with the exponents).
      in_exp: their exponents ``(n,)``.
      out_t: time of the wanted average: a number or ``(m,)``.
      out_exp: its exponent: a number or ``(m,)``.

    Returns:
      Coefficients ``(n,)``, or ``(n, m)`` for several wanted averages.

    Raises:
      ValueError: times that are not positive, exponents below 0, or two stored averages with one profile.

    Source: Karras et al. (2023), arXiv 2312.02696, algorithm 3.

    >>> posthoc_ema_coefficients([50, 100], [3.0, 3.0], 100, 3.0).round(6).tolist()
    [0.0, 1.0]
    """
    in_t, in_exp = np.broadcast_arrays(np.asarray(in_t, np.float64), np.asarray(in_exp, np.float64))
    scalar = np.ndim(out_t) == np.ndim(out_exp) == 0
    out_t, out_exp = np.broadcast_arrays(np.asarray(out_t, np.float64), np.asarray(out_exp, np.float64))
    in_t, in_exp, out_t, out_exp = (x.reshape(-1) for x in (in_t, in_exp, out_t, out_exp))
    for name, times, exps in (("stored", in_t, in_exp), ("wanted", out_t, out_exp)):
        check_finite_number(f"times of the {name} averages", times, low=np.finfo(float).tiny)
        check_finite_number(f"exponents of the {name} averages", exps, low=0.0)
    if len(np.unique(np.stack([in_t, in_exp]), axis=1).T) < len(in_t):
        raise ValueError("two of the stored averages have one time and one exponent; leave one of them out")
    column, row = (lambda x: x[:, None]), (lambda x: x[None])
    inner = power_ema_inner_product(column(in_t), column(in_exp), row(in_t), row(in_exp))
    target = power_ema_inner_product(column(in_t), column(in_exp), row(out_t), row(out_exp))
    x = np.linalg.solve(inner, target)
    x = x / x.sum(axis=0)
    return x[:, 0] if scalar else x


def posthoc_ema(snapshots: Sequence[Any], std: float, *, step: float | None = None) -> Params:
    r"""The average of any width, made after the run from snapshots of a few widths.

    Args:
      snapshots: from :func:`power_ema_snapshot`, at different steps; on the host or on the device.
      std: relative width :math:`\sigma` of the wanted average, in (0, 0.2887].
      step: the time of the wanted average; default: that of the last snapshot. Snapshots after it are left out.

    Returns:
      The parameters, in the dtypes of the snapshots (float32 at least).

    Raises:
      ValueError: no snapshot, snapshots of different models, or a width out of range.

    Source: Karras et al. (2023), arXiv 2312.02696, section 3.2.

    >>> tx, params, snapshots = power_function_ema([0.05, 0.1]), jnp.array(0.0), []
    >>> state = tx.init(params)
    >>> for k in range(1, 41):
    ...     _, state = tx.update(jnp.array(1.0), state, params)
    ...     params = params + 1.0
    ...     if k % 2 == 0:
    ...         snapshots.append(power_ema_snapshot(state))
    >>> round(float(posthoc_ema(snapshots, 0.15)), 1)  # (γ + 1) / (γ + 2) · 40 = 32.8, and half a step
    33.3
    """
    snapshots = list(snapshots)
    if step is not None:
        snapshots = [s for s in snapshots if float(s.step) <= step]
    if not snapshots:
        raise ValueError("posthoc_ema needs at least one snapshot" + ("" if step is None else f" up to step {step}"))
    for snapshot in snapshots[1:]:
        check_same_structure(snapshots[0].averages, snapshot.averages, where="posthoc_ema, two snapshots")
    times = np.concatenate([np.full(len(s.averages), float(s.step)) for s in snapshots])
    # from the exponents of the averages in float32: their rounding is far below what the widths decide
    exponents = np.concatenate([np.asarray(s.exponents, np.float64) for s in snapshots])
    wanted = max(times) if step is None else step
    coefficients = posthoc_ema_coefficients(times, exponents, wanted, float(power_ema_std_to_exp(std)))

    def combine(*parts):
        dtype = jnp.promote_types(parts[0].dtype, jnp.float32)
        # the largest terms cancel: summed in float64 on the host, leaf by leaf
        total = sum(c * np.asarray(p, np.float64) for c, p in zip(coefficients, parts, strict=True))
        return jnp.asarray(total, dtype)

    return jax.tree.map(combine, *[average for s in snapshots for average in s.averages])
