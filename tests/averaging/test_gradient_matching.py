"""Merging by curvature against closed forms: joint ridge solutions, removal, limits, and Fisher diagonals by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.averaging import (
    diagonal_fisher,
    fisher_average,
    gradient_mismatch,
    merge_gradient_matching,
    soup,
    task_arithmetic,
)
from jaxtrain.testing import check_aggregator

D, TASKS = 6, 3
merge = jax.jit(merge_gradient_matching)


@pytest.fixture
def ridge():
    """Linear regressions on orthogonal designs: every Hessian is diagonal, every minimum known."""
    rng = np.random.default_rng(0)

    def data(n=8):
        q, _ = np.linalg.qr(rng.normal(size=(n, D)))
        x = q * rng.uniform(0.5, 3.0, size=D)
        return x, x @ rng.normal(size=D) + 0.3 * rng.normal(size=n)

    prior = 0.7
    pre = data()
    tasks = [data() for _ in range(TASKS)]

    def solve(weighted):
        """argmin of δ/2 ‖θ‖² + Σ a/2 ‖Xθ - y‖²."""
        h, c = prior * np.eye(D), np.zeros(D)
        for a, (x, y) in weighted:
            h, c = h + a * x.T @ x, c + a * x.T @ y
        return np.linalg.solve(h, c)

    def hessian(x, _):
        return np.diag(x.T @ x)

    return prior, pre, tasks, solve, hessian


def _split(v):
    """A vector, or rows of vectors, as a tree."""
    return {"a": jnp.asarray(v[..., :2]), "b": jnp.asarray(v[..., 2:])}


def _join(tree):
    return np.concatenate([np.asarray(tree["a"]), np.asarray(tree["b"])], axis=-1)


@pytest.mark.parametrize("alphas", [[1.0, 1.0, 1.0], [0.3, 2.0, 0.0], [1.0, 1.0, -0.2]])
def test_merged_is_the_joint_ridge_solution(ridge, alphas, x64):
    prior, pre, tasks, solve, hessian = ridge
    base = solve([(1.0, pre)])
    models = np.stack([solve([(1.0, pre), (1.0, task)]) for task in tasks])
    hessians = np.stack([hessian(*task) for task in tasks])
    got = merge(
        _split(models), _split(base), _split(hessians), _split(hessian(*pre)), alphas=jnp.asarray(alphas), prior=prior
    )
    joint = solve([(1.0, pre), *zip(alphas, tasks, strict=True)])
    np.testing.assert_allclose(_join(got), joint, rtol=1e-12, atol=1e-13)  # float64


def test_removal_is_training_without_the_task(ridge, x64):
    """A base that has seen task 1 already; the task's model has seen it twice; alpha = -1 takes it away."""
    prior, pre, tasks, solve, hessian = ridge
    everything = [(1.0, pre), *((1.0, task) for task in tasks)]
    base, twice = solve(everything), solve([*everything, (1.0, tasks[1])])
    h_base = hessian(*pre) + sum(hessian(*task) for task in tasks)
    got = merge(
        _split(twice[None]), _split(base), _split(hessian(*tasks[1])[None]), _split(h_base), alphas=-1.0, prior=prior
    )
    without = solve([(1.0, pre), (1.0, tasks[0]), (1.0, tasks[2])])
    np.testing.assert_allclose(_join(got), without, rtol=1e-12, atol=1e-13)  # float64


def test_mismatch_of_gradients_is_the_error_of_task_arithmetic(x64):
    """Quadratic tasks, isotropic curvature of the base: the error is minus the mismatch over that curvature."""
    rng = np.random.default_rng(1)
    h0, alphas = 1.7, np.array([0.5, 1.0, 0.8])
    base, centres = rng.normal(size=D), rng.normal(size=(TASKS, D))
    hs = rng.uniform(0.1, 3.0, size=(TASKS, D))
    models = (h0 * base + hs * centres) / (h0 + hs)
    joint = (h0 * base + (alphas[:, None] * hs * centres).sum(0)) / (h0 + (alphas[:, None] * hs).sum(0))
    plain = task_arithmetic(jnp.asarray(models), jnp.asarray(base), alphas)
    losses = [lambda t, h=h, c=c: 0.5 * jnp.sum(h * (t - c) ** 2) for h, c in zip(hs, centres, strict=True)]
    mismatch = gradient_mismatch(losses, jnp.asarray(models), jnp.asarray(joint))
    np.testing.assert_allclose(mismatch, hs * (joint - models), atol=1e-13)
    np.testing.assert_allclose(joint - plain, -(alphas @ np.asarray(mismatch)) / h0, atol=1e-13)


def test_limits(x64):
    rng = np.random.default_rng(2)
    models, base = rng.normal(size=(TASKS, D)), rng.normal(size=D)
    hs = rng.uniform(0.1, 5.0, size=(TASKS, D))
    alphas = np.array([0.2, 0.5, 0.3])
    stack, tree = _split(models), _split(base)
    flat = _split(np.broadcast_to(hs[0], hs.shape))
    # equal Hessians: task arithmetic where the alphas sum to 1, and not else
    for a, same in ((alphas, True), (np.array([0.8, 1.0, 0.5]), False)):
        got, plain = merge(stack, tree, flat, _split(hs[1]), alphas=a), task_arithmetic(stack, tree, a)
        assert np.allclose(_join(got), _join(plain), rtol=0, atol=1e-13) is same
    # no curvature at the base, alphas that sum to 1: the Fisher-weighted average, written out
    expected = (alphas[:, None] * hs * models).sum(0) / (alphas[:, None] * hs).sum(0)
    zero = _split(np.zeros(D))
    np.testing.assert_allclose(_join(merge(stack, tree, _split(hs), zero, alphas=alphas)), expected, atol=1e-13)
    np.testing.assert_allclose(_join(fisher_average(stack, _split(hs), alphas)), expected, atol=1e-13)
    # a large prior makes Fishers equal
    np.testing.assert_allclose(_join(fisher_average(stack, _split(hs), prior=1e12)), _join(soup(stack)), atol=1e-10)


def test_where_nothing_is_known(x64):
    """0/0 is the limit of a vanishing prior; more curvature taken away than there is leaves the base."""
    models, base = jnp.array([[1.0, 5.0, 2.0], [3.0, 1.0, 4.0]]), jnp.array([0.5, 0.0, 1.0])
    hs = jnp.array([[0.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    zero = jnp.zeros(3)
    got = merge(models, base, hs, zero, alphas=jnp.array([0.5, 0.5]))
    almost = merge(models, base, hs, zero, alphas=jnp.array([0.5, 0.5]), prior=1e-12)
    np.testing.assert_allclose(got, almost, atol=1e-10)
    np.testing.assert_allclose(fisher_average(models, hs), fisher_average(models, hs, prior=1e-12), atol=1e-10)
    removed = merge(models[:1], base, hs[:1], jnp.array([1.0, 1.0, 1.0]), alphas=-1.0)
    # first entry: no curvature of the task: theta = base - (theta_1 - base); the others have no minimum
    np.testing.assert_array_equal(removed, [0.0, 0.0, 1.0])
    assert np.isnan(merge(models, base, hs.at[0, 0].set(jnp.nan), zero)[0])


def _softmax_problem(n=11, d=4, classes=3):
    rng = np.random.default_rng(3)
    x, w, b = rng.normal(size=(n, d)), rng.normal(size=(d, classes)), rng.normal(size=classes)
    logits = x @ w + b
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return x, {"w": jnp.asarray(w), "b": jnp.asarray(b)}, p, rng.integers(0, classes, n)


def _logits(params, x):
    return x @ params["w"] + params["b"]


@pytest.mark.parametrize("microbatch_size", [1, 4, 11, 100])
def test_fisher_diagonals_by_hand(microbatch_size, x64):
    """For softmax regression: exact x² p (1 - p), which is the Hessian's diagonal; empirical x² (p - e_y)²."""
    x, params, p, y = _softmax_problem()
    fisher = jax.jit(lambda *a: diagonal_fisher(_logits, *a, microbatch_size=microbatch_size))
    exact, empirical = fisher(params, jnp.asarray(x)), fisher(params, jnp.asarray(x), jnp.asarray(y))
    n = len(x)
    np.testing.assert_allclose(exact["w"], np.einsum("ni,nc->ic", x**2, p * (1 - p)) / n, rtol=1e-12)
    np.testing.assert_allclose(exact["b"], (p * (1 - p)).mean(0), rtol=1e-12)
    miss = (p - np.eye(3)[y]) ** 2
    np.testing.assert_allclose(empirical["w"], np.einsum("ni,nc->ic", x**2, miss) / n, rtol=1e-12)
    np.testing.assert_allclose(empirical["b"], miss.mean(0), rtol=1e-12)


def test_sampled_fisher_is_unbiased(x64):
    x, params, _, _ = _softmax_problem()
    exact = diagonal_fisher(_logits, params, jnp.asarray(x))
    keys = jax.random.split(jax.random.key(0), 2000)
    many = jax.jit(lambda k: jax.lax.map(lambda key: diagonal_fisher(_logits, params, jnp.asarray(x), key=key), k))(
        keys
    )
    for name in exact:
        values = np.asarray(many[name])
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        assert (np.abs(values.mean(axis=0) - exact[name]) < 5 * error).all(), name


def test_dtypes():
    x, params, _, y = _softmax_problem()
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    fisher = jax.jit(lambda *a: diagonal_fisher(_logits, *a))(half, jnp.asarray(x, jnp.bfloat16), jnp.asarray(y))
    assert {f.dtype for f in jax.tree.leaves(fisher)} == {jnp.dtype(jnp.float32)}
    stack = jax.tree.map(lambda p: jnp.stack([p, p + 1]), half)
    wide = jax.tree.map(lambda f: jnp.stack([f, f]), fisher)
    for merged in (fisher_average(stack, wide), merge(stack, half, wide, fisher)):
        assert {m.dtype for m in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}


def test_a_prior_is_not_lost_in_half_precision():
    models = jnp.array([1.0, 2.0])
    fishers = jnp.array([256.0, 0.0], jnp.bfloat16)  # 256.5 is no bfloat16
    np.testing.assert_allclose(fisher_average(models, fishers, prior=0.5), 1 + 0.5 / 257, rtol=1e-6)
    base_hessian = jnp.array(256.0, jnp.bfloat16)
    got = merge(models[1:], jnp.array(0.0), fishers[:1], base_hessian, alphas=0.5, prior=0.5)
    np.testing.assert_allclose(got, 2 * 0.5 * 512.5 / 384.5, rtol=1e-6)


def test_keep_the_laws_of_aggregators():
    def base(stacked):
        return jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), stacked)

    def curvature(tree):
        return jax.tree.map(jnp.square, tree)

    check_aggregator(jax.jit(lambda x: fisher_average(x, curvature(x))))
    matched = jax.jit(lambda x: merge(x, base(x), curvature(x), base(x), alphas=1 / 5, prior=0.1))
    check_aggregator(matched, laws=["shape", "dtype", "vmap", "bad_input"])


def test_clear_errors():
    models, base = {"a": jnp.ones((2, 3))}, {"a": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"the Hessians against the models: .*\['a'\] is float32\[3\]"):
        merge_gradient_matching(models, base, base, base)
    with pytest.raises(ValueError, match=r"the base's Hessian against the base: .*\['a'\]"):
        merge_gradient_matching(models, base, models, models)
    with pytest.raises(ValueError, match=r"alphas has shape \(3,\), the stack holds 2 models"):
        merge_gradient_matching(models, base, models, base, alphas=jnp.ones(3))
    with pytest.raises(ValueError, match="prior must lie in"):
        merge_gradient_matching(models, base, models, base, prior=-1.0)
    with pytest.raises(ValueError, match="the Fishers against the models"):
        fisher_average(models, base)
    with pytest.raises(ValueError, match=r"weights must lie in"):
        fisher_average(models, models, -1.0)
    with pytest.raises(ValueError, match="1 losses for 2 models"):
        gradient_mismatch([lambda p: 0.0], models, base)
    with pytest.raises(ValueError, match="labels and key exclude each other"):
        diagonal_fisher(_logits, base, jnp.ones((2, 3)), jnp.zeros(2, int), key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"labels has shape \(3,\) for 2 inputs"):
        diagonal_fisher(_logits, base, jnp.ones((2, 3)), jnp.zeros(3, int))
    with pytest.raises(ValueError, match="the inputs is empty"):
        diagonal_fisher(_logits, base, jnp.ones((0, 3)))
    with pytest.raises(TypeError, match="key"):
        diagonal_fisher(_logits, base, jnp.ones((2, 3)), key=jnp.zeros(2, jnp.uint32))
