"""The chunked losses against stored logits: values, gradients, second derivatives, memory, shards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtrain.core import checked
from jaxtrain.losses import linear_cross_entropy, linear_cross_entropy_sum

RNG = np.random.default_rng(0)
D, CLASSES = 6, 11
H, W, B = RNG.standard_normal((2, 5, D)), RNG.standard_normal((D, CLASSES)), RNG.standard_normal(CLASSES)
Y, WEIGHTS = jnp.asarray(RNG.integers(0, CLASSES, (2, 5)), jnp.int32), RNG.uniform(size=(2, 5))


def stored(h, w, b, y=Y, smoothing=0.0):
    """What is meant, with optax's loss of distributions."""
    targets = optax.smooth_labels(jax.nn.one_hot(y, CLASSES, dtype=h.dtype), smoothing)
    return optax.losses.softmax_cross_entropy(h @ w + b, targets)


# 10 examples: one by one, with two missing in the last chunk, exactly, and more than there are
@pytest.mark.parametrize("chunk", [1, 3, 5, 64])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_equals_stored_logits_with_all_gradients(chunk, smoothing):
    with jax.enable_x64(True):
        args = tuple(jnp.asarray(x) for x in (H, W, B))
        weights = jnp.asarray(WEIGHTS)
        each = functools.partial(linear_cross_entropy, label_smoothing=smoothing, chunk=chunk)
        # rounding of float64
        close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
        close(each(args[0], args[1], Y, bias=args[2]), stored(*args, smoothing=smoothing))
        close(each(args[0], args[1], Y), stored(args[0], args[1], 0.0, smoothing=smoothing))

        def wanted(h, w, b, weights):
            return jnp.sum(weights * stored(h, w, b, smoothing=smoothing))

        def by_each(h, w, b, weights):
            return jnp.sum(weights * each(h, w, Y, bias=b))

        def by_sum(h, w, b, weights):
            return linear_cross_entropy_sum(h, w, Y, weights, bias=b, label_smoothing=smoothing, chunk=chunk)

        value, gradients = jax.value_and_grad(wanted, (0, 1, 2, 3))(*args, weights)
        for fn in (by_each, by_sum):
            got, found = jax.jit(jax.value_and_grad(fn, (0, 1, 2, 3)))(*args, weights)
            close(got, value)
            jax.tree.map(close, found, gradients)
        close(by_sum(*args, weights), value)


def test_second_derivatives_are_those_of_stored_logits():
    with jax.enable_x64(True):
        h, w, b, v = jnp.asarray(H), jnp.asarray(W), jnp.asarray(B), jnp.asarray(RNG.standard_normal(W.shape))

        def along(fn):  # reverse over reverse
            return jax.grad(lambda w: jnp.vdot(jax.grad(fn)(w), v))(w)

        wanted = along(lambda w: jnp.sum(WEIGHTS * stored(h, w, b)))
        weights = jnp.asarray(WEIGHTS)
        for fn in (
            lambda w: jnp.sum(weights * linear_cross_entropy(h, w, Y, bias=b, chunk=3)),
            lambda w: linear_cross_entropy_sum(h, w, Y, weights, bias=b, chunk=3),
        ):
            np.testing.assert_allclose(along(fn), wanted, rtol=1e-11, atol=1e-12)  # rounding


def test_extremes_are_finite_and_bfloat16_keeps_its_dtype():
    h, w = jnp.eye(3) * 1e4, jnp.array([[1.0, -1.0, 0.0]] * 3)
    for dtype in (jnp.float32, jnp.bfloat16):
        run = jax.value_and_grad(lambda h, w: linear_cross_entropy(h, w, jnp.array([0, 1, 2]), chunk=2).sum(), (0, 1))
        value, gradients = run(h.astype(dtype), w.astype(dtype))
        assert value.dtype == dtype and all(g.dtype == dtype and np.isfinite(g).all() for g in gradients)
        np.testing.assert_allclose(float(value), 3e4, rtol=2**-8)  # 0 + 2e4 + 1e4, exact up to bfloat16's rounding
    x, k = (jnp.asarray(a, jnp.bfloat16) for a in (H, W))
    got = linear_cross_entropy_sum(x, k, Y, jnp.asarray(WEIGHTS, jnp.float32), chunk=4)
    want = jnp.sum(WEIGHTS * stored(x.astype(jnp.float32), k.astype(jnp.float32), 0.0))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5)  # products of bfloat16 are exact in float32


def test_under_vmap_is_the_loop():
    h, w = jnp.asarray(H, jnp.float32), jnp.asarray(W, jnp.float32)
    grad = jax.grad(lambda w, h, y: linear_cross_entropy_sum(h, w, y, jnp.ones(5), chunk=2))
    got = jax.vmap(grad, in_axes=(None, 0, 0))(w, h, Y)
    want = [grad(w, h[i], Y[i]) for i in range(2)]
    np.testing.assert_allclose(got, jnp.stack(want), rtol=1e-5, atol=1e-6)  # another order of sums


def test_sharded_batch_or_vocabulary_changes_nothing():
    """Over eight devices, the batch over four and the vocabulary over two of them."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    h = jnp.asarray(RNG.standard_normal((16, D)), jnp.float32)
    w = jnp.asarray(RNG.standard_normal((D, 12)), jnp.float32)
    y, weights = jnp.asarray(RNG.integers(0, 12, 16)), jnp.full(16, 1 / 16)
    run = jax.jit(jax.value_and_grad(functools.partial(linear_cross_entropy_sum, chunk=8), (0, 1)))
    place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))  # noqa: E731
    got = run(place(h, "data"), place(w, None, "model"), place(y, "data"), place(weights, "data"))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(run(h, w, y, weights)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # sums in another order


@pytest.mark.parametrize("form", ["each", "sum"])
def test_peak_memory_is_that_of_a_chunk(form):
    """XLA's own account for 1,024 examples and 50,257 classes; nothing of it is run."""
    n, d, classes = 1024, 16, 50257

    def full(h, w, y):
        return optax.losses.softmax_cross_entropy_with_integer_labels(h @ w, y).mean()

    def chunked(h, w, y):
        if form == "each":
            return linear_cross_entropy(h, w, y, chunk=128).mean()
        return linear_cross_entropy_sum(h, w, y, jnp.full(n, 1 / n), chunk=128)

    shapes = [jax.ShapeDtypeStruct(s, t) for s, t in (((n, d), float), ((d, classes), float), ((n,), int))]
    used = {
        fn: jax.jit(jax.value_and_grad(fn, (0, 1))).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
        for fn in (full, chunked)
    }
    assert used[full] >= 4 * n * classes  # the logits at least
    assert used[chunked] <= 0.25 * used[full]


def test_bad_input():
    h, w, y = jnp.zeros((4, 3)), jnp.zeros((3, 5)), jnp.zeros(4, int)
    with pytest.raises(ValueError, match=r"hidden \(4, 3\) and kernel \(5, 3\) disagree"):
        linear_cross_entropy(h, w.T, y)
    with pytest.raises(ValueError, match=r"bias of shape \(4,\)"):
        linear_cross_entropy(h, w, y, bias=jnp.zeros(4))
    with pytest.raises(ValueError, match="chunk must be at least 1 example, got 0"):
        linear_cross_entropy(h, w, y, chunk=0)
    with pytest.raises(ValueError, match="label 7 is none of the 5 classes"):
        linear_cross_entropy(h, w, y + 7)
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0.0, 1.0\], got 2.0"):
        linear_cross_entropy(h, w, y, label_smoothing=2.0)
    with pytest.raises(ValueError, match=r"weights of shape \(3,\) for labels \(4,\)"):
        linear_cross_entropy_sum(h, w, y, jnp.ones(3))
    with pytest.raises(ValueError, match="label 9 is none of the 5 classes"):
        checked(linear_cross_entropy)(h, w, y.at[2].set(9))
    np.testing.assert_allclose(jax.jit(linear_cross_entropy)(h, w, y + 9), np.log(5), rtol=1e-6)
    assert linear_cross_entropy(h[:0], w, y[:0]).shape == (0,)


@pytest.mark.parametrize("form", ["each", "sum"])
def test_labels_of_few_bits_masked_classes_and_mixed_precision(form):
    def loss(h, w, b, y):
        if form == "each":
            return linear_cross_entropy(h, w, y, bias=b, chunk=2).astype(jnp.float32).sum()
        return linear_cross_entropy_sum(h, w, y, jnp.ones(len(y)), bias=b, chunk=2)

    rng = np.random.default_rng(1)
    h, w = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), jnp.asarray(rng.normal(size=(4, 300)), jnp.float32)
    y, b = jnp.array([5, 44, 100], jnp.int8), jnp.zeros(300).at[261:].set(-jnp.inf)  # 261 is 5 in eight bits
    got, grads = jax.value_and_grad(loss, (0, 1, 2))(h, w, b, y)
    plain = lambda h, w, b: optax.losses.softmax_cross_entropy_with_integer_labels(h @ w + b, y.astype(int)).sum()  # noqa: E731
    want, wanted = jax.value_and_grad(plain, (0, 1, 2))(h, w, b)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for a, b_ in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(a, b_, rtol=1e-4, atol=1e-6)  # sums in another order
    # a label that is masked out itself: infinite, but not where its weight is 0
    away = functools.partial(linear_cross_entropy_sum, h, w, y.astype(jnp.int32).at[0].set(299), bias=b, chunk=2)
    got, slope = jax.value_and_grad(away)(jnp.array([0.0, 1.0, 1.0]))
    np.testing.assert_allclose(got, slope[1:].sum(), rtol=1e-6)
    assert np.isposinf(slope[0]) and np.isposinf(away(jnp.ones(3)))
    # the gradient of each has its own dtype
    grads = jax.grad(loss, (0, 1))(h.astype(jnp.bfloat16), w, None, y)
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32]
