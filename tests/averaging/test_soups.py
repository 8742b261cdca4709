"""Soups, WiSE-FT and Model Stock: mergekit's values, closed forms, laws of aggregators, bad input."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.averaging import (
    greedy_soup,
    model_stock,
    model_stock_cosine,
    model_stock_ratio,
    periodic_model_stock,
    soup,
    stack_models,
    wise_ft,
)
from jaxtrain.testing import check_aggregator

# compiled once a shape: most of the time of these tests is compilation
stock = jax.jit(model_stock, static_argnames="granularity")
GOLDEN = Path(__file__).parents[1] / "golden" / "mergekit.npz"


def _tree(rng, *lead, scale=1.0):
    return {
        "w": jnp.asarray(scale * rng.normal(size=(*lead, 4, 3))),
        "layer": [jnp.asarray(scale * rng.normal(size=(*lead, 3))), jnp.asarray(scale * rng.normal(size=lead))],
    }


def _close(got, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, expected)


def test_soup_and_mergekit_agree(x64):
    golden = np.load(GOLDEN)
    got = soup({"w": jnp.asarray(golden["models"])}, golden["weights"])
    np.testing.assert_allclose(got["w"], golden["linear"], rtol=1e-14, atol=1e-15)  # float64, sums of five


@pytest.mark.parametrize("k", [2, 3, 5])
def test_model_stock_and_mergekit_agree(k, x64):
    """The mean over pairs of cosines, without forming pairs."""
    golden = np.load(GOLDEN)
    got = stock(jnp.asarray(golden["models"][:k]), jnp.asarray(golden["base"]))
    np.testing.assert_allclose(got, golden[f"model_stock_{k}"], rtol=1e-13, atol=1e-15)  # float64


def test_model_stock_does_not_depend_on_the_size_of_the_differences(x64):
    """mergekit 0.1.5 floors the product of two lengths at 1e-6: for small differences it returns nearly the anchor."""
    golden = np.load(GOLDEN)
    base, models = golden["base"], golden["models"][:2]
    share = 1e-4
    small = stock(jnp.asarray(base + share * (models - base)), jnp.asarray(base)) - base
    # a difference of 1e-4 to numbers of order one keeps twelve of sixteen digits
    np.testing.assert_allclose(small / share, golden["model_stock_2"] - base, rtol=0, atol=1e-11)
    peer = np.linalg.norm(golden["model_stock_small"] - base) / np.linalg.norm(small)
    assert peer < 0.05, peer
    # in float32 the squares of these would be zero
    tiny = jnp.float32(1e-30) * jnp.asarray(models - base, jnp.float32)
    cosine = model_stock_cosine(tiny, jnp.zeros_like(tiny[0]))
    np.testing.assert_allclose(cosine, model_stock_cosine(jnp.asarray(models), jnp.asarray(base)), rtol=1e-6)


def test_model_stock_limits(x64):
    rng = np.random.default_rng(0)
    base, one = _tree(rng), _tree(rng)
    same = stack_models([one] * 3)
    _close(stock(same, base), one, atol=1e-15)  # cosine 1: the average
    orthogonal = jnp.eye(4) * jnp.arange(1.0, 5.0)[:, None]
    np.testing.assert_array_equal(stock(orthogonal, jnp.zeros(4)), np.zeros(4))  # cosine 0: the anchor
    away = jnp.array([[1.0, 0.0], [-1.0, 0.1]])
    np.testing.assert_array_equal(stock(away, jnp.zeros(2)), np.zeros(2))  # clipped
    unmoved = stack_models([base] * 3)
    _close(stock(unmoved, base), base, atol=1e-15)
    assert float(model_stock_cosine(unmoved, base)["w"]) == 1.0
    # a pair with a model that has not moved counts as orthogonal: cosine (1 + 0 + 0) / 3
    mixed = jnp.array([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(model_stock_cosine(mixed, jnp.zeros(2)), 1 / 3, rtol=1e-14)
    # by hand: k = 4, cosine 1/2: 2 / 2.5
    np.testing.assert_allclose(model_stock_ratio(0.5, num_models=4), 0.8, rtol=1e-15)


@pytest.mark.parametrize("granularity", ["leaf", "global"])
def test_model_stock_is_the_nearest_point_to_the_centre(granularity, x64):
    """Around a centre with noise of equal length, orthogonal to everything: the projection of the centre, exactly."""
    d, k = 40, 3
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(d, k + 1)))
    base, centre = np.zeros(d), 2.0 * q[:, 0]
    models = centre + 3.0 * q[:, 1:].T
    # least squares: the point of the affine hull of anchor and models nearest to the centre
    coefficients = np.linalg.lstsq(models.T, centre, rcond=None)[0]
    cut = [10, 25]
    stacked = dict(enumerate(jnp.split(jnp.asarray(models), cut, axis=1)))
    anchor = dict(enumerate(jnp.split(jnp.asarray(base), cut)))
    if granularity == "leaf":
        stacked, anchor = {0: jnp.asarray(models)}, {0: jnp.asarray(base)}
    got = np.concatenate(jax.tree.leaves(stock(stacked, anchor, granularity=granularity)))
    np.testing.assert_allclose(got, models.T @ coefficients, atol=1e-14)  # float64
    assert np.linalg.norm(got - centre) < 0.9 * np.linalg.norm(models.mean(0) - centre)


def test_periodic_model_stock(x64):
    rng = np.random.default_rng(2)
    base, stacked = _tree(rng), _tree(rng, 3, scale=0.1)
    stacked = jax.tree.map(jnp.add, stacked, base)
    merge = jax.jit(lambda step, x, every: periodic_model_stock(step, x, base, every=every))
    merged = stock(stacked, base)
    for step in (0, 4):
        jax.tree.map(np.testing.assert_array_equal, merge(step, stacked, 5), stacked)
    for i in range(3):
        _close(jax.tree.map(lambda x, i=i: x[i], merge(10, stacked, 5)), merged, atol=1e-15)


def test_greedy_soup_equals_a_loop_written_from_the_recipe(x64):
    models = np.random.default_rng(3).normal(size=(12, 5))

    def score(w):
        return -float(np.sum(np.square(w)))

    scores = [score(m) for m in models]
    order = sorted(range(12), key=lambda i: -scores[i])
    chosen, best = [order[0]], scores[order[0]]
    for i in order[1:]:
        candidate = score(models[[*chosen, i]].mean(axis=0))
        if candidate >= best:
            chosen, best = [*chosen, i], candidate
    assert 1 < len(chosen) < 12

    def traced_score(params):
        return -jnp.sum(jnp.square(params["w"]))

    stacked = {"w": jnp.asarray(models)}
    for known in (None, jnp.asarray(scores)):
        params, selected = jax.jit(lambda s, known=known: greedy_soup(s, traced_score, scores=known))(stacked)
        assert np.flatnonzero(selected).tolist() == sorted(chosen)
        np.testing.assert_allclose(params["w"], models[chosen].mean(axis=0), atol=1e-15)
        assert traced_score(params) >= max(scores)
    _close(soup(stacked, selected), params, atol=1e-15)


def test_greedy_soup_of_a_score_that_cannot_be_traced():
    models = jnp.array([0.0, 3.0, 9.0])
    params, selected = greedy_soup(models, lambda w: -abs(float(w) - 1.4), host=True)
    assert (float(params), selected.tolist()) == (1.5, [True, True, False])
    # a NaN of the host, and a single model
    params, selected = greedy_soup(models, lambda w: float("nan") if w > 4 else float(w), host=True)
    assert (float(params), selected.tolist()) == (3.0, [False, True, False])
    assert float(greedy_soup(models[1:2], float, host=True)[0]) == 3.0


def test_greedy_soup_without_a_number_to_go_by():
    models = jnp.array([1.0, 2.0, 4.0])
    params, selected = greedy_soup(models, lambda w: jnp.where(w > 1.6, jnp.nan, w))
    # means with the others are 1.5 (kept) and then 2.33 (NaN)
    assert (float(params), selected.tolist()) == (1.5, [True, True, False])
    params, selected = greedy_soup(models, lambda w: w * jnp.nan)
    assert (float(params), selected.tolist()) == (1.0, [True, False, False])


def test_linear_models_average_like_ensembles(x64):
    """For a model linear in its parameters a soup is the ensemble, and WiSE-FT mixes logits."""
    rng = np.random.default_rng(4)
    stacked = {"w": jnp.asarray(rng.normal(size=(6, 5, 3))), "b": jnp.asarray(rng.normal(size=(6, 3)))}
    x = jnp.asarray(rng.normal(size=(11, 5)))

    def apply(params):
        return x @ params["w"] + params["b"]

    np.testing.assert_allclose(apply(soup(stacked)), jax.vmap(apply)(stacked).mean(axis=0), atol=1e-14)
    one, two = (jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(2))
    line = jax.vmap(lambda a: apply(wise_ft(one, two, alpha=a)))(jnp.linspace(-0.5, 1.5, 5))
    for a, got in zip(np.linspace(-0.5, 1.5, 5), line, strict=True):
        np.testing.assert_allclose(got, (1 - a) * apply(one) + a * apply(two), atol=1e-13)


def test_wise_ft_ends(x64):
    rng = np.random.default_rng(5)
    one, two = _tree(rng), _tree(rng)
    jax.tree.map(np.testing.assert_array_equal, wise_ft(one, two, alpha=0.0), one)
    jax.tree.map(np.testing.assert_array_equal, wise_ft(one, two, alpha=1), two)
    half = jax.tree.map(lambda a, b: (a + b) / 2, one, two)
    _close(wise_ft(one, two), half, atol=1e-15)


def test_keep_the_laws_of_aggregators():
    def zero(stacked):
        return jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), stacked)

    def size(params):
        return -sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(params))

    check_aggregator(jax.jit(soup), linear_under_scaling=True)
    # one cosine for the whole tree: cutting a matrix into leaves does not matter
    check_aggregator(jax.jit(lambda x: stock(x, zero(x), granularity="global")))
    check_aggregator(jax.jit(lambda x: stock(x, zero(x))), laws=["shape", "dtype"])
    check_aggregator(jax.jit(lambda x: greedy_soup(x, size)[0]), laws=["shape", "dtype", "vmap", "bad_input"])


def test_half_precision_is_averaged_in_float32():
    rng = np.random.default_rng(6)
    stacked = jnp.asarray(1 + rng.random((1000, 8)), jnp.bfloat16)
    exact = np.asarray(stacked, np.float64).mean(axis=0)
    same = jnp.broadcast_to(stacked[:1], stacked.shape)
    weights = jnp.ones(1000)
    for got, expected in (
        (soup(stacked), exact),
        (soup(stacked, weights), exact),
        (stock(same, jnp.zeros(8, jnp.bfloat16)), np.asarray(stacked[0], np.float64)),
    ):
        assert got.dtype == jnp.bfloat16
        # half a unit in the last place of bfloat16 between 1 and 2; in bfloat16 the sum itself would stop near 256
        np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=0, atol=2**-8)


def test_sharded_over_members_and_parameters():
    """Members over one axis, matrices over another: the values of the unsharded stack, and sharded results."""
    mesh = jax.make_mesh((4, 2), ("member", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.sharding.PartitionSpec("member", "fsdp")
    rng = np.random.default_rng(7)
    stacked = jnp.asarray(rng.normal(size=(8, 6, 5)) + 1, jnp.float32)
    base = jnp.zeros((6, 5), jnp.float32)
    spread = jax.device_put(stacked, jax.sharding.NamedSharding(mesh, spec))
    anchor = jax.device_put(base, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp")))

    def score(w):
        return -jnp.sum(jnp.square(w - 1))

    for fn in (
        lambda s, b: soup(s),
        lambda s, b: soup(s, jnp.arange(8.0)),
        lambda s, b: stock(s, b),
        lambda s, b: greedy_soup(s, score)[0],
    ):
        got = jax.jit(fn)(spread, anchor)
        # float32, summed in another order
        np.testing.assert_allclose(got, jax.jit(fn)(stacked, base), rtol=2e-6, atol=1e-6)


def test_clear_errors():
    models = [{"a": jnp.zeros(2), "b": jnp.zeros(3)}, {"a": jnp.zeros(2), "b": jnp.zeros(4)}]
    with pytest.raises(ValueError, match=r"model 1 against model 0: the trees differ: \['b'\] is float32\[4\]"):
        stack_models(models)
    with pytest.raises(ValueError, match=r"\['b'\] is missing"):
        stack_models([models[0], {"a": jnp.zeros(2)}])
    with pytest.raises(ValueError, match="there is no model"):
        stack_models([])
    with pytest.raises(ValueError, match="the leaves agree, their containers do not"):
        stack_models([[jnp.zeros(1)], (jnp.zeros(1),)])
    stacked = stack_models([models[0]] * 2)
    one = jax.tree.map(lambda x: x[:1], stacked)
    with pytest.raises(ValueError, match="model_stock needs at least 2 models, the stack holds 1"):
        model_stock(one, models[0])
    with pytest.raises(ValueError, match=r"the pretrained model against one model .* \['b'\] is float32\[4\]"):
        model_stock(stacked, models[1])
    with pytest.raises(ValueError, match="granularity must be one of"):
        model_stock(stacked, models[0], granularity="layer")
    with pytest.raises(ValueError, match="num_models must lie in"):
        model_stock_ratio(0.5, num_models=1)
    with pytest.raises(ValueError, match="every must lie in"):
        periodic_model_stock(1, stacked, models[0], every=0)
    with pytest.raises(ValueError, match=r"weights has shape \(3,\), the stack holds 2 models"):
        soup(stacked, jnp.ones(3))
    with pytest.raises(ValueError, match=r"weights must lie in \[0.0, inf\]"):
        soup(stacked, jnp.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="all weights are zero"):
        soup(stacked, jnp.zeros(2))
    with pytest.raises(TypeError, match=r"\['n'\] has dtype int32; parameters are floating"):
        soup({"n": jnp.zeros(2, jnp.int32)})
    with pytest.raises(ValueError, match=r"scores has shape \(3,\)"):
        greedy_soup(stacked, lambda p: 0.0, scores=jnp.ones(3))
    with pytest.raises(ValueError, match=r"wise_ft: the fine-tuned against the pretrained model: .*\['b'\]"):
        wise_ft(models[0], models[1])
    with pytest.raises(ValueError, match="alpha must lie in"):
        wise_ft(models[0], models[0], alpha=np.nan)
