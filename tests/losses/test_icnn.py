"""ICNN and proto-triplet losses against the release's, and against loops over points."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.core import checked
from jaxtrain.losses import icnn_loss, icnn_score, proto_triplet_loss, prototypes
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "icnn.npz")
CASES = ("mixed", "wide", "one", "shuffled", "apart", "few", "strangers")


@pytest.mark.parametrize("case", CASES)
def test_score_is_the_releases(case, x64):
    x, y, (k, wide) = (GOLDEN[f"{case}_{name}"] for name in "xyk")
    hyper = {"k": int(k), "items_per_class": int(wide) or None}
    score, grad = jax.jit(jax.value_and_grad(lambda x: icnn_score(x, jnp.asarray(y), **hyper)))(jnp.asarray(x))
    # the release adds 1e-7 to its counts too, ours are exact
    np.testing.assert_allclose(score, GOLDEN[f"{case}_score"], atol=1e-7)
    wanted = GOLDEN[f"{case}_grad"]
    np.testing.assert_allclose(grad, wanted, atol=3e-7 * max(1.0, np.abs(wanted).max()))


def _by_loops(x, y, ref, ref_y, k, wide):
    """The formula, point by point, for points looked for among others."""
    rows, others = [], []
    for i in range(len(x)):
        d = sorted((np.sqrt(((x[i] - ref[j]) ** 2).sum() + 1e-6), ref_y[j] == y[i]) for j in range(len(ref)))[:wide]
        nearest_other = min((a for a, same in d if not same), default=np.inf)
        units = [(a / (nearest_other + 1e-7), same) for a, same in d[:k]]
        top = max(1.0, *(a for a, _ in units))
        rows.append([a / top for a, same in units if same])
        others.append([a for a, same in d[:k] if not same])
    largest = max((a for row in others for a in row), default=1.0) + 1e-7
    same = 1 - np.mean([np.mean(r) for r in rows if r])
    other = np.mean([np.mean(r) / largest for r in others if r]) if any(others) else 1.0
    return ((same + other) / 2 + sum(map(len, rows)) / (k * len(x))) / 2


@pytest.mark.parametrize("spread", [0.5, 2.0, 50.0])
def test_score_among_other_points_by_loops(spread, x64):
    rng = np.random.default_rng(0)
    ref_y, y = np.repeat(np.arange(3), 6), np.arange(8) % 3
    centres = spread * rng.normal(size=(3, 4))
    ref, x = centres[ref_y] + rng.normal(size=(18, 4)), centres[y] + rng.normal(size=(8, 4))
    got = icnn_score(*map(jnp.asarray, (x, y, ref, ref_y)), k=4)
    np.testing.assert_allclose(got, _by_loops(x, y, ref, ref_y, 4, 5), rtol=1e-12)  # float64
    # a point that is named as its own neighbour is one
    got = icnn_score(*map(jnp.asarray, (ref, ref_y, ref, ref_y)), k=4)
    np.testing.assert_allclose(got, _by_loops(ref, ref_y, ref, ref_y, 4, 5), rtol=1e-12)


def test_points_on_each_other_and_classes_apart():
    y = jnp.repeat(jnp.arange(3), 6)
    at = 100.0 * jax.nn.one_hot(y, 3)
    loss = jax.jit(jax.value_and_grad(lambda x, y: icnn_loss(x, y, k=4)))
    near, grad = loss(at, y)
    # distances of 1e-3 where they should be none, against 141: less than 1e-5 of the score
    np.testing.assert_allclose(near, 0.0, atol=1e-5)
    np.testing.assert_allclose(grad, 0.0, atol=1e-6)
    noisy = at + np.random.default_rng(0).normal(size=at.shape)
    losses = [float(loss(noisy, labels)[0]) for labels in (y, jnp.arange(18) % 3)]
    assert losses[0] < 0.05 and losses[1] > 0.4  # all neighbours alike, and none or few
    for x in (at, noisy, jnp.zeros_like(at)):
        assert bool(jnp.isfinite(loss(1e4 * x, y)[1]).all())
    assert jax.eval_shape(icnn_score, noisy.astype(jnp.bfloat16), y).dtype == jnp.bfloat16


def test_triplet_is_the_releases(x64):
    queries, ends, asked = (jnp.asarray(GOLDEN[name]) for name in ("queries", "ends", "asked"))

    def mean(q, e, order=(0, 1, 2, 3)):
        order = jnp.array(order)
        return proto_triplet_loss(q, asked, e[order], order).mean()

    value, grads = jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))(queries, ends)
    np.testing.assert_allclose(value, GOLDEN["triplet"], rtol=1e-13)
    for got, name in zip(grads, ("to_queries", "to_ends"), strict=True):
        np.testing.assert_allclose(got, GOLDEN[name], atol=1e-13)
    np.testing.assert_allclose(mean(queries, ends, (2, 0, 3, 1)), value, rtol=1e-13)
    one = proto_triplet_loss(queries[:1], asked[:1], ends, jnp.arange(4), margin=2.0)[0]
    d = np.sqrt(((GOLDEN["queries"][0] - GOLDEN["ends"]) ** 2).sum(-1) + 1e-6)
    own = int(asked[0])
    np.testing.assert_allclose(one, max(d[own] - np.delete(d, own).min() + 2.0, 0), rtol=1e-12)


def test_prototypes_are_means():
    x, y = np.random.default_rng(0).normal(size=(7, 2)), np.array([0, 2, 2, 0, 2, 0, 0])
    got = prototypes(jnp.asarray(x), jnp.asarray(y), 3)
    wanted = np.stack([x[y == 0].mean(0), np.zeros(2), x[y == 2].mean(0)])
    np.testing.assert_allclose(got, wanted, rtol=1e-6)  # single precision
    assert prototypes(jnp.ones((3, 2), jnp.bfloat16), jnp.zeros(3, int), 1).dtype == jnp.bfloat16


def test_triplet_of_traced_labels_without_a_prototype():
    x, ends = jnp.zeros((2, 2)), jnp.array([[3.0, 4.0], [3.0, 4.0]])

    def loss(y, known):
        return proto_triplet_loss(x, y, ends, known, margin=0.0)

    got = jax.jit(loss)(jnp.array([0, 1]), jnp.array([0, 0]))
    np.testing.assert_array_equal(got, [0.0, np.inf])  # nothing to be closer than; nothing to be close to
    for known in ([0, 0], [0, 2]):
        with pytest.raises(ValueError, match="every query needs a prototype of its own class and one of another"):
            checked(loss)(jnp.array([0, 1]), jnp.array(known))
    np.testing.assert_allclose(checked(loss)(jnp.array([0, 1]), jnp.arange(2)), 0.0)


def test_triplet_contract():
    ends = np.random.default_rng(1).normal(size=(3, 3))

    def fn(x, y):
        return proto_triplet_loss(x, y, jnp.asarray(ends, x.dtype), jnp.arange(3))

    rng, laws = np.random.default_rng(2), ("shape", "dtype", "batch", "finite", "finite_gradient", "gradient")
    check_loss(fn, predictions=rng.normal(size=(6, 3)), targets=np.array([0, 1, 2, 2, 0, 1]), laws=laws)


def test_bad_input():
    x, y = jnp.zeros((4, 2)), jnp.arange(4)
    with pytest.raises(ValueError, match=r"ref_emb have 3 features, the others 2"):
        icnn_score(x, y, jnp.zeros((4, 3)), y)
    with pytest.raises(ValueError, match="given together or not at all"):
        icnn_score(x, y, x)
    with pytest.raises(ValueError, match="2 points to look for neighbours among; at least 3"):
        icnn_loss(x, y, x[:2], y[:2])
    with pytest.raises(ValueError, match="items_per_class is 4, but a point has only 3 neighbours"):
        icnn_score(x, y, k=1, items_per_class=4)
    with pytest.raises(ValueError, match="items_per_class must be at least 2"):
        icnn_score(x, y, k=4, items_per_class=1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        icnn_score(x, y, k=0)
    with pytest.raises(ValueError, match=r"points \(n, d\) with labels \(n,\), got \(4, 2\) and \(3,\)"):
        prototypes(x, y[:3], 4)
    with pytest.raises(ValueError, match=r"queries of the classes \[0, 1, 2, 3\] and prototypes of \[0, 1\]"):
        proto_triplet_loss(x, y, x[:2], y[:2])
    with pytest.raises(ValueError, match="prototypes: label 3 is none of the 3 classes"):
        prototypes(x, y, 3)
    # a label that is traced becomes the nearest class, as everywhere
    moved = jax.jit(lambda y: prototypes(jnp.eye(4), y, 3))(y)
    np.testing.assert_allclose(moved[2], [0.0, 0.0, 0.5, 0.5])
    with pytest.raises(ValueError, match="margin must lie in"):
        proto_triplet_loss(x, y, x, y, margin=-1.0)
