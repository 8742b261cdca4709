"""Normalized logistic gradient descent against its gradient and its limits, the perceptrons."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import Perceptron

from jaxtrain.optimizers import (
    batch_perceptron_step,
    margin,
    normalized_logistic_gd_step,
    perceptron,
    scale_by_mean_residual,
)


def data(seed, n=12, d=3, gap=0.3):
    """Separable rows: the first coordinate of y a is at least ``gap``."""
    rng = np.random.default_rng(seed)
    y = rng.choice([-1, 1], size=n)
    X = rng.normal(size=(n, d))
    X[:, 0] = y * (gap + np.abs(X[:, 0]))
    return jnp.asarray(X), jnp.asarray(y)


def loss(w, X, y):
    return jnp.mean(jax.nn.softplus(-y * (X @ w)))


def iterates(step, count=60):
    """The first iterates from zero."""
    first = jnp.zeros(3)
    return jax.jit(lambda: jax.lax.scan(lambda w, _: (step(w),) * 2, first, None, count)[1])()


def test_it_is_the_gradient_over_the_mean_residual(x64):
    X, y = data(0)
    w = jnp.array([0.3, -2.0, 1.0])
    g, residual = jax.grad(loss)(w, X, y), jnp.mean(jax.nn.sigmoid(-y * (X @ w)))
    expected = w - 0.7 * g / residual
    np.testing.assert_allclose(normalized_logistic_gd_step(w, X, y, step_size=0.7), expected, rtol=1e-14)
    tx = optax.chain(scale_by_mean_residual(), optax.sgd(0.7))
    updates, _ = tx.update(g, tx.init(w), w, mean_residual=residual)
    np.testing.assert_allclose(w + updates, expected, rtol=1e-14)


def test_huge_steps_are_perceptrons(x64):
    """In units of the step size, with the weight 1/2 of the first step, where all margins are 0."""
    X, y = data(1, gap=0.05)
    rate = 1e12
    plain = iterates(lambda w: w - rate * jax.grad(loss)(w, X, y)) / rate
    np.testing.assert_allclose(plain, iterates(lambda w: batch_perceptron_step(w, X, y)), atol=1e-10)
    normal = iterates(lambda w: normalized_logistic_gd_step(w, X, y, step_size=rate)) / rate
    limit = iterates(lambda w: batch_perceptron_step(w, X, y, normalized=True))
    # they part when all is right: the perceptron stops, the softmax goes on to weight the smallest margin
    wrong = int(jnp.sum(jnp.any(y * (limit @ X.T) <= 0, axis=1)))
    assert 2 <= wrong < 60
    np.testing.assert_allclose(normal[: wrong + 1], limit[: wrong + 1], atol=1e-10)


def test_one_row_is_the_perceptron(x64):
    X, y = jnp.array([[1.0, -2.0]]), jnp.array([-1])
    for w in ([0.3, -0.1], [-5.0, 1.0]):
        w = jnp.asarray(w)
        # one row has all the weight, right or wrong
        np.testing.assert_allclose(normalized_logistic_gd_step(w, X, y, step_size=2.0), w - 2 * X[0], rtol=1e-15)
        normal = batch_perceptron_step(w, X, y, normalized=True)
        np.testing.assert_array_equal(normal, w - X[0] if float(X[0] @ w) > 0 else w)


def test_weights_survive_where_every_residual_underflows():
    X, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1, 1])
    w = jnp.array([1000.0, 1001.0])
    step = normalized_logistic_gd_step(w, X, y, step_size=1.0) - w
    share = 1 / (1 + np.exp(-1))
    # float32 next to 1000 has steps of 6e-5
    np.testing.assert_allclose(step, [share, 1 - share], atol=1e-4)
    assert float(jnp.abs(jax.grad(loss)(w, X, y)).max()) == 0.0
    tx = scale_by_mean_residual()
    assert tx.update(jnp.zeros(2), tx.init(w), mean_residual=0.0)[0].tolist() == [0.0, 0.0]


def test_perceptron_equals_scikit_learn_and_keeps_novikoffs_bound(x64):
    X, y = data(2, n=30, gap=0.05)
    w, updates = jax.jit(perceptron)(X, y)
    peer = Perceptron(fit_intercept=False, shuffle=False, tol=None, max_iter=200).fit(np.asarray(X), np.asarray(y))
    np.testing.assert_allclose(w, peer.coef_[0], rtol=1e-12)
    found = margin(X, y)
    assert 3 < int(updates) <= float(found.radius / found.margin) ** 2
    # from a solution nothing moves
    again, none = perceptron(X, y, w)
    assert int(none) == 0 and again.tolist() == w.tolist()
    assert int(perceptron(X, y, max_epochs=1)[1]) <= 30
    # 1 and -1 are never both right: two updates in each epoch, back to 0
    w, updates = perceptron(jnp.array([[1.0], [-1.0]]), jnp.array([1, 1]), max_epochs=3)
    assert int(updates) == 6 and w.tolist() == [0.0]


@pytest.mark.parametrize("seed", range(3))
def test_margin_equals_scipy(x64, seed):
    X, y = (np.asarray(v) for v in data(seed, n=20))
    z = X * y[:, None]
    # the support vector machine: the shortest w with y a·w ≥ 1 has length 1/μ
    svm = minimize(
        lambda w: w @ w / 2,
        np.array([10.0, 0.0, 0.0]),
        jac=lambda w: w,
        constraints={"type": "ineq", "fun": lambda w: z @ w - 1, "jac": lambda w: z},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    # momentum and restarts find it in less than 800 iterations
    found = margin(jnp.asarray(X), jnp.asarray(y), tolerance=1e-8, max_iters=800)
    np.testing.assert_allclose(found.margin, 1 / np.linalg.norm(svm.x), rtol=1e-7)  # SLSQP's own accuracy
    np.testing.assert_allclose(found.direction, svm.x / np.linalg.norm(svm.x), atol=1e-6)
    np.testing.assert_allclose(found.margin, np.min(z @ np.asarray(found.direction)), rtol=1e-12)
    np.testing.assert_allclose(found.radius, np.linalg.norm(X, axis=1).max(), rtol=1e-14)


def test_half_precision_is_computed_in_single():
    X, y = jnp.array([[3.0, 4.0], [0.0, -5.0]], jnp.bfloat16), jnp.array([1, 1])
    found = margin(X, y)
    np.testing.assert_allclose(found.margin, np.sqrt(2.5), rtol=1e-4)  # the tolerance asked for
    # each row is wrong once: 0, then ⟨(0, -5), (3, 4)⟩ < 0, then ⟨(3, 4), (3, -1)⟩ > 0
    w, updates = perceptron(X, y)
    assert w.dtype == jnp.float32 and w.tolist() == [3.0, -1.0] and int(updates) == 2


def test_margin_without_separation_is_not_positive():
    found = margin(jnp.array([[1.0], [-2.0]]), jnp.array([1, 1]), max_iters=200)
    assert float(found.margin) <= 1e-6


def test_clear_errors():
    X, y = data(3)
    w = jnp.zeros(3)
    # where types are checked, as here, they speak first
    with pytest.raises((ValueError, TypeError), match=r"needs rows \(n, d\) and labels \(n,\)|parameter 'y'"):
        normalized_logistic_gd_step(w, X, w, step_size=1.0)
    with pytest.raises(ValueError, match=r"labels must be -1 or 1, got \[0, 1\]"):
        perceptron(X, (y + 1) // 2)
    with pytest.raises((ValueError, TypeError), match=r"each of the 3 columns, got shape \(2,\)|parameter 'X'"):
        batch_perceptron_step(w[:2], X, y)
    with pytest.raises(ValueError, match=r"mean_residual is one number, got an array of shape \(2,\)"):
        scale_by_mean_residual().update(w, optax.EmptyState(), mean_residual=jnp.ones(2))
    with pytest.raises(ValueError, match=r"step_size must lie in \(0, inf\], got -1"):
        normalized_logistic_gd_step(w, X, y, step_size=-1)
    with pytest.raises(ValueError, match="max_epochs must be at least 1, got 0"):
        perceptron(X, y, max_epochs=0)
    with pytest.raises(ValueError, match="scale_by_mean_residual needs the mean of"):
        scale_by_mean_residual().update(w, optax.EmptyState())
