"""Deep combinatorial aggregation: enumeration, the released training loss in NumPy, and limits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, rel_entr, softmax

from jaxtrain.averaging import consistency_loss, dca_predict, dca_sample, dca_train_loss, dcwa


def _copies(n, dtype=jnp.float32, seed=0):
    """Two layers for 3 inputs and 4 classes; leaf values say which copy they come from."""
    rng = np.random.default_rng(seed)
    shapes = {"one": {"kernel": (3, 5), "bias": (5,)}, "two": {"kernel": (5, 4), "bias": (4,)}}
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=(n, *s)), dtype), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )


def _logits(params, x):
    hidden = jnp.tanh(x @ params["one"]["kernel"] + params["one"]["bias"])
    return hidden @ params["two"]["kernel"] + params["two"]["bias"]


def _numbered(n):
    """Every entry is the number of its copy."""
    return jax.tree.map(
        lambda x: jnp.broadcast_to(jnp.arange(n).reshape(n, *[1] * (x.ndim - 1)), x.shape) * 1.0, _copies(n)
    )


def _draw(components, count, **options):
    keys = jax.random.split(jax.random.key(3), count)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda k: dca_sample(k, components, **options)))(keys))


def test_layers_are_drawn_whole_evenly_and_independently():
    n, count = 3, 1800
    drawn = _draw(_numbered(n), count)
    seen = {}
    for name, layer in drawn.items():
        choice = layer["bias"][:, 0]
        for leaf in layer.values():  # kernel and bias come from one copy
            assert (leaf.reshape(count, -1) == choice[:, None]).all()
        seen[name] = choice
    pairs, counts = np.unique(np.stack([seen["one"], seen["two"]]), axis=1, return_counts=True)
    assert {tuple(p) for p in pairs.T} == set(itertools.product(range(n), repeat=2))  # n^L combinations
    # 200 expected in each of 9 cells, standard error 13
    np.testing.assert_allclose(counts, count / n**2, atol=65)


def test_channels_are_drawn_for_kernel_and_bias_together():
    n, count = 3, 600
    drawn = _draw(_numbered(n), count, granularity="channel")
    for layer in drawn.values():
        assert (layer["kernel"] == layer["bias"][:, None, :]).all()
    bias = drawn["one"]["bias"]
    assert all(set(column) == {0.0, 1.0, 2.0} for column in bias.T)
    # neighbouring channels are independent: they agree in a third of the draws, standard error 2 %
    np.testing.assert_allclose(np.mean(bias[:, 0] == bias[:, 1]), 1 / n, atol=0.1)


def test_models_and_groups_of_layers():
    drawn = _draw(_numbered(3), 60, granularity="model")
    flat = np.concatenate([x.reshape(60, -1) for x in jax.tree.leaves(drawn)], axis=1)
    assert (flat == flat[:, :1]).all() and set(flat[:, 0]) == {0.0, 1.0, 2.0}
    three = {name: {"w": jnp.arange(3.0)} for name in "abc"}
    drawn = _draw(three, 200, granularity=lambda path: path.startswith("['a']"))
    assert (drawn["b"]["w"] == drawn["c"]["w"]).all() and (drawn["a"]["w"] != drawn["b"]["w"]).any()


def test_the_mean_of_copies_is_the_mean_of_all_combinations(x64):
    n = 3
    copies = _copies(n, jnp.float64)
    combined = [
        {
            "one": jax.tree.map(lambda x, i=i: x[i], copies["one"]),
            "two": jax.tree.map(lambda x, j=j: x[j], copies["two"]),
        }
        for i, j in itertools.product(range(n), repeat=2)
    ]
    mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *combined)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-14, atol=1e-15), dcwa(copies), mean)
    half = dcwa({"w": jnp.full((300, 2), 1.01, jnp.bfloat16)})["w"]
    # summed in float32: in bfloat16 the sum of 300 would be off by percents
    assert half.dtype == jnp.bfloat16 and (half == jnp.bfloat16(1.01)).all()


def test_predictions_are_the_mean_of_those_of_the_combinations(x64):
    copies, x = _copies(2, jnp.float64), np.random.default_rng(4).normal(size=(6, 3))
    key = jax.random.key(9)
    got = dca_predict(key, copies, _logits, x, num_samples=5)
    chosen = [dca_sample(k, copies) for k in jax.random.split(key, 5)]
    want = np.mean([softmax(np.asarray(_logits(c, x)), axis=-1) for c in chosen], axis=0)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    # whole models: an ensemble, to the 1.6 % that 1,000 draws leave (three standard errors of a mean of ±½)
    many = dca_predict(key, copies, _logits, x, num_samples=1000, granularity="model")
    ensemble = np.mean([softmax(_logits(jax.tree.map(lambda p, i=i: p[i], copies), x), -1) for i in range(2)], axis=0)
    np.testing.assert_allclose(many, ensemble, atol=0.05)


def test_consistency_is_the_divergence_of_the_reference(x64):
    rng = np.random.default_rng(5)
    logits, reference = jnp.asarray(rng.normal(0, 3, (7, 4))), jnp.asarray(rng.normal(0, 3, (7, 4)))
    want = rel_entr(softmax(reference, -1), softmax(logits, -1)).sum(-1)
    np.testing.assert_allclose(consistency_loss(logits, reference), want, rtol=1e-12)
    np.testing.assert_allclose(
        consistency_loss(logits, reference),
        optax.losses.kl_divergence(jax.nn.log_softmax(logits), jax.nn.softmax(reference)), rtol=1e-12,
    )  # fmt: skip
    assert not np.any(jax.grad(lambda r: consistency_loss(logits, r).sum())(reference))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_consistency_at_extremes(dtype):
    far = jnp.array([[1e4, -1e4, 0.0]], dtype)
    loss, grad = jax.value_and_grad(lambda z: consistency_loss(z, far[:, ::-1]).sum())(far)
    # by hand: all the reference's mass is where the log-probability is -1e4
    assert loss.dtype == dtype and float(loss) == float(jnp.asarray(1e4, dtype))
    np.testing.assert_array_equal(np.asarray(grad, np.float32), [[1.0, 0.0, -1.0]])


@pytest.mark.parametrize("consistency", [1.0, 0.5])
def test_training_loss_and_gradient_equal_the_released_loop(x64, consistency):
    """Softmax regression, whose gradients are known: x' (p - onehot) and x' (p - p_ref), nothing through p_ref."""
    n, repeats = 3, 4
    rng = np.random.default_rng(6)
    copies = {"w": jnp.asarray(rng.normal(size=(n, 5, 4)))}
    x, y = rng.normal(size=(8, 5)), jnp.asarray(rng.integers(0, 4, 8))
    key = jax.random.key(11)

    def loss(copies):
        return dca_train_loss(key, copies, lambda p, x: x @ p["w"], x, y, num_repeats=repeats, consistency=consistency)

    # which copies are drawn is the library's; what is done with them is the released loop
    drawn = [np.asarray(dca_sample(k, copies)["w"]) for k in jax.random.split(key, repeats + 1)]
    total, grads = np.zeros(8), np.zeros((n, 5, 4))
    reference = x @ drawn[0]
    for w in drawn[1:]:
        logits = x @ w
        p, p_ref = softmax(logits, -1), softmax(reference, -1)
        cross_entropy = -log_softmax(logits, -1)[np.arange(8), y]
        total += (cross_entropy + consistency * rel_entr(p_ref, p).sum(-1)) / repeats
        which = next(i for i in range(n) if (np.asarray(copies["w"][i]) == w).all())
        grads[which] += x.T @ (p - np.eye(4)[y] + consistency * (p - p_ref)) / repeats
        reference = logits
    np.testing.assert_allclose(loss(copies), total, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda c: loss(c).sum())(copies)["w"], grads, rtol=1e-11, atol=1e-13)


def test_one_copy_is_plain_training(x64):
    copies = _copies(1, jnp.float64)
    x, y = np.random.default_rng(7).normal(size=(6, 3)), jnp.array([0, 1, 2, 3, 0, 1])

    def plain(c):
        logits = _logits(jax.tree.map(lambda p: p[0], c), x)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)

    def ours(c):
        return dca_train_loss(jax.random.key(0), c, _logits, x, y, num_repeats=3)

    np.testing.assert_allclose(ours(copies), plain(copies), rtol=1e-13)
    gradients = [jax.grad(lambda c, f=f: f(c).mean())(copies) for f in (ours, plain)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), *gradients)


def test_under_jit_and_vmap_with_a_traced_weight():
    copies, x, y = _copies(2), jnp.ones((3, 3)), jnp.array([0, 1, 2])

    def loss(key, weight):
        return dca_train_loss(key, copies, _logits, x, y, num_repeats=2, consistency=weight)

    keys, weights = jax.random.split(jax.random.key(1), 2), jnp.array([0.0, 1.0])
    together = jax.jit(jax.vmap(loss))(keys, weights)
    for i in range(2):
        np.testing.assert_allclose(together[i], loss(keys[i], weights[i]), rtol=1e-5)  # float32


def test_clear_errors():
    key, copies = jax.random.key(0), _copies(2)
    x, y = jnp.ones((1, 3)), jnp.array([0])
    mixed = {"l": {"kernel": jnp.ones((2, 3, 5)), "bias": jnp.ones((2, 4))}}
    for call, kind, message in (
        (lambda: dca_sample(key, copies, granularity="block"), ValueError, "layer, channel, model or a function"),
        (lambda: dca_sample(key, mixed, granularity="channel"), ValueError, r"\['l'\]\['kernel'\] has 5"),
        (lambda: dca_sample(key, {"s": jnp.ones(2)}, granularity="channel"), ValueError, r"\['s'\] has none"),
        (lambda: dca_sample(key, {"a": jnp.ones((2, 1)), "b": jnp.ones((3, 1))}), ValueError, "disagree"),
        (lambda: dca_predict(key, copies, _logits, x, num_samples=0), ValueError, "at least 1, got 0"),
        (lambda: dca_train_loss(key, copies, _logits, x, y, num_repeats=0), ValueError, "at least 1, got 0"),
        (
            lambda: dca_train_loss(key, copies, _logits, x, y, num_repeats=1, consistency=-1.0),
            ValueError, "consistency must lie",
        ),
        (lambda: consistency_loss(jnp.ones((2, 3)), jnp.ones((2, 4))), ValueError, "differ in shape"),
        (lambda: dcwa({}), ValueError, "no arrays"),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            call()
