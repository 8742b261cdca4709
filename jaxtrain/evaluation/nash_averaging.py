"""Nash averaging: ratings that do not depend on which agents or tasks happen to be in the table, and how many times."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number


class AgentRatings(NamedTuple):
    """Of agents that play each other: the maximum-entropy equilibrium and the mean payoff against it."""

    weights: Array
    ratings: Array


class AgentTaskRatings(NamedTuple):
    """Of agents measured on tasks: the two equilibrium mixtures and what follows from them."""

    agent_weights: Array
    task_weights: Array
    skill: Array
    difficulty: Array


def _square(name: str, x: Array) -> int:
    if x.ndim != 2 or x.shape[0] != x.shape[1] or x.shape[0] == 0:
        raise ValueError(f"{name} must be a square matrix of at least one agent, got shape {x.shape}")
    return x.shape[0]


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _tolerance(tol: Number | None, dtype: jnp.dtype) -> Array:
    if tol is None:
        # the constraints' residuals cannot be smaller than rounding, the multipliers grow like its logarithm
        return jnp.asarray(1e-11 if dtype == jnp.float64 else 3e-6, dtype)
    check_finite_number("tol", tol, low=0.0)
    return jnp.asarray(tol, dtype)


@functools.partial(jax.jit, static_argnames="num_steps")
def _maximum_entropy(
    g: Array, sums: Array, free: Array, tol: Array, num_steps: int
) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """max H(w) with G w + f v ≤ tol, every row of ``sums`` @ w = 1, w ≥ 0 and v free, by a primal-dual interior point."""
    m, n = g.shape
    blocks = sums.shape[0]
    dtype = g.dtype
    eps = jnp.finfo(dtype).eps
    wide = jnp.concatenate([g, free[:, None]], axis=1)
    has_free = jnp.any(free != 0)
    border = jnp.concatenate([sums, jnp.zeros((blocks, 1), dtype)], axis=1)
    w = sums.T @ (1 / sums.sum(axis=1))
    v = jnp.zeros((), dtype)
    s = jnp.maximum(tol - g @ w, 1.0)
    start = (w, v, s, jnp.ones(m, dtype), jnp.ones(n, dtype), jnp.zeros(blocks, dtype))

    def longest(x, dx):
        return jnp.min(jnp.where(dx < 0, -0.99 * x / jnp.where(dx < 0, dx, -1), 1.0), initial=1.0)

    def step(_, carry):
        w, v, s, lam, z, nu = carry
        gap = (jnp.sum(w * z) + jnp.sum(s * lam)) / (m + n)
        mu = jnp.maximum(0.2 * gap, 0.05 * tol / (m + n))
        dual = jnp.log(w) + 1 + g.T @ lam + sums.T @ nu - z
        dual_v = free @ lam
        primal = g @ w + free * v + s - tol
        right = jnp.concatenate([-dual - z + mu / w, -dual_v[None]])
        slack = mu / s + lam / s * primal
        right = right - wide.T @ (slack - lam)
        # symmetric scaling by sqrt(w): the diagonal runs over the whole range of numbers otherwise
        scale = jnp.concatenate([jnp.sqrt(w), jnp.ones(1, dtype)])
        scaled = wide * scale * jnp.sqrt(lam / s)[:, None]
        k = scaled.T @ scaled + jnp.diag(jnp.concatenate([1 + z, jnp.where(has_free, 0.0, 1.0)[None]]))
        # equilibrated, so that rounding hurts every row alike
        row = jax.lax.rsqrt(jnp.diagonal(k))
        k = k * row * row[:, None] + 4 * eps * jnp.eye(n + 1, dtype=dtype)
        e = border * scale * row
        factor = jax.scipy.linalg.cho_factor(k)
        both = jax.scipy.linalg.cho_solve(factor, jnp.concatenate([e, (right * scale * row)[None]]).T)
        ke, kr = both[:, :blocks], both[:, blocks]
        dnu = jnp.linalg.solve(e @ ke, e @ kr - (1 - sums @ w))
        d = (kr - ke @ dnu) * scale * row
        dw, dv = d[:n], jnp.where(has_free, d[n], 0.0)
        ds = -primal - g @ dw - free * dv
        dlam = mu / s - lam - lam / s * ds
        dz = mu / w - z - z / w * dw
        a = functools.reduce(jnp.minimum, map(longest, (w, s, lam, z), (dw, ds, dlam, dz)))
        new = (w + a * dw, v + a * dv, s + a * ds, lam + a * dlam, z + a * dz, nu + a * dnu)
        # rounding may break the factorisation once the solution is reached: what was reached is kept
        good = jnp.all(jnp.asarray([jnp.all(jnp.isfinite(x)) for x in new]))
        tiny = jnp.finfo(dtype).tiny ** 0.5
        new = (jnp.maximum(new[0], tiny), new[1], *(jnp.maximum(x, tiny) for x in new[2:5]), new[5])
        return jax.tree.map(lambda x, y: jnp.where(good, x, y), new, carry)

    w, v, *_ = jax.lax.fori_loop(0, num_steps, step, start)
    return w / (sums.T @ (sums @ w)), v


def maxent_nash(a: Float[Array, "n m"], *, tol: Number | None = None, num_steps: int = 50) -> Float[Array, " n"]:
    r"""The equilibrium of largest entropy of a symmetric zero-sum game.

    .. math:: \max_p\; -\sum_i p_i \log p_i \quad\text{with}\quad A p \le \epsilon\,\max_{ij} |A_{ij}|, \quad
       \textstyle\sum_i p_i = 1, \quad p \ge 0

    for an antisymmetric :math:`A`, whose value is 0. It is unique. At :math:`\epsilon = 0` these are the equilibria,
    a set without interior, so a small :math:`\epsilon` (``tol``) is kept: nobody gains more than that against ``p``,
    and ``p`` is off by about :math:`\epsilon` over the smallest gap that decides (in units of the largest entry).
    Solved by a primal-dual interior point method with a fixed number of Newton steps, each O(n³): no host callback, the same
    under ``jit`` and ``vmap``; 30 steps reach rounding in practice.

    Args:
      a: ``(n, n)`` antisymmetric payoffs, finite; row i wins where it is positive. Not checked for antisymmetry when
        traced.
      tol: see above; default 1e-11 in double and 3e-6 in single precision (half precision is computed in single).
      num_steps: Newton steps.

    Returns:
      ``(n,)`` weights in the dtype of ``a``.

    Raises:
      ValueError: not square, or not antisymmetric.

    Source: Balduzzi, Tuyls, Pérolat, Graepel (2018), arXiv 1806.02643.

    >>> rock_paper_scissors = jnp.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    >>> print(maxent_nash(rock_paper_scissors).round(4))
    [0.3333 0.3333 0.3333]
    """
    n = _square("a", a)
    _check_antisymmetric(a)
    wide = _wide(a)
    size = jnp.max(jnp.abs(wide))
    wide = wide / jnp.where(size > 0, size, 1)
    ones, zeros = jnp.ones((1, n), wide.dtype), jnp.zeros(n, wide.dtype)
    p, _ = _maximum_entropy(wide, ones, zeros, _tolerance(tol, wide.dtype), num_steps)
    # the solver keeps its last finite iterate; a game that is not finite has no answer
    return jnp.where(jnp.isfinite(size), p, jnp.nan).astype(a.dtype)


def _check_antisymmetric(a: Array) -> None:
    if isinstance(a, jax.core.Tracer):
        return
    fault = jnp.abs(a + a.T)
    size = jnp.max(jnp.abs(a))
    if bool(jnp.any(fault > 64 * jnp.finfo(a.dtype).eps * size)):
        i, j = divmod(int(jnp.argmax(fault)), len(a))
        raise ValueError(
            f"a must be antisymmetric: a[{i}, {j}] = {float(a[i, j]):g} and a[{j}, {i}] = {float(a[j, i]):g}; "
            "give log odds (win_prob_to_logits) or P - P.T"
        )


def nash_average_agents(a: Float[Array, "n m"], *, tol: Number | None = None, num_steps: int = 50) -> AgentRatings:
    r"""Ratings :math:`A p^*` of agents against the maximum-entropy equilibrium :math:`p^*` of their table.

    0 for the agents in the equilibrium's support, negative for the others. Copies of an agent share its weight and
    change nothing else, where a mean over opponents can be moved anywhere by copies.

    Args:
      a: ``(n, n)`` antisymmetric payoffs, such as log odds.
      tol: see :func:`maxent_nash`.
      num_steps: see :func:`maxent_nash`.

    Returns:
      :class:`AgentRatings`: ``weights`` ``(n,)`` and ``ratings`` ``(n,)``.

    Raises:
      ValueError: not square, or not antisymmetric.

    Source: Balduzzi et al. (2018), arXiv 1806.02643.

    >>> strength = jnp.array([2.0, 1.0, -1.0])
    >>> weights, ratings = nash_average_agents(strength[:, None] - strength)
    >>> [round(float(w), 3) for w in weights], [round(float(r), 3) for r in ratings]
    ([1.0, 0.0, 0.0], [0.0, -1.0, -3.0])
    """
    p = maxent_nash(a, tol=tol, num_steps=num_steps)
    return AgentRatings(p, jnp.matmul(a, p, precision="highest"))


def nash_average_agent_task(
    s: Float[Array, "n m"], *, tol: Number | None = None, num_steps: int = 50
) -> AgentTaskRatings:
    r"""Skills of agents and difficulties of tasks from a table of scores.

    The game with payoff :math:`x^\top S y`: one side mixes agents to score high, the other mixes tasks to make that
    hard. Of its equilibria (a product of two convex sets) the pair of largest entropy is taken, and

    .. math:: \text{skill} = S y, \qquad \text{difficulty} = -S^\top x.

    Copies of a task share its weight, so that a table cannot be tilted by adding easy tasks. Scores of different tasks
    must be comparable: bring them to one scale first.

    Args:
      s: ``(agents, tasks)`` scores, higher is better, finite.
      tol: by how much either side may still gain, in units of half the range of ``s``; see :func:`maxent_nash`.
      num_steps: Newton steps.

    Returns:
      :class:`AgentTaskRatings`: ``agent_weights`` ``(agents,)``, ``task_weights`` ``(tasks,)``, ``skill`` ``(agents,)``,
      ``difficulty`` ``(tasks,)``.

    Raises:
      ValueError: not a matrix, or empty.

    Source: Balduzzi et al. (2018), arXiv 1806.02643.

    >>> found = nash_average_agent_task(jnp.array([[1.0, 0.0], [0.0, 1.0], [0.4, 0.4]]))
    >>> found.agent_weights.round(3).tolist(), found.task_weights.round(3).tolist()
    ([0.5, 0.5, 0.0], [0.5, 0.5])
    """
    if s.ndim != 2 or s.size == 0:
        raise ValueError(f"s must be a table of agents and tasks, got shape {s.shape}")
    agents, tasks = s.shape
    wide = _wide(s)
    # neither shift nor scale changes the equilibria; the solver wants a value near 0 and entries near 1
    middle = (jnp.max(wide) + jnp.min(wide)) / 2
    half = (jnp.max(wide) - jnp.min(wide)) / 2
    unit = (wide - middle) / jnp.where(half > 0, half, 1)
    g = jnp.block([[jnp.zeros((agents, agents), wide.dtype), unit], [-unit.T, jnp.zeros((tasks, tasks), wide.dtype)]])
    is_agent = jnp.arange(agents + tasks) < agents
    sums = jnp.stack([is_agent, ~is_agent]).astype(wide.dtype)
    free = jnp.where(is_agent, -1.0, 1.0).astype(wide.dtype)
    w, _ = _maximum_entropy(g, sums, free, _tolerance(tol, wide.dtype), num_steps)
    w = jnp.where(jnp.isfinite(half), w, jnp.nan).astype(s.dtype)
    x, y = w[:agents], w[agents:]
    return AgentTaskRatings(x, y, jnp.matmul(s, y, precision="highest"), -jnp.matmul(x, s, precision="highest"))


def win_prob_to_logits(p: Float[Array, "n m"]) -> Float[Array, "n m"]:
    r"""Log odds :math:`A_{ij} = \log(P_{ij} / P_{ji})`, antisymmetric by construction.

    Args:
      p: ``(n, n)``; :math:`P_{ij}` in (0, 1) is how often i beats j. Clip what was never lost before.

    Returns:
      ``(n, n)``.

    Raises:
      ValueError: not square.

    Source: Balduzzi et al. (2018), arXiv 1806.02643.

    >>> print(win_prob_to_logits(jnp.array([[0.5, 0.75], [0.25, 0.5]])).round(4))
    [[ 0.      1.0986]
     [-1.0986  0.    ]]
    """
    _square("p", p)
    log = jnp.log(p)
    return log - log.T


def hodge_decomposition(a: Float[Array, "n m"]) -> tuple[Float[Array, " n"], Float[Array, "n m"]]:
    r"""Splits an antisymmetric table into ratings and a cyclic rest.

    .. math:: A_{ij} = r_i - r_j + C_{ij}, \qquad r_i = \tfrac1n \sum_j A_{ij}, \qquad \sum_j C_{ij} = 0

    The two parts are orthogonal. One number for each agent (Elo on log odds) says everything just where C is 0.

    Args:
      a: ``(n, n)`` antisymmetric.

    Returns:
      ``(r, C)``.

    Raises:
      ValueError: not square, or not antisymmetric.

    Source: Jiang, Lim, Yao, Ye (2011); Balduzzi et al. (2018), arXiv 1806.02643.

    >>> ratings, cyclic = hodge_decomposition(jnp.array([[0.0, 2.0], [-2.0, 0.0]]))
    >>> ratings.tolist(), cyclic.tolist()
    ([1.0, -1.0], [[0.0, 0.0], [0.0, 0.0]])
    """
    _square("a", a)
    _check_antisymmetric(a)
    r = jnp.mean(a, axis=1)
    return r, a - (r[:, None] - r)


def elo_fit(p: Float[Array, "n m"], *, num_steps: int = 100) -> Float[Array, " n"]:
    r"""The Elo ratings that fit a table of win probabilities best in cross-entropy.

    .. math:: \min_r -\sum_{i \ne j} P_{ij} \log \sigma(r_i - r_j), \qquad \sum_i r_i = 0

    in natural units (times 400 / log 10 for chess). Newton's method with steps of at most 1 in each rating.

    Args:
      p: ``(n, n)`` with :math:`P_{ij} + P_{ji} = 1`; the diagonal does not count. An agent that always wins has no
        finite rating: clip first.
      num_steps: Newton steps.

    Returns:
      ``(n,)`` ratings with mean 0, in the dtype of ``p``.

    Raises:
      ValueError: not square.

    Source: Elo (1978); Balduzzi et al. (2018), arXiv 1806.02643.

    >>> print(elo_fit(jnp.array([[0.5, 0.75], [0.25, 0.5]])).round(4))
    [ 0.5493 -0.5493]
    """
    n = _square("p", p)
    eye = jnp.eye(n, dtype=_wide(p).dtype)
    wins = _wide(p) * (1 - eye)

    def step(_, r):
        expected = jax.nn.sigmoid(r[:, None] - r) * (1 - eye)
        weight = expected * (1 - expected)
        gradient = jnp.sum(wins - expected, axis=1)
        # the constant direction is free; the added 1 1ᵀ keeps the sum at 0
        laplacian = jnp.diag(weight.sum(axis=1)) - weight + 1 / n
        d = jnp.linalg.solve(laplacian, gradient)
        return r + d / jnp.maximum(1.0, jnp.max(jnp.abs(d)))

    r = jax.lax.fori_loop(0, num_steps, step, jnp.zeros(n, wins.dtype))
    return (r - r.mean()).astype(p.dtype)


def multidimensional_elo(a: Float[Array, "n m"], *, k: int) -> Float[Array, "n m"]:
    r"""mElo: log odds predicted by ratings and the k strongest cycles.

    .. math:: \hat A = r_i - r_j + (C^\top \Omega C)_{ij}, \qquad C \in \mathbb R^{2k \times n}

    with the best approximation of rank 2k to the cyclic part of :func:`hodge_decomposition`. Its singular values come
    in pairs, one pair for each cycle; they are taken from the Hermitian matrix :math:`iC`, so that the result is
    antisymmetric even where pairs are equal. Win probabilities are the sigmoid of the result. k = 0 is Elo fitted by
    least squares to the log odds.

    Args:
      a: ``(n, n)`` antisymmetric log odds.
      k: how many cycles, 0 to n // 2 (the paper's mElo with 2k).

    Returns:
      ``(n, n)``, antisymmetric.

    Raises:
      ValueError: not square, not antisymmetric, or k out of range.

    Source: Balduzzi et al. (2018), arXiv 1806.02643.

    >>> rock_paper_scissors = jnp.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    >>> bool(jnp.allclose(multidimensional_elo(rock_paper_scissors, k=1), rock_paper_scissors, atol=1e-6))
    True
    """
    n = _square("a", a)
    if not 0 <= k <= n // 2:
        raise ValueError(f"k must lie in 0 to {n // 2} for {n} agents, got {k}")
    r, cyclic = hodge_decomposition(_wide(a))
    values, vectors = jnp.linalg.eigh(1j * cyclic)
    values, vectors = values[n - k :], vectors[:, n - k :]
    # i C = sum of s (u u* - conj(u) uᵀ), hence C = 2 s Im(u u*)
    cycles = 2 * jnp.imag(jnp.einsum("ik,k,jk->ij", vectors, values.astype(vectors.dtype), vectors.conj()))
    return (r[:, None] - r + cycles).astype(a.dtype)
