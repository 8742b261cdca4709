"""Neural collapse: NumPy by hand, the frames themselves, and minimising the model of unconstrained features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxtrain import studies
from jaxtrain.testing import check_estimator


def _minimise(shapes, loss):
    """SciPy's L-BFGS from a random start, to the last digits."""
    rng = np.random.default_rng(0)
    sizes = [int(np.prod(s)) for s in shapes]

    def parts(flat):
        return [p.reshape(s) for p, s in zip(jnp.split(flat, np.cumsum(sizes)[:-1]), shapes, strict=True)]

    gradient = jax.jit(jax.value_and_grad(lambda flat: loss(parts(flat))))
    result = optimize.minimize(
        lambda x: tuple(np.asarray(v, np.float64) for v in gradient(jnp.asarray(x))),
        rng.normal(size=sum(sizes)) * 0.5,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-10},
    )
    return [np.asarray(p) for p in parts(jnp.asarray(result.x))], result.fun


def _targets(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    return labels, jnp.asarray(np.eye(len(counts))[labels].T)


def test_minimum_of_the_free_model_is_the_closed_form_with_a_class_at_zero(x64):
    counts, lam_w, lam_h = (9, 5, 1), 0.05, 0.1  # threshold: 15^2 * 0.005 = 1.125 examples
    labels, y = _targets(counts)
    (w, h), value = _minimise(
        [(3, 4), (4, 15)], lambda p: studies.ufm_deep_linear_loss(p[:1], p[1], y, lam_w=lam_w, lam_h=lam_h)
    )
    s = np.asarray(studies.gof_singular_values(jnp.asarray(counts), lam_w=lam_w, lam_h=lam_h))
    assert s[2] == 0
    # the row that vanishes has a flat minimum: what is left is the root of the optimiser's precision
    np.testing.assert_allclose(np.linalg.norm(w, axis=1), s, atol=1e-3)
    np.testing.assert_allclose(w @ w.T, np.diag(s**2), atol=1e-4)
    np.testing.assert_allclose(h, (w / (s**2 + 15 * lam_h)[:, None])[labels].T, atol=1e-3)
    n = np.array(counts)
    exact = np.sum(n * lam_h / (2 * (s**2 + 15 * lam_h)) + lam_w * s**2 / 2)
    np.testing.assert_allclose(value, exact, rtol=1e-8)


@pytest.mark.parametrize("depth, loss, frame", [(1, "mse", "orthogonal"), (3, "mse", "orthogonal"), (2, "ce", "etf")])
def test_balanced_minima_are_the_frames(depth, loss, frame, x64):
    k, d = 3, 4
    labels, y = _targets((4,) * k)
    shapes = [(d, d)] * (depth - 1) + [(k, d), (d, 12)]
    lam = 0.002
    found, _ = _minimise(
        shapes, lambda p: studies.ufm_deep_linear_loss(p[:-1], p[-1], y, lam_w=lam, lam_h=lam, loss=loss)
    )
    ws, h = found[:-1], found[-1]
    product = ws[-1]
    for w in reversed(ws[:-1]):
        product = product @ w
    metrics = studies.nc_metrics(
        jnp.asarray(h.T), jnp.asarray(labels), jnp.asarray(product), num_classes=k, frame=frame
    )
    # the optimiser's precision, in the square root where the minimum is flat
    assert metrics["nc1"] < 1e-6 and metrics["nc2"] < 1e-3 and metrics["nc3"] < 1e-3 and metrics["nc4"] == 0
    # all layers share their singular values
    for w in ws[:-1]:
        np.testing.assert_allclose(np.linalg.svd(w)[1][: k - 1], np.linalg.svd(ws[-1])[1][: k - 1], atol=1e-3)


def test_metrics_equal_numpy(x64):
    rng = np.random.default_rng(1)
    k, d = 4, 6
    labels = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3])
    h, w, b = rng.normal(size=(11, d)) + 3, rng.normal(size=(k, d)), rng.normal(size=k)
    means = np.stack([h[labels == c].mean(axis=0) for c in range(k)])
    sigma_w = np.mean([np.cov(h[labels == c].T, bias=True) for c in range(k)], axis=0)
    centred = means - means.mean(axis=0)
    nc1 = np.trace(sigma_w @ np.linalg.pinv(np.cov(means.T, bias=True), rcond=1e-10)) / k

    def distance(a, target):
        return np.linalg.norm(a / np.linalg.norm(a) - target)

    etf, frame = (np.eye(k) - 1 / k) / np.sqrt(k - 1), np.eye(k) / np.sqrt(k)
    nearest = ((h[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    expected = {
        "etf": (nc1, distance(centred @ centred.T, etf), distance(w @ centred.T, etf)),
        "orthogonal": (nc1, distance(means @ means.T, frame), distance(w @ means.T, frame)),
    }
    for name, values in expected.items():
        found = studies.nc_metrics(*map(jnp.asarray, (h, labels, w)), num_classes=k, frame=name, bias=jnp.asarray(b))
        np.testing.assert_allclose([found[n] for n in ("nc1", "nc2", "nc3")], values, rtol=1e-10)
        assert found["nc4"] == np.mean((h @ w.T + b).argmax(axis=1) != nearest)


def test_frames_have_distance_zero_under_rotation_and_scale(x64):
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    etf = 7e-200 * (np.eye(5) - 0.2) @ rotation
    np.testing.assert_allclose(studies.etf_distance(jnp.asarray(etf)), 0, atol=1e-12)
    np.testing.assert_allclose(studies.orthogonal_frame_distance(jnp.asarray(3e200 * rotation)), 0, atol=1e-12)
    # I/sqrt(5) against (I - 1/5)/2: 2 - 2 * trace(product) = 2 - 2 * 4 / (2 sqrt 5)
    expected = np.sqrt(2 - 4 / np.sqrt(5))
    np.testing.assert_allclose(studies.etf_distance(jnp.asarray(rotation)), expected, rtol=1e-12)


def test_loss_equals_numpy(x64):
    rng = np.random.default_rng(3)
    w1, w2, h = rng.normal(size=(5, 4)), rng.normal(size=(3, 5)), rng.normal(size=(4, 6))
    y = np.eye(3)[[0, 1, 2, 0, 1, 2]].T
    z = w2 @ w1 @ h
    decay = 0.1 * (w1**2).sum() / 2 + 0.2 * (w2**2).sum() / 2 + 0.3 * (h**2).sum() / 2
    ce = -np.mean(np.sum(y * (z - np.log(np.exp(z).sum(axis=0))), axis=0))
    for loss, fit in (("mse", ((z - y) ** 2).sum() / 12), ("ce", ce)):
        found = studies.ufm_deep_linear_loss(
            [jnp.asarray(w1), jnp.asarray(w2)], jnp.asarray(h), jnp.asarray(y), lam_w=(0.1, 0.2), lam_h=0.3, loss=loss
        )
        np.testing.assert_allclose(found, fit + decay, rtol=1e-12)


def test_contract():
    check_estimator(studies.etf_distance, np.random.default_rng(4).normal(size=(4, 6)))
    check_estimator(studies.orthogonal_frame_distance, np.random.default_rng(5).normal(size=(4, 6)))


def test_a_missing_class_is_not_a_number():
    found = studies.nc_metrics(jnp.ones((2, 3)), jnp.array([0, 1]), jnp.ones((3, 3)), num_classes=3)
    assert all(jnp.isnan(v) for v in found.values())


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: studies.etf_distance(jnp.ones((1, 3))), "at least 2 rows"),
        (lambda: studies.nc_metrics(jnp.ones((2, 3)), jnp.array([0, 1]), jnp.ones((2, 4)), num_classes=2), "disagree"),
        (
            lambda: studies.nc_metrics(jnp.ones((2, 3)), jnp.array([0, 1]), jnp.ones((2, 3)), num_classes=2, frame="x"),
            "frame must be",
        ),
        (lambda: studies.ufm_deep_linear_loss([], jnp.eye(2), jnp.eye(2), lam_w=1, lam_h=1), "at least one layer"),
        (lambda: studies.gof_singular_values(jnp.array([1, 2]), lam_w=0.0, lam_h=1.0), "lam_w"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()
