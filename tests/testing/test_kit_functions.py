"""For every law of losses, schedules, initializers, aggregators and estimators a wrong one that breaks just that law."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import testing as kit
from jaxtrain.core import check_leading_axes


def cross_entropy(x, y):
    return optax.losses.softmax_cross_entropy_with_integer_labels(x, jnp.clip(y, 0, x.shape[-1] - 1))


def called_from(name):
    return any(frame.function == name for frame in inspect.stack())


def traced(x):
    return isinstance(x, jax.core.Tracer)


@jax.custom_batching.custom_vmap
def unbatchable(x):
    return x


@unbatchable.def_vmap
def _(axis_size, in_batched, x):
    return x + jnp.arange(axis_size, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1)), True


@jax.custom_jvp
def wrong_gradient(x):
    return x


wrong_gradient.defjvp(lambda p, t: (p[0], 1.01 * t[0]))


@jax.custom_jvp
def no_gradient_far_out(x):
    return x


no_gradient_far_out.defjvp(lambda p, t: (p[0], jnp.where(jnp.abs(p[0]) > 1e3, jnp.nan, 1.0) * t[0]))


def bf16_sum(x, y):
    # the loss rounded to whole numbers in bfloat16
    loss = cross_entropy(x, y)
    return jnp.round(loss) if x.dtype == jnp.bfloat16 else loss


LOSSES = {
    "shape": lambda x, y: cross_entropy(x, y).mean(),
    "dtype": lambda x, y: cross_entropy(x, y).astype(jnp.promote_types(x.dtype, jnp.float32)),
    "jit": lambda x, y: cross_entropy(x, y) * (1.001 if traced(x) and called_from("_jit") else 1.0),
    "vmap": lambda x, y: unbatchable(cross_entropy(x, y)) if called_from("_vmap") else cross_entropy(x, y),
    "batch": lambda x, y: cross_entropy(x, y) * len(x) / 6,
    "permutation": lambda x, y: cross_entropy(x, y) * (jnp.arange(len(x)) * 0.01 + 1).astype(x.dtype),
    "finite": lambda x, y: jnp.where(jnp.abs(x).max(-1) > 1e3, jnp.inf, cross_entropy(x, y)),
    "finite_gradient": lambda x, y: cross_entropy(no_gradient_far_out(x), y),
    "gradient": lambda x, y: cross_entropy(wrong_gradient(x), y),
    "bfloat16": bf16_sum,
    "labels": optax.losses.softmax_cross_entropy_with_integer_labels,
    "class_permutation": lambda x, y: cross_entropy(x, y) + 0.1 * x[:, 0] ** 2 / (1 + x[:, 0] ** 2),
}


def test_every_law_of_losses_has_a_fault():
    assert list(LOSSES) == list(kit.LOSS_LAWS)


@pytest.mark.parametrize("law", kit.LOSS_LAWS)
def test_losses(law):
    found = kit.find_loss_violations(LOSSES[law], class_symmetric=True)
    assert [v.law for v in found] == [law], found


@pytest.mark.parametrize("wrong", [-1, 5])
def test_labels_out_of_range_on_either_side_are_seen(wrong):
    # as another class than the nearest
    other = lambda x, y: cross_entropy(x, jnp.where(y == wrong, 2, y))  # noqa: E731
    found = kit.find_loss_violations(other, laws=["labels"])
    assert len(found) == 1 and f"label {wrong} of 5 classes" in str(found[0])


def test_a_declared_infinity_is_none_and_nan_is_one():
    infinite = LOSSES["finite"]
    assert kit.find_loss_violations(infinite, may_be_infinite=True) == []
    spoilt = lambda x, y: jnp.where(jnp.abs(x).max(-1) > 1e3, jnp.nan, cross_entropy(x, y))  # noqa: E731
    assert [v.law for v in kit.find_loss_violations(spoilt, may_be_infinite=True, laws=["finite"])] == ["finite"]


def half(step):
    return 0.5 ** jnp.asarray(step, jnp.float32)


SCHEDULES = {
    "scalar": lambda step: jnp.ones(2),
    "finite": lambda step: 1.0 / jnp.asarray(step, jnp.float32),
    "integers": lambda step: half(step) if isinstance(step, jax.Array) else 1.5 * half(step),
    "jit": lambda step: half(step) * (2.0 if traced(step) and called_from("<lambda>") and _frames("pjit") else 1.0),
    "vmap": lambda step: unbatchable(half(step)),
    "scan": lambda step: half(step) * (2.0 if called_from("scan") else 1.0),
}


def _frames(name):
    """Under jit alone: neither vmap nor scan."""
    return not called_from("scan") and not called_from("vmap_f") and any(name in f.filename for f in inspect.stack())


@pytest.mark.parametrize("law", SCHEDULES)
def test_schedules(law):
    found = kit.find_schedule_violations(SCHEDULES[law])
    assert [v.law for v in found] == [law], found


def test_a_schedule_that_is_compiled_for_every_step():
    # the step's value is asked for: only static steps can be traced
    found = kit.find_schedule_violations(lambda step: half(int(step)), laws=["no_retrace"])
    assert [v.law for v in found] == ["no_retrace"]


normal = jax.nn.initializers.normal(0.5)
INITIALIZERS = {
    "shape": lambda k, s, d: normal(k, s[::-1], d),
    "dtype": lambda k, s, d: normal(k, s, jnp.promote_types(d, jnp.float32)),
    "same_key": None,
    "other_key": lambda k, s, d: normal(jax.random.key(0), s, d),
    "finite": lambda k, s, d: normal(k, s, d).at[0, 0].set(jnp.inf),
    "jit": lambda k, s, d: normal(k, s, d) * (2.0 if traced(k) and _under_jit_only(k) else 1.0),
    "vmap": lambda k, s, d: unbatchable(normal(k, s, d)),
    "mean": lambda k, s, d: normal(k, s, d) + jnp.asarray(0.05, d),
    "std": lambda k, s, d: normal(k, s, d) * jnp.asarray(1.05, d),
}


def _under_jit_only(k):
    return "Dynamic" in type(k).__name__


@pytest.mark.parametrize("law", kit.INITIALIZER_LAWS)
def test_initializers(law):
    fault = INITIALIZERS[law]
    if law == "same_key":
        calls = []

        def fault(k, s, d):
            calls.append(0)
            # a hidden count, in two calls of one key alone
            return normal(k, s, d) + (0.0 if traced(k) or not called_from("same_key") else len(calls))

    moments = {} if law == "finite" else {"mean": 0.0, "std": 0.5}
    found = kit.find_initializer_violations(fault, **moments)
    assert [v.law for v in found] == [law], found


def mean(tree):
    check_leading_axes(tree, where="mean")
    return jax.tree.map(lambda x: x.mean(axis=0), tree)


def _clip_leaves(tree):
    # per leaf where it should be per gradient
    out = mean(tree)
    return jax.tree.map(lambda x: x / jnp.maximum(1, jnp.linalg.norm(x) / 0.3).astype(x.dtype), out)


def _first_half(tree):
    check_leading_axes(tree, where="first")
    return jax.tree.map(lambda x: x[: len(x) // 2 + 1].mean(axis=0), tree)


AGGREGATORS = {
    "shape": lambda t: jax.tree.map(lambda x: x[None], mean(t)),
    "dtype": lambda t: jax.tree.map(lambda x: x.astype(jnp.float32), mean(t)),
    "jit": lambda t: jax.tree.map(lambda x: x * (2 if traced(x) and _under_jit_only(x) else 1), mean(t)),
    "vmap": lambda t: jax.tree.map(unbatchable, mean(t)),
    "identical": lambda t: jax.tree.map(lambda x: 2 * x, mean(t)),
    "permutation": _first_half,
    "bad_input": lambda t: jax.tree.map(lambda x: x.mean(axis=0), t),
}


@pytest.mark.parametrize("law", AGGREGATORS)
def test_aggregators(law):
    found = kit.find_aggregator_violations(AGGREGATORS[law])
    assert [v.law for v in found] == [law], found


def test_aggregators_by_leaf():
    found = kit.find_aggregator_violations(_clip_leaves, except_=["identical"])
    assert [v.law for v in found] == ["pytree"], found


def test_aggregators_asked_for_more():
    def median(tree):
        check_leading_axes(tree, where="median")
        return jax.tree.map(lambda x: jnp.median(x, axis=0), tree)

    assert kit.find_aggregator_violations(mean, linear_under_scaling=True) == []
    assert [v.law for v in kit.find_aggregator_violations(median, linear_under_scaling=True)] == [
        "linear_under_scaling"
    ]
    # the second outweighs the first, which points the other way
    opposed = np.array([[1.0, 0.0], [-3.0, 0.1]])
    found = kit.find_aggregator_violations(mean, stacked=opposed, non_conflicting=True)
    assert [v.law for v in found] == ["non_conflicting"], found


def probe(x, *, key):
    return jnp.mean(x * (1 + jax.random.rademacher(key, x.shape, x.dtype)))


ESTIMATORS = {
    "finite": lambda x, *, key: {"mean": probe(x, key=key), "error": x[0] / 0},
    "dtype": lambda x, *, key: probe(x, key=key).astype(jnp.float32),
    "other_key": lambda x, *, key: jnp.mean(x),
    "jit": lambda x, *, key: probe(x, key=key) * (2 if traced(key) and called_from("jit") else 1),
    "vmap": lambda x, *, key: unbatchable(probe(x, key=key)),
    "bias": lambda x, *, key: 1.5 * probe(x, key=key),
}


@pytest.mark.parametrize("law", ESTIMATORS)
def test_estimators(law):
    exact = None if law == "finite" else 0.5
    found = kit.find_estimator_violations(ESTIMATORS[law], np.linspace(0, 1, 8), takes_key=True, exact=exact)
    assert [v.law for v in found] == [law], found


def test_one_key_two_estimates():
    calls = []

    def impure(x, *, key):
        calls.append(0)
        return probe(x, key=key) + (len(calls) if called_from("same_key") else 0)

    found = kit.find_estimator_violations(impure, np.linspace(0, 1, 8), takes_key=True, exact=0.5)
    assert [v.law for v in found] == ["same_key"], found


def test_a_declared_bias_is_none():
    biased = ESTIMATORS["bias"]
    assert kit.find_estimator_violations(biased, np.linspace(0, 1, 8), takes_key=True, exact=0.5, bias=0.25) == []


def test_sound_ones_pass():
    kit.check_loss(cross_entropy, class_symmetric=True)
    kit.check_schedule(optax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 100))
    kit.check_initializer(normal, mean=0.0, std=0.5)
    kit.check_aggregator(mean)
    kit.check_estimator(probe, np.linspace(0, 1, 8), takes_key=True, exact=0.5)
    with pytest.raises(kit.ContractError, match="the schedule breaks 1 law"):
        kit.check_schedule(SCHEDULES["scan"])
