"""Weight matching: permuted networks are the same function and are matched back; the released loop in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.optimize import linear_sum_assignment

from jaxtrain.averaging import apply_permutation, recompute_batch_stats, sequential_permutation_spec, weight_matching
from jaxtrain.training.adapters import from_nnx


def _mlp(seed, sizes=(3, 6, 5, 2), dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [
        {"w": jnp.asarray(rng.normal(size=(m, n)), dtype), "b": jnp.asarray(rng.normal(size=n), dtype)}
        for m, n in itertools.pairwise(sizes)
    ]


def _logits(params, x):
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


SPEC = sequential_permutation_spec(_mlp(0))
_by_optax = jax.jit(lambda key, a, b: weight_matching(key, a, b, SPEC))


def _found(key, a, b):
    """By both solvers."""
    return _by_optax(key, a, b), weight_matching(key, a, b, SPEC, solver="scipy")


def _random(units, seed):
    rng = np.random.default_rng(seed)
    return {p: rng.permutation(n) for p, n in units.items()}


def released_loop(order, params_a, params_b, axes, sizes):
    """Algorithm 1 on flat dictionaries in float64, as samuela/git-re-basin has it."""
    permutations = {p: np.arange(n) for p, n in sizes.items()}
    names = sorted(sizes)

    def permuted(k, skip):
        w = params_b[k]
        for axis, p in enumerate(axes[k]):
            if axis != skip and p is not None:
                w = np.take(w, permutations[p], axis=axis)
        return w

    for sweep in range(100):
        progress = False
        for i in order(sweep):
            p = names[i]
            table = np.zeros((sizes[p], sizes[p]))
            for k, kinds in axes.items():
                if p in kinds:
                    axis = kinds.index(p)
                    a = np.moveaxis(params_a[k], axis, 0).reshape(sizes[p], -1)
                    table += a @ np.moveaxis(permuted(k, axis), axis, 0).reshape(sizes[p], -1).T
            columns = linear_sum_assignment(table, maximize=True)[1]
            old, new = table[np.arange(sizes[p]), permutations[p]].sum(), table[np.arange(sizes[p]), columns].sum()
            progress |= bool(new > old + 1e-12)
            permutations[p] = columns
        if not progress:
            return permutations
    raise AssertionError("no end")


def test_a_permuted_network_is_the_same_function_and_is_matched_back(x64):
    a = _mlp(0, dtype=jnp.float64)
    x = np.random.default_rng(1).normal(size=(7, 3))
    b = apply_permutation(_random({"0": 6, "1": 5}, 2), a, SPEC)
    np.testing.assert_allclose(_logits(b, x), _logits(a, x), rtol=1e-12)
    assert any((p["w"] != q["w"]).any() for p, q in zip(a, b, strict=True))
    for found in _found(jax.random.key(3), a, b):
        jax.tree.map(np.testing.assert_array_equal, apply_permutation(found, b, SPEC), a)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unlike_networks_are_matched_as_the_released_loop_matches_them(x64, seed):
    a, b = _mlp(10 + seed, dtype=jnp.float64), _mlp(20 + seed, dtype=jnp.float64)
    key = jax.random.key(seed)
    flat = [{f"{i}/{k}": np.asarray(v) for i, layer in enumerate(p) for k, v in layer.items()} for p in (a, b)]
    axes = {f"{i}/{k}": v for i, layer in enumerate(SPEC) for k, v in layer.items()}

    def order(sweep):
        return np.asarray(jax.random.permutation(jax.random.fold_in(key, sweep), 2))

    want = released_loop(order, *flat, axes, {"0": 6, "1": 5})
    for found in _found(key, a, b):
        jax.tree.map(np.testing.assert_array_equal, found, want)


def test_noise_does_not_hide_the_permutation_under_jit_and_vmap():
    # inputs and outputs enough to tell units apart: with fewer, coordinate descent may end elsewhere
    a = _mlp(4, (20, 6, 5, 10))
    spec = sequential_permutation_spec(a)
    orders = [_random({"0": 6, "1": 5}, seed) for seed in (5, 6)]
    noisy = [
        jax.tree.map(lambda x, i=i: jnp.float32(x + 0.01 * np.random.default_rng(i).normal(size=x.shape)), a)
        for i in range(2)
    ]
    permuted = [apply_permutation(p, n, spec) for p, n in zip(orders, noisy, strict=True)]
    stack = jax.tree.map(lambda *x: jnp.stack(x), *permuted)

    def back(b):
        return apply_permutation(weight_matching(jax.random.key(0), a, b, spec), b, spec)

    got = jax.jit(jax.vmap(back))(stack)
    for i in range(2):
        jax.tree.map(lambda g, w, i=i: np.testing.assert_array_equal(g[i], w), got, noisy[i])


class Cnn(nnx.Module):
    """Two convolutions with BatchNorm and a head on the flattened image: 2 × 2 positions of 5 channels."""

    def __init__(self, rngs):
        self.conv1, self.norm1 = nnx.Conv(1, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.conv2, self.norm2 = nnx.Conv(4, 5, (3, 3), strides=2, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)
        self.head = nnx.Linear(20, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.relu(self.norm2(self.conv2(x)))
        return self.head(x.reshape(len(x), -1))


def test_convolutions_normalisations_and_flattened_images():
    model = from_nnx(Cnn)
    params, state = jax.jit(model.init)(jax.random.key(0))
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, 8, 4, 4, 1)), jnp.float32)

    @jax.jit
    def refreshed(params):
        return recompute_batch_stats(lambda p, s, b: model.apply(p, s, b, train=True)[1], params, state, x)

    apply = jax.jit(model.apply)
    # scales that tell channels apart, and statistics of data
    params = jax.tree.map(lambda p: jnp.float32(p + 0.1 * rng.normal(size=p.shape)), params)
    stats = refreshed(params)
    order = ["conv1", "norm1", "conv2", "norm2", "head"]
    spec = sequential_permutation_spec(params, order)
    assert spec["head"]["kernel"] == ("conv2", None) and spec["norm1"]["scale"] == ("conv1",)
    permutations = _random({"conv1": 4, "conv2": 5}, 7)
    of_stats = {n: {"mean": (c,), "var": (c,)} for n, c in (("norm1", "conv1"), ("norm2", "conv2"))}
    permuted, moved = jax.jit(
        lambda p, s: (apply_permutation(permutations, p, spec), apply_permutation(permutations, s, of_stats))
    )(params, stats)
    outputs, _ = apply(params, stats, x[0])
    # float32: sums over channels in another order
    np.testing.assert_allclose(apply(permuted, moved, x[0])[0], outputs, rtol=1e-4, atol=1e-5)
    # what a refresh on the same data finds is what moves along
    jax.tree.map(lambda m, r: np.testing.assert_allclose(m, r, rtol=1e-4, atol=1e-5), moved, refreshed(permuted))
    back = jax.jit(lambda p, q: apply_permutation(weight_matching(jax.random.key(2), p, q, spec), q, spec))
    jax.tree.map(np.testing.assert_array_equal, back(params, permuted), params)


def test_what_is_not_finite_stays_in_its_order():
    a = _mlp(0)
    broken = jax.tree.map(lambda x: x.at[..., 0].set(jnp.nan), a)
    found = _by_optax(jax.random.key(0), a, broken)
    assert found["0"].tolist() == list(range(6)) and found["1"].tolist() == list(range(5))


def test_clear_errors():
    a = _mlp(0)
    spec, key = sequential_permutation_spec(a), jax.random.key(0)
    square = [{"w": jnp.ones((3, 3))}]
    for call, message in (
        (lambda: weight_matching(key, a, _mlp(0, (3, 6, 4, 2)), spec), r"\[1\]\['b'\] is float32\[4\]"),
        (lambda: weight_matching(key, a, a, spec[:2]), "the spec is no tree like the parameters"),
        (
            lambda: weight_matching(key, a, a, [spec[0], spec[1], spec[1]]),
            r"'0' permutes 5 units, the axis of \[0\]\['b'\] has 6",
        ),
        (lambda: weight_matching(key, square, square, [{"w": ("p", "p")}]), "carries a permutation twice"),
        (lambda: weight_matching(key, square, square, [{"w": ("p",)}]), r"\[0\]\['w'\] has 2 axes, its spec is"),
        (lambda: weight_matching(key, a, a, spec, solver="lapjv"), "'optax' or 'scipy', got 'lapjv'"),
        (lambda: weight_matching(key, a, a, spec, max_sweeps=0), "at least 1, got 0"),
        (lambda: apply_permutation({"0": jnp.arange(6)}, a, spec), "'1' needs a permutation of 5 units, got none"),
        (lambda: apply_permutation({"0": jnp.arange(6), "1": jnp.arange(4)}, a, spec), r"got \(4,\)"),
        (lambda: sequential_permutation_spec({"a": {}, "b": {}}), "say in which order the data pass a, b"),
        (lambda: sequential_permutation_spec(a, [0, 1]), "does not name each of"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
