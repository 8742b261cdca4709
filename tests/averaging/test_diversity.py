"""Diversity of errors against DESlib, decompositions as identities, the toy of spurious features by enumeration, BANG."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.averaging import (
    balanced_finetune_loss,
    bvcl_decomposition,
    diversity_ratio_error,
    ensemble_ood_accuracy,
    false_false_true_rate,
    output_space_ensemble,
    q_diversity,
    soup,
    squared_locality,
    wise_ft,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "deslib.npz"


def test_diversity_and_deslib_agree(x64):
    golden = np.load(GOLDEN)
    preds, labels = jnp.asarray(golden["preds"]), jnp.asarray(golden["labels"])
    i, j = golden["pairs"].T
    pairs = lambda fn: jax.jit(jax.vmap(lambda a, b: fn(a, b, labels)))(preds[i], preds[j])  # noqa: E731
    np.testing.assert_allclose(pairs(q_diversity), 1 - golden["q"], rtol=0, atol=1e-13)  # float64
    np.testing.assert_allclose(pairs(diversity_ratio_error), golden["ratio"], rtol=1e-13)


def test_diversity_where_a_quotient_has_no_value():
    zero, right, wrong = jnp.zeros(4, int), jnp.zeros(4, int), jnp.ones(4, int)
    half = jnp.array([0, 0, 1, 1])
    assert float(diversity_ratio_error(right, right, zero)) == 0.0
    assert float(diversity_ratio_error(half, 1 - half, zero)) == np.inf
    assert float(diversity_ratio_error(wrong, wrong, zero)) == 0.0
    assert float(q_diversity(right, right, zero)) == 1.0
    assert float(q_diversity(half, half, zero)) == 0.0
    assert float(q_diversity(half, 1 - half, zero)) == 2.0


def test_false_false_true_by_hand():
    a, b = jnp.array([1, 2, 0, 1, 2]), jnp.array([2, 2, 1, 0, 1])
    ensemble, labels = jnp.array([0, 0, 0, 0, 1]), jnp.array([0, 0, 0, 0, 0])
    # the first two: both wrong, together right; the last: wrong all three
    np.testing.assert_allclose(false_false_true_rate(a, b, ensemble, labels), 2 / 5, rtol=1e-7)


def _linear_runs(key, repeats, members, n):
    """Ridge regressions on bootstrap samples of a training set drawn for each repeat: runs that share their data."""
    rng = np.random.default_rng(key)
    d = 3
    truth = rng.normal(size=d)
    found = np.zeros((repeats, members, d))
    for r in range(repeats):
        x = rng.normal(size=(n, d))
        y = x @ truth + np.sin(3 * x[:, 0]) + rng.normal(size=n)
        for m in range(members):
            chosen = rng.integers(0, n, n)
            found[r, m] = np.linalg.solve(x[chosen].T @ x[chosen] + 0.5 * np.eye(d), x[chosen].T @ y[chosen])
    return truth, found, rng.normal(size=(40, d))


def test_decomposition_of_linear_models(x64):
    """Locality is zero; bias² + var / M + (M - 1) / M cov is the error of the average of weights, exactly."""
    truth, weights, x = _linear_runs(0, 12, 4, 15)
    targets = x @ truth + np.sin(3 * x[:, 0])
    preds = np.einsum("rmd,nd->rmn", weights, x)
    averaged = np.stack([x @ np.asarray(soup(jnp.asarray(w))) for w in weights])
    got = jax.jit(bvcl_decomposition)(jnp.asarray(preds), jnp.asarray(targets), jnp.asarray(averaged))
    error = np.mean((averaged - targets) ** 2)
    np.testing.assert_allclose(got.bias + got.variance / 4 + 3 / 4 * got.covariance, error, rtol=1e-12)
    np.testing.assert_allclose(got.locality, 0, atol=1e-13)
    # the parts themselves, as the paper writes them
    mean = preds.mean(axis=(0, 1))
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    covariance = np.mean([(preds[:, i] - mean) * (preds[:, j] - mean) for i, j in pairs])
    np.testing.assert_allclose(got.bias, np.mean((mean - targets) ** 2), rtol=1e-12)
    np.testing.assert_allclose(got.variance, np.mean((preds - mean) ** 2), rtol=1e-12)
    np.testing.assert_allclose(got.covariance, covariance, rtol=1e-12)
    # runs that share their data are correlated; the average gains what they do not share
    assert 0 < got.covariance < got.variance


def test_locality_falls_with_the_square_of_the_distance(x64):
    """f_WA - f_ENS is of second order: halving the distance of the members quarters it."""
    rng = np.random.default_rng(1)
    centre, spread, x = rng.normal(size=5), rng.normal(size=(3, 4, 5)), rng.normal(size=(20, 5))

    @jax.jit
    def parts(scale):
        weights = jnp.asarray(centre + scale * spread)
        f = lambda w: jnp.tanh(jnp.asarray(x) @ w)  # noqa: E731
        preds, averaged = jax.vmap(jax.vmap(f))(weights), jax.vmap(lambda w: f(soup(w)))(weights)
        return bvcl_decomposition(preds, jnp.zeros(20), averaged), jax.vmap(squared_locality)(weights)

    (one, distance), (half, half_distance) = parts(0.02), parts(0.01)
    np.testing.assert_allclose(distance / half_distance, 4, rtol=1e-12)
    # the next order is as large as the scale itself
    np.testing.assert_allclose(one.locality / half.locality, 4, rtol=0.05)
    np.testing.assert_allclose(
        squared_locality(jnp.asarray(spread[0])),
        np.max(np.sum((spread[0] - spread[0].mean(axis=0)) ** 2, axis=1)),
        rtol=1e-13,
    )


def _accuracy_by_enumeration(n_v, n_s, classes, p):
    """Every outcome of every feature."""
    total = 0.0
    for votes in itertools.product(range(classes), repeat=n_s):
        counts = np.bincount(votes, minlength=classes) + np.eye(classes, dtype=int)[0] * n_v
        chance = np.prod([1 - p + p / classes if v == 0 else p / classes for v in votes])
        best = np.flatnonzero(counts == counts.max())
        total += chance * (0 in best) / len(best)
    return total


@pytest.mark.parametrize("n_v, n_s, classes", [(2, 3, 3), (0, 3, 4), (1, 5, 2), (0, 5, 3), (3, 2, 5), (1, 0, 2)])
def test_toy_accuracy_by_enumeration(n_v, n_s, classes, x64):
    for p in (0.0, 0.3, 0.9, 1.0):
        expected = _accuracy_by_enumeration(n_v, n_s, classes, p)
        np.testing.assert_allclose(ensemble_ood_accuracy(n_v, n_s, classes, p), expected, rtol=1e-14)


def test_toy_accuracy_in_the_papers_formulas(x64):
    p = np.linspace(0, 1, 11)
    np.testing.assert_allclose(ensemble_ood_accuracy(2, 3, 3, jnp.asarray(p)), 1 - 5 * p**3 / 27, rtol=1e-14)
    together = 1 - (2 * p**5 / 81 + 17 * p**6 / 729)
    np.testing.assert_allclose(ensemble_ood_accuracy(4, 6, 3, jnp.asarray(p)), together, rtol=1e-14)
    # many features: by the law of large numbers right, if they vote for the right class more often
    assert float(ensemble_ood_accuracy(10, 150, 3, 0.7)) > 0.9999


def test_scaled_logits_dominate(x64):
    """The mixture of outputs is the mixture of weights of a linear model, and a louder model counts more."""
    rng = np.random.default_rng(2)
    w1, w2, x = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.normal(size=(9, 4))
    mixed = output_space_ensemble(jnp.asarray(x @ w1), jnp.asarray(x @ w2), 0.3)
    np.testing.assert_allclose(mixed, x @ wise_ft(jnp.asarray(w1), jnp.asarray(w2), alpha=0.3), atol=1e-14)
    loud = output_space_ensemble(jnp.asarray(x @ w1), jnp.asarray(1e6 * x @ w2))
    assert (loud.argmax(-1) == (x @ w2).argmax(-1)).all()


def _apply(w, x):
    return x @ w


def test_balanced_loss_without_mixup(x64):
    """Against the definition in NumPy; without smoothing it is the cross-entropy."""
    rng = np.random.default_rng(3)
    w, x, y = rng.normal(size=(4, 3)), rng.normal(size=(6, 4)), rng.integers(0, 3, 6)
    logits = x @ w
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for s in (0.0, 0.2):
        got = balanced_finetune_loss(
            jax.random.key(0), _apply, jnp.asarray(w), jnp.asarray(x), jnp.asarray(y), label_smoothing=s
        )
        expected = -((1 - s) * log_p[np.arange(6), y] + s * log_p.mean(axis=1))
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_balanced_loss_with_mixup(x64):
    """Inputs that are unit vectors show what was mixed: the targets must be mixed alike, by draws of Beta(α, α)."""
    n, classes, alpha = 16, 4, 0.5
    w, y = np.random.default_rng(4).normal(size=(n, classes)), np.arange(n) % classes

    def loss(key):
        seen = []

        def apply(params, x):
            seen.append(x)
            return x @ params

        got = balanced_finetune_loss(
            key, apply, jnp.asarray(w), jnp.eye(n), jnp.asarray(y), label_smoothing=0.1, mixup_alpha=alpha
        )
        return got, seen[0]

    got, mixed = (np.asarray(a) for a in jax.jit(jax.vmap(loss))(jax.random.split(jax.random.key(1), 2000)))
    np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(mixed.sum(axis=2), 1, rtol=1e-12)  # a permutation
    targets = 0.9 * mixed @ np.eye(classes)[y] + 0.1 / classes
    logits = mixed @ w
    log_p = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    np.testing.assert_allclose(got, -(targets * log_p).sum(axis=2), rtol=1e-9)
    # one λ for a batch: every example that is not its own partner has it on the diagonal
    lam = np.diagonal(mixed, axis1=1, axis2=2).min(axis=1)
    # mean and variance of Beta(1/2, 1/2) are 1/2 and 1/8; five standard errors of 2,000 draws
    assert abs(lam.mean() - 0.5) < 5 * np.sqrt(1 / 8 / 2000)
    assert abs(lam.var() - 0.125) < 5 * np.sqrt(1 / 128 / 2000)


def test_clear_errors():
    labels = jnp.zeros(3, int)
    with pytest.raises(ValueError, match=r"of one shape \(n,\), got \(2,\)"):
        q_diversity(jnp.zeros(2, int), labels, labels)
    with pytest.raises(ValueError, match="there are no examples"):
        diversity_ratio_error(labels[:0], labels[:0], labels[:0])
    with pytest.raises(ValueError, match="of one shape"):
        false_false_true_rate(labels, labels, labels[:2], labels)
    with pytest.raises(ValueError, match="at least 2 repeats of at least 2 members"):
        bvcl_decomposition(jnp.zeros((1, 3, 4)), jnp.zeros(4), jnp.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"wa_preds \(2, 4\), got \(2, 3\)"):
        bvcl_decomposition(jnp.zeros((2, 3, 4)), jnp.zeros(4), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="num_spurious must lie in"):
        ensemble_ood_accuracy(2, 200, 3, 0.5)
    with pytest.raises(ValueError, match="num_classes must lie in"):
        ensemble_ood_accuracy(2, 3, 1, 0.5)
    with pytest.raises(ValueError, match="do not go together"):
        output_space_ensemble(jnp.zeros(2), jnp.zeros(3))
    x, key = jnp.ones((3, 2)), jax.random.key(0)
    with pytest.raises(TypeError, match="y|labels must be integers"):
        balanced_finetune_loss(key, _apply, jnp.ones((2, 2)), x, jnp.ones(3))
    with pytest.raises(ValueError, match="inputs of shape"):
        balanced_finetune_loss(key, _apply, jnp.ones((2, 2)), x, labels[:2])
    with pytest.raises(ValueError, match="mixup_alpha must lie in"):
        balanced_finetune_loss(key, _apply, jnp.ones((2, 2)), x, labels, mixup_alpha=0.0)
