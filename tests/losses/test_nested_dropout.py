"""Nested dropout against the release's distribution and principal components; co-teaching by counting."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.decomposition import PCA

from jaxtrain.losses import coteaching_schedule, coteaching_select, nested_dropout, truncate_features

RNG = np.random.default_rng(0)
D, N = 12, 40_000
LAWS = {
    # the release's distribution: a normal density without the usual half in the exponent
    "half_normal": lambda b, s: np.exp(-((b / s) ** 2)),
    "geometric": lambda b, s: np.exp(-b / s),
    "uniform": lambda b, s: np.ones(len(b)),
}


def survival(dist, scale):
    p = LAWS[dist](np.arange(1, D + 1), scale)
    return np.array([p[j:].sum() for j in range(D)]) / p.sum()


@pytest.mark.parametrize("dist, scale", [("half_normal", 5.0), ("geometric", 2.0), ("uniform", 1.0)])
def test_features_are_kept_as_often_as_the_survival_function_says(dist, scale):
    y = np.asarray(nested_dropout(jax.random.key(1), jnp.ones((N, D)), dist=dist, scale=scale))
    assert np.all(y[:, 0] == 1) and np.all(np.diff(y, axis=1) <= 0)  # prefixes, never empty
    p = survival(dist, scale)
    # five standard errors of a frequency
    assert np.all(np.abs(y.mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / N))


def test_rescaling_keeps_the_mean():
    x = jnp.asarray(RNG.normal(size=D), jnp.float32)
    y = nested_dropout(jax.random.key(2), jnp.tile(x, (N, 1)), scale=8.0, rescale=True)
    p = survival("half_normal", 8.0)
    np.testing.assert_allclose(y[0][y[0] != 0], (x / p)[: int((y[0] != 0).sum())], rtol=1e-5)  # float32 sums
    assert np.all(np.abs(y.mean(0) - x) <= 1e-5 + 5 * np.abs(x) * np.sqrt((1 / p - 1) / N))  # five standard errors


def test_one_number_for_all_or_one_for_each():
    x = jnp.ones((64, 3, D))
    each = nested_dropout(jax.random.key(3), x, dist="uniform", scale=1.0).sum(-1)
    assert len(np.unique(each)) == D and np.unique(np.asarray(each)[0]).size > 1
    for seed in range(3):
        assert np.unique(nested_dropout(jax.random.key(seed), x, scale=5.0, shared=True).sum(-1)).size == 1


def test_extremes_of_the_scale():
    x = jnp.asarray(RNG.normal(size=(50, D)), jnp.bfloat16)
    for rescale in (False, True):
        only_first = nested_dropout(jax.random.key(0), x, scale=1e-3, rescale=rescale)
        np.testing.assert_array_equal(only_first, truncate_features(x, 1))
        assert only_first.dtype == x.dtype
    wide, flat = (
        nested_dropout(jax.random.key(0), jnp.ones((50, D)), dist=dist, scale=1e12)
        for dist in ("half_normal", "uniform")
    )
    np.testing.assert_array_equal(wide, flat)


def test_truncation():
    x = jnp.asarray(RNG.normal(size=(3, D)), jnp.float32)
    np.testing.assert_array_equal(truncate_features(x, D), x)
    every = jax.vmap(lambda k: truncate_features(x, k))(jnp.arange(1, D + 1))
    np.testing.assert_array_equal(every, [np.where(np.arange(D) < k, x, 0) for k in range(1, D + 1)])


def test_a_linear_autoencoder_finds_the_principal_components_in_order():
    """The theorem of Rippel et al.: with every prefix at its best, unit j is component j, not only their span."""
    d, turn = 5, np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    data = (RNG.normal(size=(400, d)) * [3.0, 2.2, 1.6, 1.2, 0.8]) @ turn.T
    data -= data.mean(0)
    x, tx = jnp.asarray(data, jnp.float32), optax.adam(optax.cosine_decay_schedule(0.03, 1500))
    start = jax.random.normal(jax.random.key(0), (2, d, d)) / np.sqrt(d)

    def step(carry, key):
        w, state = carry

        def loss(w):
            return jnp.mean((x - nested_dropout(key, x @ w[0], dist="uniform", scale=1.0) @ w[1]) ** 2)

        updates, state = tx.update(jax.grad(loss)(w), state)
        return (optax.apply_updates(w, updates), state), None

    run = jax.jit(lambda keys: jax.lax.scan(step, (start, tx.init(start)), keys)[0][0])
    decoder = np.asarray(run(jax.random.split(jax.random.key(1), 1500))[1])
    cosines = PCA().fit(data).components_ @ (decoder / np.linalg.norm(decoder, axis=1, keepdims=True)).T
    assert np.all(np.abs(np.diag(cosines)) > 0.99), np.abs(np.diag(cosines))  # noise of the last steps


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.35, 0.5, 1 - 0.9, 1.0])
def test_each_network_is_taught_by_the_other(keep):
    a, b = RNG.permutation(20) / 7.0, RNG.permutation(20) / 7.0
    for_a, for_b = coteaching_select(jnp.asarray(a), jnp.asarray(b), keep_fraction=keep)
    count = int(round(keep * 20, 9))
    np.testing.assert_array_equal(np.flatnonzero(for_a), np.sort(np.argsort(b)[:count]))
    np.testing.assert_array_equal(np.flatnonzero(for_b), np.sort(np.argsort(a)[:count]))


@pytest.mark.parametrize("forget", [0.6, 0.8])
def test_rounding_of_the_schedule_costs_no_example(forget):
    # in single precision 1 - 0.6 is 0.39999998, of which 10 examples have 3.9999998
    keep = coteaching_schedule(forget_rate=jnp.float32(forget), num_gradual=5)(9)
    assert keep < 1 - forget
    masks = coteaching_select(jnp.arange(10.0), jnp.arange(10.0), keep_fraction=keep)
    assert [int(mask.sum()) for mask in masks] == [round(10 * (1 - forget))] * 2


def test_ties_nan_and_traced_fractions():
    a, b = jnp.array([1.0, jnp.nan, 1.0, 1.0]), jnp.array([jnp.nan, 2.0, 3.0, 1.0])
    pick = jax.jit(jax.vmap(lambda f: coteaching_select(a, b, keep_fraction=f)))
    for_a, for_b = pick(jnp.array([0.5, 0.75]))
    np.testing.assert_array_equal(for_a, [[False, True, False, True], [False, True, True, True]])
    np.testing.assert_array_equal(for_b, [[True, False, True, False], [True, False, True, True]])


def test_schedule():
    t = np.arange(30)
    got = jax.vmap(coteaching_schedule(forget_rate=0.4, num_gradual=10.0))(t)
    np.testing.assert_allclose(got, 1 - np.minimum(t / 10 * 0.4, 0.4), rtol=1e-6)  # float32
    got = jax.vmap(coteaching_schedule(forget_rate=0.4, num_gradual=10.0, exponent=2))(t)
    np.testing.assert_allclose(got, 1 - 0.4 * np.minimum(t**2 / 10, 1), rtol=1e-6)


def test_bad_input():
    key, x = jax.random.key(0), jnp.ones((2, 3))
    with pytest.raises(TypeError, match="typed key|parameter 'key'"):
        nested_dropout(0, x, scale=1.0)
    with pytest.raises(ValueError, match="dist must be one of geometric, half_normal, uniform, got 'normal'"):
        nested_dropout(key, x, dist="normal", scale=1.0)
    with pytest.raises(ValueError, match="scale must lie in"):
        nested_dropout(key, x, scale=0.0)
    with pytest.raises(ValueError, match="with d at least 1"):
        nested_dropout(key, jnp.ones(()), scale=1.0)
    with pytest.raises(ValueError, match="k = 4 of 3 features"):
        truncate_features(x, 4)
    with pytest.raises(ValueError, match="k must be at least 1"):
        truncate_features(x, 0)
    with pytest.raises(ValueError, match="one for each example"):
        coteaching_select(jnp.ones(3), jnp.ones(4), keep_fraction=0.5)
    with pytest.raises(ValueError, match="keep_fraction must lie in"):
        coteaching_select(jnp.ones(3), jnp.ones(3), keep_fraction=1.5)
    with pytest.raises(ValueError, match="forget_rate must lie in"):
        coteaching_schedule(forget_rate=2.0, num_gradual=5)
    with pytest.raises(ValueError, match="num_gradual must lie in"):
        coteaching_schedule(forget_rate=0.2, num_gradual=0)
