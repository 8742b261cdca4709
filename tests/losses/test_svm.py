"""Margin losses by hand, and their minimum against scikit-learn's machine; the recurrent network step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from sklearn.svm import LinearSVC

from jaxtrain.losses import l1_svm_loss, l2_svm_loss, one_vs_rest_signs, svm_head_objective
from jaxtrain.models import GRUClassifier
from jaxtrain.testing import check_loss


@pytest.mark.parametrize("classes", [2, 3])
def test_minimum_is_scikit_learns(classes, x64):
    rng = np.random.default_rng(0)
    y = np.arange(60) % classes
    x = rng.normal(size=(60, 4)) + 1.5 * rng.normal(size=(classes, 4))[y]
    shape = (4, classes)

    def split(flat):
        return {"w": flat[: 4 * classes].reshape(shape), "b": flat[4 * classes :]}

    @jax.jit
    def objective(flat):
        head = split(flat)
        return svm_head_objective(head, jnp.asarray(x) @ head["w"] + head["b"], jnp.asarray(y), C=0.3)

    found = optimize.minimize(
        jax.jit(jax.value_and_grad(objective)), np.zeros(5 * classes), jac=True, tol=1e-12, options={"gtol": 1e-10}
    )
    ours = split(found.x)
    # scikit-learn shrinks the bias too, by 1 / scaling² of it, which moves it by some 1e-5
    theirs = LinearSVC(loss="squared_hinge", C=0.3, dual=False, intercept_scaling=1e3, tol=1e-12, max_iter=100_000)
    theirs.fit(x, y)
    w, b = theirs.coef_.T, theirs.intercept_
    if classes == 2:  # it trains one machine for two classes; ours are that one and its opposite
        w, b = np.concatenate([-w, w], axis=1), np.concatenate([-b, b])
    np.testing.assert_allclose(ours["w"], w, atol=4e-5)
    np.testing.assert_allclose(ours["b"], b, atol=4e-5)


def test_hinges_by_hand(x64):
    f = np.random.default_rng(1).normal(size=(6, 4)) * 2
    y = np.array([0, 1, 2, 3, 3, 1])
    signs = np.where(np.arange(4) == y[:, None], 1.0, -1.0)
    np.testing.assert_array_equal(one_vs_rest_signs(jnp.asarray(y), 4), signs)
    lack = np.maximum(0, 1 - signs * f)
    np.testing.assert_allclose(l2_svm_loss(jnp.asarray(f), jnp.asarray(signs)), (lack**2).sum(1), rtol=1e-14)
    np.testing.assert_allclose(l1_svm_loss(jnp.asarray(f), jnp.asarray(signs)), lack.sum(1), rtol=1e-14)
    slope = jax.grad(lambda f: l2_svm_loss(f, jnp.asarray(signs)).sum())(jnp.asarray(f))
    np.testing.assert_allclose(slope, -2 * signs * lack, rtol=1e-14)
    far = jnp.asarray(signs * (1 + np.abs(f)))
    np.testing.assert_array_equal(l2_svm_loss(far, jnp.asarray(signs)), 0.0)
    # no jump of the slope at the margin
    at = jax.grad(lambda f: l2_svm_loss(f[None], jnp.ones(1)))
    np.testing.assert_allclose([at(1 - 1e-9), at(1 + 1e-9)], 0.0, atol=3e-9)


def test_the_head_is_regularized_without_its_bias():
    head = {"kernel": jnp.array([[3.0, 0.0], [0.0, -4.0]]), "bias": jnp.array([100.0, 7.0])}
    got = svm_head_objective(head, jnp.array([[5.0, -5.0], [0.0, 0.5]]), jnp.array([0, 0]), C=2.0)
    np.testing.assert_allclose(got, 12.5 + 2 * (1 + 1.5**2), rtol=1e-6)  # single precision
    grad = jax.grad(lambda h: svm_head_objective(h, jnp.zeros((1, 2)), jnp.array([0])))(head)
    np.testing.assert_array_equal(grad["kernel"], head["kernel"])
    np.testing.assert_array_equal(grad["bias"], 0.0)


def test_network_step_by_step(x64):
    rng = np.random.default_rng(2)
    x, lengths = rng.normal(size=(3, 5, 2)), np.array([5, 2, 4])
    model = GRUClassifier(units=4, num_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(x))
    p = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes)["params"]
    cell, head = p["cell"], p["head"]

    def dense(name, v):
        return v @ cell[name]["kernel"] + cell[name].get("bias", 0.0)

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    for ends in (lengths, np.full(3, 5)):
        wanted = []
        for row, end in zip(x, ends, strict=True):
            h = np.zeros(4)
            for step in row[:end]:
                z = sigmoid(dense("iz", step) + dense("hz", h))
                r = sigmoid(dense("ir", step) + dense("hr", h))
                h = (1 - z) * np.tanh(dense("in", step) + r * dense("hn", h)) + z * h
            wanted.append(h @ head["kernel"] + head["bias"])
        given = None if ends.min() == 5 else jnp.asarray(ends)
        params = jax.tree.map(jnp.asarray, p)
        np.testing.assert_allclose(model.apply({"params": params}, jnp.asarray(x), given), wanted, rtol=1e-12)


@pytest.mark.parametrize("fn", [l1_svm_loss, l2_svm_loss])
def test_contract(fn):
    laws = None if fn is l2_svm_loss else ("shape", "dtype", "finite_gradient", "gradient")
    check_loss(lambda f, y: fn(f, one_vs_rest_signs(y, f.shape[-1])), class_symmetric=laws is None, laws=laws)


def test_bad_input():
    f, y = jnp.zeros((3, 2)), jnp.zeros(3, int)
    with pytest.raises(ValueError, match=r"l2_svm_loss: logits \(3, 2\) and signs \(3,\) disagree"):
        l2_svm_loss(f, y)
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        one_vs_rest_signs(y, 1)
    with pytest.raises(ValueError, match="C must lie in"):
        svm_head_objective({"w": f}, f, y, C=0.0)
    with pytest.raises(ValueError, match="no weights"):
        svm_head_objective({"b": jnp.zeros(2)}, f, y)
    with pytest.raises(ValueError, match="label 2 is none of the 2 classes"):
        svm_head_objective({"w": f}, f, y + 2)
