"""Casts, float32 masters, and a loss scale whose every move is known in advance."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import microbatch, value_and_grad
from jaxtrain.training import LossScaled, Policy, create_state, loss_scaled, loss_scaling, make_step, mixed_precision
from tests.training.problems import bn_batch, bn_net, bn_objective

KEY = jax.random.key(0)


def test_dtypes_inside_and_outside():
    seen = {}

    def objective(w, s, batch, key):
        seen.update(w=w["w"].dtype, n=w["n"].dtype, x=batch["x"].dtype, y=batch["y"].dtype, s=s["mean"].dtype)
        loss = jnp.mean(batch["x"] @ w["w"])
        return loss, Aux({"mean": s["mean"] * jnp.bfloat16(0.5) + loss}, {"loss2": loss, "count": jnp.array(3)})

    policy = Policy(compute=jnp.bfloat16)
    params, batch = {"w": jnp.ones(2), "n": jnp.arange(2)}, {"x": jnp.ones((2, 2)), "y": jnp.arange(2)}
    loss, aux = mixed_precision(objective, policy)(params, {"mean": jnp.zeros(())}, batch, KEY)
    assert {k: v.name for k, v in seen.items()} == {
        "w": "bfloat16", "n": "int32", "x": "bfloat16", "y": "int32", "s": "float32",
    }  # fmt: skip
    assert loss.dtype == aux.metrics["loss2"].dtype == aux.model_state["mean"].dtype == jnp.float32
    assert aux.metrics["count"].dtype == jnp.int32


def test_the_gradient_is_that_of_the_rounded_weights():
    """In float32, at weights and inputs rounded to bfloat16, where all products and sums are exact."""
    w, x = jnp.array([1.001, 2.003]), jnp.array([3.007, 1.0])
    objective = lambda w, s, x, k: (jnp.sum((w * x).astype(jnp.float32)), Aux(s, {}))  # noqa: E731
    half = mixed_precision(objective, Policy(compute=jnp.bfloat16))
    grads, _ = jax.grad(half, has_aux=True)(w, {}, x, KEY)
    np.testing.assert_array_equal(grads, x.astype(jnp.bfloat16).astype(jnp.float32))
    assert grads.dtype == jnp.float32


def test_float32_masters_add_up_what_bfloat16_loses():
    """A thousand updates of 2⁻¹², each below half a unit in the last place of a bfloat16 one."""
    objective = lambda w, s, x, k: (-jnp.sum(w * x).astype(jnp.float32), Aux(s, {}))  # noqa: E731
    tx = optax.sgd(2.0**-12)

    def train(objective, w):
        step = make_step(value_and_grad(objective), tx)
        state = create_state(w, tx, KEY)
        return jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, jnp.ones(1, w.dtype)), s, length=1024))(state)[0]

    masters = train(mixed_precision(objective, Policy(compute=jnp.bfloat16)), jnp.ones(1))
    assert masters.params.dtype == jnp.float32 and masters.params == 1.25
    assert train(objective, jnp.ones(1, jnp.bfloat16)).params == 1.0


def test_policy_errors():
    with pytest.raises(TypeError, match="Policy.compute must be a floating dtype"):
        Policy(compute=jnp.int32)
    objective = mixed_precision(bn_objective, Policy(compute=jnp.bfloat16))
    params, stats = bn_net(KEY)
    wrong = params | {"scale": params["scale"].astype(jnp.bfloat16)}
    with pytest.raises(
        TypeError, match=r"the parameter \['scale'\] is bfloat16, the policy keeps parameters in float32"
    ):
        objective(wrong, stats, bn_batch(0), KEY)


def test_scaling_by_powers_of_two_changes_no_bit():
    params, stats = bn_net(KEY)
    step = jax.jit(loss_scaling(bn_objective))

    def at(scale):
        (loss, aux), grads = step(params, loss_scaled(stats, scale), bn_batch(0), KEY)
        assert aux.metrics["loss_scale"] == scale
        return loss, aux.model_state.model_state, aux.metrics["accuracy"], grads

    unscaled = at(1.0)
    for scale in (2.0**15, 2.0**-9):
        jax.tree.map(np.testing.assert_array_equal, unscaled, at(scale))
    (loss, aux), grads = jax.jit(value_and_grad(bn_objective))(params, stats, bn_batch(0), KEY)
    # another program, which XLA may fuse in another way: float32 sums of 16 terms, some of which cancel
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        unscaled,
        (loss, aux.model_state, aux.metrics["accuracy"], grads),
    )


def _gated(w, s, batch, key):
    """The gradient is the first element of the batch; its running mean follows it."""
    del key
    return w * batch[0], Aux({"mean": s["mean"] + batch[0]}, {})


def test_every_move_of_the_scale():
    tx = optax.apply_if_finite(optax.sgd(1.0), 5)
    grad_fn = loss_scaling(_gated, growth_interval=3, max_scale=16.0, min_scale=2.0)
    state = create_state(jnp.zeros(()), tx, KEY, loss_scaled({"mean": jnp.zeros(())}, 4.0))
    step = jax.jit(make_step(grad_fn, tx), donate_argnums=0)
    inf = np.inf
    # (gradient, scale after, good steps after, weight after, running mean after)
    rows = [
        (1.0, 4.0, 1, -1.0, 1.0),
        (1.0, 4.0, 2, -2.0, 2.0),
        (1.0, 8.0, 0, -3.0, 3.0),  # the third good one: doubled
        (1.0, 8.0, 1, -4.0, 4.0),
        (inf, 4.0, 0, -4.0, 4.0),  # halved; weight and running mean stay
        (np.nan, 2.0, 0, -4.0, 4.0),
        (-inf, 2.0, 0, -4.0, 4.0),  # at min_scale
        *((0.0, 2.0, n, -4.0, 4.0) for n in (1, 2)),
        (0.0, 4.0, 0, -4.0, 4.0),
        *((0.0, 4.0, n, -4.0, 4.0) for n in (1, 2)),
        (0.0, 8.0, 0, -4.0, 4.0),
        *((0.0, 8.0, n, -4.0, 4.0) for n in (1, 2)),
        (0.0, 16.0, 0, -4.0, 4.0),
        *((0.0, 16.0, n, -4.0, 4.0) for n in (1, 2)),
        (0.0, 16.0, 0, -4.0, 4.0),  # at max_scale
    ]
    used = 4.0
    for gradient, scale, good, weight, mean in rows:
        state, metrics = step(state, jnp.array([gradient]))
        s = state.model_state
        assert (s.scale, s.good_steps, state.params, s.model_state["mean"]) == (scale, good, weight, mean)
        assert metrics["loss_scale"] == used
        used = scale
    assert step._cache_size() == 1


def test_float16_gradients_that_vanish_without_a_scale():
    """A true gradient of 2⁻²⁷ is below float16's smallest number, 2⁻²⁴; scaled by 2¹⁵ it is exact."""
    policy = Policy(compute=jnp.float16)
    objective = mixed_precision(lambda w, s, x, k: ((w * x[0]) * x[1], Aux(s, {})), policy)
    x = jnp.array([2.0**-13, 2.0**-14])
    _, plain = value_and_grad(objective)(jnp.ones(()), {}, x, KEY)
    (_, aux), scaled = loss_scaling(objective)(jnp.ones(()), loss_scaled({}), x, KEY)
    assert plain == 0.0 and scaled == 2.0**-27 and scaled.dtype == jnp.float32
    # an overflow: 2¹⁵ · 4 · 1 is beyond 65504
    (loss, aux), over = loss_scaling(objective)(jnp.ones(()), loss_scaled({}), jnp.array([1.0, 4.0]), KEY)
    assert not np.isfinite(over) and aux.model_state.scale == 2.0**14 and loss == 4.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_training_follows_single_precision(dtype):
    """Thirty steps of a network with BatchNorm: half compute, single masters."""
    params, stats = bn_net(KEY)
    tx = optax.apply_if_finite(optax.adam(0.01), 20)
    half = mixed_precision(bn_objective, Policy(compute=jnp.dtype(dtype)))
    scaled = dtype == "float16"
    kinds = {
        "single": (value_and_grad(bn_objective), stats),
        # the scale starts so high that it must fall before anything is learned
        "half": (loss_scaling(half), loss_scaled(stats, 2.0**24)) if scaled else (value_and_grad(half), stats),
    }
    losses = {}
    for kind, (grad_fn, model_state) in kinds.items():
        state = create_state(params, tx, KEY, model_state)
        step = jax.jit(make_step(grad_fn, tx), donate_argnums=0)
        losses[kind] = []
        for t in range(30):
            state, metrics = step(state, bn_batch(t))
            losses[kind].append(float(metrics["loss"]))
        assert step._cache_size() == 1
    assert {x.dtype for x in jax.tree.leaves((state.params, state.model_state))} - {jnp.dtype("int32")} == {
        jnp.dtype("float32")
    }
    skipped = int(state.opt_state.total_notfinite)
    assert (1 <= skipped <= 12) if scaled else skipped == 0
    last = {kind: np.mean(values[-10:]) for kind, values in losses.items()}
    assert last["single"] < 0.6 * losses["single"][0]
    # half precision carries three (bfloat16) to four digits; the steps that were skipped cost a few of thirty
    assert abs(last["half"] - last["single"]) < 0.005 + 0.03 * skipped


def test_traced_constants_vmap_and_microbatches():
    scales = jnp.array([1.0, 4.0])

    def one(interval, scale):
        grad_fn = loss_scaling(_gated, growth_interval=interval)
        return grad_fn(jnp.ones(()), loss_scaled({"mean": jnp.zeros(())}, scale), jnp.ones(1), KEY)

    (_, aux), grads = jax.jit(jax.vmap(one))(jnp.array([1, 2]), scales)
    np.testing.assert_array_equal(grads, [1.0, 1.0])
    np.testing.assert_array_equal(aux.model_state.scale, [2.0, 4.0])
    # every part of a batch counts as a step
    grad_fn = microbatch(loss_scaling(_gated, growth_interval=2), 4)
    (_, aux), _ = grad_fn(jnp.ones(()), loss_scaled({"mean": jnp.zeros(())}, 1.0), jnp.ones(8), KEY)
    assert isinstance(aux.model_state, LossScaled) and aux.model_state.scale == 4.0


def test_scaling_errors():
    with pytest.raises(TypeError, match="needs a LossScaled model state, got dict"):
        loss_scaling(_gated)(jnp.ones(()), {"mean": 0.0}, jnp.ones(1), KEY)
    for name, value in {"growth": 0.5, "backoff": 2.0, "growth_interval": 0, "min_scale": 0.0}.items():
        with pytest.raises(ValueError, match=name):
            loss_scaling(_gated, **{name: value})
    with pytest.raises(ValueError, match="initial"):
        loss_scaled({}, 0.0)
