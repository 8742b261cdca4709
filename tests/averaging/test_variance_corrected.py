"""Variance-corrected averaging against closed forms and a float64 loop; gossip against a loop over nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtrain.averaging import gossip_round, rescale_to_variance, variance_corrected_average
from jaxtrain.testing import check_aggregator

average = jax.jit(variance_corrected_average)  # compiles less than the same by single operations


def by_hand(models, own, c, eps):
    """One tensor, in the order of the authors' simulator: mean, target from each model's variance, then rescale."""
    average = c * own + (1 - c) * sum(models) / len(models)
    target = c * np.var(own, ddof=1) + (1 - c) * sum(np.var(m, ddof=1) for m in models) / len(models)
    mean = average.mean()
    return (average - mean) * np.sqrt((target + eps) / (np.var(average, ddof=1) + eps)) + mean


@pytest.fixture
def models(x64):
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.normal(1, 2, (5, 4, 3))), "b": jnp.asarray(rng.normal(size=(5, 3)))}


@pytest.mark.parametrize("c, eps", [(0.0, 0.0), (0.0, 1e-4), (0.3, 0.0), (0.3, 1e-4), (1.0, 0.0)])
def test_equals_the_rule_written_out(models, c, eps):
    own = jax.tree.map(lambda x: x[1] + 1, models)
    got = average(models, self_model=own, conservative=c, eps=eps)
    for name, stack in models.items():
        # float64, a handful of roundings
        np.testing.assert_allclose(
            got[name], by_hand(list(np.asarray(stack)), np.asarray(own[name]), c, eps), rtol=1e-12
        )


def test_the_variance_is_exactly_the_target(models):
    got = average(models)
    for name, stack in models.items():
        target = np.mean([np.var(m, ddof=1) for m in np.asarray(stack)])
        np.testing.assert_allclose(np.var(got[name], ddof=1), target, rtol=1e-13)
        np.testing.assert_allclose(np.mean(got[name]), np.mean(stack), rtol=1e-13)


def test_unlike_models_keep_their_variance_and_like_models_their_mean():
    n, v = 8, 0.5
    stack = jnp.asarray(np.random.default_rng(0).normal(0, v**0.5, (n, 300, 200)), jnp.float32)
    plain, corrected = stack.mean(axis=0), average(stack)
    # 60,000 entries: the standard error of a variance is 0.6 %
    np.testing.assert_allclose(np.var(plain), v / n, rtol=0.02)
    np.testing.assert_allclose(np.var(corrected), v, rtol=0.02)
    same = jnp.broadcast_to(stack[:1], (4, 300, 200))
    # float32: a sum of 60,000 squares
    np.testing.assert_allclose(average(same), stack[0], rtol=1e-5, atol=1e-6)


def test_what_has_no_variance_is_averaged_plainly(x64):
    stack = {
        "scalar": jnp.array([1.0, 3.0]),
        "one": jnp.array([[1.0], [3.0]]),
        "constant": jnp.array([[2.0, 2.0], [4.0, 4.0]]),
        "none": jnp.zeros((2, 0)),
    }
    got = average(stack)
    assert float(got["scalar"]) == 2.0 and got["one"].tolist() == [2.0]
    assert got["constant"].tolist() == [3.0, 3.0] and got["none"].shape == (0,)
    # a constant average of models that are not: there is no direction to stretch
    assert variance_corrected_average(jnp.array([[1.0, -1.0], [-1.0, 1.0]])).tolist() == [0.0, 0.0]


def test_ignored_leaves(models):
    got = variance_corrected_average(models, ignore={"w": False, "b": True})
    np.testing.assert_allclose(got["b"], np.mean(models["b"], axis=0), rtol=1e-14)
    same = variance_corrected_average(models, ignore=lambda p: jax.tree.map(lambda x: x.ndim < 2, p))
    jax.tree.map(np.testing.assert_array_equal, got, same)


def test_keeps_the_laws_of_aggregators():
    # not "pytree": the variance is that of a tensor, so that cutting one changes the result
    check_aggregator(variance_corrected_average, except_=("pytree",))


def _graph(seed, n):
    rng = np.random.default_rng(seed)
    graph = rng.random((n, n)) < 0.4
    graph[2] = False  # hears nobody
    return graph


@pytest.mark.parametrize("averaging", ["mean", "variance_corrected"])
def test_a_round_equals_a_loop_over_nodes(x64, averaging):
    n, c = 7, 0.25
    rng = np.random.default_rng(1)
    params = {"w": rng.normal(size=(n, 3, 2)), "s": rng.normal(size=n)}
    graph = _graph(2, n)
    got = jax.jit(lambda p, a: gossip_round(None, p, a, averaging=averaging, conservative=c))(params, graph)
    for name, stack in params.items():
        for i in range(n):
            heard = [stack[j] for j in range(n) if graph[i, j]]
            if not heard:
                want = stack[i]
            elif averaging == "mean" or np.size(stack[i]) == 1:
                want = c * stack[i] + (1 - c) * np.mean(heard, axis=0)
            else:
                want = by_hand(heard, stack[i], c, 0.0)
            np.testing.assert_allclose(got[name][i], want, rtol=1e-11, atol=1e-13)


def test_a_complete_graph_is_the_average_of_all(models):
    got = jax.jit(lambda m: gossip_round(None, m, jnp.ones((5, 5))))(models)
    want = average(models)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, np.broadcast_to(w, g.shape), rtol=1e-12), got, want)


def test_drawn_neighbours():
    n, k = 6, 2
    graph = np.ones((n, n), bool)
    graph[0] = [True, True, False, False, False, False]  # itself and one other
    one_hot = jnp.eye(n)  # what a node hears shows in its average

    def heard(key):
        return gossip_round(key, one_hot, graph, averaging="mean", neighbors=k) > 0

    drawn = np.asarray(jax.vmap(heard)(jax.random.split(jax.random.key(0), 3000)))
    assert drawn[:, range(n), range(n)].all()  # self-loops stay
    assert (drawn.sum(axis=2) == [2, 3, 3, 3, 3, 3]).all()
    others = drawn[:, 1:].mean(axis=0)[~np.eye(n, dtype=bool)[1:]]
    # each of 5 neighbours with probability 2/5; 3,000 draws have a standard error of 0.9 %
    np.testing.assert_allclose(others, k / (n - 1), atol=0.045)


def test_a_broken_model_reaches_those_who_hear_it_only():
    params = {"w": jnp.ones((4, 2)).at[3, 0].set(jnp.nan), "b": jnp.ones(4)}
    graph = jnp.array([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
    got = jax.jit(lambda p: gossip_round(None, p, graph))(params)
    assert np.isfinite(got["w"]).all(axis=1).tolist() == [True, False, True, True]
    assert np.isfinite(got["b"]).tolist() == [True, False, True, True]


def test_sharded_nodes_give_the_same():
    mesh = jax.make_mesh((8,), ("node",), axis_types=(jax.sharding.AxisType.Auto,))
    params = jax.random.normal(jax.random.key(1), (8, 6, 4))
    graph = jnp.asarray(_graph(3, 8))
    step = jax.jit(lambda p: gossip_round(None, p, graph))
    spread = step(jax.device_put(params, NamedSharding(mesh, PartitionSpec("node"))))
    np.testing.assert_allclose(spread, step(params), rtol=1e-5, atol=1e-6)  # float32, sums in another order


def test_numbers_may_be_traced(models):
    own = jax.tree.map(lambda x: x[0], models)

    def of(c, eps):
        return average(models, self_model=own, conservative=c, eps=eps)

    grid = jax.jit(jax.vmap(of))(jnp.array([0.0, 0.5]), jnp.array([0.0, 0.1]))
    for i, (c, eps) in enumerate([(0.0, 0.0), (0.5, 0.1)]):
        jax.tree.map(lambda g, w, i=i: np.testing.assert_allclose(g[i], w, rtol=1e-12), grid, of(c, eps))
    assert np.isfinite(jax.grad(lambda c: of(c, 0.0)["w"].sum())(0.5))


def test_clear_errors():
    models = {"w": jnp.ones((2, 3))}
    for call, kind, message in (
        (lambda: variance_corrected_average(models, conservative=0.5), ValueError, "weight of self_model"),
        (lambda: variance_corrected_average(models, conservative=1.5), ValueError, r"\[0.0, 1.0\], got 1.5"),
        (lambda: variance_corrected_average(models, self_model={"v": jnp.ones(3)}), ValueError, r"\['w'\] is missing"),
        (lambda: variance_corrected_average(models, ignore={"v": True}), ValueError, "ignore must be a tree"),
        (lambda: variance_corrected_average({"w": jnp.ones((2, 3), int)}), TypeError, "parameters are floating"),
        (lambda: rescale_to_variance(jnp.ones(3), -1.0), ValueError, "target_var must lie"),
        (lambda: gossip_round(None, models, jnp.ones((3, 3))), ValueError, r"must be \(2, 2\) for 2 models"),
        (lambda: gossip_round(None, models, jnp.ones((2, 2)), averaging="median"), ValueError, "'mean' or 'variance"),
        (lambda: gossip_round(None, models, jnp.ones((2, 2)), neighbors=1), TypeError, "needs a typed key"),
        (lambda: gossip_round(jax.random.key(0), models, jnp.ones((2, 2)), neighbors=0), ValueError, "neighbors must"),
    ):
        with pytest.raises(kind, match=message):
            call()
