"""TGeo-KD: its parts by hand, its hypergradient in closed form and by finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, log_softmax, softmax

from jaxtrain.losses import (
    TGeoBatch,
    TGeoState,
    class_mean_teacher,
    fusion_ratio,
    kd_fusion_loss,
    kd_loss,
    tgeo_bilevel_step,
    trilateral_features,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
S, T, Y = 2 * RNG.normal(size=(8, 3)), 2 * RNG.normal(size=(8, 3)), np.array([0, 1, 2, 0, 1, 2, 2, 2])


def test_loss_is_the_mixture(x64):
    alpha, tau = RNG.random(8), 1.5
    kl = (softmax(T / tau, 1) * (log_softmax(T / tau, 1) - log_softmax(S / tau, 1))).sum(1)
    ce = -log_softmax(S, 1)[np.arange(8), Y]
    student, teacher, labels = jnp.asarray(S), jnp.asarray(T), jnp.asarray(Y)
    got = kd_fusion_loss(student, teacher, labels, jnp.asarray(alpha), temperature=tau)
    np.testing.assert_allclose(got, alpha * tau**2 * kl + (1 - alpha) * ce, rtol=1e-12)  # float64
    by_optax = optax.losses.softmax_cross_entropy_with_integer_labels(student, labels)
    np.testing.assert_allclose(kd_fusion_loss(student, teacher, labels, 0.0), by_optax, rtol=1e-13)
    np.testing.assert_array_equal(
        kd_fusion_loss(student, teacher, labels, 1.0, temperature=3.0), kd_loss(student, teacher, temperature=3.0)
    )
    slope = jax.grad(lambda a: kd_fusion_loss(student, teacher, labels, a, temperature=tau).sum())(jnp.asarray(alpha))
    np.testing.assert_allclose(slope, tau**2 * kl - ce, rtol=1e-11)


def test_features_by_hand(x64):
    s, t, g, mean = RNG.random((4, 5, 3))
    got = np.asarray(trilateral_features(*map(jnp.asarray, (s, t, g, mean)))).reshape(5, 9, 3)
    for k, wanted in enumerate(
        [s, t, g, mean, (mean - s) ** 2, (g - s) ** 2, (t - s) ** 2, (t - g) ** 2, (mean - g) ** 2]
    ):
        np.testing.assert_allclose(got[:, k], wanted, rtol=1e-13)
    one = jnp.asarray(s)
    np.testing.assert_array_equal(trilateral_features(one, one, one, one)[:, 12:], 0.0)
    np.testing.assert_array_equal(jax.grad(lambda s: trilateral_features(s, one, one, one).sum())(one), 0.0)


def test_means_and_ratio_by_hand(x64):
    probs = softmax(T, 1)
    wanted = np.stack([probs[c == Y].mean(0) for c in range(3)])
    np.testing.assert_allclose(
        class_mean_teacher(jnp.asarray(probs), jnp.asarray(Y), num_classes=3), wanted, rtol=1e-12
    )
    w1, b1, w2, b2 = (RNG.normal(size=size) for size in ((4, 3), (3,), (3, 1), (1,)))
    f = RNG.normal(size=(5, 4))
    h = f @ w1 + b1
    params = [{"w": jnp.asarray(w1), "b": jnp.asarray(b1)}, {"w": jnp.asarray(w2), "b": jnp.asarray(b2)}]
    got = fusion_ratio(params, jnp.asarray(f))
    np.testing.assert_allclose(got, expit(np.where(h > 0, h, 0.01 * h) @ w2 + b2)[:, 0], rtol=1e-12)


def _problem():
    """A linear student, a ratio of one layer, and their data in float64."""
    rng = np.random.default_rng(3)
    train, val = rng.normal(size=(8, 4)), rng.normal(size=(6, 4))
    val_y = rng.integers(0, 3, 6)
    student, ratio = rng.normal(size=(4, 3)), [{"w": 0.3 * rng.normal(size=(27, 1)), "b": np.array([0.2])}]
    means = softmax(rng.normal(size=(3, 3)), 1)
    return train, val, val_y, student, ratio, means


def _step(student_tx, ratio_tx, temperature=1.5):
    train, val, val_y, student, ratio, means = jax.tree.map(jnp.asarray, _problem())
    step = functools.partial(
        tgeo_bilevel_step,
        train_batch=TGeoBatch(train, jnp.asarray(T), jnp.asarray(Y)),
        val_batch=TGeoBatch(val, None, val_y),
        apply=lambda w, x: x @ w,
        student_tx=student_tx,
        ratio_tx=ratio_tx,
        class_means=means,
        temperature=temperature,
    )

    @jax.jit
    def of_ratio(ratio):
        return step(TGeoState(student, student_tx.init(student), ratio, ratio_tx.init(ratio)))

    return of_ratio, ratio


def test_hypergradient_of_sgd_in_closed_form(x64):
    lr, tau = 0.7, 2.0
    of_ratio, ratio = _step(optax.sgd(lr), optax.sgd(1.0), temperature=tau)
    state, metrics = of_ratio(ratio)
    x, val, val_y, w, layers, means = _problem()
    onehot, z = np.eye(3)[Y], x @ w
    p, t = softmax(z, 1), softmax(T, 1)
    m = means[Y]
    squares = [(a - b) ** 2 for a, b in ((m, p), (onehot, p), (t, p), (t, onehot), (m, onehot))]
    f = np.concatenate([p, t, onehot, m, *squares], axis=1)
    alpha = expit(f @ layers[0]["w"] + layers[0]["b"])[:, 0]
    # slopes of both losses by the logits; T² (1/T) is left of the temperature
    teach, truth = tau * (softmax(z / tau, 1) - softmax(T / tau, 1)), p - onehot
    after = w - lr * x.T @ (alpha[:, None] * teach + (1 - alpha[:, None]) * truth) / 8
    to_val = val.T @ (softmax(val @ after, 1) - np.eye(3)[val_y]) / 6
    by_alpha = -lr / 8 * np.einsum("ij,ik,jk->i", x, teach - truth, to_val)
    by_sum = by_alpha * alpha * (1 - alpha)
    np.testing.assert_allclose(metrics.alpha, alpha, rtol=1e-12)  # float64
    np.testing.assert_allclose(state.student, after, rtol=1e-12)
    kl = (softmax(T / tau, 1) * (log_softmax(T / tau, 1) - log_softmax(z / tau, 1))).sum(1)
    mixed = alpha * tau**2 * kl - (1 - alpha) * log_softmax(z, 1)[np.arange(8), Y]
    np.testing.assert_allclose(metrics.loss, mixed.mean(), rtol=1e-12)
    np.testing.assert_allclose(metrics.validation_loss, -log_softmax(val @ after, 1)[np.arange(6), val_y].mean())
    np.testing.assert_allclose(ratio[0]["w"] - state.ratio[0]["w"], f.T @ by_sum[:, None], rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(ratio[0]["b"] - state.ratio[0]["b"], [by_sum.sum()], rtol=1e-9)


def test_hypergradient_through_adam_by_finite_differences(x64):
    of_ratio, ratio = _step(optax.adam(0.1, eps_root=1e-8), optax.sgd(1.0, momentum=0.9))
    state, _ = of_ratio(ratio)
    # both optimizers' states are those after the step
    assert optax.tree.get(state.student_state, "count") == 1
    for trace, old, new in zip(*map(jax.tree.leaves, (state.ratio_state, ratio, state.ratio)), strict=True):
        np.testing.assert_allclose(trace, old - new, rtol=1e-12, atol=1e-14)  # rounding of the difference
    got = jax.tree.map(lambda a, b: a - b, ratio, state.ratio)
    for i in (0, 5, 26):
        e = jnp.zeros((27, 1)).at[i].set(1e-4)
        # the error is a third derivative times 1e-8
        ends = [of_ratio([{"w": ratio[0]["w"] + sign * e, "b": ratio[0]["b"]}])[1].validation_loss for sign in (1, -1)]
        np.testing.assert_allclose(got[0]["w"][i, 0], (ends[0] - ends[1]) / 2e-4, rtol=1e-5, atol=1e-10)


def test_contract():
    def fn(z, y):
        known = jnp.clip(y, 0, 2)  # the teacher of an example is the same whatever its label is spoilt to
        teacher = jnp.stack([jnp.cos(3.0 * known), jnp.sin(5.0 * known), known], axis=-1).astype(z.dtype)
        return kd_fusion_loss(z, teacher, y, 0.3)

    check_loss(fn, num_classes=3)


def test_bad_input():
    z, y = jnp.asarray(S), jnp.asarray(Y)
    with pytest.raises(ValueError, match="alpha must lie in"):
        kd_fusion_loss(z, z, y, 1.5)
    with pytest.raises(ValueError, match=r"alpha of shape \(3,\); give one number or one for each of \(8,\)"):
        kd_fusion_loss(z, z, y, jnp.full(3, 0.5))
    with pytest.raises(ValueError, match="label 3 is none of the 3 classes"):
        kd_fusion_loss(z, z, y + 1, 0.5)
    part = TGeoBatch(z, z, y)
    sgd = optax.sgd(0.1)
    state = TGeoState(jnp.eye(3), sgd.init(jnp.eye(3)), [{"w": jnp.zeros((27, 1)), "b": jnp.zeros(1)}], sgd.init([]))
    step = functools.partial(
        tgeo_bilevel_step, apply=lambda w, x: x @ w, student_tx=sgd, ratio_tx=sgd, class_means=jnp.eye(3)
    )
    for train, val in ((part._replace(labels=y + 1), part), (part, part._replace(labels=y + 1))):
        with pytest.raises(ValueError, match="tgeo_bilevel_step.*: label 3 is none of the 3 classes"):
            step(state, train, val)
    with pytest.raises(ValueError, match=r"logits \(8, 3\) and onehot \(8, 2\) disagree"):
        trilateral_features(z, z, z[:, :2], z)
    with pytest.raises(ValueError, match=r"layers of shapes \[\(4, 1\)\] for 3 features and one ratio"):
        fusion_ratio([{"w": jnp.zeros((4, 1)), "b": jnp.zeros(1)}], z)
