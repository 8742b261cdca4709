"""CoLiDE: a directed acyclic graph and the noise of its nodes from data, along a path of smooth objectives."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import widened
from jaxtrain.losses.colide import colide_ev_sigma, colide_nv_sigma, logdet_acyclicity, residual

_TINY = float(np.finfo(np.float32).tiny)


class ColideFit(NamedTuple):
    """Weights, ``[i, j]`` that of the edge from i to j, and the noise: one standard deviation, or one for each node."""

    weights: Array
    sigma: Array


class _Walk(NamedTuple):
    """Inside a stage. ``status``: 0 on the way, 1 arrived, 2 left the domain so that the stage starts again."""

    w: Array
    sigma: Array
    direction: Array
    adam: optax.OptState
    lr: Array
    count: Array
    status: Array
    objective: Array


def _stage(start: ColideFit, cov, score_at, sigma_at, stage, *, lambda1, lr, b1, b2, tolerance, check_every):
    """Adam on one objective of the path; gives what it found, or the start again with the status 2."""
    mu, s, steps = stage
    adam, eye = optax.scale_by_adam(b1, b2), jnp.eye(len(cov), dtype=cov.dtype)
    # the inverse of an M-matrix has no negative entry, but rounding makes some of them
    slack = -max(1e-6, 1e3 * float(jnp.finfo(cov.dtype).eps))

    def objective(w, sigma):
        return mu * (score_at(w, sigma) + lambda1 * jnp.abs(w).sum()) + logdet_acyclicity(w, s=s)

    def back(x: _Walk):
        """Half of the last step only, and half the rate from now on; nothing of it where the rate has vanished."""
        gone = x.lr / 2 <= 1e-16
        w = x.w + jnp.where(gone, x.lr, x.lr / 2) * x.direction
        return x._replace(w=w, sigma=sigma_at(w, x.sigma), lr=x.lr / 2, status=jnp.where(gone, 1, 0))

    def forth(x: _Walk, inverse):
        slope = -mu * residual(x.w, cov)[0] / x.sigma + mu * lambda1 * jnp.sign(x.w) + 2 * x.w * inverse.T
        direction, state = adam.update(slope, x.adam)
        w = x.w - x.lr * direction
        sigma = sigma_at(w, x.sigma)
        looks = (x.count % check_every == 0) | (x.count == steps)
        now = jnp.where(looks, objective(w, sigma), x.objective)
        still = looks & (jnp.abs(x.objective - now) <= tolerance * jnp.abs(x.objective))
        status = jnp.where(still | (x.count >= steps), 1, 0)
        return _Walk(w, sigma, direction, state, x.lr, x.count + 1, status, now)

    def step(x: _Walk):
        inverse = jnp.linalg.inv(s * eye - x.w * x.w)
        outside = ~jnp.all(inverse >= slack)  # NaN too
        again = outside & ((x.count == 1) | (s <= 0.9))
        moved = jax.tree.map(lambda a, b: jnp.where(outside, a, b), back(x), forth(x, inverse))
        status = jnp.where(again, 2, moved.status)
        # no rate and no domain brings numbers back: without this it would begin anew for ever
        return moved._replace(status=jnp.where(jnp.all(jnp.isfinite(x.w)), status, 1))

    zero = jnp.zeros_like(cov)
    begin = _Walk(start.weights, start.sigma, zero, adam.init(zero), lr, jnp.array(1), jnp.array(0), 1e16 + 0 * lr)
    end = jax.lax.while_loop(lambda x: x.status == 0, step, begin)
    left = end.status == 2
    found = jax.tree.map(lambda a, b: jnp.where(left, a, b), start, ColideFit(end.w, end.sigma))
    return found, left


def colide_fit(
    x: Float[Array, "n nodes"],
    *,
    lambda1: Number = 0.05,
    equal_variance: bool | None = True,
    num_stages: int = 5,
    mu_init: Number = 1.0,
    mu_factor: Number = 0.1,
    s: Sequence[Number] = (1.0, 0.9, 0.8, 0.7, 0.6),
    lr: Number = 3e-4,
    warm_iters: int = 30_000,
    last_iters: int = 60_000,
    b1: Number = 0.99,
    b2: Number = 0.999,
    threshold: Number = 0.3,
    tolerance: Number = 1e-6,
    check_every: int = 1000,
) -> ColideFit:
    r"""The graph that explains the data, found along a path of objectives on which acyclicity weighs more and more.

    .. math:: \min_W \mu \big(S(W, \sigma) + \lambda \|W\|_1\big) + h_s(W), \qquad \mu = \mu_0, c\mu_0, c^2\mu_0, \dots

    by Adam, each stage from where the last ended, with the noise at its best after every step. A stage ends when the
    objective moves by less than ``tolerance`` (relatively) in ``check_every`` steps. A step out of the domain of :math:`h_s`
    is halved where s > 0.9; else the stage begins anew with half the rate and s larger by 0.1.

    Args:
      x: ``(n, d)`` data; centred here. In float64 if you can: rounding blurs the border of the domain.
      lambda1: :math:`\lambda` ≥ 0. Scaling the data by c leaves the fit as it is if :math:`\lambda` and :math:`1/\mu_0`
        grow by c (without a noise, by c²).
      equal_variance: one noise for all nodes, or one for each. None holds it at 1, which is DAGMA's least squares.
      num_stages: how many.
      mu_init: :math:`\mu_0` > 0.
      mu_factor: :math:`c` in (0, 1].
      s: for each stage; the last one counts for those that are missing.
      lr: Adam's rate > 0, at the start of every stage.
      warm_iters: steps of a stage at most.
      last_iters: of the last one.
      b1: Adam's, in [0, 1).
      b2: Adam's, in [0, 1).
      threshold: smaller weights are set to 0 at the end; 0 keeps all.
      tolerance: ≥ 0.
      check_every: steps.

    All numbers but those that count may be traced. Cost: an inverse of ``(d, d)`` for each step.

    Returns:
      :class:`ColideFit`, in the dtype of ``x``; NaN where traced data are, or a step left all numbers.

    Raises:
      ValueError: fewer than two examples or nodes, a constant column, one that is not finite, or a number out of range.

    Source: Saboksayr, Mateos, Tepper (2024), arXiv 2310.02895.

    >>> x = jax.random.normal(jax.random.key(0), (500, 2))
    >>> x = x.at[:, 1].add(2 * x[:, 0])
    >>> fit = colide_fit(x, lr=0.01, warm_iters=500, last_iters=500)
    >>> jnp.round(fit.weights).tolist(), round(float(fit.sigma), 1)
    ([[0.0, 2.0], [0.0, 0.0]], 1.0)
    """
    num_stages, check_every = static_int("num_stages", num_stages, low=1), static_int("check_every", check_every, low=1)
    warm_iters, last_iters = static_int("warm_iters", warm_iters, low=1), static_int("last_iters", last_iters, low=1)
    for name, value in (("lambda1", lambda1), ("threshold", threshold), ("tolerance", tolerance)):
        check_finite_number(name, value, low=0.0)
    for name, value in (("mu_init", mu_init), ("lr", lr)):
        check_finite_number(name, value, low=_TINY)
    check_finite_number("mu_factor", mu_factor, low=_TINY, high=1.0)
    for name, value in (("b1", b1), ("b2", b2)):
        check_finite_number(name, value, low=0.0, high=1 - 1e-7)
    if not len(s):
        raise ValueError("colide_fit: s is empty; give one number for each stage")
    for value in s:
        check_finite_number("s", value, low=_TINY)
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"colide_fit: data of shape {x.shape}; give (examples, nodes), 2 of each at least")
    centred = widened(x) - widened(x).mean(axis=0)
    cov = jnp.matmul(centred.T, centred, precision="highest") / len(x)
    variances = jnp.diag(cov)
    if not isinstance(variances, jax.core.Tracer) and not np.all(np.isfinite(variances)):
        wrong = int(np.argmin(np.isfinite(variances)))
        raise ValueError(
            f"colide_fit: column {wrong} has values that are not finite; leave out the examples that have them"
        )
    if not isinstance(variances, jax.core.Tracer) and not np.all(np.asarray(variances) > 0):
        raise ValueError(f"colide_fit: column {int(np.argmin(variances))} is constant; leave it out")

    def score_at(w, sigma):
        return 0.5 * jnp.sum(residual(w, cov)[1] / sigma + sigma)

    if equal_variance is None:
        sigma, sigma_at = jnp.ones_like(variances), lambda w, sigma: sigma
    elif equal_variance:  # kept for each node alike
        sigma = jnp.full_like(variances, jnp.sqrt(variances.min()))
        sigma_at = lambda w, sigma: jnp.full_like(sigma, colide_ev_sigma(w, cov))  # noqa: E731
    else:
        sigma, sigma_at = jnp.sqrt(variances), lambda w, sigma: colide_nv_sigma(w, cov)

    def stage(fit, arguments):
        mu, s, steps = arguments

        def attempt(state):
            fit, s, rate, _ = state
            fit, left = _stage(
                fit, cov, score_at, sigma_at, (mu, s, steps),
                lambda1=lambda1, lr=rate, b1=b1, b2=b2, tolerance=tolerance, check_every=check_every,
            )  # fmt: skip
            return fit, s + jnp.where(left, 0.1, 0), rate / jnp.where(left, 2, 1), left

        start = (fit, s, jnp.asarray(lr, cov.dtype), jnp.array(True))
        return jax.lax.while_loop(lambda state: state[3], attempt, start)[0], None

    mus = mu_init * jnp.asarray(mu_factor, cov.dtype) ** jnp.arange(num_stages)
    domains = jnp.asarray([*s, *[s[-1]] * num_stages][:num_stages], cov.dtype)
    steps = jnp.asarray([warm_iters] * (num_stages - 1) + [last_iters])
    (w, sigma), _ = jax.lax.scan(stage, ColideFit(jnp.zeros_like(cov), sigma), (mus, domains, steps))
    w = jnp.where(jnp.abs(w) < threshold, 0.0, w)
    return ColideFit(w.astype(x.dtype), (sigma[0] if equal_variance else sigma).astype(x.dtype))
