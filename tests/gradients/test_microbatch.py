"""A batch in parts is the batch: exactly where the arithmetic is exact, within a stated bound where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import microbatch, value_and_grad

KEY = jax.random.key(0)


def _regression(w, s, batch, key):
    del key
    residuals = batch["x"] @ w - batch["y"]
    return jnp.mean(residuals**2), Aux(s, {"error": jnp.mean(jnp.abs(residuals))})


def _data(size, seed=0, integers=False):
    rng = np.random.default_rng(seed)
    if integers:
        x, y, w = rng.integers(-4, 5, (size, 3)), rng.integers(-9, 10, size), rng.integers(-3, 4, 3)
    else:
        x, y, w = rng.normal(size=(size, 3)), rng.normal(size=size), rng.normal(size=3)
    return {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y, jnp.float32)}, jnp.asarray(w, jnp.float32)


@pytest.mark.parametrize("count", [1, 2, 4, 16])
def test_exact_where_float32_is_exact(count):
    """Small integers and powers of two: no rounding anywhere, so not a bit may differ."""
    batch, w = _data(16, integers=True)
    whole = value_and_grad(_regression)(w, {}, batch, KEY)
    parts = jax.jit(microbatch(value_and_grad(_regression), count))(w, {}, batch, KEY)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    assert np.any(np.asarray(whole[1]) != 0)


@pytest.mark.parametrize("count", [3, 8, 24])
def test_within_the_bound_of_rounding(count):
    size, u = 24, 2.0**-24
    batch, w = _data(size, seed=3)
    (_, _), parts = jax.jit(microbatch(value_and_grad(_regression), count))(w, {}, batch, KEY)
    x, y, v = (np.asarray(a, np.float64) for a in (batch["x"], batch["y"], w))
    each = 2 * (x @ v - y)[:, None] * x
    # the docstring's bound for the order of summation, and that of the gradients themselves: a dot product of three,
    # a difference and two products, all relative to the sum of absolute terms
    inner = 2 * (np.abs(x) @ np.abs(v) + np.abs(y))[:, None] * np.abs(x)
    bound = 2 * size * u * np.abs(each).mean(0) + 8 * u * inner.mean(0)
    assert np.all(np.abs(np.asarray(parts) - each.mean(0)) <= bound)
    assert np.all(bound < 1e-4)


def test_double_precision(x64):
    batch, w = jax.tree.map(lambda a: a.astype(jnp.float64), _data(24))
    whole = value_and_grad(_regression)(w, {}, batch, KEY)
    parts = microbatch(value_and_grad(_regression), 6)(w, {}, batch, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), parts, whole)  # 24 · 2⁻⁵³ and some
    assert parts[1].dtype == jnp.float64


def test_half_precision_is_summed_in_single():
    """512 parts of gradient 1 each: bfloat16's own sum would stop at 256."""
    objective = lambda w, s, x, k: (jnp.mean(w * x), Aux(s, {}))  # noqa: E731
    _, grads = microbatch(value_and_grad(objective), 512)(jnp.bfloat16(1), {}, jnp.ones(512, jnp.bfloat16), KEY)
    assert grads == 1.0 and grads.dtype == jnp.bfloat16


def test_state_metrics_keys_and_parts():
    """Part i holds the examples i, i + count, …, gets fold_in(key, i) and the model state of the part before."""

    def objective(w, s, x, key):
        state = {"order": s["order"] * 10 + x[0], "count": s["count"] + 1}
        return w * jnp.sum(x), Aux(state, {"first": x[0], "draw": jax.random.uniform(key)})

    start = {"order": jnp.zeros(()), "count": jnp.zeros((), jnp.int32)}
    x = jnp.arange(1.0, 7.0)
    (loss, aux), grads = jax.jit(microbatch(value_and_grad(objective), 3))(jnp.ones(()), start, x, KEY)
    assert aux.model_state["order"] == 123.0 and aux.model_state["count"] == 3
    assert aux.metrics["first"] == 2.0  # mean of 1, 2, 3
    draws = [jax.random.uniform(jax.random.fold_in(KEY, i)) for i in range(3)]
    np.testing.assert_allclose(aux.metrics["draw"], np.mean(draws), rtol=1e-6)  # float32
    assert loss == grads == 7.0  # (1+4 + 2+5 + 3+6) / 3


def test_batch_norm_sees_the_parts():
    """The running mean moves count times, each time towards the mean of a part."""

    def objective(w, s, x, key):
        mean = x.mean()
        return w * x.var(), Aux({"mean": 0.5 * s["mean"] + 0.5 * mean}, {})

    x = jnp.array([0.0, 4.0, 2.0, 8.0])
    (loss, aux), _ = microbatch(value_and_grad(objective), 2)(jnp.ones(()), {"mean": jnp.zeros(())}, x, KEY)
    assert aux.model_state["mean"] == 0.5 * (0.5 * 1.0) + 0.5 * 6.0  # parts (0, 2) and (4, 8)
    assert loss == (1.0 + 4.0) / 2 != x.var()


def test_nested_and_traced_once():
    calls = []

    def counted(*args):
        calls.append(1)
        return _regression(*args)

    batch, w = _data(16, integers=True)
    nested = jax.jit(microbatch(microbatch(value_and_grad(counted), 2), 4))
    np.testing.assert_array_equal(nested(w, {}, batch, KEY)[1], value_and_grad(_regression)(w, {}, batch, KEY)[1])
    traced = len(calls)
    nested(w, {}, batch, KEY)
    assert len(calls) == traced <= 2  # a scan may trace its body twice to fix types, never once a part


def test_needs_the_memory_of_a_part():
    def deep(w, s, x, key):
        for _ in range(8):
            x = jnp.tanh(x @ w)
        return jnp.mean(x), Aux(s, {})

    def temporary(count):
        grad_fn = jax.jit(microbatch(value_and_grad(deep), count))
        args = jnp.eye(16), {}, jnp.ones((4096, 16)), KEY
        return grad_fn.lower(*args).compile().memory_analysis().temp_size_in_bytes

    # the activations of 8 layers in sixteen parts; a copy of the batch in its new order comes on top
    assert temporary(16) < temporary(1) / 3


def test_errors():
    grad_fn = value_and_grad(_regression)
    batch, w = _data(16)
    with pytest.raises(ValueError, match="3 parts do not divide a batch of 16 examples"):
        microbatch(grad_fn, 3)(w, {}, batch, KEY)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        microbatch(grad_fn, 0)
    with pytest.raises(ValueError, match="microbatch: the leading axes of the batch disagree"):
        microbatch(grad_fn, 2)(w, {}, batch | {"y": jnp.ones(4)}, KEY)
    with pytest.raises(ValueError, match="empty"):
        microbatch(grad_fn, 2)(w, {}, jax.tree.map(lambda a: a[:0], batch), KEY)
