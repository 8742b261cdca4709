"""Nash averaging against SciPy's linear programming and SLSQP, literal games, and the identities of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxtrain import evaluation as ev

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])


def _games():
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(6, 6))
    u = rng.normal(size=(6, 4))
    return {
        "dense": dense - dense.T,
        "low rank": u @ np.kron(np.eye(2), [[0, 1], [-1, 0]]) @ u.T,
        # three copies of one game beside a dominated agent: a face of equilibria with interior
        "face": np.block([[np.tile(RPS, (2, 2)), np.ones((6, 1))], [-np.ones((1, 6)), np.zeros((1, 1))]]),
        # an equilibrium set on which an inequality binds at the maximum of entropy
        "binding": np.array(
            [
                [0, 0, 0, 1.0, -1.0],
                [0, 0, 0, -3.0, 2.0],
                [0, 0, 0, 0.5, 1.0],
                [-1.0, 3.0, -0.5, 0, 0],
                [1.0, -2.0, -1.0, 0, 0],
            ]
        ),
    }


def _by_slsqp(a):
    """The feasible set's best point in entropy, found by SciPy from several starting points."""
    n = len(a)

    def negative_entropy(p):
        q = np.maximum(p, 1e-300)
        return np.sum(q * np.log(q))

    found = []
    for seed in range(4):
        start = optimize.linprog(
            np.random.default_rng(seed).normal(size=n), A_ub=a, b_ub=np.full(n, 1e-12), A_eq=np.ones((1, n)), b_eq=[1]
        )
        assert start.status == 0
        result = optimize.minimize(
            negative_entropy,
            0.9 * start.x + 0.1 / n,
            jac=lambda p: 1 + np.log(np.maximum(p, 1e-300)),
            constraints=[
                {"type": "ineq", "fun": lambda p: -a @ p, "jac": lambda p: -a},
                {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(n)},
            ],
            bounds=[(0, 1)] * n,
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        found.append((result.fun, result.x) if (a @ result.x).max() < 1e-7 else (np.inf, result.x))
    return min(found, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize("name", _games())
def test_equals_linear_programming_and_slsqp(name, x64):
    a = _games()[name]
    p = np.asarray(ev.maxent_nash(jnp.asarray(a)))
    reference = _by_slsqp(a)
    assert abs(p.sum() - 1) < 1e-12 and p.min() >= 0
    assert (a @ p).max() <= 2e-11 * np.abs(a).max()  # the stated tolerance, and rounding
    # SLSQP stops at about the root of its precision in p
    np.testing.assert_allclose(p, reference, atol=2e-6)


def test_rock_paper_scissors_and_copies(x64):
    np.testing.assert_allclose(ev.maxent_nash(jnp.asarray(RPS)), np.full(3, 1 / 3), atol=1e-10)
    copies = np.array([0, 0, 1, 2])
    weights, ratings = ev.nash_average_agents(jnp.asarray(RPS[np.ix_(copies, copies)]))
    np.testing.assert_allclose(weights, [1 / 6, 1 / 6, 1 / 3, 1 / 3], atol=1e-9)
    np.testing.assert_allclose(ratings, np.zeros(4), atol=1e-9)


def test_transitive_zero_and_single_games(x64):
    r = jnp.array([1.0, 3.0, 0.0, -2.0])
    weights, ratings = ev.nash_average_agents(r[:, None] - r)
    np.testing.assert_allclose(weights, [0, 1, 0, 0], atol=1e-10)  # tol 1e-11, gap 0.4 of the largest entry
    np.testing.assert_allclose(ratings, r - 3, atol=1e-9)
    np.testing.assert_allclose(ev.maxent_nash(jnp.zeros((4, 4))), np.full(4, 0.25), atol=1e-12)
    np.testing.assert_allclose(ev.maxent_nash(jnp.zeros((1, 1))), [1.0])
    equal = jnp.array([1.0, 1.0, 0.0])
    np.testing.assert_allclose(ev.maxent_nash(equal[:, None] - equal), [0.5, 0.5, 0], atol=1e-10)


def test_copies_of_any_agent_change_nothing(x64):
    a = _games()["dense"]
    p, r = map(np.asarray, ev.nash_average_agents(jnp.asarray(a)))
    for i in range(6):
        index = np.array([*range(6), i, i])
        q, s = map(np.asarray, ev.nash_average_agents(jnp.asarray(a[np.ix_(index, index)])))
        np.testing.assert_allclose(s[:6], r, atol=1e-8)
        np.testing.assert_allclose(q[:6][np.arange(6) != i], p[np.arange(6) != i], atol=1e-8)
        np.testing.assert_allclose(q[[i, 6, 7]], p[i] / 3, atol=1e-8)


def test_agents_and_tasks_equal_linear_programming(x64):
    s = np.random.default_rng(1).normal(size=(5, 7)) * 3 + 10
    found = ev.nash_average_agent_task(jnp.asarray(s))
    # max v with xᵀ S ≥ v
    lp = optimize.linprog(
        np.r_[np.zeros(5), -1], A_ub=np.c_[-s.T, np.ones(7)], b_ub=np.zeros(7), A_eq=np.r_[np.ones(5), 0][None], b_eq=[1],
        bounds=[(0, None)] * 5 + [(None, None)],
    )  # fmt: skip
    np.testing.assert_allclose(found.agent_weights, lp.x[:5], atol=1e-8)  # unique for random scores
    np.testing.assert_allclose(np.max(found.skill), -lp.fun, atol=1e-9)
    np.testing.assert_allclose(np.max(found.difficulty), lp.fun, atol=1e-9)
    easy = np.concatenate([s, np.repeat(s[:, :1], 5, axis=1)], axis=1)
    again = ev.nash_average_agent_task(jnp.asarray(easy))
    np.testing.assert_allclose(again.skill, found.skill, atol=1e-8)
    np.testing.assert_allclose(again.agent_weights, found.agent_weights, atol=1e-8)


def test_constant_scores_give_uniform_weights():
    found = ev.nash_average_agent_task(jnp.full((3, 4), 0.7))
    np.testing.assert_allclose(found.agent_weights, np.full(3, 1 / 3), atol=1e-6)
    np.testing.assert_allclose(found.task_weights, np.full(4, 0.25), atol=1e-6)


def test_jit_vmap_and_dtypes():
    games = jnp.stack([jnp.asarray(_games()["dense"], jnp.float32), jnp.asarray(_games()["low rank"], jnp.float32)])
    together = jax.jit(jax.vmap(ev.maxent_nash))(games)
    # single precision: tol 3e-6 over gaps of about a hundredth
    np.testing.assert_allclose(together, [ev.maxent_nash(g) for g in games], atol=1e-5)
    with jax.enable_x64(True):
        exact = np.stack([ev.maxent_nash(jnp.asarray(g, jnp.float64)) for g in (games[0], games[1])])
    np.testing.assert_allclose(together, exact, atol=1e-3)
    assert ev.maxent_nash(jnp.asarray(RPS, jnp.bfloat16)).dtype == jnp.bfloat16
    assert jnp.isnan(jax.jit(ev.maxent_nash)(jnp.full((2, 2), jnp.nan))).all()


def test_hodge_is_exact_for_ratings_and_orthogonal(x64):
    rng = np.random.default_rng(2)
    r = rng.normal(size=5)
    found, cyclic = ev.hodge_decomposition(jnp.asarray(r[:, None] - r))
    np.testing.assert_allclose(found, r - r.mean(), atol=1e-14)
    np.testing.assert_allclose(cyclic, 0, atol=1e-14)
    a = jnp.asarray(_games()["dense"])
    found, cyclic = ev.hodge_decomposition(a)
    gradient = found[:, None] - found
    np.testing.assert_allclose(gradient + cyclic, a, atol=1e-14)
    assert abs(float(jnp.sum(gradient * cyclic))) < 1e-12
    # the divergence of the least-squares ratings
    rows = [(np.eye(6)[i] - np.eye(6)[j], a[i, j]) for i in range(6) for j in range(6)]
    best = np.linalg.lstsq(np.array([x for x, _ in rows]), np.array([y for _, y in rows]), rcond=None)[0]
    np.testing.assert_allclose(found, best, atol=1e-12)


def test_elo_is_the_minimum_of_its_cross_entropy(x64):
    rng = np.random.default_rng(3)
    a = rng.normal(size=(5, 5)) * 4
    p = 1 / (1 + np.exp(-(a - a.T)))

    def loss(r):
        return np.sum((p * np.logaddexp(0, -(r[:, None] - r)))[~np.eye(5, dtype=bool)])

    reference = optimize.minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9}).x
    # BFGS with numerical derivatives
    np.testing.assert_allclose(ev.elo_fit(jnp.asarray(p)), reference - reference.mean(), atol=1e-5)
    r = np.array([6.0, 0.0, -6.0])
    exact = 1 / (1 + np.exp(-(r[:, None] - r)))
    np.testing.assert_allclose(ev.elo_fit(jnp.asarray(exact)), r, atol=1e-9)
    np.testing.assert_allclose(ev.win_prob_to_logits(jnp.asarray(exact)), r[:, None] - r, atol=1e-10)


def test_cycles_are_the_best_low_rank_part(x64):
    a = jnp.asarray(_games()["dense"])
    r, cyclic = ev.hodge_decomposition(a)
    u, s, vt = np.linalg.svd(np.asarray(cyclic))
    for k in range(4):
        best = (u[:, : 2 * k] * s[: 2 * k]) @ vt[: 2 * k]
        found = np.asarray(ev.multidimensional_elo(a, k=k))
        np.testing.assert_allclose(found - np.asarray(r[:, None] - r), best, atol=1e-12)
    # two equal cycles: any of them, but antisymmetric
    two = jnp.asarray(np.kron(np.eye(2), RPS))
    found = np.asarray(ev.multidimensional_elo(two, k=1))
    np.testing.assert_allclose(found, -found.T, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(found), np.linalg.norm(RPS), rtol=1e-12)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: ev.maxent_nash(jnp.zeros((2, 3))), "square"),
        (lambda: ev.maxent_nash(jnp.eye(2)), r"antisymmetric: a\[0, 0\] = 1"),
        (lambda: ev.nash_average_agent_task(jnp.zeros((0, 3))), "agents and tasks"),
        (lambda: ev.multidimensional_elo(jnp.asarray(RPS), k=2), "0 to 1 for 3 agents, got 2"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()
