"""SMB against the released code, its model's minimiser and the steps that are known."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from jaxtrain.optimizers import model_building_step, smb
from tests.optimizers.trajectories import flat

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "smb_model_building.npz")


def halved(rate):
    return lambda t: jnp.where(t < 25, rate, rate / 2)


# the options of tests/golden/make_smb_model_building.py in our names
CASES = {
    "smb": smb(halved(1.0)),
    "strict": smb(halved(0.5), c=0.4, eta=0.5),
    "scheduled": smb(0.5, schedule_period=5, schedule_share=0.3, max_lr=0.7),
    "independent": smb(halved(1.0), independent_batch=True),
    "independent_scheduled": smb(1.0, independent_batch=True, schedule_period=5, schedule_share=0.5),
}


def loss(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["matrix"]) @ params["vector"] + params["scalar"] - y) ** 2)


def take_step(tx, params, state, value_fn):
    value, g = jax.value_and_grad(value_fn)(params)
    updates, state = tx.update(g, state, params, value=value, value_fn=value_fn, grad_fn=jax.grad(value_fn))
    return optax.apply_updates(params, updates), state, updates


@pytest.mark.parametrize("case", CASES)
def test_equals_the_released_code(x64, case):
    tx, params = CASES[case], {n: jnp.asarray(GOLDEN[f"first/{n}"]) for n in ("matrix", "scalar", "vector")}

    def step(carry, batch):
        params, state = carry
        params, after, updates = take_step(tx, params, state, lambda p: loss(p, *batch))
        still = jnp.all(jnp.stack([jnp.all(u == 0) for u in jax.tree.leaves(updates)]))
        return (params, after), (params, still, after.scale)

    batches = jnp.asarray(GOLDEN["x"]), jnp.asarray(GOLDEN["y"])
    _, (iterates, still, scale) = jax.jit(lambda p, b: jax.lax.scan(step, (p, tx.init(p)), b))(params, batches)
    # 40 float64 steps of order one; the model is computed from unit vectors here
    np.testing.assert_allclose(flat(iterates, 1), GOLDEN[f"iterates/{case}"], rtol=0, atol=1e-11)
    assert ("independent" in case) == bool(still.any())
    assert len(np.unique(scale)) == 1 or "scheduled" in case


def coefficients(g, after, s, eta, line):
    """The step by the paper's formulas."""
    y = after - g
    ys, ss, yy, yg, gg, sg = y @ s, s @ s, y @ y, y @ line, g @ g, s @ line
    sigma = 0.5 * (np.sqrt(ss) * (np.sqrt(yy) + np.sqrt(gg) / eta) - ys)
    theta = (ys + 2 * sigma) ** 2 - ss * yy
    c_g = -ss / (2 * sigma)
    c_s = c_g / theta * (-(ys + 2 * sigma) * yg + yy * sg)
    c_y = c_g / theta * (-(ys + 2 * sigma) * sg + ss * yg)
    return c_g * line + c_s * s + c_y * y, sigma


@pytest.mark.parametrize("seed", range(4))
def test_the_step_is_the_papers_and_minimises_its_model(x64, seed):
    """The model: the two linear pieces of section 2 and σ ‖s‖² curvature, whose stationary point it is."""
    rng = np.random.default_rng(seed)
    g, after, s, line = rng.normal(size=(4, 5)) * 10.0 ** rng.uniform(-2, 2, size=(4, 1))
    for linear in (g, line):
        ours = model_building_step(*map(jnp.asarray, (g, after, s)), eta=0.9, linear=jnp.asarray(linear))
        expected, sigma = coefficients(g, after, s, 0.9, linear)
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
    y = after - g

    # linear(z) + ((y·z)(s·z) + σ z·z) / s·s, the symmetrised secant curvature along s plus σ
    def model(z):
        return line @ z + ((y @ z) * (s @ z) + sigma * (z @ z)) / (s @ s)

    start = np.asarray(ours)
    gradient = line + (y * (s @ start) + s * (y @ start) + 2 * sigma * start) / (s @ s)
    np.testing.assert_allclose(gradient, 0, atol=1e-9 * np.abs(line).max())
    found = minimize(model, np.zeros(5), method="BFGS", options={"gtol": 1e-10 * np.abs(line).max()})
    assert model(start) <= found.fun + 1e-8 * abs(found.fun)


def test_steps_that_are_known(x64):
    g = jnp.array([1.0, 2.0])
    # a linear loss: η times the trial step
    np.testing.assert_allclose(model_building_step(g, g, -0.5 * g), [-0.495, -0.99], rtol=1e-14)
    # the step is never longer than η times the trial step
    rng = np.random.default_rng(5)
    for _ in range(20):
        g, after = rng.normal(size=(2, 3)) * 10.0 ** rng.uniform(-3, 3, size=(2, 1))
        s = -0.7 * g
        step = model_building_step(jnp.asarray(g), jnp.asarray(after), jnp.asarray(s))
        assert np.linalg.norm(step) <= 0.99 * np.linalg.norm(s) * (1 + 1e-12)


def test_a_good_trial_step_is_sgd():
    tx = smb(0.5)
    x = {"a": jnp.array([2.0, -1.0]), "b": jnp.float32(3.0)}
    _, _, updates = take_step(tx, x, tx.init(x), lambda x: 0.5 * jnp.sum(x["a"] ** 2) + 0.1 * x["b"] ** 2)
    np.testing.assert_allclose(updates["a"], [-1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], -0.3, rtol=1e-6)


def test_it_survives_what_overflows():
    """Infinite losses after the trial step leave the parameters; large numbers have no fourth powers."""
    tx, x = smb(1.0), jnp.array([2.0, 3.0])
    _, _, updates = take_step(tx, x, tx.init(x), lambda x: jnp.sum(jnp.exp(jnp.square(jnp.square(x)) - 50.0)))
    assert updates.tolist() == [0.0, 0.0]
    g = jnp.array([1.0, -1.0])
    for size in (1e-30, 1e30):
        step = model_building_step(size * g, -3 * size * g, -size * g) / size
        np.testing.assert_allclose(step, model_building_step(g, -3 * g, -g), rtol=1e-5)  # float32
        # an independent batch of another size, and none
        other = model_building_step(g, -3 * g, -g, linear=size * g) / size
        np.testing.assert_allclose(other, model_building_step(g, -3 * g, -g), rtol=1e-5)
    # zero gradients of one tensor
    assert model_building_step(jnp.zeros(2), g, jnp.zeros(2)).tolist() == [0.0, 0.0]


def outcome(value, after, *, g=2.0, **options):
    """The update from ``value``, where the trial step leads to ``after`` and the gradient there is 3."""
    tx, x = smb(0.5, **options), jnp.array([1.0])
    g = jnp.array([g])
    return tx.update(g, tx.init(x), x, value=value, value_fn=lambda x: after, grad_fn=lambda x: jnp.array([3.0]))[0]


def test_which_trials_fail():
    model = model_building_step(*map(jnp.array, ([2.0], [3.0], [-1.0])))
    assert outcome(1.0, 1.0, c=0.0).tolist() == [-1.0]  # equal is low enough
    assert outcome(1.0, 0.8, c=0.1).tolist() == [-1.0]  # 1 - 0.1 · 0.5 · 4
    assert outcome(1.0, 0.9, c=0.1).tolist() == model.tolist()
    assert outcome(1.0, jnp.nan).tolist() == model.tolist()
    assert outcome(1.0, 2.0, g=1e-9).tolist() == [np.float32(-5e-10)]  # too short for a model


def test_the_schedule_counts_shares():
    x = jnp.array([1.0])
    for failures, factor in ((29, 1 / 0.9), (30, 0.9)):  # 0.29 · 100 is 28.999999999999996 in binary
        tx = smb(0.5, schedule_period=100, schedule_share=0.29)
        state = tx.init(x)._replace(count=jnp.int32(99), failures=jnp.int32(failures))
        state = take_step(tx, x, state, lambda x: 0.1 * jnp.sum(x**2))[1]
        np.testing.assert_allclose(state.scale, factor, rtol=1e-6)
        assert int(state.failures) == 0


def test_half_precision_is_computed_in_float32():
    g, after, s = (jnp.array(x, jnp.bfloat16) for x in ([1 / 3, 2 / 3], [-0.7, 0.1], [-0.3, -0.6]))
    wide = model_building_step(*(x.astype(jnp.float32) for x in (g, after, s)))
    assert model_building_step(g, after, s).tolist() == wide.astype(jnp.bfloat16).tolist()


def test_the_second_gradient_is_only_computed_where_the_trial_fails():
    calls = []

    def grad_fn(x):
        jax.debug.callback(lambda: calls.append(1))
        return 4 * x

    tx, x = smb(0.5), jnp.array([2.0])
    state = tx.init(x)
    for curvature in (0.5, 4.0):
        value_fn = lambda x, k=curvature: 0.5 * k * jnp.sum(x**2)  # noqa: E731
        jax.block_until_ready(tx.update(curvature * x, state, x, value=value_fn(x), value_fn=value_fn, grad_fn=grad_fn))
        jax.effects_barrier()
        assert len(calls) == (curvature == 4.0)


def test_clear_errors():
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="smb tries its steps on the batch: call tx.update"):
        smb().update(x, smb().init(x), x, value=1.0)
    with pytest.raises(ValueError, match="smb needs the loss"):
        smb().update(x, smb().init(x), x, value_fn=jnp.sum, grad_fn=lambda x: x)
    with pytest.raises(ValueError, match=r"eta must lie in \(0, 1\), got 1.0"):
        smb(eta=1.0)
    with pytest.raises(ValueError, match=r"c must lie in \[0.0, 1.0\], got 2"):
        smb(c=2)
    with pytest.raises(ValueError, match=r"schedule_factor must lie in \(0, 1\), got 0"):
        smb(schedule_factor=0)
    with pytest.raises(ValueError, match="schedule_share must lie in"):
        smb(schedule_share=2)
    with pytest.raises(ValueError, match=r"max_lr must lie in \(0, inf\], got 0"):
        smb(max_lr=0)
    with pytest.raises(ValueError, match="schedule_period must be at least 1, got 0"):
        smb(schedule_period=0)
