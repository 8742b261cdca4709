"""Von Mises-Fisher distributions on the sphere: samples that can be differentiated, and the divergence from uniform."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.core.numerics import static_int

_HIGH = 50.0  # from this order on the expansion below has nine digits and more
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def _log_mgf_high(order: float, square: Array) -> Array:
    """log of Gamma(order + 1) (2 / kappa)^order I_order(kappa) for high orders: the uniform expansion, and Stirling's."""
    w = jnp.sqrt(order**2 + square)
    p = order / w
    u1 = p * (3 - 5 * p**2) / 24
    u2 = p**2 * (81 - 462 * p**2 + 385 * p**4) / 1152
    u3 = p**3 * (30375 - 369603 * p**2 + 765765 * p**4 - 425425 * p**6) / 414720
    u4 = p**4 * (4465125 - 94121676 * p**2 + 349922430 * p**4 - 446185740 * p**6 + 185910725 * p**8) / 39813120
    series = u1 / order + u2 / order**2 + u3 / order**3 + u4 / order**4
    stirling = 1 / (12 * order) - 1 / (360 * order**3) + 1 / (1260 * order**5)
    # w - order, without the difference
    main = square / (w + order) + order * jnp.log(2 * order / (order + w)) - 0.5 * jnp.log(w / order)
    return main + jnp.log1p(series) + stirling


def _log_mgf_and_mean(kappa: Array, dim: int) -> tuple[Array, Array]:
    r"""log E exp(kappa t) for t a coordinate of a uniform direction, and its derivative, the mean of t under vMF.

    The first is that of :math:`M_\nu = \Gamma(\nu + 1) (2/\kappa)^\nu I_\nu(\kappa)` at :math:`\nu = d/2 - 1`. From high
    orders, where an expansion holds, downwards: the ratio of neighbours obeys a recursion that is stable in this direction.
    """
    order = dim / 2 - 1
    steps = max(0, int(np.ceil(_HIGH - order)))
    top, square = order + steps, kappa**2
    # s = M_{order + 1} / M_order in (0, 1] is 4 (order + 1) d log M_order / d kappa^2, which has no difference in it
    log_m, slope = jax.jvp(lambda q: _log_mgf_high(top, q), (square,), (jnp.ones_like(square),))

    def down(carry, k):
        s, log_m = carry
        s = 1 / (1 + square * s / (4 * k * (k + 1)))
        return (s, log_m - jnp.log(s)), None

    orders = jnp.asarray(top - np.arange(steps), kappa.dtype)
    (s, log_m), _ = jax.lax.scan(down, (4 * (top + 1) * slope, log_m), orders)
    # I_{order + 1} / I_order
    return log_m, kappa * s / (2 * (order + 1))


def vmf_kl_to_uniform(kappa: Number, dim: int) -> Float[Array, "..."]:
    r"""The divergence of a von Mises-Fisher distribution from the uniform one on the sphere.

    .. math:: \mathrm{KL} = \kappa A(\kappa) - \log \mathbb E_{\theta \sim U}\, e^{\kappa \theta_1}, \qquad
       A(\kappa) = \frac{I_{d/2}(\kappa)}{I_{d/2 - 1}(\kappa)},

    where the expectation is :math:`\Gamma(d/2) (2/\kappa)^{d/2-1} I_{d/2-1}(\kappa)`. It is 0 at 0 and grows like
    :math:`\frac{d-1}{2} \log \kappa`. In single precision the error is about :math:`10^{-7} \kappa`.

    Args:
      kappa: the concentration, ≥ 0, of any shape; may be traced.
      dim: d ≥ 2, of the space around the sphere; static.

    Returns:
      The shape of ``kappa``, in float32 at least. Differentiable.

    Raises:
      ValueError: a number out of range.

    Source: Ohana, Nadjahi, Rakotomamonjy, Ralaivola (2023), arXiv 2206.03230.

    >>> round(float(vmf_kl_to_uniform(2.0, 3)), 5)  # kappa coth(kappa) - 1 + log(kappa / sinh(kappa))
    0.47941
    """
    check_finite_number("kappa", kappa, low=0.0)
    kappa = jnp.asarray(kappa, jnp.promote_types(jnp.result_type(kappa), jnp.float32))
    log_m, mean = _log_mgf_and_mean(kappa, static_int("dim", dim, low=2))
    return kappa * mean - log_m


def sample_vmf(key: Key, mu: Float[Array, " d"], kappa: Number, num: int) -> Float[Array, "num d"]:
    r"""Directions with density proportional to :math:`e^{\kappa \mu^\top \theta}` on the unit sphere.

    The part along :math:`\mu` by rejection (Wood 1994), the rest a uniform direction across it. The gradient in
    :math:`\kappa` is that of the quantile function, :math:`\partial t / \partial\kappa = -\partial_\kappa F(t) / f(t)`, by
    quadrature; it has no term for the rejection because it needs none. A mean of a function over samples has an unbiased
    gradient.

    Args:
      key: decides the samples.
      mu: ``(d,)`` the mean direction, d ≥ 2, brought to length 1.
      kappa: the concentration, ≥ 0, a scalar; may be traced.
      num: how many; static.

    Returns:
      ``(num, d)`` unit vectors in the dtype of ``mu``, once differentiable in ``mu`` and ``kappa``.

    Raises:
      TypeError: a key that is not one.
      ValueError: a direction that is not a vector, or a number out of range.

    Source: Ohana, Nadjahi, Rakotomamonjy, Ralaivola (2023), arXiv 2206.03230; Wood (1994) for the rejection.

    >>> x = sample_vmf(jax.random.key(0), jnp.array([0.0, 0.0, 2.0]), 1e4, 100)
    >>> bool((x[:, 2] > 0.99).all())
    True
    """
    check_key(key, where="sample_vmf")
    check_finite_number("kappa", kappa, low=0.0)
    num = static_int("num", num, low=1)
    if mu.ndim != 1 or mu.shape[0] < 2 or jnp.ndim(kappa) != 0:
        raise ValueError(
            f"sample_vmf: mu of shape {mu.shape} and kappa of shape {jnp.shape(kappa)}; give (d,), d at least 2, and a scalar"
        )
    along, across = jax.random.split(key)
    dtype = jnp.promote_types(mu.dtype, jnp.float32)
    axis = mu.astype(dtype) / jnp.linalg.norm(mu.astype(dtype))
    kappa = jnp.asarray(kappa, dtype)
    constant = jax.lax.stop_gradient(kappa)
    below = _rejection(along, constant, num, len(mu))
    # values of the rejection, slope of the quantile function
    below = below - (kappa - constant) * _slope(below, constant, len(mu))
    side = jax.random.normal(across, (num, len(mu)), dtype)
    for _ in range(2):  # the second time for what rounding leaves where little is left
        side = side - jnp.matmul(side, axis, precision="highest")[:, None] * axis
        side = side / jnp.linalg.norm(side, axis=1, keepdims=True)
    sine = jnp.sqrt(jnp.maximum(below * (2 - below), jnp.finfo(dtype).tiny))
    return ((1 - below)[:, None] * axis + sine[:, None] * side).astype(mu.dtype)


def _rejection(key: Key, kappa: Array, num: int, dim: int) -> Array:
    """1 - t for samples of t = mu . theta: itself, as t is close to 1 where kappa is large."""
    d = dim - 1.0
    b = d / (2 * kappa + jnp.sqrt(4 * kappa**2 + d**2))
    x0, one_less = (1 - b) / (1 + b), 4 * b / (1 + b) ** 2  # 1 - x0^2

    def draw(carry):
        below, done, key = carry
        key, normal, uniform = jax.random.split(key, 3)
        # Beta((d - 1) / 2, (d - 1) / 2), from a coordinate of a uniform direction
        g = jax.random.normal(normal, (num, dim), kappa.dtype)
        z = 0.5 + 0.5 * g[:, 0] / jnp.linalg.norm(g, axis=1)
        new = 2 * b * z / (1 - (1 - b) * z)  # 1 - t
        t = 1 - new
        bound = kappa * (t - x0) + d * (jnp.log1p(-x0 * t) - jnp.log(one_less))
        u = jax.random.uniform(uniform, (num,), kappa.dtype, minval=jnp.finfo(kappa.dtype).tiny)
        # not >=: with a kappa that is not a number nothing is ever accepted
        accept = ~(bound < jnp.log(u))
        return jnp.where(done, below, new), done | accept, key

    start = (jnp.zeros(num, kappa.dtype), jnp.zeros(num, bool), key)
    return jax.lax.while_loop(lambda carry: ~jnp.all(carry[1]), draw, start)[0]


def _slope(below: Array, kappa: Array, dim: int) -> Array:
    """dt / dkappa = integral from t to 1 of (t' - A) f(t') / f(t), over angles, where the integrand is smooth."""
    mean = _log_mgf_and_mean(kappa, dim)[1]
    sine = jnp.sqrt(below * (2 - below))
    angle = jnp.arctan2(sine, 1 - below)
    root = jnp.sqrt((dim - 2.0) ** 2 + 4 * kappa**2)
    curvature = kappa * 2 * kappa / (dim - 2.0 + root + jnp.finfo(kappa.dtype).tiny) + (dim - 2.0 + root) / 2
    # beyond fourteen deviations there is nothing
    low = jnp.maximum(0.0, angle - 14 / jnp.sqrt(curvature + jnp.finfo(kappa.dtype).tiny))
    half = (angle - low)[:, None] / 2
    at = low[:, None] + half * (1 + jnp.asarray(_NODES, kappa.dtype))
    # cos(at) - cos(angle), without the difference
    closer = 2 * jnp.sin((angle[:, None] + at) / 2) * jnp.sin((angle[:, None] - at) / 2)
    floor = jnp.finfo(kappa.dtype).tiny
    log_ratio = jnp.log(jnp.maximum(jnp.sin(at), floor)) - jnp.log(jnp.maximum(sine, floor))[:, None]
    density = jnp.exp(kappa * closer + (dim - 2) * log_ratio)
    inner = (1 - below)[:, None] + closer - mean
    return sine * jnp.sum(half * jnp.asarray(_WEIGHTS, kappa.dtype) * inner * density, axis=1)
