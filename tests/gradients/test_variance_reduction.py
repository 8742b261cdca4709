"""SVRG, PAGE, STORM and SAGA against NumPy loops from the papers, closed forms, proved rates and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import page, per_example, saga, storm, svrg, value_and_grad
from jaxtrain.testing import check_gradient_transformation, standard_extra_args
from jaxtrain.training import create_state, make_step

KEY = jax.random.key(0)
# ridge regression: f_i(θ) = ½ (xᵢθ − yᵢ)² + ½ λ ‖θ‖²
N, D, RIDGE = 12, 3, 0.1
RNG = np.random.default_rng(0)
X, Y, START = RNG.normal(size=(N, D)), RNG.normal(size=N), RNG.normal(size=D)
OPTIMUM = np.linalg.solve(X.T @ X / N + RIDGE * np.eye(D), X.T @ Y / N)
L = np.max(np.sum(X**2, axis=1)) + RIDGE
MU = np.linalg.eigvalsh(X.T @ X / N)[0] + RIDGE


def _np_grad(theta, i):
    return X[i] * (X[i] @ theta - Y[i]) + RIDGE * theta


def _np_full(theta):
    return np.mean([_np_grad(theta, i) for i in range(N)], axis=0)


def _losses(w, state, batch, key):
    return 0.5 * (batch["x"] @ w - batch["y"]) ** 2 + 0.5 * RIDGE * jnp.sum(w**2), Aux(state, {})


def _mean(*args):
    losses, aux = _losses(*args)
    return jnp.mean(losses), aux


def _extra_args(state, batch, key):
    full = {"x": jnp.asarray(X), "y": jnp.asarray(Y)}
    return {
        "full_grad_fn": lambda w: value_and_grad(_mean)(w, state.model_state, full, key)[1],
        "indices": batch["index"],
    }


def _batches(order):
    order = jnp.asarray(order)
    return {"x": jnp.asarray(X)[order], "y": jnp.asarray(Y)[order], "index": order}


def _run(tx, order, *, stack=False, key=KEY, start=START, opt_state=None):
    """Iterates of training by make_step, one scan over batches of the order (steps, batch)."""
    grad_fn = per_example(_losses) if stack else value_and_grad(_mean)
    step = make_step(grad_fn, tx, extra_args=_extra_args)
    state = create_state(jnp.asarray(start), tx, key)
    if opt_state is not None:
        state = state.replace(opt_state=opt_state)

    def body(state, batch):
        state, _ = step(state, batch)
        return state, state.params

    return jax.lax.scan(body, state, _batches(order))


ORDER = np.random.default_rng(1).integers(0, N, (30, 1))
RATE = 0.1


def _coins(probability, steps):
    keys = [
        jax.random.fold_in(jax.random.fold_in(KEY, t), 1) for t in range(steps)
    ]  # make_step's key for the optimizer
    return [bool(jax.random.bernoulli(k, probability)) for k in keys]


@pytest.mark.parametrize("random", [False, True])
def test_svrg_equals_the_paper(random, x64):
    tx = optax.chain(svrg(7, random=random), optax.sgd(RATE))
    _, got = jax.jit(lambda: _run(tx, ORDER))()
    due = [c or t == 0 for t, c in enumerate(_coins(1 / 7, 30))] if random else [t % 7 == 0 for t in range(30)]
    assert 2 < sum(due) < 28
    theta, iterates = START.copy(), []
    for i, now in zip(ORDER[:, 0], due, strict=True):
        if now:
            snapshot, mean = theta.copy(), _np_full(theta)
        theta = theta - RATE * (_np_grad(theta, i) - _np_grad(snapshot, i) + mean)
        iterates.append(theta)
    np.testing.assert_allclose(got, iterates, rtol=0, atol=1e-13)  # thirty steps of float64


def test_page_equals_the_paper(x64):
    _, got = jax.jit(lambda p: _run(optax.chain(page(p), optax.sgd(RATE)), ORDER))(0.3)
    due = [c or t == 0 for t, c in enumerate(_coins(0.3, 30))]
    assert 4 < sum(due) < 20
    theta, before, v, iterates = START.copy(), None, None, []
    for i, now in zip(ORDER[:, 0], due, strict=True):
        v = _np_full(theta) if now else v + _np_grad(theta, i) - _np_grad(before, i)
        before, theta = theta, theta - RATE * v
        iterates.append(theta)
    np.testing.assert_allclose(got, iterates, rtol=0, atol=1e-13)


def test_storm_equals_the_paper(x64):
    _, got = jax.jit(lambda a: _run(optax.chain(storm(a), optax.sgd(RATE)), ORDER))(0.3)
    theta, before, v, iterates = START.copy(), None, None, []
    for t, i in enumerate(ORDER[:, 0]):
        v = _np_grad(theta, i) + (0.0 if t == 0 else 0.7 * (v - _np_grad(before, i)))
        before, theta = theta, theta - RATE * v
        iterates.append(theta)
    np.testing.assert_allclose(got, iterates, rtol=0, atol=1e-13)


def _np_saga(order, rate, table, theta):
    table, iterates = table.copy(), []
    for batch in order:
        new = {i: _np_grad(theta, i) for i in batch}
        v = np.mean([new[i] - table[i] for i in batch], axis=0) + table.mean(axis=0)
        for i in batch:
            table[i] = new[i]
        theta = theta - rate * v
        iterates.append(theta)
    return iterates, table


def test_saga_equals_the_paper(x64):
    """In batches of three too, some of which hold an example twice."""
    order = np.random.default_rng(2).integers(0, N, (20, 3))
    assert any(len(set(batch)) < 3 for batch in order.tolist())
    tx = optax.chain(saga(N), optax.sgd(RATE))
    state, got = jax.jit(lambda: _run(tx, order, stack=True))()
    want, table = _np_saga(order, RATE, np.zeros((N, D)), START)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)
    np.testing.assert_allclose(state.opt_state[0].table, table, atol=1e-13)
    np.testing.assert_allclose(state.opt_state[0].mean, table.mean(axis=0), atol=1e-13)
    # one gradient and one number are a stack of one
    one, _ = saga(N).update(jnp.ones(D), saga(N).init(jnp.ones(D)), indices=jnp.int32(4))
    np.testing.assert_array_equal(one, np.ones(D))


def _over_all_examples(tx, state, theta, key=KEY):
    """The update for each single example as the batch."""
    data = jnp.asarray(X), jnp.asarray(Y)

    def one(i):
        grad = lambda w: jax.grad(lambda w: 0.5 * (data[0][i] @ w - data[1][i]) ** 2 + 0.5 * RIDGE * w @ w)(w)  # noqa: E731
        full = lambda w: data[0].T @ (data[0] @ w - data[1]) / N + RIDGE * w  # noqa: E731
        return tx.update(grad(theta), state, theta, grad_fn=grad, full_grad_fn=full, key=key, indices=i)[0]

    return np.asarray(jax.vmap(one)(jnp.arange(N)))


def test_means_over_the_batches(x64):
    """SVRG and SAGA have no bias, PAGE keeps a part 1 − p of its last error, STORM the part 1 − a."""
    theta = jnp.asarray(START) - 0.3
    state, _ = jax.jit(lambda: _run(optax.chain(svrg(100), optax.sgd(RATE)), ORDER))()
    v = _over_all_examples(svrg(100), state.opt_state[0], theta)
    np.testing.assert_allclose(v.mean(axis=0), _np_full(theta), atol=1e-13)
    assert v.std() > 0.01
    state, _ = jax.jit(lambda: _run(optax.chain(saga(N), optax.sgd(RATE)), ORDER, stack=True))()
    v = _over_all_examples(saga(N), state.opt_state[0], theta)
    np.testing.assert_allclose(v.mean(axis=0), _np_full(theta), atol=1e-13)

    anchor, stored = jnp.asarray(START), jnp.asarray([1.0, -2.0, 0.5])
    error = np.asarray(stored) - _np_full(START)
    for tx, part in ((page(0.0), 1.0), (page(1.0), 0.0), (storm(0.3), 0.7), (storm(1.0), 0.0)):
        state = tx.init(anchor)._replace(count=jnp.int32(5), anchor=anchor, estimate=stored)
        v = _over_all_examples(tx, state, theta)
        np.testing.assert_allclose(v.mean(axis=0) - _np_full(theta), part * error, atol=1e-13)


def test_storm_averages_noise(x64):
    """With noise that does not depend on θ: ε_t = (1 − a) ε_{t−1} + a ξ_t, of variance a/(2 − a)."""
    a, tx = 0.2, storm(0.2)
    noise = np.random.default_rng(3).normal(size=(4000, 1))

    def body(carry, xi):
        w, state = carry
        grad = lambda w: 0.5 * w + xi  # noqa: E731
        v, state = tx.update(grad(w), state, w, grad_fn=grad)
        return (w - 0.1 * v, state), v - 0.5 * w

    w = jnp.ones(1)
    _, errors = jax.lax.scan(body, (w, tx.init(w)), jnp.asarray(noise))
    want = [noise[0]]
    for xi in noise[1:]:
        want.append((1 - a) * want[-1] + a * xi)
    np.testing.assert_allclose(errors, want, atol=1e-13)
    # 4000 steps are some 440 independent ones: 6.7 % standard error of a variance
    assert abs(np.var(errors[100:]) / (a / (2 - a)) - 1) < 0.25


SEEDS, STEPS = 20, 1500


def _distances(tx, rate, seed, *, stack, opt_state=None):
    """Mean over seeds of ‖θ_k − θ*‖² for single examples drawn uniformly."""
    orders = np.random.default_rng(seed).integers(0, N, (SEEDS, STEPS, 1))
    tx = optax.chain(tx, optax.sgd(rate))
    run = lambda order, key: _run(tx, order, stack=stack, key=key, opt_state=opt_state)[1]  # noqa: E731
    keys = jax.random.split(jax.random.key(seed), SEEDS)
    iterates = jax.jit(jax.vmap(run))(jnp.asarray(orders), keys)
    return np.mean(np.sum((np.asarray(iterates) - OPTIMUM) ** 2, axis=-1), axis=0)


def test_saga_converges_at_its_rate(x64):
    """Corollary 1 of the paper for γ = 1/(3L), with the table of the starting point; plain SGD stays away."""
    rate = 1 / (3 * L)
    table = np.stack([_np_grad(START, i) for i in range(N)])
    sgd = optax.sgd(rate)
    filled = saga(N).init(jnp.asarray(START))._replace(table=jnp.asarray(table), mean=jnp.asarray(table.mean(axis=0)))
    opt_state = (filled, sgd.init(jnp.asarray(START)))
    got = _distances(saga(N), rate, 0, stack=True, opt_state=opt_state)

    def f(w):
        return 0.5 * np.mean((X @ w - Y) ** 2) + 0.5 * RIDGE * w @ w

    start = np.sum((START - OPTIMUM) ** 2) + 2 * N / (3 * L) * (f(START) - f(OPTIMUM))  # the gradient at θ* is zero
    bound = (1 - min(1 / (4 * N), MU / (3 * L))) ** np.arange(1, STEPS + 1) * start
    assert np.all(got <= bound) and got[-1] < 1e-12
    plain = _distances(optax.identity(), rate, 0, stack=False)
    assert plain[-1] > 1e-3


def test_loopless_svrg_converges_at_its_rate(x64):
    """Theorem 5 of Kovalev et al. for η = 1/(6L)."""
    p, rate = 1 / N, 1 / (6 * L)
    got = _distances(svrg(N, random=True), rate, 1, stack=False)
    spread = np.mean([np.sum((_np_grad(START, i) - _np_grad(OPTIMUM, i)) ** 2) for i in range(N)])
    start = np.sum((START - OPTIMUM) ** 2) + 4 * rate**2 / p * spread
    bound = max(1 - rate * MU, 1 - p / 2) ** np.arange(1, STEPS + 1) * start
    assert np.all(got <= bound) and got[-1] < 1e-3 * got[0]


def test_saga_finds_the_optimum_of_scikit_learn(x64):
    """Logistic regression; both to 1e-8, theirs by its own SAGA."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(25, 3)), rng.integers(0, 2, 25)
    theirs = LogisticRegression(C=0.5, fit_intercept=False, solver="saga", tol=1e-12, max_iter=20_000).fit(x, y)
    signs = 2.0 * y - 1

    def losses(w, state, batch, key):
        return jnp.log1p(jnp.exp(-batch["s"] * (batch["x"] @ w))) + jnp.sum(w**2) / 25, Aux(state, {})

    tx = optax.chain(saga(25), optax.sgd(0.3))
    step = make_step(per_example(losses), tx, extra_args=lambda s, batch, k: {"indices": batch["i"]})
    order = rng.integers(0, 25, (4000, 1))
    batches = {"x": jnp.asarray(x[order]), "s": jnp.asarray(signs[order]), "i": jnp.asarray(order)}
    state, _ = jax.jit(lambda: jax.lax.scan(step, create_state(jnp.zeros(3), tx, KEY), batches))()
    np.testing.assert_allclose(state.params, theirs.coef_[0], atol=1e-8)


@pytest.mark.parametrize(
    "name, small, full",
    [("svrg", 8, 2), ("page", None, None), ("storm", 8, 0), ("saga", 0, 0)],
)
def test_cost_in_gradients(name, small, full):
    """Beyond the batch's own gradient, over 8 updates: calls of grad_fn and full_grad_fn."""
    tx = {"svrg": svrg(4), "page": page(0.5), "storm": storm(0.5), "saga": saga(N)}[name]
    calls = {"small": 0, "full": 0}

    def counted(kind):
        def grad(w):
            calls[kind] += 1
            return w

        return grad

    w = jnp.ones(2)
    with jax.disable_jit():
        state = tx.init(w)
        for t in range(8):
            key = jax.random.fold_in(KEY, t)
            extras = {"grad_fn": counted("small"), "full_grad_fn": counted("full"), "key": key, "indices": t}
            _, state = tx.update(w, state, w, **extras)
    if name == "page":
        full = sum(t == 0 or bool(jax.random.bernoulli(jax.random.fold_in(KEY, t), 0.5)) for t in range(8))
        small = 8 - full
    assert calls == {"small": small, "full": full}


def _kit_extras(params, grads, batch, key):
    extras = standard_extra_args(params, grads, batch, key)
    return extras | {"full_grad_fn": extras["grad_fn"], "indices": jnp.int32(1)}


# the laws that a state of two copies, a loop around the full gradient and a table could break
LAWS = (
    "runs",
    "pure",
    "abstract_init",
    "stable_state",
    "dtype",
    "no_shared_buffers",
    "extra_args",
    "jit",
    "no_retrace",
)
LAWS += ("scan", "vmap", "sharded", "checkpoint", "scalar_leaf", "empty_leaf", "zero_gradients")
CASES = {
    "svrg": ({"factory": svrg, "hyperparams": {"period": 2}}, (*LAWS, "inject_hyperparams", "non_finite")),
    "page": ({"factory": page, "hyperparams": {"probability": 0.5}}, ("stable_state", "jit", "scan", "vmap", "dtype")),
    "storm": ({"factory": storm, "hyperparams": {"decay": 0.3}}, ("stable_state", "jit", "scan", "vmap", "dtype")),
    "saga": ({"tx": saga(2)}, ("no_shared_buffers", "stable_state", "dtype", "scan", "vmap", "sharded", "empty_leaf")),
}


@pytest.mark.parametrize("name", CASES)
def test_keeps_the_laws(name):
    options, laws = CASES[name]
    check_gradient_transformation(**options, extra_args=_kit_extras, laws=laws)


def test_errors():
    w = jnp.ones(2)
    with pytest.raises(ValueError, match="svrg lacks full_grad_fn: make_step gives"):
        svrg(2).update(w, svrg(2).init(w), w, grad_fn=lambda w: w)
    with pytest.raises(ValueError, match="page lacks grad_fn, full_grad_fn, key"):
        page(0.5).update(w, page(0.5).init(w), w)
    with pytest.raises(ValueError, match="storm lacks params, grad_fn"):
        storm().update(w, storm().init(w))
    with pytest.raises(ValueError, match="period must lie in"):
        svrg(0)
    with pytest.raises(ValueError, match="probability must lie in"):
        page(1.5)
    with pytest.raises(ValueError, match="decay must lie in"):
        storm(-0.1)
    with pytest.raises(ValueError, match="num_examples must be at least 1, got 0"):
        saga(0)
    tx = saga(4)
    with pytest.raises(ValueError, match="saga needs indices="):
        tx.update(w, tx.init(w))
    with pytest.raises(ValueError, match=r"one integer or a vector, got float32\[2\]"):
        tx.update(jnp.ones((2, 2)), tx.init(w), indices=jnp.ones(2))
    with pytest.raises(ValueError, match=r"one for each of the indices.*float32\[2\], expected float32\[3, 2\]"):
        tx.update(w, tx.init(w), indices=jnp.arange(3))
