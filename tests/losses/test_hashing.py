"""Hashing: likelihoods against optax and by Hamming distances, weights and fusions by hand, precision against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import average_precision_score

from jaxtrain.losses import fuse_codes, hamming_map, pairwise_hash_loss, quantization_loss, view_stability_weights
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
CODES, VIEWS = np.tanh(RNG.normal(size=(6, 8))), np.tanh(RNG.normal(size=(3, 6, 8)))
LABELS = np.array([0, 1, 0, 2, 1, 0])
SIM = (LABELS[:, None] == LABELS[None]).astype(float)
A = jnp.asarray  # inside the tests: in float64 where they enable it


def test_equals_optaxs_cross_entropy(x64):
    theta = jnp.asarray(0.5 * CODES @ CODES.T)
    all_pairs = optax.losses.sigmoid_binary_cross_entropy(theta, A(SIM))
    wanted = (all_pairs.sum(1) - jnp.diag(all_pairs)) / 5
    np.testing.assert_allclose(pairwise_hash_loss(A(CODES), A(SIM)), wanted, rtol=1e-12)  # float64
    soft = pairwise_hash_loss(A(CODES), A(0.3 * SIM + 0.1))
    all_pairs = optax.losses.sigmoid_binary_cross_entropy(theta, A(0.3 * SIM + 0.1))
    np.testing.assert_allclose(soft, (all_pairs.sum(1) - jnp.diag(all_pairs)) / 5, rtol=1e-12)


def test_binary_codes_by_their_hamming_distance(x64):
    binary = np.where(CODES > 0, 1.0, -1.0)
    for margin in (0.0, 1.5):
        wanted = np.zeros(6)
        for i in range(6):
            for j in range(6):
                theta = 4 - np.sum(binary[i] != binary[j])
                right = np.exp(theta - margin) if LABELS[i] == LABELS[j] else np.exp(-theta - margin)
                wanted[i] += (i != j) * -np.log(right / (1 + right)) / 5
        np.testing.assert_allclose(pairwise_hash_loss(A(binary), A(SIM), margin=margin), wanted, rtol=1e-12)
    np.testing.assert_array_equal(quantization_loss(A(binary)), 0.0)
    # the other form: the distance to the sign, which is a constant
    other = lambda u: jnp.sum((jax.lax.stop_gradient(jnp.sign(u)) - u) ** 2)  # noqa: E731
    np.testing.assert_allclose(quantization_loss(A(CODES)).sum(), other(A(CODES)), rtol=1e-12)
    slope = jax.grad(lambda u: quantization_loss(u).sum())(A(CODES))
    np.testing.assert_allclose(slope, jax.grad(other)(A(CODES)), rtol=1e-12)


def test_stability(x64):
    d = np.array([[0.5 - 0.5 * np.dot(VIEWS[v, i], CODES[i]) / 8 for i in range(6)] for v in range(3)])
    score = d.mean(1) + d.std(1)
    wanted = np.exp(-score / 0.1) / np.exp(-score / 0.1).sum()
    np.testing.assert_allclose(view_stability_weights(A(VIEWS), A(CODES), temperature=0.1), wanted, rtol=1e-12)
    same = jnp.broadcast_to(A(CODES), (4, 6, 8))
    np.testing.assert_allclose(view_stability_weights(same), 0.25, rtol=1e-12)
    # as close in the mean, but unevenly: counts less
    even, uneven = CODES * 0.5, CODES * np.repeat([0.0, 1.0], 3)[:, None]
    size = np.linalg.norm(CODES, axis=1, keepdims=True)
    even, uneven = even / size**2, uneven / size**2
    w = view_stability_weights(jnp.stack([A(even), A(uneven)]), A(CODES))
    assert w[0] > w[1]
    to_views = jax.grad(lambda v: view_stability_weights(v, A(CODES))[0])(A(VIEWS))
    np.testing.assert_array_equal(to_views, 0.0)
    to_image = jax.grad(lambda u: view_stability_weights(A(VIEWS), u)[0])(A(CODES))
    np.testing.assert_array_equal(to_image, 0.0)


def test_fusions(x64):
    w = np.array([0.5, 0.3, 0.2])
    long = np.asarray(fuse_codes(A(CODES), A(VIEWS), A(w)))
    assert long.shape == (6, 32)
    products = CODES @ CODES.T + 3 * sum(w[k] * VIEWS[k] @ VIEWS[k].T for k in range(3))
    np.testing.assert_allclose(long @ long.T, products, rtol=1e-12, atol=1e-14)
    short = fuse_codes(A(CODES), A(VIEWS[:, :, :2]), A(w), mode="view_code")
    np.testing.assert_allclose(short, np.concatenate([CODES, np.average(VIEWS[:, :, :2], 0, w)], 1), rtol=1e-12)
    pooled, every, force = (
        np.asarray(fuse_codes(A(CODES), A(VIEWS), A(w), mode="pooling")),
        [CODES, *VIEWS],
        [1, *3 * w],
    )
    for i in range(6):
        for k in range(8):
            best = max(range(4), key=lambda v: force[v] * abs(every[v][i, k]))
            assert pooled[i, k] == every[best][i, k]


def test_map_equals_scikit_learns():
    q, d = RNG.normal(size=(10, 6)), RNG.normal(size=(40, 6))
    ql, dl = RNG.integers(0, 3, 10), RNG.integers(0, 3, 40)
    distance = (np.sign(q)[:, None] != np.sign(d)[None]).sum(-1)
    wanted = np.mean([average_precision_score(dl == ql[i], -distance[i]) for i in range(10)])
    args = tuple(map(jnp.asarray, (q, d, ql, dl)))
    np.testing.assert_allclose(hamming_map(*args), wanted, rtol=1e-5)  # single precision
    # without equal distances a cut is that of the list: codes that count 1, 2, 3 … bits
    items = np.where(np.arange(8)[None] < np.arange(8)[:, None], -1.0, 1.0)
    labels = np.array([1, 0, 1, 1, 0, 1, 0, 1])
    got = hamming_map(jnp.ones((1, 8)), A(items, jnp.float32), jnp.array([1]), A(labels), top=5)
    np.testing.assert_allclose(got, (1 + 2 / 3 + 3 / 4) / 3, rtol=1e-6)
    # 0 is -1: both items are the same code, and of two that are found together one is right
    same = jnp.array([[1.0, 0.0], [1.0, -1.0]])
    assert float(hamming_map(jnp.ones((1, 2)), same, jnp.array([1]), jnp.array([0, 1]))) == 0.5
    # a cut through equals: two of four, half of them right
    one = hamming_map(jnp.ones((1, 2)), jnp.ones((4, 2)), jnp.array([1]), jnp.array([1, 0, 0, 1]), top=2)
    assert float(one) == 0.5
    assert float(hamming_map(*args[:2], args[2] + 7, args[3])) == 0


def test_contract():
    similar = SIM[:, :1]
    check_loss(
        # all against one fixed code, so that examples do not depend on each other
        lambda u, s: (
            jax.vmap(
                lambda u, s: pairwise_hash_loss(
                    jnp.stack([u, jnp.linspace(-1, 1, 8, dtype=u.dtype)]),
                    jnp.array([[1.0, s[0]], [s[0], 1.0]]),
                    margin=0.5,
                )[0]
            )(u, s.astype(jnp.float32))
            + quantization_loss(0.1 * u)
        ),
        predictions=CODES,
        targets=similar,
        laws=("shape", "dtype", "vmap", "finite", "finite_gradient", "gradient", "bfloat16"),
    )


def test_bad_input():
    x = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"codes \(2, 3\) and sim \(2, 3\)"):
        pairwise_hash_loss(x, x)
    with pytest.raises(ValueError, match="margin must lie in"):
        pairwise_hash_loss(x, jnp.eye(2), margin=-1.0)
    with pytest.raises(ValueError, match="disagree"):
        view_stability_weights(x[None], x[:, :2])
    with pytest.raises(ValueError, match="mode must be"):
        fuse_codes(x, x[None], jnp.ones(1), mode="sum")
    with pytest.raises(ValueError, match=r"weights of shape \(2,\); give \(1,\)"):
        fuse_codes(x, x[None], jnp.ones(2))
    with pytest.raises(ValueError, match="labels"):
        hamming_map(x, x, jnp.zeros(3, int), jnp.zeros(2, int))
    with pytest.raises(ValueError, match="no queries"):
        hamming_map(x[:0], x, jnp.zeros(0, int), jnp.zeros(2, int))
    with pytest.raises(ValueError, match="top must be at least 1"):
        hamming_map(x, x, jnp.zeros(2, int), jnp.zeros(2, int), top=0)
