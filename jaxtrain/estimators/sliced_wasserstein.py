"""The sliced Wasserstein distance, plain and with control variates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Key, Number, check_finite_number, check_key


def sphere_directions(key: Key, num: int, dim: int, dtype: Any = jnp.float32) -> Float[Array, "num dim"]:
    """Independent uniform directions on the unit sphere.

    >>> theta = sphere_directions(jax.random.key(0), 5, 3)
    >>> bool(jnp.allclose(jnp.linalg.norm(theta, axis=1), 1.0))
    True
    """
    check_key(key, where="sphere_directions")
    normal = jax.random.normal(key, (num, dim), dtype)
    return normal / jnp.linalg.norm(normal, axis=-1, keepdims=True)


def wasserstein_1d(
    u: Float[Array, " n"],
    v: Float[Array, " m"],
    *,
    p: Number = 2,
    u_weights: Float[Array, " n"] | None = None,
    v_weights: Float[Array, " m"] | None = None,
) -> Float[Array, ""]:
    r"""The Wasserstein distance of two samples on the line, exact.

    .. math:: W_p = \Big( \int_0^1 |F_u^{-1}(t) - F_v^{-1}(t)|^p \, dt \Big)^{1/p}

    The integral over quantile functions is a finite sum, also for samples of unequal sizes and with weights. Costs the
    sorting, O(n log n). Differentiable in ``u`` and ``v``, almost everywhere; where the distance is 0 its
    gradient is set to 0. The weights are constants in differentiation.

    Args:
      u: ``(n,)`` sample.
      v: ``(m,)`` sample.
      p: order, ≥ 1; may be traced.
      u_weights: ``(n,)`` non-negative, not all zero; brought to sum 1. Default: equal.
      v_weights: ``(m,)`` the same for ``v``.

    Returns:
      The distance (not its p-th power).

    Raises:
      ValueError: an empty sample, weights of another length, p below 1.

    >>> float(wasserstein_1d(jnp.array([0.0, 1.0]), jnp.array([3.0, 2.0]), p=1))
    2.0
    >>> float(wasserstein_1d(jnp.array([0.0, 4.0]), jnp.array([0.0]), p=1, u_weights=jnp.array([3.0, 1.0])))
    1.0
    """
    return _root(_power_1d(u[:, None], v[:, None], p, u_weights, v_weights)[0], p)


def _power_1d(u: Array, v: Array, p: Number, u_weights: Array | None, v_weights: Array | None) -> Array:
    """W_p^p of each pair of columns of two samples ``(n, k)`` and ``(m, k)``."""
    check_finite_number("p", p, low=1.0)
    n, m = len(u), len(v)
    if n == 0 or m == 0:
        raise ValueError(f"a Wasserstein distance needs samples, got {n} and {m} points")
    for name, weights, size in (("u", u_weights, n), ("v", v_weights, m)):
        if weights is not None and weights.shape != (size,):
            raise ValueError(f"the weights of {name} have shape {weights.shape}; give ({size},)")
    if u_weights is None and v_weights is None:
        u, v = jnp.sort(u, axis=0), jnp.sort(v, axis=0)
        if n == m:
            return jnp.mean(_abs_power(u - v, p), axis=0)
        # the steps of both quantile functions, at multiples of 1/n and 1/m, counted exactly in units of 1/(n m)
        ends = np.unique(np.concatenate([np.arange(1, n + 1) * m, np.arange(1, m + 1) * n]))
        lengths = np.diff(ends, prepend=0) / (n * m)
        u, v = u[(ends - 1) // m], v[(ends - 1) // n]
        return jnp.tensordot(jnp.asarray(lengths, u.dtype), _abs_power(u - v, p), 1, precision="highest")

    def quantiles(x: Array, weights: Array | None) -> tuple[Array, Array]:
        w = jnp.full(len(x), 1 / len(x), x.dtype) if weights is None else jax.lax.stop_gradient(weights)
        order = jnp.argsort(x, axis=0)
        cumulated = jnp.cumsum(w[order], axis=0)
        # the same total for both, so that both quantile functions end at exactly 1
        return jnp.take_along_axis(x, order, axis=0), cumulated / cumulated[-1:]

    def column(u: Array, fu: Array, v: Array, fv: Array) -> Array:
        ends = jnp.sort(jnp.concatenate([fu, fv]))
        lengths = jnp.diff(ends, prepend=jnp.zeros(1, ends.dtype))
        at_u = u[jnp.minimum(jnp.searchsorted(fu, ends), n - 1)]
        at_v = v[jnp.minimum(jnp.searchsorted(fv, ends), m - 1)]
        return jnp.sum(lengths * _abs_power(at_u - at_v, p))

    return jax.vmap(column, in_axes=1)(*quantiles(u, u_weights), *quantiles(v, v_weights))


def _abs_power(x: Array, p: Number) -> Array:
    if isinstance(p, (int, float)) and p == 2:
        return x * x
    if isinstance(p, (int, float)) and p == 1:
        return jnp.abs(x)
    # the derivative of a power at zero goes through a logarithm
    there = x != 0
    return jnp.where(there, jnp.abs(jnp.where(there, x, 1.0)) ** p, 0.0)


def _root(x: Array, p: Number) -> Array:
    """``x^(1/p)``, and 0 with gradient 0 for ``x ≤ 0``."""
    there = x > 0
    # NaN stays NaN
    return jnp.where(there | jnp.isnan(x), jnp.where(there, x, jnp.where(jnp.isnan(x), x, 1.0)) ** (1 / p), 0.0)


def _sliced(
    x: Array,
    y: Array,
    key: Key | None,
    num_projections: int,
    p: Number,
    directions: Array | None,
    x_weights: Array | None,
    y_weights: Array | None,
) -> tuple[Array, Array]:
    """The directions and W_p^p along each."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"the samples live in {x.shape[1]} and {y.shape[1]} dimensions")
    if (key is None) == (directions is None):
        raise ValueError("give either a key to draw directions with, or the directions")
    if directions is None:
        if num_projections < 1:
            raise ValueError(f"num_projections must be at least 1, got {num_projections}")
        directions = sphere_directions(key, num_projections, x.shape[1], x.dtype)
    elif directions.shape[1] != x.shape[1]:
        raise ValueError(f"the directions have {directions.shape[1]} dimensions, the samples {x.shape[1]}")
    projected = (jnp.matmul(s, directions.T, precision="highest") for s in (x, y))
    return directions, _power_1d(*projected, p, x_weights, y_weights)


def sliced_wasserstein(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    key: Key | None = None,
    num_projections: int = 100,
    p: Number = 2,
    directions: Float[Array, "l d"] | None = None,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
) -> Float[Array, ""]:
    r"""The sliced Wasserstein distance, by plain Monte Carlo.

    .. math:: SW_p^p = \mathbb E_\theta\, W_p^p(\theta_\sharp\mu, \theta_\sharp\nu)
        \approx \frac1L \sum_{l=1}^L W_p^p(\theta_l), \qquad \theta \text{ uniform on the sphere}

    Unbiased for the p-th power between the two samples, with variance :math:`\operatorname{Var} W_p^p(\theta)/L`; the
    root makes it a little low. Costs L projections and sortings: O(L n (d + log n)), memory O(L n).

    Args:
      x: ``(n, d)`` sample.
      y: ``(m, d)`` sample.
      key: draws the directions; or give ``directions``.
      num_projections: L.
      p: order, ≥ 1; may be traced.
      directions: ``(l, d)`` unit vectors to use instead of drawn ones.
      x_weights: ``(n,)`` non-negative, brought to sum 1. Default: equal.
      y_weights: ``(m,)`` the same for ``y``.

    Returns:
      The distance (not its p-th power), differentiable in ``x`` and ``y``; gradient 0 where it is 0.

    Raises:
      ValueError: dimensions or lengths that disagree, both or neither of key and directions.
      TypeError: an untyped key.

    Source: Bonneel, Rabin, Peyré & Pfister 2015, "Sliced and Radon Wasserstein Barycenters of Measures".

    >>> x = jax.random.normal(jax.random.key(0), (20, 3))
    >>> float(sliced_wasserstein(x, x, key=jax.random.key(1)))
    0.0
    """
    _, w = _sliced(x, y, key, num_projections, p, directions, x_weights, y_weights)
    return _root(jnp.mean(w), p)


def _moments(x: Array, weights: Array | None) -> tuple[Array, Array, Array]:
    """Mean, centred points and weights of a sample."""
    w = jnp.full(len(x), 1 / len(x), x.dtype) if weights is None else jax.lax.stop_gradient(weights / jnp.sum(weights))
    mean = jnp.matmul(w, x, precision="highest")
    return mean, x - mean, w


def _lower(x: Array, y: Array, theta: Array, x_weights: Array | None, y_weights: Array | None) -> Array:
    """C - E C for the squared difference of the projected means."""
    shift = _moments(x, x_weights)[0] - _moments(y, y_weights)[0]
    return jnp.matmul(theta, shift, precision="highest") ** 2 - jnp.mean(shift**2)


def _upper(x: Array, y: Array, theta: Array, x_weights: Array | None, y_weights: Array | None) -> Array:
    """The same plus both projected variances."""
    total = _lower(x, y, theta, x_weights, y_weights)
    for sample, weights in ((x, x_weights), (y, y_weights)):
        _, centred, w = _moments(sample, weights)
        along = jnp.matmul(theta, centred.T, precision="highest") ** 2
        total = total + jnp.matmul(along, w, precision="highest") - jnp.sum(w[:, None] * centred**2) / x.shape[1]
    return total


def _controlled(w: Array, c: Array, p: Number, centered: bool) -> Array:
    mean = jnp.mean(w)
    around = c - jnp.mean(c) if centered else c
    # 0/0 where the control does not vary: then there is nothing to correct
    size = jnp.mean(around**2)
    varies = size > 0
    gamma = jnp.where(varies, jnp.mean((w - mean) * around) / jnp.where(varies, size, 1.0), 0.0)
    return _root(mean - gamma * jnp.mean(c), p)


def _with_control(control: Callable[..., Array], x, y, key, num_projections, p, directions, xw, yw, centered) -> Array:
    theta, w = _sliced(x, y, key, num_projections, p, directions, xw, yw)
    return _controlled(w, control(x, y, theta, xw, yw), p, centered)


def lcv_sliced_wasserstein(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    key: Key | None = None,
    num_projections: int = 100,
    p: Number = 2,
    directions: Float[Array, "l d"] | None = None,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    centered: bool = False,
) -> Float[Array, ""]:
    r"""The sliced Wasserstein distance with the control variate from the lower bound.

    .. math:: Z = A - \hat\gamma\, \overline{c}, \qquad A = \overline{W_p^p}, \qquad
        \hat\gamma = \frac{\overline{(W_p^p - A)\, c}}{\overline{c^2}}, \qquad
        c(\theta) = (\theta^\top(\bar x - \bar y))^2 - \frac{\|\bar x - \bar y\|^2}{d}

    with bars for means over the same L directions; the second term of c is the exact mean of the first. Returns
    :math:`Z^{1/p}`. The coefficient comes from the directions it is used on, which biases Z by O(1/L); the
    variance falls by the squared correlation of :math:`W_p^p` and c, a lot where the means differ and not at all where
    they agree. Where Z comes out negative, which plain Monte Carlo cannot, the distance is 0. Costs one
    projection of one vector more than :func:`sliced_wasserstein`.

    Args:
      x: ``(n, d)`` sample.
      y: ``(m, d)`` sample.
      key: draws the directions; or give ``directions``.
      num_projections: L.
      p: order, ≥ 1; may be traced. The formula is valid for every p; the correlation is best at 2.
      directions: ``(l, d)`` unit vectors to use instead of drawn ones.
      x_weights: ``(n,)`` non-negative, brought to sum 1. Default: equal.
      y_weights: ``(m,)`` the same for ``y``.
      centered: take the moments of :math:`\hat\gamma` about the control's sample mean instead of its exact mean, which
        makes it the regression coefficient: exact where :math:`W_p^p` is a linear function of the control, as for
        two samples that are translates of each other (p = 2, L ≥ 2). The paper has ``False``.

    Returns:
      The distance, differentiable in ``x`` and ``y``, through :math:`\hat\gamma` too.

    Raises:
      ValueError: dimensions or lengths that disagree, both or neither of key and directions.
      TypeError: an untyped key.

    Source: Nguyen & Ho 2024, "Sliced Wasserstein Estimation with Control Variates", arXiv 2305.00402.

    >>> x = jax.random.normal(jax.random.key(0), (20, 4))
    >>> d = lcv_sliced_wasserstein(x, x + 1.0, key=jax.random.key(1), num_projections=5, centered=True)
    >>> round(float(d), 5)
    1.0
    """
    return _with_control(_lower, x, y, key, num_projections, p, directions, x_weights, y_weights, centered)


def ucv_sliced_wasserstein(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    key: Key | None = None,
    num_projections: int = 100,
    p: Number = 2,
    directions: Float[Array, "l d"] | None = None,
    x_weights: Float[Array, " n"] | None = None,
    y_weights: Float[Array, " m"] | None = None,
    centered: bool = False,
) -> Float[Array, ""]:
    r"""The sliced Wasserstein distance with the control variate from the upper bound.

    As :func:`lcv_sliced_wasserstein`, with

    .. math:: c(\theta) = (\theta^\top(\bar x - \bar y))^2 + s_x^2(\theta) + s_y^2(\theta)
        - \frac1d\Big(\|\bar x - \bar y\|^2 + \overline{\|x - \bar x\|^2} + \overline{\|y - \bar y\|^2}\Big)

    where :math:`s^2(\theta)` is the variance of a sample along θ. It sees differences of spread too. Costs one
    more projection of both samples, O(L n d).

    Args:
      x: ``(n, d)`` sample.
      y: ``(m, d)`` sample.
      key: draws the directions; or give ``directions``.
      num_projections: L.
      p: order, ≥ 1; may be traced.
      directions: ``(l, d)`` unit vectors to use instead of drawn ones.
      x_weights: ``(n,)`` non-negative, brought to sum 1. Default: equal.
      y_weights: ``(m,)`` the same for ``y``.
      centered: see :func:`lcv_sliced_wasserstein`.

    Returns:
      The distance, differentiable in ``x`` and ``y``.

    Raises:
      ValueError: dimensions or lengths that disagree, both or neither of key and directions.
      TypeError: an untyped key.

    Source: Nguyen & Ho 2024, arXiv 2305.00402.

    >>> x = jax.random.normal(jax.random.key(0), (20, 4))
    >>> d = ucv_sliced_wasserstein(x, x + 1.0, key=jax.random.key(1))
    >>> bool(abs(d - 1.0) < 0.05)
    True
    """
    return _with_control(_upper, x, y, key, num_projections, p, directions, x_weights, y_weights, centered)
