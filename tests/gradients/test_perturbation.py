"""The mechanism of perturbed gradients: closed forms, limits, cost, nesting, and what every instance must keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import (
    IgniteState,
    amp,
    ascent,
    at_perturbed,
    awp,
    ignite,
    ignite2,
    imbsam,
    iwrm,
    kernels,
    microbatch,
    projected_ascent,
    sam,
    value_and_grad,
)
from jaxtrain.losses import trades_loss

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BATCH = {"x": RNG.normal(size=(12, 5)), "y": RNG.integers(0, 3, 12), "x_adv": RNG.normal(size=(12, 5))}
START = {"w": RNG.normal(size=(5, 3)), "bias": RNG.normal(size=3), "scale": np.array(1.5), "none": np.zeros((0, 3))}


def model(p, x):
    return p["scale"] * (x.astype(p["w"].dtype) @ p["w"] + p["bias"])


def losses(p, state, batch, key):
    z = model(p, batch["x"])
    return optax.losses.softmax_cross_entropy_with_integer_labels(z, batch["y"]), Aux(state, {"top": jnp.max(z)})


def objective(*args):
    values, aux = losses(*args)
    return values.mean(), aux


def trades(p, state, batch, key):
    values = trades_loss(model(p, batch["x"]), model(p, batch["x_adv"]), batch["y"])
    return values.mean(), Aux(state, {})


def prediction(p, state, batch, key):
    return jnp.mean(jnp.tanh(model(p, batch["x"])[:, 0])), Aux(state, {})


def cast(tree, dtype):
    floating = lambda x: np.issubdtype(np.asarray(x).dtype, np.floating)  # noqa: E731
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if floating(x) else None), tree)


def plain():
    return value_and_grad(objective)


# name -> (a function of one numeric hyperparameter to a gradient function, model state)
FAMILY = {
    "sam": (lambda v: sam(plain(), rho=v), {}),
    "asam": (lambda v: sam(plain(), rho=v, adaptive=True), {}),
    "sam, two steps": (lambda v: sam(plain(), rho=v, steps=2), {}),
    "awp": (lambda v: awp(value_and_grad(trades), gamma=v), {}),
    "amp": (lambda v: amp(plain(), epsilon=v, inner_steps=2), {}),
    "imbsam": (lambda v: imbsam(losses, lambda batch: batch["y"] == 2, rho=v), {}),
    "ignite2": (lambda v: ignite2(plain(), prediction, weight=v), {}),
    "ignite": (lambda v: ignite(plain(), prediction, epsilon=v), IgniteState(jnp.array(0.5), {})),
}


@pytest.mark.parametrize("name", ["asam", "awp", "amp", "imbsam", "ignite2", "ignite"])
def test_contract(name):
    """jit = eager, vmap = loop, the numbers may change without a trace, dtypes and structure stay."""
    make, state = FAMILY[name]
    params, batch = cast(START, jnp.float32), cast(BATCH, jnp.float32)
    traces = []

    @jax.jit
    def compiled(v, params):
        traces.append(name)
        return make(v)(params, state, batch, KEY)

    other = jax.tree.map(lambda x: 0.5 * x + 0.1, params)
    eager = [make(0.3)(params, state, batch, KEY), make(0.1)(other, state, batch, KEY)]
    got = [compiled(0.3, params), compiled(0.1, other)]
    assert len(traces) == 1
    both = jax.tree.map(lambda *x: jnp.stack(x), params, other)
    mapped = jax.vmap(lambda v, p: make(v)(p, state, batch, KEY))(jnp.array([0.3, 0.1]), both)
    # float32 in another order; the perturbed pass magnifies roundings a little
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
    jax.tree.map(close, got, eager)
    jax.tree.map(close, mapped, jax.tree.map(lambda *x: jnp.stack(x), *eager))
    with jax.enable_x64(True):
        for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
            half = cast(START, dtype)
            _, grads = jax.eval_shape(lambda p: make(0.3)(p, state, cast(BATCH, jnp.float32), KEY), half)
            assert jax.tree.map(lambda g: (g.shape, g.dtype), grads) == jax.tree.map(lambda p: (p.shape, p.dtype), half)


@pytest.mark.parametrize("name", FAMILY)
def test_a_zero_gradient_perturbs_nothing(name):
    """At a point where everything is flat the gradient is 0 and not NaN."""
    flat = {"w": jnp.zeros((5, 3)), "bias": jnp.zeros(3), "scale": jnp.zeros(()), "none": jnp.zeros((0, 3))}
    make, state = FAMILY[name]
    even = {"x": jnp.ones((3, 5)), "x_adv": jnp.ones((3, 5)), "y": jnp.arange(3)}
    for v in (0.3, 0.0):
        _, grads = make(v)(flat, state, even, KEY)
        jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), grads)


@pytest.mark.parametrize(
    "name, calls",
    [("sam", 2), ("asam", 2), ("sam, two steps", 3), ("awp", 2), ("amp", 3), ("ignite2", 1), ("ignite", 1)],
)
def test_cost_in_gradient_evaluations(name, calls, monkeypatch):
    """Counted while it runs eagerly: calls of the gradient function, and for IGNITE two of the prediction's gradient."""
    counted, predicted = [], []

    def count(p, *args):
        counted.append(1)
        return objective(p, *args) if name != "awp" else trades(p, *args)

    def count_prediction(p, *args):
        predicted.append(1)
        return prediction(p, *args)

    grad_fn = value_and_grad(count)
    made = {
        "sam": lambda: sam(grad_fn),
        "asam": lambda: sam(grad_fn, adaptive=True),
        "sam, two steps": lambda: sam(grad_fn, steps=2),
        "awp": lambda: awp(grad_fn),
        "amp": lambda: amp(grad_fn, inner_steps=2),
        "ignite2": lambda: ignite2(grad_fn, count_prediction),
        "ignite": lambda: ignite(grad_fn, count_prediction),
    }[name]()
    made(cast(START, jnp.float32), FAMILY[name][1], cast(BATCH, jnp.float32), KEY)
    assert len(counted) == calls
    assert len(predicted) == (2 if name.startswith("ignite") else 0)


def test_imbsam_costs_three_backward_passes_compiled():
    """The head's gradient of the perturbed pass is written down and not computed."""
    params, batch = cast(START, jnp.float32), cast(BATCH, jnp.float32)
    count = lambda fn: jax.jit(fn).lower(params, {}, batch, KEY).compile().as_text().count(" dot(")  # noqa: E731
    grad_fn = imbsam(losses, lambda batch: batch["y"] == 2)
    # one matrix product forward and one backward each; the gradient to the inputs is not asked for
    assert count(grad_fn) == 2 + 3
    assert count(plain()) == 2


def test_a_layer_moves_by_gamma_times_its_norm(x64):
    params, batch = cast(START, jnp.float64), cast(BATCH, jnp.float64)
    seen = []

    def watched(p, *args):
        seen.append(p)
        return value_and_grad(objective)(p, *args)

    (loss, _), _ = awp(watched, gamma=0.2)(params, {}, batch, KEY)
    moved = jax.tree.map(jnp.subtract, seen[1], seen[0])
    np.testing.assert_allclose(jnp.linalg.norm(moved["w"]), 0.2 * np.linalg.norm(START["w"]), rtol=1e-14)
    assert not np.any(moved["bias"]) and not np.any(moved["scale"])
    # along the layer's own gradient, so that the loss rises; what is reported is the loss there
    gradient = np.asarray(value_and_grad(objective)(params, {}, batch, KEY)[1]["w"])
    cosine = np.sum(moved["w"] * gradient) / np.linalg.norm(moved["w"]) / np.linalg.norm(gradient)
    np.testing.assert_allclose(cosine, 1, rtol=1e-14)
    np.testing.assert_allclose(loss, objective(seen[1], {}, batch, KEY)[0])
    assert loss > objective(params, {}, batch, KEY)[0]


def test_ascent_by_hand():
    """Two leaves of norms 5 and 10 with gradients of norms 3 and 4."""
    params = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([6.0, 8.0])}
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([0.0, 4.0])}
    cases = [
        (dict(), [0.3, 0.0], [0.0, 0.4]),  # 0.5 / 5
        (dict(per_leaf=True), [0.5, 0.0], [0.0, 0.5]),
        (dict(relative=True), [0.3 * 125**0.5, 0.0], [0.0, 0.4 * 125**0.5]),
        (dict(per_leaf=True, relative=True), [2.5, 0.0], [0.0, 5.0]),
        (dict(scope=lambda path, x: path[0].key == "b"), [0.0, 0.0], [0.0, 0.5]),
        (dict(scope=lambda path, x: path[0].key == "b", relative=True), [0.0, 0.0], [0.0, 5.0]),
    ]
    for how, a, b in cases:
        got = ascent(params, grads, 0.5, **how)
        np.testing.assert_allclose(got["a"], a, rtol=1e-6)
        np.testing.assert_allclose(got["b"], b, rtol=1e-6)


def test_kernels():
    tree = {"conv": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones((2, 1, 1))}, "norm": {"scale": jnp.ones(2)}}
    want = {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False}}
    assert jax.tree_util.tree_map_with_path(kernels, tree) == want


def test_amp_on_a_parabola(x64):
    """L = a x² / 2 with x > 0: the perturbation is min(a x ζ, ε), and again from there."""
    for a, x, zeta, epsilon in [(2.0, 0.1, 1.0, 0.5), (2.0, 3.0, 1.0, 0.5), (1.0, 0.2, 0.5, 0.15)]:
        grad_fn = value_and_grad(lambda w, s, b, k, a=a: (a * w**2 / 2, Aux(s, {})))
        once = min(a * x * zeta, epsilon)
        twice = min(once + a * (x + once) * zeta, epsilon)
        for steps, offset in ((1, once), (2, twice)):
            rule = amp(grad_fn, epsilon=epsilon, inner_rate=zeta, inner_steps=steps)
            (loss, _), grads = rule(jnp.array(x), {}, None, KEY)
            np.testing.assert_allclose(grads, a * (x + offset), rtol=1e-14)
            np.testing.assert_allclose(loss, a * x**2 / 2, rtol=1e-14)


def test_amp_per_leaf_or_all_together(x64):
    params, batch = cast(START, jnp.float64), cast(BATCH, jnp.float64)
    grads = value_and_grad(objective)(params, {}, batch, KEY)[1]
    zero = jax.tree.map(jnp.zeros_like, params)
    norm = lambda tree: np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))  # noqa: E731
    whole = projected_ascent(params, zero, grads, 0.05, 1.0)
    np.testing.assert_allclose(norm(whole), 0.05, rtol=1e-14)
    each = projected_ascent(params, zero, grads, 0.05, 1.0, per_leaf=True)
    for name in START:
        np.testing.assert_allclose(norm(each[name]), min(norm(grads[name]), 0.05), rtol=1e-13)
    only = projected_ascent(params, zero, grads, 0.05, 1.0, scope=kernels)
    assert norm(only["w"]) > 0.04 and norm(only["bias"]) == 0


@pytest.mark.parametrize("steps", [1, 3])
def test_sam_and_amp_equal_optax(steps, x64):
    """A huge inner rate leaves only the direction: AMP is then SAM; and so is optax's, called with its own loop."""
    params, batch = cast({"w": START["w"], "bias": START["bias"]}, jnp.float64), cast(BATCH, jnp.float64)

    def simple(p, state, batch, key):
        return objective(p | {"scale": 1.0}, state, batch, key)

    rho = 0.4
    ours = sam(value_and_grad(simple), rho=rho, steps=steps)(params, {}, batch, KEY)[1]
    rule = optax.contrib.sam(
        optax.sgd(1.0),
        optax.chain(optax.contrib.normalize(), optax.sgd(rho / steps)),
        sync_period=steps + 1,
        opaque_mode=True,
    )
    gradient = jax.grad(lambda p: simple(p, {}, batch, KEY)[0])
    updates, _ = rule.update(gradient(params), rule.init(params), params, grad_fn=lambda p, _: gradient(p))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, -b, atol=1e-14), ours, updates)
    if steps == 1:
        for n in (1, 2):  # a second step from the ball's edge with its own direction is a move along it
            far = amp(value_and_grad(simple), epsilon=rho, inner_rate=1e12, inner_steps=n, per_leaf=False)
            moved = at_perturbed(value_and_grad(simple), lambda p, e, g: ascent(p, g, rho), steps=n)
            got, want = far(params, {}, batch, KEY)[1], moved(params, {}, batch, KEY)[1]
            # the old offset is 1e-12 of the new step
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), got, want)


def test_nothing_to_perturb_is_the_plain_gradient(x64):
    params, batch = cast(START, jnp.float64), cast(BATCH, jnp.float64)
    want = value_and_grad(objective)(params, {}, batch, KEY)
    nobody = lambda path, x: False  # noqa: E731
    for rule in (
        sam(plain(), rho=0.0),
        awp(plain(), gamma=0.0),
        amp(plain(), epsilon=0.0),
        amp(plain(), inner_rate=0.0),
        sam(plain(), scope=nobody),
        awp(plain(), scope=nobody),
        ignite2(plain(), prediction, weight=0.0),
        ignite2(plain(), prediction, rho=0.0),
        at_perturbed(plain(), lambda p, e, g: g, steps=0),
    ):
        (loss, _), grads = rule(params, {}, batch, KEY)
        np.testing.assert_array_equal(loss, want[0][0])
        jax.tree.map(np.testing.assert_array_equal, grads, want[1])


def test_nesting(x64):
    """Microbatches inside are the whole batch; outside each part has its own perturbation; wrappers wrap wrappers."""
    params, batch = cast(START, jnp.float64), cast(BATCH, jnp.float64)

    def close(a, b):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-13), a, b)

    def grads(rule):
        return rule(params, {}, batch, KEY)[1]

    close(grads(awp(microbatch(plain(), 3))), grads(awp(plain())))
    halves = [jax.tree.map(lambda x, i=i: x[i::2], batch) for i in range(2)]
    parts = [awp(value_and_grad(trades))(params, {}, half, KEY)[1] for half in halves]
    close(grads(microbatch(awp(value_and_grad(trades)), 2)), jax.tree.map(lambda a, b: (a + b) / 2, *parts))

    # awp of sam: the ascent of awp follows sam's gradient, and so does the result
    first = sam(plain(), rho=0.2)(params, {}, batch, KEY)[1]
    moved = jax.tree.map(jnp.add, params, ascent(params, first, 0.1, per_leaf=True, relative=True, scope=kernels))
    close(grads(awp(sam(plain(), rho=0.2), gamma=0.1)), sam(plain(), rho=0.2)(moved, {}, batch, KEY)[1])

    mean = lambda rows: jax.tree.map(lambda r: r.mean(axis=0), rows)  # noqa: E731
    close(grads(amp(iwrm(losses, mean))), grads(amp(plain())))


def test_which_pass_is_reported():
    counting = value_and_grad(lambda w, s, x, k: (w**2 / 2, Aux({"seen": s["seen"] + w}, {"at": w})))
    rules = {"first": amp(counting, epsilon=0.5), "last": awp(counting, gamma=0.25, scope=None)}
    for report, rule in rules.items():
        (loss, aux), _ = rule(jnp.array(2.0), {"seen": jnp.array(10.0)}, None, KEY)
        at = {"first": 2.0, "last": 2.5}[report]
        assert float(aux.metrics["at"]) == at and float(aux.model_state["seen"]) == 10 + at and loss == at**2 / 2


def test_sharded_equals_unsharded(x64):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.sharding.PartitionSpec
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=(6, 3))), "bias": jnp.zeros(3), "scale": jnp.ones(())}
    batch = {k: jnp.asarray(rng.normal(size=(12, 6))) for k in ("x", "x_adv")} | {"y": jnp.arange(12) % 3}
    placed = {"w": jax.device_put(params["w"], jax.NamedSharding(mesh, spec("fsdp")))}
    placed |= {k: jax.device_put(params[k], jax.NamedSharding(mesh, spec())) for k in ("bias", "scale")}
    spread = jax.device_put(batch, jax.NamedSharding(mesh, spec("data")))
    for rule in (awp(value_and_grad(trades), gamma=0.1), amp(plain(), epsilon=0.1)):
        want, got = rule(params, {}, batch, KEY)[1], jax.jit(rule)(placed, {}, spread, KEY)[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), got, want)


def test_clear_errors():
    for make, message in [
        (lambda: awp(plain(), gamma=-0.1), "gamma must lie in"),
        (lambda: sam(plain(), steps=0), "steps must lie in"),
        (lambda: amp(plain(), epsilon=np.nan), "epsilon must lie in"),
        (lambda: amp(plain(), inner_steps=0), "inner_steps must lie in"),
        (lambda: at_perturbed(plain(), lambda p, e, g: g, report="both"), "report must be 'first' or 'last'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
