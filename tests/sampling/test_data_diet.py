"""GraNd and EL2N against loops in float64, the closed form of a linear layer, and limits by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import sampling
from jaxtrain.core import checked
from jaxtrain.testing import check_estimator


def _problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(4, 5)), "v": rng.normal(size=(5, 3)), "b": rng.normal(size=3)}
    params = {k: jnp.asarray(v, dtype) for k, v in params.items()}
    return params, jnp.asarray(rng.normal(size=(7, 4)), dtype), jnp.asarray(rng.integers(0, 3, 7))


def _logits(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"] + params["b"]


def _loss(params, x, y):
    return optax.losses.softmax_cross_entropy_with_integer_labels(_logits(params, x), y)


def test_grand_equals_backpropagation_by_hand(x64):
    params, x, y = _problem()
    w, v, b = (np.asarray(params[k]) for k in ("w", "v", "b"))
    expected = []
    for xi, yi in zip(np.asarray(x), np.asarray(y), strict=True):
        h = np.tanh(xi @ w)
        z = h @ v + b
        e = np.exp(z - z.max())
        e = e / e.sum() - np.eye(3)[yi]
        dw = np.outer(xi, (v @ e) * (1 - h**2))
        expected.append(np.sqrt((dw**2).sum() + (np.outer(h, e) ** 2).sum() + (e**2).sum()))
    for microbatch in (None, 1, 3, 100):
        found = sampling.grand_score(_loss, params, x, y, microbatch=microbatch)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_last_layer_equals_its_gradient(x64):
    params, x, y = _problem()
    h = jnp.tanh(x @ params["w"])
    last = {"v": params["v"], "b": params["b"]}

    def loss(last, h, y):
        return optax.losses.softmax_cross_entropy_with_integer_labels(h @ last["v"] + last["b"], y)

    probs = jax.nn.softmax(_logits(params, x))
    np.testing.assert_allclose(
        sampling.grand_lastlayer(h, probs, y), sampling.grand_score(loss, last, h, y), rtol=1e-12
    )


def test_el2n_equals_numpy_and_its_limits(x64):
    z = np.random.default_rng(1).normal(size=(6, 4)) * 5
    y = np.array([0, 1, 2, 3, 0, 1])
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        sampling.el2n_score(jnp.asarray(z), jnp.asarray(y)), np.sqrt(((p - np.eye(4)[y]) ** 2).sum(axis=1)), rtol=1e-12
    )
    sure = jnp.array([[100.0, 0.0, 0.0], [0.0, 100.0, 0.0], [0.0, 0.0, 0.0]])
    # right, wrong, undecided
    np.testing.assert_allclose(
        sampling.el2n_score(sure, jnp.array([0, 0, 0])), [0, np.sqrt(2), np.sqrt(4 / 9 + 2 / 9)], atol=1e-12
    )


def test_wrong_labels_score_highest():
    logits = 4 * jax.nn.one_hot(jnp.arange(100) % 10, 10)
    labels = jnp.where(jnp.arange(100) < 10, (jnp.arange(100) + 1) % 10, jnp.arange(100) % 10)
    kept = sampling.keep_top_fraction(sampling.el2n_score(logits, labels), fraction=0.1)
    assert sorted(np.asarray(kept)) == list(range(10))


def test_window_of_the_sorted_list():
    scores = jnp.asarray(np.random.default_rng(2).permutation(20).astype(np.float32))
    order = np.argsort(-np.asarray(scores))
    keep = jax.jit(lambda s: sampling.keep_top_fraction(s, fraction=0.5, offset=0.1))
    np.testing.assert_array_equal(keep(scores), order[2:12])
    assert sampling.keep_top_fraction(jnp.zeros(4), fraction=0.5).tolist() == [0, 1]  # equal scores: in order


def test_forgetting_by_counting():
    history = np.random.default_rng(3).random((12, 9)) < 0.6
    history[:, 4] = False
    expected = [
        sum(history[t, i] and not history[t + 1, i] for t in range(11)) if history[:, i].any() else np.inf
        for i in range(9)
    ]
    np.testing.assert_array_equal(sampling.forgetting_counts(jnp.asarray(history)), expected)


def test_average_is_the_mean():
    rows = np.random.default_rng(4).random((3, 5)).astype(np.float32)
    np.testing.assert_allclose(sampling.average_scores(list(map(jnp.asarray, rows))), rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(sampling.average_scores(jnp.asarray(rows)), rows.mean(axis=0), rtol=1e-6)


def test_contract():
    params, x, y = _problem(np.float32)
    check_estimator(lambda z: sampling.el2n_score(z, y), np.asarray(_logits(params, x)))
    check_estimator(
        lambda x: sampling.grand_score(_loss, jax.tree.map(lambda p: p.astype(x.dtype), params), x, y),
        np.asarray(x),
        except_=("dtype",),
    )  # norms are summed in single precision and stay there


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: sampling.el2n_score(jnp.zeros((2, 3)), jnp.array([0, 3])), "label 3 is none of the 3 classes"),
        (lambda: sampling.el2n_score(jnp.zeros((2, 3)), jnp.array([0])), "labels of shape"),
        (lambda: sampling.keep_top_fraction(jnp.zeros(4), fraction=0.8, offset=0.4), "end within"),
        (lambda: sampling.keep_top_fraction(jnp.zeros(4), fraction=0.01), "at least one"),
        (lambda: sampling.grand_score(_loss, {}, jnp.zeros((2, 4)), jnp.zeros(3, int)), "disagree"),
        (lambda: sampling.grand_score(lambda p, x, y: x, jnp.zeros(2), jnp.zeros((2, 4)), jnp.zeros(2)), "one number"),
        (lambda: sampling.average_scores([]), "runs of one length"),
        (lambda: sampling.forgetting_counts(jnp.zeros((0, 3), bool)), "empty"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_traced_labels_are_taken_as_those_of_losses_are():
    """Out of range: the nearest class, and raised on request."""
    logits = jnp.array([[0.0, 1.0, 2.0]])
    got = jax.jit(sampling.el2n_score)(logits, jnp.array([7]))
    np.testing.assert_array_equal(got, sampling.el2n_score(logits, jnp.array([2])))
    with pytest.raises(ValueError, match="el2n_score: label 7 is none of the 3 classes"):
        checked(sampling.el2n_score)(logits, jnp.array([7]))
