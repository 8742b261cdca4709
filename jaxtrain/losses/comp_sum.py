"""Comp-sum losses: cross-entropy, its generalizations, and what their regret says about errors."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import check_labels, surprise, widened


@jax.custom_jvp
def _expm1(x: Array) -> Array:
    """expm1 whose derivative stays finite, so that an overflow is an infinite loss and not a gradient of NaN."""
    return jnp.expm1(x)


@_expm1.defjvp
def _expm1_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    # room for what comes after: divisions by 1 - tau, sums over a batch
    return jnp.expm1(x), t * jnp.minimum(jnp.exp(x), jnp.finfo(x.dtype).max / 2**40)


def _phi_of_log(z: Array, tau: Number) -> Array:
    """Phi of u with z = log(1 + u) ≥ 0: expm1((1 - tau) z) / (1 - tau), safe on both sides of tau = 1."""
    s = 1 - jnp.asarray(tau, z.dtype)
    # expm1 of the product is exact to rounding for every other tau: a series in 1 - tau alone would be wrong where
    # the product is not small. Below this 1 - tau itself is rounding, and z up to 1e4 makes a product of 1e-3 at most
    small = jnp.abs(s) < (1e-12 if z.dtype == jnp.float64 else 1e-7)
    safe = jnp.where(small, 1, s)
    return jnp.where(small, z, _expm1(safe * z) / safe)


def comp_sum_loss(
    logits: Float[Array, "*batch n"], labels: Int[Array, "..."], *, tau: Number = 1.0
) -> Float[Array, "*batch"]:
    r"""A family of losses from the sum of exponentials (0) over cross-entropy (1) to the mean absolute error (2).

    .. math:: \Phi_\tau(u) = \frac{(1 + u)^{1 - \tau} - 1}{1 - \tau}, \qquad \Phi_1(u) = \log(1 + u), \qquad
       u = \sum_{y' \ne y} e^{h_{y'} - h_y} = \frac1{p_y} - 1.

    Values between 1 and 2 are generalized cross-entropy :math:`(1 - p_y^q)/q` with :math:`q = \tau - 1`. Above 1 the
    loss is bounded by :math:`1/(\tau - 1)`, which makes it robust to wrong labels and, far from the solution, flat;
    below 1 it grows like a power of :math:`1/p_y` and overflows to infinity where that does. It is computed from
    :math:`-\log p_y`, in float32 at least.

    Args:
      logits: ``(..., n)``, the class axis last, n ≥ 2.
      labels: ``(...)`` classes in ``[0, n)``.
      tau: which loss, ≥ 0; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, a label or tau out of range.

    Source: Mao, Mohri, Zhong (2023), arXiv 2304.07288.

    >>> logits, labels = jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0])
    >>> [round(float(comp_sum_loss(logits, labels, tau=tau)[0]), 4) for tau in (0.0, 1.0, 2.0)]
    [3.0, 1.3863, 0.75]
    """
    check_finite_number("tau", tau, low=0.0)
    labels = check_labels("comp_sum_loss", logits, labels)
    return _phi_of_log(surprise(logits, labels), tau).astype(logits.dtype)


def smooth_adversarial_comp_sum_loss(
    logits_clean: Float[Array, "*batch n"],
    logits_adv: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    tau: Number = 1.0,
    rho: Number = 1.0,
    nu: Number = 1.0,
) -> Float[Array, "*batch"]:
    r"""A comp-sum loss of softened margins plus how far an adversary moves the margins.

    With :math:`\Delta_{y'}(x) = h_y(x) - h_{y'}(x)` for :math:`y' \ne y`,

    .. math:: \Phi_\tau\Big(\sum_{y' \ne y} e^{-\Delta_{y'}(x)/\rho}\Big)
       + \nu \, \big\| \Delta(x') - \Delta(x) \big\|_2 .

    :math:`x'` is for the caller to find: the method wants the point of the ball that makes the second term largest,
    approximated by projected gradient ascent on it. At :math:`x' = x` the norm's gradient is taken as 0.

    Args:
      logits_clean: ``(..., n)`` at :math:`x`.
      logits_adv: ``(..., n)`` at :math:`x'`.
      labels: ``(...)`` classes.
      tau: which comp-sum loss, ≥ 0; may be traced.
      rho: temperature of the margins, > 0; may be traced.
      nu: weight of the second term, ≥ 0; may be traced.

    Returns:
      ``(...)``, one loss for each example.

    Raises:
      ValueError: shapes that disagree, a label or a number out of range.

    Source: Mao, Mohri, Zhong (2023), arXiv 2304.07288, section 5.

    >>> clean, adv, labels = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]]), jnp.array([0])
    >>> round(float(smooth_adversarial_comp_sum_loss(clean, adv, labels, tau=2.0)[0]), 4)  # 1 - p_y, and |-2 - 1|
    3.2689
    """
    check_finite_number("tau", tau, low=0.0)
    check_finite_number("rho", rho, low=float(np.finfo(np.float32).tiny))
    check_finite_number("nu", nu, low=0.0)
    where = "smooth_adversarial_comp_sum_loss"
    if logits_adv.shape != logits_clean.shape:
        raise ValueError(f"{where}: logits_clean {logits_clean.shape} and logits_adv {logits_adv.shape} disagree")
    labels = check_labels(where, logits_clean, labels)
    clean = _phi_of_log(surprise(widened(logits_clean) / rho, labels), tau)
    moved = widened(logits_adv) - widened(logits_clean)
    moved = moved - jnp.take_along_axis(moved, labels[..., None], axis=-1)
    # divided by its largest entry before squaring: no overflow, and no square root of 0 to differentiate
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(moved), axis=-1, keepdims=True))
    zero = size == 0
    ratio = jnp.where(zero, 1.0, moved / jnp.where(zero, 1.0, size))
    norm = jnp.where(zero, 0.0, size * jnp.sqrt(jnp.sum(ratio**2, axis=-1, keepdims=True)))[..., 0]
    return (clean + nu * norm).astype(logits_clean.dtype)


def comp_sum_h_consistency(beta: Float[Array, "..."] | Number, *, tau: float, num_classes: int) -> Float[Array, "..."]:
    r"""The least surrogate regret that a zero-one regret of ``beta`` costs: :math:`\mathcal T_\tau(\beta)`.

    For complete, symmetric hypothesis sets,
    :math:`\mathcal T_\tau(R_{01} - R_{01}^* + M_{01}) \le R_\tau - R_\tau^* + M_\tau`, where, with
    :math:`a = 1/(2 - \tau)` and :math:`s = \big(\tfrac{(1+\beta)^a + (1-\beta)^a}{2}\big)^{2 - \tau}`,

    .. math:: \mathcal T_\tau(\beta) = \begin{cases}
       \frac{2^{1-\tau}}{1 - \tau} (1 - s) & 0 \le \tau < 1 \\
       \frac{1+\beta}2 \log(1+\beta) + \frac{1-\beta}2 \log(1-\beta) & \tau = 1 \\
       \frac{1}{(\tau - 1) n^{\tau - 1}} (s - 1) & 1 < \tau < 2 \\
       \frac{\beta}{(\tau - 1) n^{\tau - 1}} & \tau \ge 2. \end{cases}

    Args:
      beta: regrets in [0, 1].
      tau: which comp-sum loss, ≥ 0; a Python number, which decides the case.
      num_classes: :math:`n` ≥ 2.

    Returns:
      Shaped like ``beta``.

    Raises:
      ValueError: a number out of range.

    Source: Mao, Mohri, Zhong (2023), arXiv 2304.07288, theorem 3.1.

    >>> round(float(comp_sum_h_consistency(0.6, tau=0.0, num_classes=2)), 4)  # 1 - sqrt(1 - 0.36)
    0.2
    """
    check_finite_number("beta", beta, low=0.0, high=1.0)
    check_finite_number("tau", tau, low=0.0)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    b = widened(jnp.asarray(beta, jnp.result_type(float, beta)))
    tau, n = float(tau), int(num_classes)
    if tau >= 2:
        return b / ((tau - 1) * n ** (tau - 1))
    if abs(tau - 1) < 1e-6:
        return 0.5 * (jax.scipy.special.xlog1py(1 + b, b) + jax.scipy.special.xlog1py(1 - b, -b))
    # the mean of (1 ± b)^a, less 1, as sums of expm1: differences of near equals at tau near 1 otherwise
    mean = _powers(0.5 * (1 + b), jnp.log1p(b), tau) + _powers(0.5 * (1 - b), jnp.log1p(-b), tau)
    excess = jnp.expm1((2 - tau) * jnp.log1p(mean))
    scale = 2 ** (1 - tau) if tau < 1 else n ** (1 - tau)
    return scale * excess / (tau - 1)


def _powers(weight: Array, log: Array, tau: float) -> Array:
    """weight · (x^(a - 1) - 1) with a = 1/(2 - tau) and log = log x; 0 where the weight is."""
    positive = weight > 0
    return jnp.where(positive, weight * jnp.expm1((tau - 1) / (2 - tau) * jnp.where(positive, log, 0.0)), 0.0)


def h_consistency_bound(regret: Float[Array, "..."] | Number, *, tau: float, num_classes: int) -> Float[Array, "..."]:
    r"""The largest zero-one regret that a surrogate regret allows: :math:`\Gamma_\tau = \mathcal T_\tau^{-1}`, at most 1.

    By bisection on the increasing :func:`comp_sum_h_consistency`.

    Args:
      regret: surrogate regrets, ≥ 0.
      tau: which comp-sum loss, ≥ 0; a Python number.
      num_classes: :math:`n` ≥ 2.

    Returns:
      Shaped like ``regret``.

    Raises:
      ValueError: a number out of range.

    Source: Mao, Mohri, Zhong (2023), arXiv 2304.07288, theorem 3.1.

    >>> round(float(h_consistency_bound(0.2, tau=0.0, num_classes=2)), 4)
    0.6
    """
    check_finite_number("regret", regret, low=0.0)
    r = widened(jnp.asarray(regret, jnp.result_type(float, regret)))

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        below = comp_sum_h_consistency(middle, tau=tau, num_classes=num_classes) <= r
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    # every halving settles one of the 53 bits of double precision
    low, high = jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(r), jnp.ones_like(r)))
    most = comp_sum_h_consistency(jnp.ones((), r.dtype), tau=tau, num_classes=num_classes)
    return jnp.where(r >= most, 1.0, 0.5 * (low + high))


def comp_sum_conditional_minimum(cond_probs: Float[Array, "*points n"], *, tau: float) -> Float[Array, "*points"]:
    r"""The least expected comp-sum loss at a point, over all scores: :math:`\mathcal C_\tau^*(x)`.

    .. math:: \mathcal C^*_\tau = \frac{Z^{2 - \tau} - 1}{1 - \tau}, \quad Z = \sum_y p_y^{1/(2 - \tau)}
       \quad (\tau < 2), \qquad \mathcal C^*_1 = -\sum_y p_y \log p_y, \qquad
       \mathcal C^*_\tau = \frac{1 - \max_y p_y}{\tau - 1} \quad (\tau \ge 2).

    Args:
      cond_probs: ``(..., n)`` probabilities of the classes given the point, which sum to 1.
      tau: which comp-sum loss, ≥ 0; a Python number.

    Returns:
      ``(...)``.

    Raises:
      ValueError: tau out of range.

    Source: Mao, Mohri, Zhong (2023), arXiv 2304.07288, section 4.

    >>> round(float(comp_sum_conditional_minimum(jnp.array([0.2, 0.8]), tau=0.0)), 4)  # 2 sqrt(0.2 · 0.8)
    0.8
    """
    check_finite_number("tau", tau, low=0.0)
    p, tau = widened(cond_probs), float(tau)
    if tau >= 2:
        return (1 - jnp.max(p, axis=-1)) / (tau - 1)
    if abs(tau - 1) < 1e-6:
        return jnp.sum(jax.scipy.special.entr(p), axis=-1)
    z = jnp.sum(_powers(p, jnp.log(jnp.where(p > 0, p, 1.0)), tau), axis=-1)
    return jnp.expm1((2 - tau) * jnp.log1p(z)) / (1 - tau)


def comp_sum_minimizability_gap(
    best_risk: Number, cond_probs: Float[Array, "points n"], *, tau: float
) -> Float[Array, ""]:
    r"""How far the best hypothesis stays above the pointwise best: :math:`M_\tau = R^*_\tau(H) - E_x\, C^*_\tau(x)`.

    It vanishes where the hypothesis set holds every function, and is at most the approximation error.

    Args:
      best_risk: :math:`R^*_\tau(H)`, the lowest expected loss in the hypothesis set; a loss that was reached bounds it
        from above, and the gap with it.
      cond_probs: ``(points, n)`` probabilities of the classes at a sample of points.
      tau: which comp-sum loss, ≥ 0; a Python number.

    Returns:
      A scalar, ≥ 0 up to sampling.

    Raises:
      ValueError: tau out of range.

    Source: Mao, Mohri, Zhong (2023), arXiv 2304.07288, section 4.

    >>> probs = jnp.array([[0.2, 0.8], [0.8, 0.2]])  # constant scores reach log 2 at best
    >>> round(float(comp_sum_minimizability_gap(jnp.log(2.0), probs, tau=1.0)), 4)
    0.1927
    """
    return best_risk - jnp.mean(comp_sum_conditional_minimum(cond_probs, tau=tau))
