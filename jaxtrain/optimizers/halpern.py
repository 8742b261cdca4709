"""Zeros of monotone operators that are means of many: Halpern's anchored iteration with variance reduction."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Key, Number, Params, check_finite_number, check_key
from jaxtrain.core.numerics import as_floating, run_if, static_int

Operator = Callable[[Params, Int[Array, " indices"]], Params]
"""``(u, indices) -> mean of F_i(u) over the indices``, a tree like ``u``."""


class HalpernResult(NamedTuple):
    """The last iterate; what was measured at each step; operators evaluated up to and including that step, as floating
    numbers, since there may be more than an integer of 32 bits holds."""

    u: Params
    measured: Float[Array, " steps"]
    evaluations: Float[Array, " steps"]


def _combine(*terms: tuple[Number | Array, Params]) -> Params:
    weights = [weight for weight, _ in terms]
    return jax.tree.map(
        lambda *leaves: sum(w * x for w, x in zip(weights, leaves, strict=True)).astype(leaves[0].dtype),
        *[tree for _, tree in terms],
    )


def _floating(tree: Params) -> Params:
    """A point that may be given in integers: its iterates are none."""
    return jax.tree.map(lambda x: as_floating(jnp.asarray(x)), tree)


def _like(point: Params, operator: Operator) -> Operator:
    """The operator with values in the dtypes of the point; raises where they have another structure or shape."""

    def called(u, indices):
        value = operator(u, indices)
        fits = jax.tree.structure(value) == jax.tree.structure(point) and all(
            jnp.shape(a) == b.shape for a, b in zip(jax.tree.leaves(value), jax.tree.leaves(point), strict=True)
        )
        if not fits:
            shapes = [jax.tree.map(jnp.shape, tree) for tree in (value, point)]
            raise ValueError(f"the operator's value must be shaped like the point, got {shapes[0]} for {shapes[1]}")
        return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), value, point)

    return called


def _setup(where: str, key: Key, n: int, numbers: dict[str, Number]) -> int:
    check_key(key, where=where)
    for name, value in numbers.items():
        check_finite_number(name, value, low=0.0)
        if not isinstance(value, jax.core.Tracer) and np.any(np.asarray(value) == 0):
            raise ValueError(f"{where}: {name} must be positive, got {value}")
    return static_int("n", n, low=1)


def vr_halpern(
    key: Key,
    operator: Operator,
    u0: Params,
    *,
    n: int,
    smoothness: Number,
    num_steps: int,
    batch_size: int | None = None,
    step_size: Number | None = None,
    full: bool = False,
    measure: Callable[[Params], Array] | None = None,
) -> HalpernResult:
    r"""Halpern's iteration with the recursive estimator PAGE, for a cocoercive mean of operators.

    For :math:`F = \frac1n \sum_i F_i` and :math:`\lambda_k = \frac{2}{k + 4}`, from :math:`k = 0`:

    .. math:: u_{k+1} = \lambda_k u_0 + (1 - \lambda_k)\,u_k - \eta\,\tilde F_k, \qquad \tilde F_k = \begin{cases}
       F(u_k) & k = 0, \text{ or with probability } p_k, \\
       \tilde F_{k-1} + \frac1b \sum_{i \in B} (F_i(u_k) - F_i(u_{k-1})) & \text{else,} \end{cases}

    with :math:`b = \lceil \sqrt n \rceil`, :math:`p_k = \frac{4}{k + 5}` for :math:`k \le \sqrt n` and
    :math:`\frac{4}{\sqrt n + 5}` after, :math:`\eta = \frac{1}{4L}`. The norm of F at the last iterate is
    :math:`O(L \|u_0 - u^*\| / k)` on average, at a cost of some :math:`n + \sqrt n\,k` evaluations; the deterministic
    iteration costs :math:`n k`.

    Args:
      key: one typed key.
      operator: ``(u, indices) -> mean over the indices of F_i(u)``.
      u0: the first point, which stays the anchor.
      n: how many operators there are.
      smoothness: :math:`L`, with :math:`\frac1n \sum_i \|F_i(u) - F_i(v)\|^2 \le L\,\langle F(u) - F(v), u - v\rangle`.
      num_steps: steps, ≥ 1.
      batch_size: :math:`b`; None: :math:`\lceil \sqrt n \rceil`. Indices are drawn with replacement.
      step_size: :math:`\eta`; None: :math:`1/(4L)`.
      full: whether :math:`\tilde F_k = F(u_k)` always: the deterministic iteration.
      measure: what is recorded of :math:`u_k`; None: the norm of :math:`\tilde F_k`, which costs nothing.

    Returns:
      A :class:`HalpernResult`.

    Raises:
      TypeError: the key is not a typed key.
      ValueError: a number out of range; values of the operator that are not shaped like the point.

    Source: Cai, Alacaoglu, Diakonikolas (2023), arXiv 2310.02987; PAGE: Li, Bao, Zhang, Richtárik (2021), arXiv
    2008.10898.

    >>> shifts = jnp.array([1.0, 3.0])
    >>> operator = lambda u, i: jnp.mean(u - shifts[i])
    >>> found = vr_halpern(jax.random.key(0), operator, jnp.array(0.0), n=2, smoothness=1.0, num_steps=400)
    >>> round(float(found.u), 1)
    2.0
    """
    n = _setup("vr_halpern", key, n, {"smoothness": smoothness, "step_size": 1.0 if step_size is None else step_size})
    steps = static_int("num_steps", num_steps, low=1)
    b = math.isqrt(n - 1) + 1 if batch_size is None else static_int("batch_size", batch_size, low=1)
    eta = 1 / (4 * smoothness) if step_size is None else step_size
    u0 = _floating(u0)
    operator = _like(u0, operator)
    everything = jnp.arange(n)

    def step(carry, inputs):
        u, before, estimate, passes = carry
        k, key = inputs
        coin, draw = jax.random.split(key)
        whole = jax.random.bernoulli(coin, 4 / (jnp.minimum(k, math.sqrt(n)) + 5)) | (k == 0) | full

        def moved(estimate):
            chosen = jax.random.randint(draw, (b,), 0, n)
            return _combine((1, estimate), (1, operator(u, chosen)), (-1, operator(before, chosen)))

        estimate = run_if(~whole, moved, estimate)
        estimate = run_if(whole, lambda _: operator(u, everything), estimate)
        passes = passes + whole
        spent = n * passes.astype(float) + 2 * b * (k + 1 - passes).astype(float)
        seen = optax.tree.norm(estimate) if measure is None else measure(u)
        anchor = 2 / (k + 4.0)
        new = _combine((1 - anchor, u), (anchor, u0), (-eta, estimate))
        return (new, u, estimate, passes), (seen, spent)

    carry = u0, u0, jax.tree.map(jnp.zeros_like, u0), jnp.zeros((), jnp.int32)
    (u, *_), (measured, spent) = jax.lax.scan(step, carry, (jnp.arange(steps), jax.random.split(key, steps)))
    return HalpernResult(u, measured, spent)


def vr_forb_resolvent(
    key: Key,
    operator: Operator,
    centre: Params,
    *,
    n: int,
    smoothness: Number,
    eta: Number,
    num_steps: int,
) -> Params:
    r"""The resolvent :math:`(I + \eta F)^{-1}` of a monotone mean of operators, by a variance-reduced
    forward-reflected-backward method.

    From :math:`z_0 = w_0 = w_{-1} = c`, with :math:`p = 1/n`, a random :math:`i` and
    :math:`\tau = \frac{1 - \sqrt{1 - p}}{2 \eta L}`:

    .. math:: z_{t+1} = \frac{z_t - \tau\eta\,[F(w_t) + F_i(z_t) - F_i(w_{t-1})] + \tau c}{1 + \tau}, \qquad
       w_{t+1} = \begin{cases} z_{t+1} & \text{with probability } p \\ w_t & \text{else.} \end{cases}

    It costs two operators a step and n more where :math:`w` moves: three on average.

    Args:
      key: one typed key.
      operator: ``(u, indices) -> mean over the indices of F_i(u)``, F monotone.
      centre: :math:`c`, where the resolvent is wanted, and the first point.
      n: how many operators there are.
      smoothness: :math:`L`, with :math:`\frac1n \sum_i \|F_i(u) - F_i(v)\|^2 \le L^2 \|u - v\|^2`.
      eta: :math:`\eta` > 0.
      num_steps: steps, ≥ 1.

    Returns:
      The last :math:`z`.

    Raises:
      TypeError: the key is not a typed key.
      ValueError: a number out of range; values of the operator that are not shaped like the point.

    Source: Alacaoglu, Malitsky, Cevher (2021), "Forward-reflected-backward method with variance reduction"; Cai,
    Alacaoglu, Diakonikolas (2023), arXiv 2310.02987.

    >>> operator = lambda u, i: jnp.mean(u - jnp.array([1.0, 3.0])[i])
    >>> z = vr_forb_resolvent(
    ...     jax.random.key(0), operator, jnp.array(0.0), n=2, smoothness=1.0, eta=1.0, num_steps=200
    ... )
    >>> round(float(z), 3)  # z + (z - 2) = 0
    1.0
    """
    n = _setup("vr_forb_resolvent", key, n, {"smoothness": smoothness, "eta": eta})
    steps = static_int("num_steps", num_steps, low=1)
    p = 1 / n
    tau = (1 - math.sqrt(1 - p)) / (2 * eta * smoothness)
    centre = _floating(centre)
    operator = _like(centre, operator)
    everything = jnp.arange(n)

    def step(carry, key):
        z, w, w_before, whole = carry
        coin, draw = jax.random.split(key)
        i = jax.random.randint(draw, (1,), 0, n)
        direction = _combine((1, whole), (1, operator(z, i)), (-1, operator(w_before, i)))
        z = _combine((1 / (1 + tau), z), (-tau * eta / (1 + tau), direction), (tau / (1 + tau), centre))
        due = jax.random.bernoulli(coin, p)
        at, whole = run_if(due, lambda _: (z, operator(z, everything)), (w, whole))
        return (z, at, w, whole), None

    carry = centre, centre, centre, operator(centre, everything)
    return jax.lax.scan(step, carry, jax.random.split(key, steps))[0][0]


def vr_halpern_monotone(
    key: Key,
    operator: Operator,
    u0: Params,
    *,
    n: int,
    smoothness: Number,
    num_outer: int,
    num_inner: int,
    eta: Number | None = None,
) -> HalpernResult:
    r"""Halpern's iteration on the resolvent, for a monotone Lipschitz mean of operators that is not cocoercive.

    .. math:: u_{k+1} = \lambda_k u_0 + (1 - \lambda_k)\,J_k, \qquad J_k \approx (I + \eta F)^{-1} u_k, \qquad
       \lambda_k = \frac{1}{k + 2},

    with :func:`vr_forb_resolvent` for :math:`J_k` and :math:`\eta = \sqrt n / L`. Saddle problems without curvature are
    of this kind.

    Args:
      key: one typed key.
      operator: ``(u, indices) -> mean over the indices of F_i(u)``, F monotone.
      u0: the first point, which stays the anchor.
      n: how many operators there are.
      smoothness: :math:`L`, with :math:`\frac1n \sum_i \|F_i(u) - F_i(v)\|^2 \le L^2 \|u - v\|^2`.
      num_outer: steps of Halpern's iteration, ≥ 1.
      num_inner: steps for each resolvent, ≥ 1; some :math:`n \log` of the accuracy.
      eta: :math:`\eta`; None: :math:`\sqrt n / L`.

    Returns:
      A :class:`HalpernResult` with :math:`\|u_k - J_k\|/\eta`, which is the norm of F at :math:`J_k` but for the accuracy
      of the resolvent, and with expected numbers of evaluations.

    Raises:
      TypeError: the key is not a typed key.
      ValueError: a number out of range; values of the operator that are not shaped like the point.

    Source: Cai, Alacaoglu, Diakonikolas (2023), arXiv 2310.02987.

    >>> turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])  # min over x, max over y of x y
    >>> operator = lambda u, i: turn @ u
    >>> found = vr_halpern_monotone(
    ...     jax.random.key(0), operator, jnp.ones(2), n=1, smoothness=1.0, num_outer=100, num_inner=20
    ... )
    >>> bool(jnp.linalg.norm(found.u) < 0.1)
    True
    """
    n = _setup("vr_halpern_monotone", key, n, {"smoothness": smoothness, "eta": 1.0 if eta is None else eta})
    outer = static_int("num_outer", num_outer, low=1)
    inner = static_int("num_inner", num_inner, low=1)
    eta = math.sqrt(n) / smoothness if eta is None else eta

    def step(u, inputs):
        k, key = inputs
        j = vr_forb_resolvent(key, operator, u, n=n, smoothness=smoothness, eta=eta, num_steps=inner)
        anchor = 1 / (k + 2.0)
        residual = optax.tree.norm(_combine((1, u), (-1, j))) / eta
        return _combine((1 - anchor, j), (anchor, u0)), residual

    u0 = _floating(u0)
    u, residuals = jax.lax.scan(step, u0, (jnp.arange(outer), jax.random.split(key, outer)))
    return HalpernResult(u, residuals, float(n + 3 * inner) * jnp.arange(1, outer + 1))
