"""The step is a hand-written jitted step: the same bits, the same operations, one compilation, its state donated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.averaging import swa
from jaxtrain.core import Aux
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import create_state, make_step
from tests.training.problems import bn_batch, bn_net, bn_objective

STEPS = 20
CHAINS = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw, schedule": lambda: optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.02, 5, STEPS)),
    "clipped, finite": lambda: optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.01)), 3),
    "injected": lambda: optax.inject_hyperparams(optax.lion)(optax.linear_schedule(1e-2, 1e-3, STEPS)),
    "averaged": lambda: optax.chain(optax.adamw(0.01), swa(5, 2)),
    "accumulated": lambda: optax.MultiSteps(optax.rmsprop(0.01), 3),
}


def _hand_written(tx):
    """A step as one writes it without the library; no code of ours."""

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2, 3))
    def step(params, stats, opt_state, t, root, batch):
        key = jax.random.fold_in(root, t)

        def loss_fn(p):
            x = batch["x"] @ p["dense"]["kernel"]
            mean, var = x.mean(0), x.var(0)
            x = jax.nn.relu((x - mean) * jax.lax.rsqrt(var + 1e-5) * p["scale"])
            x = x * jax.random.bernoulli(key, 0.9, x.shape[-1:]) / 0.9
            logits = x @ p["head"]["kernel"] + p["head"]["bias"]
            loss = -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None], 1))
            new = {"mean": 0.9 * stats["mean"] + 0.1 * mean, "var": 0.9 * stats["var"] + 0.1 * var}
            return loss, (new, jnp.mean((logits.argmax(-1) == batch["y"]).astype(jnp.float32)))

        (loss, (stats, accuracy)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state, t + 1, loss, accuracy

    return step


class _Counted:
    """An objective that counts how often it is traced."""

    def __init__(self, objective=bn_objective):
        self.objective, self.traces = objective, 0

    def __call__(self, *args):
        self.traces += 1
        return self.objective(*args)


def _copy(tree):
    return jax.tree.map(jnp.copy, tree)


def _equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", CHAINS)
def test_equals_the_hand_written_step_bit_for_bit(name):
    tx, root, objective = CHAINS[name](), jax.random.key(7), _Counted()
    params, stats = bn_net(jax.random.key(3))
    state = create_state(params, tx, root, stats)
    step = jax.jit(make_step(value_and_grad(objective), tx), donate_argnums=0)
    by_hand, opt_state, t = _hand_written(tx), _copy(tx.init(params)), jnp.zeros((), jnp.int32)
    params, stats = _copy((params, stats))
    for i in range(STEPS):
        batch = bn_batch(i)
        state, metrics = step(state, batch)
        params, stats, opt_state, t, loss, accuracy = by_hand(params, stats, opt_state, t, root, batch)
        assert metrics["loss"] == loss and metrics["accuracy"] == accuracy, i
    _equal((state.params, state.model_state, state.opt_state, state.step), (params, stats, opt_state, t))
    # the run was traced and compiled once
    assert objective.traces == 1 and step._cache_size() == 1
    assert not np.array_equal(state.params["head"]["kernel"], bn_net(jax.random.key(3))[0]["head"]["kernel"])


def _cost(compiled):
    return {k: v for k, v in compiled.cost_analysis().items() if k in ("flops", "transcendentals")}


def test_no_operation_more_than_by_hand():
    """value_fn, grad_fn and the optimizer's key are offered and not asked for: nothing of them is in the program."""
    tx, key = optax.adamw(0.01), jax.random.key(0)
    params, stats = bn_net(key)
    state, batch = create_state(params, tx, key, stats), bn_batch(0)
    ours = jax.jit(make_step(value_and_grad(bn_objective), tx), donate_argnums=0).lower(state, batch).compile()
    args = (state.params, state.model_state, state.opt_state, state.step, key, batch)
    by_hand = _hand_written(tx).lower(*args).compile()
    assert _cost(ours) == _cost(by_hand)
    assert _cost(ours)["flops"] > 1000

    def asked(params, state, p=None, *, value_fn, **_):
        return jax.tree.map(lambda x: value_fn(p) * x, params), state

    greedy = optax.chain(optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), asked), optax.adamw(0.01))
    state = create_state(params, greedy, key, stats)
    more = jax.jit(make_step(value_and_grad(bn_objective), greedy)).lower(state, batch).compile()
    assert _cost(more)["flops"] > _cost(ours)["flops"]


def test_learning_rate_changes_compile_nothing():
    tx = optax.inject_hyperparams(optax.adamw)(learning_rate=0.01)
    objective = _Counted()
    params, stats = bn_net(jax.random.key(0))
    state = create_state(params, tx, jax.random.key(0), stats)
    step = jax.jit(make_step(value_and_grad(objective), tx), donate_argnums=0)
    for i, rate in enumerate((0.01, 0.5, 0.0, 0.0)):
        before = jax.device_get(state.params)
        state.opt_state.hyperparams["learning_rate"] = jnp.asarray(rate, jnp.float32)
        state, _ = step(state, bn_batch(i))
        moved = not np.array_equal(before["head"]["kernel"], state.params["head"]["kernel"])
        assert moved == (rate > 0)
    assert objective.traces == 1 and step._cache_size() == 1


def test_the_whole_state_is_donated_in_place():
    tx, key = optax.chain(optax.adamw(0.01), swa(0, 1)), jax.random.key(0)
    params, stats = bn_net(key)
    first = create_state(params, tx, key, stats)
    step = jax.jit(make_step(value_and_grad(bn_objective), tx), donate_argnums=0)
    batch = bn_batch(0)
    memory = step.lower(first, batch).compile().memory_analysis()
    size = sum(x.nbytes for x in jax.tree.leaves(first.replace(key=jax.random.key_data(first.key))))
    assert memory.alias_size_in_bytes == size
    leaves = jax.tree.leaves((first.params, first.model_state, first.opt_state))
    places = {x.unsafe_buffer_pointer() for x in leaves}
    second, _ = step(first, batch)
    assert all(x.is_deleted() for x in leaves)
    new = jax.tree.leaves((second.params, second.model_state, second.opt_state))
    assert {x.unsafe_buffer_pointer() for x in new} == places
    # what the state was made from is the caller's
    jax.block_until_ready((params, stats))
    assert not any(x.is_deleted() for x in jax.tree.leaves((params, stats, key)))


def test_scan_and_vmap():
    tx, root = optax.adamw(0.01), jax.random.key(1)
    params, stats = bn_net(root)
    step = make_step(value_and_grad(bn_objective), tx)
    batches = jax.tree.map(lambda *x: jnp.stack(x), *(bn_batch(i) for i in range(5)))
    state, losses = create_state(params, tx, root, stats), []
    jitted = jax.jit(step)
    for i in range(5):
        state, metrics = jitted(state, bn_batch(i))
        losses.append(metrics["loss"])
    scanned, metrics = jax.jit(lambda s, b: jax.lax.scan(step, s, b))(create_state(params, tx, root, stats), batches)
    # float32: XLA may fuse a loop's body otherwise; Adam divides by sqrt(v) of about 1e-2, five steps
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), scanned.params, state.params)
    assert scanned.step == state.step == 5
    keys = jax.random.split(root, 3)

    @jax.jit
    def init(k):
        params, stats = bn_net(k)
        return create_state(params, tx, k, stats)

    states = jax.jit(jax.vmap(init))(keys)
    states, metrics = jax.jit(jax.vmap(step, in_axes=(0, None)))(states, bn_batch(0))
    for i in range(3):
        alone, row = jitted(init(keys[i]), bn_batch(0))
        np.testing.assert_allclose(metrics["loss"][i], row["loss"], rtol=1e-5)  # float32, another order of addition
        np.testing.assert_allclose(
            states.params["head"]["kernel"][i], alone.params["head"]["kernel"], rtol=1e-5, atol=1e-6
        )


def _quadratic(w, s, batch, key):
    del key
    return jnp.mean((w["a"] * batch["x"]) ** 2) + jnp.sum(w["b"]), Aux(s, {})


def _recorder():
    """Its update is the extra arguments themselves, so that they can be read from the parameters."""

    def update(updates, state, params=None, **extra):
        two = jax.tree.map(jnp.ones_like, params) if params is not None else None
        return updates, {
            "value": extra["value"],
            "grad": extra["grad"]["a"],
            "value_fn": extra["value_fn"](two),
            "grad_fn": extra["grad_fn"](two)["a"],
            "key": jax.random.key_data(extra["key"]),
        }

    def init(params):
        zero = jnp.zeros(())
        return {"value": zero, "grad": zero, "value_fn": zero, "grad_fn": zero, "key": jnp.zeros(2, jnp.uint32)}

    return optax.GradientTransformationExtraArgs(init, update)


LABELS = {"a": "x", "b": "x"}
WRAPPERS = {
    "itself": lambda t: t,
    "chain": lambda t: optax.chain(optax.clip_by_global_norm(1.0), t, optax.scale(-1.0)),
    "named_chain": lambda t: optax.named_chain(("t", t)),
    "masked": lambda t: optax.masked(t, {"a": True, "b": True}),
    "partition": lambda t: optax.partition({"x": t}, LABELS),
    "apply_if_finite": lambda t: optax.apply_if_finite(t, 2),
    "inject_hyperparams": lambda t: optax.inject_hyperparams(lambda by: optax.chain(t, optax.scale(by)))(0.1),
    "conditionally_mask": lambda t: optax.conditionally_mask(t, lambda step: step < 5),
    "conditionally_transform": lambda t: optax.conditionally_transform(t, lambda step: step < 5),
    "MultiSteps": lambda t: optax.MultiSteps(t, 1),
    "MultiSteps, its transformation": lambda t: optax.MultiSteps(t, 1).gradient_transformation(),
    "MultiSteps that skips": lambda t: optax.MultiSteps(t, 1, should_skip_update_fn=optax.skip_not_finite),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_extra_arguments_arrive_through(name):
    tx = WRAPPERS[name](_recorder())
    state = create_state({"a": jnp.asarray(3.0), "b": jnp.zeros(2)}, tx, jax.random.key(5))
    batch = {"x": jnp.array([1.0, 2.0])}
    state, metrics = jax.jit(make_step(value_and_grad(_quadratic), tx))(state, batch)
    seen = optax.tree.get_all_with_path(state.opt_state, "value_fn")
    assert len(seen) == 1 and seen[0][1] == 4.5  # at a = 1, b = (1, 1): (1 + 4)/2 + 2
    got = {k: optax.tree.get(state.opt_state, k) for k in ("value", "grad", "grad_fn", "key")}
    assert got["value"] == metrics["loss"] == 22.5  # 9 · 2.5
    assert got["grad"] == 15.0 and got["grad_fn"] == 5.0  # 2 a · 2.5
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 0), 1)
    np.testing.assert_array_equal(got["key"], jax.random.key_data(key))


def test_what_optax_does_not_hand_on():
    """Facts about optax that the docstring states; when one changes, the docstring must."""

    def asks(updates, state, params=None, **extra):
        return jax.tree.map(lambda u: u * ("value" in extra), updates), state

    inner = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), asks)
    params, batch = {"a": jnp.asarray(3.0), "b": jnp.zeros(2)}, {"x": jnp.ones(2)}

    def update(tx):
        state = create_state(params, tx, jax.random.key(0))
        return make_step(value_and_grad(_quadratic), tx)(state, batch)[0].params["a"]

    assert update(inner) == 9.0
    assert update(optax.MultiSteps(inner, 1)) == 9.0
    assert update(optax.chain(optax.MultiSteps(inner, 1).gradient_transformation())) == 3.0
    assert update(optax.contrib.split_real_and_imaginary(inner)) == 3.0
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        update(optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1), sync_period=2))


def test_line_search_of_optax_gets_all_it_asks_for():
    """L-BFGS with a zoom line search: its first step is a gradient step of the length that meets the Wolfe conditions."""
    tx = optax.lbfgs()
    state = create_state({"a": jnp.asarray(3.0), "b": jnp.zeros(0)}, tx, jax.random.key(0))
    step = jax.jit(make_step(value_and_grad(_quadratic), tx))
    for _ in range(5):
        state, metrics = step(state, {"x": jnp.array([1.0, 2.0])})
    # a quadratic in one variable: two steps reach its minimum to float32
    assert metrics["loss"] < 1e-10


def test_further_extra_arguments():
    def update(updates, state, params=None, *, epoch, **extra):
        return jax.tree.map(lambda u: u * 0 + epoch, updates), state

    tx = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)
    step = make_step(value_and_grad(_quadratic), tx, extra_args=lambda state, batch, key: {"epoch": state.step + 2.0})
    state = create_state({"a": jnp.asarray(3.0), "b": jnp.zeros(2)}, tx, jax.random.key(0))
    state, _ = step(state, {"x": jnp.ones(2)})
    state, _ = step(state, {"x": jnp.ones(2)})
    assert state.params["a"] == 3 + 2 + 3


def _linear(w, s, batch, key):
    del key
    return jnp.mean(batch["x"] @ w), Aux({"seen": s["seen"] + 1.0}, {})


def test_clipping_and_skipping_what_is_not_finite():
    """Hand values: the gradient is the mean row of x."""
    tx = optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5)), max_consecutive_errors=2)
    state = create_state(jnp.zeros(2), tx, jax.random.key(0), {"seen": jnp.zeros(())})
    step = jax.jit(make_step(value_and_grad(_linear), tx), donate_argnums=0)
    state, _ = step(state, {"x": jnp.array([[3.0, 4.0]])})  # norm 5, clipped to (0.6, 0.8)
    np.testing.assert_allclose(state.params, [-0.3, -0.4], rtol=1e-6)  # one rounding of the norm
    clipped = np.asarray(state.params)
    state, _ = step(state, {"x": jnp.array([[0.0, 0.5]])})  # below the limit: as it is
    np.testing.assert_allclose(state.params, clipped - [0.0, 0.25], rtol=1e-6)
    before = np.asarray(state.params)
    for bad in (np.nan, np.inf):
        state, _ = step(state, {"x": jnp.array([[bad, 1.0]])})
        np.testing.assert_array_equal(state.params, before)
    assert state.opt_state.total_notfinite == 2 and not state.opt_state.last_finite
    assert state.step == 4 and state.model_state["seen"] == 4  # skipped steps count as steps
    # a good one resets the count of consecutive errors; the third bad one in a row is let through by optax
    for bad in (1.0, np.nan, np.nan, np.nan):
        state, _ = step(state, {"x": jnp.array([[bad, 0.0]])})
    assert np.isnan(np.asarray(state.params)).any()
    assert step._cache_size() == 1


def test_clear_errors():
    tx = optax.sgd(0.1)
    state = create_state(jnp.zeros(2), tx, jax.random.key(0), {"seen": jnp.zeros(())})
    step = jax.jit(make_step(value_and_grad(_linear), tx))
    with pytest.raises(ValueError, match=r"step: the leading axes of the batch disagree: \['x'\] has 2, \['y'\] has 3"):
        step(state, {"x": jnp.ones((2, 2)), "y": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"step: the batch is empty \(leading axis 0 at \['x'\]\)"):
        step(state, {"x": jnp.ones((0, 2))})
    with pytest.raises(ValueError, match="step: the batch has no arrays"):
        step(state, {})

    def forgets(w, s, batch, key):
        return jnp.mean(batch["x"] @ w), Aux({}, {})

    with pytest.raises(ValueError, match=r"model state returned by the objective: .*\['seen'\] is missing"):
        make_step(value_and_grad(forgets), tx)(state, {"x": jnp.ones((2, 2))})
