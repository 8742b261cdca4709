"""Slices that are learned and still generalise: PAC-Bayes bounds of the sliced Wasserstein distance."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Key, Number, Scalar, check_finite_number, check_key
from jaxtrain.core.numerics import static_int
from jaxtrain.estimators.sliced_wasserstein import _sliced, sphere_directions
from jaxtrain.estimators.von_mises_fisher import sample_vmf, vmf_kl_to_uniform

_TINY = float(np.finfo(np.float32).tiny)


def pac_sw_lambda(kl: Number, *, n: Number, diameter: Number, p: Number = 2, delta: Number = 0.01) -> Scalar:
    r"""The weight at which the penalty of :func:`pac_sw_objective` is smallest.

    .. math:: \lambda^* = \sqrt{\frac{4n\,(\mathrm{KL} + \log(1/\delta))}{\Delta^{2p}}}

    One that depends on the data, as through KL, needs a union bound strictly.

    Args:
      kl: divergence of the slices from uniform ones, ≥ 0; may be traced, as all others.
      n: points of each sample.
      diameter: :math:`\Delta` > 0, of a set that holds both distributions.
      p: order of the distance.
      delta: how probably the bound may fail, in (0, 1).

    Returns:
      A scalar.

    Raises:
      ValueError: a number out of range.

    Source: Ohana, Nadjahi, Rakotomamonjy, Ralaivola (2023), arXiv 2206.03230.

    >>> round(float(pac_sw_lambda(0.0, n=100, diameter=1.0, delta=0.01)), 4)
    42.9193
    """
    _check_bound(kl, n, diameter, p, delta)
    return jnp.sqrt(4 * n * (kl - jnp.log(delta)) / jnp.asarray(diameter) ** (2 * p))


def _check_bound(kl: Number, n: Number, diameter: Number, p: Number, delta: Number) -> None:
    check_finite_number("kl", kl, low=0.0)
    check_finite_number("n", n, low=1.0)
    check_finite_number("diameter", diameter, low=_TINY)
    check_finite_number("p", p, low=1.0)
    check_finite_number("delta", delta, low=_TINY, high=1.0)


def pac_sw_objective(
    sw_value: Number,
    kl: Number,
    *,
    n: Number,
    diameter: Number,
    lam: Number | None = None,
    p: Number = 2,
    delta: Number = 0.01,
) -> Scalar:
    r"""What a distance measured on samples along learned slices is worth: a lower bound of the one between distributions.

    .. math:: SW_p^p(\mu_n, \nu_n; \rho) - \frac{\mathrm{KL}(\rho \| \rho_0) + \log(1/\delta)}{\lambda}
       - \frac{\lambda \Delta^{2p}}{4n} \;\le\; SW_p^p(\mu, \nu; \rho) + \psi(n)

    with probability :math:`1 - \delta` for all :math:`\rho` at once, those that are learned from the sample too. :math:`\psi`,
    by how much samples of n exceed the truth in the mean along a line, is left out: it does not depend on the slices.

    Args:
      sw_value: :math:`SW_p^p` of the samples along slices of :math:`\rho`: the p-th power of
        :func:`sliced_wasserstein`, which returns the root.
      kl: divergence of :math:`\rho` from uniform slices, ≥ 0.
      n: points of each sample.
      diameter: :math:`\Delta` > 0, of a set that holds both distributions.
      lam: :math:`\lambda` > 0, chosen before seeing the data. Default: :math:`\sqrt n`. See :func:`pac_sw_lambda`.
      p: order of the distance.
      delta: how probably the bound may fail, in (0, 1).

    Returns:
      A scalar; all arguments may be traced.

    Raises:
      ValueError: a number out of range.

    Source: Ohana, Nadjahi, Rakotomamonjy, Ralaivola (2023), arXiv 2206.03230.

    >>> round(float(pac_sw_objective(9.0, 2.0, n=100, diameter=2.0, delta=1.0)), 4)  # 9 - 2/10 - 16/40
    8.4
    """
    _check_bound(kl, n, diameter, p, delta)
    if lam is None:
        lam = jnp.sqrt(n)
    check_finite_number("lam", lam, low=_TINY)
    return sw_value - (kl - jnp.log(delta)) / lam - lam * jnp.asarray(diameter) ** (2 * p) / (4 * n)


class VmfSlices(NamedTuple):
    """What :func:`optimize_slices_vmf` learned: direction ``(d,)``, concentration, distance along fresh slices, divergence."""

    mu: Array
    kappa: Array
    value: Array
    kl: Array


def optimize_slices_vmf(
    key: Key,
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    num_projections: int = 100,
    num_steps: int = 100,
    learning_rate: Number = 0.1,
    p: Number = 2,
    lam: Number | None = None,
) -> VmfSlices:
    r"""Learns around which direction two samples differ, and how sharply to look there.

    .. math:: \max_{\mu, \kappa}\; \mathbb E_{\theta \sim \mathrm{vMF}(\mu, \kappa)} W_p^p(\theta_\sharp x, \theta_\sharp y)
       - \frac{1}{\lambda} \mathrm{KL}\big(\mathrm{vMF}(\mu, \kappa) \,\|\, U\big)

    by Adam on :math:`\mu` and :math:`\log\kappa` with fresh slices in every step, from the best of as many uniform
    directions and :math:`\kappa = d`, at which slices already prefer a direction. A large :math:`\lambda` gives the largest
    distance over single slices, which on few points is mostly noise. Costs (num_steps + 2) times
    :func:`sliced_wasserstein`.

    Args:
      key: decides the slices.
      x: ``(n, d)``, d ≥ 2; a constant.
      y: ``(m, d)``; a constant.
      num_projections: slices in each step; static.
      num_steps: static.
      learning_rate: of Adam; may be traced.
      p: order, ≥ 1; may be traced.
      lam: :math:`\lambda` > 0; may be traced. Default: the root of the smaller number of points.

    Returns:
      :class:`VmfSlices`, in float32 at least. ``value`` is the p-th power of the distance along slices that were not
      learned from; for a bound give it with ``kl`` to :func:`pac_sw_objective`.

    Raises:
      TypeError: a key that is not one.
      ValueError: samples that disagree, or a number out of range.

    Source: Ohana, Nadjahi, Rakotomamonjy, Ralaivola (2023), arXiv 2206.03230.

    >>> x = jax.random.normal(jax.random.key(0), (200, 5))
    >>> found = optimize_slices_vmf(jax.random.key(1), x, x + jnp.array([0.0, 3.0, 0.0, 0.0, 0.0]))
    >>> bool(abs(found.mu[1]) > 0.95), bool(found.kappa > 5)
    (True, True)
    """
    check_key(key, where="optimize_slices_vmf")
    num_projections = static_int("num_projections", num_projections, low=1)
    num_steps = static_int("num_steps", num_steps, low=0)
    check_finite_number("learning_rate", learning_rate, low=0.0)
    if x.ndim != 2 or y.ndim != 2 or not len(x) or not len(y):
        raise ValueError(
            f"optimize_slices_vmf: samples {x.shape} and {y.shape}; give (n, d) and (m, d), 1 point at least"
        )
    if x.shape[1] < 2:
        raise ValueError(
            f"optimize_slices_vmf: samples of {x.shape[1]} dimension have a single slice; at least 2 are needed"
        )
    if lam is None:
        lam = float(np.sqrt(min(len(x), len(y))))
    check_finite_number("lam", lam, low=_TINY)
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    x, y = (jax.lax.stop_gradient(z.astype(dtype)) for z in (x, y))
    dim = x.shape[1]

    def along(directions):
        return _sliced(x, y, None, 0, p, directions, None, None)[1]

    def objective(params, key):
        kappa = jnp.exp(params[1])
        directions = sample_vmf(key, params[0], kappa, num_projections)
        return vmf_kl_to_uniform(kappa, dim) / lam - jnp.mean(along(directions))

    first, last, *_ = keys = jax.random.split(key, num_steps + 2)
    candidates = sphere_directions(first, num_projections, dim, dtype)
    params = (candidates[jnp.argmax(along(candidates))], jnp.log(jnp.asarray(dim, dtype)))
    tx = optax.adam(learning_rate)

    def step(carry, key):
        params, state = carry
        updates, state = tx.update(jax.grad(objective)(params, key), state, params)
        mu, log_kappa = optax.apply_updates(params, updates)
        return ((mu / jnp.linalg.norm(mu), log_kappa), state), None

    ((mu, log_kappa), _), _ = jax.lax.scan(step, (params, tx.init(params)), keys[2:])
    kappa = jnp.exp(log_kappa)
    value = jnp.mean(along(sample_vmf(last, mu, kappa, num_projections)))
    return VmfSlices(mu, kappa, value, vmf_kl_to_uniform(kappa, dim))
