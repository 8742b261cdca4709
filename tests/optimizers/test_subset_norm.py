"""Subset norm and subspace momentum against the authors' code, and the methods that they become at the ends."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import (
    adam_sn,
    closest_smaller_divisor,
    scale_by_snsm,
    scale_by_subset_norm,
    scale_by_subspace_momentum,
    snsm,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "snsm.npz")
LEAVES = ("tall", "wide", "vector", "scalar")
RATE = optax.piecewise_constant_schedule(0.05, {20: 0.2})
SUBSPACE = {"rank": 2, "update_interval": 7}


def _momentum(**options):
    tx = scale_by_subspace_momentum(**SUBSPACE, bias_correction=False, **options)
    return optax.chain(tx, optax.scale_by_learning_rate(RATE))


# the options of tests/golden/make_snsm.py in our names
CASES = {
    "rows": lambda: adam_sn(RATE, weight_decay=0.1),
    "size": lambda: adam_sn(RATE, subset=6),
    "sqrt": lambda: adam_sn(RATE, 0.8, 0.9, 1e-3, subset="sqrt"),
    "adagrad": lambda: adam_sn(RATE, 0.0, 1.0, bias_correction=False),
    "sm_svd": lambda: _momentum(),
    "sm_topk": lambda: _momentum(projection="topk"),
    "snsm": lambda: snsm(RATE, weight_decay=0.1, **SUBSPACE),
}


def run(tx, params, grads):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g))(params, grads)


def golden():
    return ({k: jnp.asarray(GOLDEN[f"{kind}/{k}"]) for k in LEAVES} for kind in ("first", "grads"))


@pytest.mark.parametrize("case", CASES)
def test_equals_the_official_code(case, x64):
    _, iterates = run(CASES[case](), *golden())
    for k in LEAVES:
        # 36 float64 steps of size 0.05 (measured: 4e-15); singular vectors amplify rounding where values lie close
        np.testing.assert_allclose(iterates[k], GOLDEN[f"{case}/{k}"], rtol=0, atol=1e-12)


def test_the_released_refresh_loses_momentum(x64):
    """The paper starts the momentum from zero in a new subspace; the released code does so one step late."""
    _, iterates = run(CASES["snsm"](), *golden())
    for k in ("tall", "wide"):
        released = GOLDEN[f"snsm_released/{k}"]
        np.testing.assert_allclose(iterates[k][:6], released[:6], rtol=0, atol=1e-12)  # before the first refresh
        # percent of the way from the start, at the end
        off = np.linalg.norm(iterates[k][-1] - released[-1]) / np.linalg.norm(released[-1] - GOLDEN[f"first/{k}"])
        assert 0.01 < off < 0.5


def test_singletons_give_adam_and_one_subset_gives_adagrad_norm(x64):
    params, grads = golden()
    _, ours = run(adam_sn(0.1, eps=0.0, subset=1), params, grads)
    _, adam = run(optax.adam(0.1, eps=0.0), params, grads)
    for k in LEAVES:
        np.testing.assert_allclose(ours[k], adam[k], rtol=0, atol=1e-12)  # float64, another order
    tx = optax.chain(scale_by_subset_norm(0.0, 1.0, 1e-3, subset=35), optax.scale(-0.1))
    _, ours = run(tx, {"tall": params["tall"]}, {"tall": grads["tall"]})
    g = GOLDEN["grads/tall"]
    total = np.cumsum((g**2).sum(axis=(1, 2)))
    wanted = GOLDEN["first/tall"] - 0.1 * np.cumsum(g / (np.sqrt(total)[:, None, None] + 1e-3), axis=0)
    # with b2 = 1 the correction is that of the first moment alone, which b1 = 0 does not need
    np.testing.assert_allclose(ours["tall"], wanted, rtol=0, atol=1e-12)


def test_full_rank_is_momentum_and_rank_zero_is_sgd(x64):
    params, grads = golden()
    matrices = ({k: x[k] for k in ("tall", "wide")} for x in (params, grads))
    params, grads = matrices
    never = {"update_interval": 10**6, "bias_correction": True}
    (_, state), full = run(scale_by_subspace_momentum(rank=99, **never), params, grads)
    _, ema = run(optax.ema(0.9), params, grads)
    (_, empty), none = run(scale_by_subspace_momentum(0.0, rank=0), params, grads)
    for k in params:
        np.testing.assert_allclose(full[k], ema[k], rtol=0, atol=1e-11)  # float64, P^T P of rounding
        np.testing.assert_allclose(none[k], params[k] + np.cumsum(GOLDEN[f"grads/{k}"], axis=0), rtol=0, atol=1e-12)
    assert {k: x.shape for k, x in state.mu.items()} == {"tall": (7, 5), "wide": (4, 6)}
    assert sum(x.size for x in jax.tree.leaves(empty)) == 1  # the counter


def test_random_coordinates_have_momentum_and_the_others_do_not(x64):
    def two_steps(seed):
        tx = scale_by_subspace_momentum(
            0.9, rank=3, update_interval=100, projection="uniform", seed=seed, bias_correction=False
        )
        update, state = jax.jit(tx.update), tx.init(jnp.zeros((7, 5)))
        first, state = update(g1, state)
        second, state = update(g2, state)
        return first, second, state.projectors

    g1, g2 = jnp.asarray(GOLDEN["grads/tall"][:2])
    first, second, rows = two_steps(1)
    assert len(set(rows.tolist())) == 3 and set(rows.tolist()) != set(two_steps(2)[2].tolist())
    rest = jnp.array([i for i in range(7) if i not in rows.tolist()])
    np.testing.assert_allclose(first[rows], 0.1 * g1[rows], rtol=1e-12)
    np.testing.assert_allclose(second[rows], (0.09 * g1 + 0.1 * g2)[rows], rtol=1e-12)
    np.testing.assert_array_equal(second[rest], g2[rest])


def test_random_rows_are_chosen_anew_and_for_each_matrix():
    params = {"a": jnp.zeros((40, 2)), "b": jnp.zeros((40, 2))}
    tx = scale_by_subspace_momentum(rank=3, update_interval=2, projection="uniform")
    state, chosen = tx.init(params), []
    for _ in range(2):
        _, state = jax.jit(tx.update)(params, state)
        chosen += [set(rows.tolist()) for rows in state.projectors.values()]
    # four choices of 3 rows of 40
    assert all(chosen[i] != chosen[j] for i in range(4) for j in range(i))


def test_a_square_matrix_has_its_subspace_on_the_right(x64):
    g, h = np.random.default_rng(3).normal(size=(2, 4, 4))
    tx = scale_by_subspace_momentum(0.5, rank=1, bias_correction=False)
    _, state = tx.update(jnp.asarray(g), tx.init(jnp.asarray(g)))
    update, _ = tx.update(jnp.asarray(h), state)
    v = np.linalg.svd(g)[2][0]
    np.testing.assert_allclose(update, h + np.outer(0.25 * g @ v + 0.5 * h @ v - h @ v, v), rtol=0, atol=1e-12)


def test_state_is_small():
    params = {"w": jnp.zeros((64, 16)), "b": jnp.zeros(16)}
    state = scale_by_snsm(rank=4).init(params)
    # momentum 64 x 4, projector 4 x 16, one second moment a row; the vector has Adam's two
    assert sum(x.size for x in jax.tree.leaves(state)) == 64 * 4 + 4 * 16 + 64 + 2 * 16 + 1
    state = snsm(0.1, rank=4, subset="sqrt", projection="topk").init(params)[0]
    assert state.nu["w"].shape == (32, 1) and state.momentum.projectors["w"].shape == (4,)
    nu = scale_by_subset_norm(subset="sqrt").init(params).nu
    assert nu["w"].shape == (32, 1) and nu["b"].shape == (16,)
    # the longest axis of a kernel keeps its numbers
    assert scale_by_subset_norm().init(jnp.zeros((3, 3, 2, 8))).nu.shape == (1, 1, 1, 8)


def test_all_parameters_may_be_another_optimizers():
    for tx in (adam_sn(0.1), snsm(0.1)):
        assert tx.update({}, tx.init({}), {})[0] == {}


def test_divisors():
    for n in range(1, 40):
        for k in range(1, 45):
            assert closest_smaller_divisor(n, k) == max(d for d in range(1, min(n, k) + 1) if n % d == 0)


def test_clear_errors():
    with pytest.raises(ValueError, match="subset must be 'rows', 'sqrt' or a size ≥ 1, got 'columns'"):
        scale_by_subset_norm(subset="columns")
    with pytest.raises(ValueError, match="subset must be at least 1, got 0"):
        scale_by_subset_norm(subset=0)
    with pytest.raises(ValueError, match="projection must be one of svd, uniform, topk, got 'qr'"):
        scale_by_subspace_momentum(projection="qr")
    with pytest.raises(ValueError, match=r"b2 must lie in \[0.0, 1.0\], got 1.1"):
        scale_by_snsm(b2=1.1)
    with pytest.raises(TypeError, match="rank decides shapes and must be a Python integer"):
        jax.jit(lambda rank: scale_by_subspace_momentum(rank=rank).init(jnp.ones((2, 2))).count)(2)
    with pytest.raises(ValueError, match="snsm decays the parameters"):
        snsm(0.1).update(jnp.ones(2), snsm(0.1).init(jnp.ones(2)))
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        closest_smaller_divisor(0, 3)
