"""AnyLoss against scikit-learn's metrics in the limit of a hard threshold, and against the paper's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from jaxtrain.losses import anyloss, anyloss_from_counts, anyloss_from_logits, soft_confusion_matrix, soft_threshold

RNG = np.random.default_rng(0)
N = 60
Y = RNG.integers(0, 2, N)
P = np.clip(0.35 * Y + RNG.uniform(0, 0.65, N), 0.01, 0.99)
KINDS = ("accuracy", "f1", "fbeta", "gmean", "balanced_accuracy", "mcc")


def hard(kind, y, decided):
    tpr, tnr = (metrics.recall_score(y, decided, pos_label=k) for k in (1, 0))
    return {
        "accuracy": metrics.accuracy_score(y, decided),
        "f1": metrics.f1_score(y, decided),
        "fbeta": metrics.fbeta_score(y, decided, beta=2.0),
        "gmean": np.sqrt(tpr * tnr),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, decided),
        "mcc": metrics.matthews_corrcoef(y, decided),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_hard_threshold_gives_scikit_learns_metric(kind, x64):
    got = anyloss(jnp.asarray(P), jnp.asarray(Y), metric=kind, beta=2.0, L=1e6)
    # the probability nearest to 1/2 is 8e-5 away: e^-80 of softness
    assert np.abs(P - 0.5).min() > 8e-5
    np.testing.assert_allclose(got, 1 - hard(kind, Y, P > 0.5), rtol=1e-12)


def test_equals_the_papers_formulas(x64):
    a = 1 / (1 + np.exp(-73.0 * (P - 0.5)))
    np.testing.assert_allclose(soft_threshold(jnp.asarray(P)), a, rtol=1e-12)
    tn, fp, fn, tp = ((1 - Y) @ (1 - a), (1 - Y) @ a, Y @ (1 - a), Y @ a)
    counts = soft_confusion_matrix(jnp.asarray(P), jnp.asarray(Y))
    np.testing.assert_allclose(counts, [tn, fp, fn, tp], rtol=1e-12)
    np.testing.assert_allclose(sum(counts), N, rtol=1e-14)
    wanted = {
        "accuracy": (tp + tn) / N,
        "f1": 2 * tp / (2 * tp + fn + fp),
        "fbeta": 1.25 * tp / (1.25 * tp + 0.25 * fn + fp),
        "gmean": np.sqrt(tp * tn / ((tp + fn) * (tn + fp))),
        "balanced_accuracy": 0.5 * (tp / (tp + fn) + tn / (tn + fp)),
        "mcc": (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
    }
    for kind in KINDS:
        value = anyloss(jnp.asarray(P), jnp.asarray(Y), metric=kind, beta=0.5)
        np.testing.assert_allclose(value, 1 - wanted[kind], rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_logits(kind, x64):
    z, y = jnp.asarray(0.1 * RNG.standard_normal(8)), jnp.asarray([0, 1, 1, 0, 0, 1, 0, 1])
    fn = jax.jit(lambda z: anyloss_from_logits(z, y, metric=kind))
    steps = 1e-6 * np.eye(8)
    wanted = [(fn(z + h) - fn(z - h)) / 2e-6 for h in steps]
    # central differences: 1e-10 of rounding, and cubic terms of steepness 18
    np.testing.assert_allclose(jax.grad(fn)(z), wanted, atol=2e-8)
    np.testing.assert_allclose(fn(z), anyloss(jax.nn.sigmoid(z), y, metric=kind), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_finite_at_extremes_and_without_a_class(dtype):
    cases = [(1e4 * (2.0 * (np.arange(6) % 2) - 1), np.arange(6) // 3), (np.full(6, -1e4), np.ones(6, int))]
    cases += [
        (np.full(6, 1e4), np.zeros(6, int)),
        (np.zeros(6), np.zeros(6, int)),
        (np.full(6, -1e4), np.zeros(6, int)),
    ]
    z, y = (jnp.asarray(np.stack(parts)) for parts in zip(*cases, strict=True))
    for kind in KINDS:
        fn = jax.vmap(jax.value_and_grad(lambda z, y, kind=kind: anyloss_from_logits(z, y, metric=kind)))
        values, grads = fn(z.astype(dtype), y)
        assert values.dtype == dtype and bool(jnp.isfinite(values).all()) and bool(jnp.isfinite(grads).all())


def test_counts_add_up_and_weights_mask():
    p, y = jnp.asarray(P, jnp.float32), jnp.asarray(Y)
    halves = [soft_confusion_matrix(p[part], y[part]) for part in (slice(0, 20), slice(20, None))]
    together = anyloss_from_counts(jax.tree.map(jnp.add, *halves), metric="mcc")
    np.testing.assert_allclose(together, anyloss(p, y, metric="mcc"), rtol=1e-5)  # float32, another order of sums
    mask = (jnp.arange(N) < 20).astype(jnp.float32)
    np.testing.assert_allclose(anyloss(p, y, weights=mask), anyloss(p[:20], y[:20]), rtol=1e-5)


def test_bad_input():
    p, y = jnp.asarray(P, jnp.float32), jnp.asarray(Y)
    with pytest.raises(ValueError, match="metric must be one of"):
        anyloss(p, y, metric="auc")
    with pytest.raises(ValueError, match="disagree"):
        anyloss(p, y[:3])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 1\]"):
        anyloss_from_logits(p, 2 * y - 1)
    with pytest.raises(ValueError, match="L must lie in"):
        soft_threshold(p, L=0.0)
    with pytest.raises(ValueError, match="beta must lie in"):
        anyloss(p, y, metric="fbeta", beta=0.0)
