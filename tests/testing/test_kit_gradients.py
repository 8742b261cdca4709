"""For every law of gradient functions a wrong one that breaks just that law, and all of ours, which break none."""

import inspect

import jax
import jax.numpy as jnp
import pytest

from jaxtrain import gradients
from jaxtrain import testing as kit
from jaxtrain.core import Aux, check_leading_axes

ASKED = {"samples": False, "evaluations": 1, "tolerance": 1e-5, "splits_batch": True}


def _called_from(name):
    return any(frame.function == name for frame in inspect.stack())


@jax.custom_batching.custom_vmap
def _unbatchable(x):
    return x


@_unbatchable.def_vmap
def _(axis_size, in_batched, x):
    return x + jnp.arange(axis_size, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1)), True


def _spoilt(change, checked=True):
    """The plain gradient, with its result changed: ``change(loss, aux, grads, args)``."""

    def make(objective):
        plain = gradients.value_and_grad(objective)

        def grad_fn(*args):
            if checked:
                check_leading_axes(args[2], where="plain")
            (loss, aux), grads = plain(*args)
            return change(loss, aux, grads, args)

        return grad_fn

    return make


def _on_gradient(f):
    return _spoilt(lambda loss, aux, grads, args: ((loss, aux), jax.tree.map(f, grads)))


def _twice(objective):
    def both(*args):
        objective(*args)
        return objective(*args)

    return _spoilt(lambda loss, aux, grads, args: ((loss, aux), grads))(both)


def _divided_by_its_norm(loss, aux, grads, args):
    # the plain gradient, but 0/0 where there is none
    norm = sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))
    return (loss, aux), jax.tree.map(lambda g: (g / norm * norm).astype(g.dtype), grads)


def _impure():
    calls = []

    def change(loss, aux, grads, args):
        calls.append(0)
        hidden = 1e-7 * len(calls) if _called_from("same_key") else 0.0
        return (loss + hidden, aux), grads

    return _spoilt(change)


FAULTS = {
    "runs": _spoilt(lambda loss, aux, grads, args: ((loss, tuple(aux)), grads)),
    "dtype": _on_gradient(lambda g: g.astype(jnp.float32)),
    "aux": _spoilt(lambda loss, aux, grads, args: ((loss, Aux(args[1], aux.metrics)), grads)),
    "same_key": _impure(),
    "jit": _on_gradient(lambda g: g * (1.001 if _called_from("jit") or _called_from("vmap") else 1.0)),
    "vmap": _on_gradient(lambda g: _unbatchable(g)),
    "zero_gradient": _spoilt(_divided_by_its_norm),
    "bad_batch": _spoilt(lambda loss, aux, grads, args: ((loss, aux), grads), checked=False),
    "evaluations": _twice,
    "gradient": _on_gradient(lambda g: g * 1.001),
}


@pytest.mark.parametrize("law", FAULTS)
def test_planted_faults(law):
    found = kit.find_grad_fn_violations(FAULTS[law], **ASKED)
    assert [v.law for v in found] == [law], found


def test_a_gradient_that_should_sample_and_does_not():
    found = kit.find_grad_fn_violations(gradients.value_and_grad, samples=True, laws=["runs", "other_key"])
    assert [v.law for v in found] == ["other_key"]


def test_a_gradient_that_depends_on_the_devices():
    def change(loss, aux, grads, args):
        return (loss, aux), jax.tree.map(lambda g: g * (1.5 if _called_from("sharded") else 1), grads)

    found = kit.find_grad_fn_violations(_spoilt(change), laws=["runs", "sharded"])
    assert [v.law for v in found] == ["sharded"]


def test_a_gradient_that_is_traced_again():
    """The value of a parameter decides: only concrete ones can be used, jit fails or is compiled for each."""

    def change(loss, aux, grads, args):
        sign = 1 if float(loss) > 0 else -1
        return (loss, aux), jax.tree.map(lambda g: sign * g, grads)

    found = kit.find_grad_fn_violations(_spoilt(change), laws=["runs", "no_retrace"])
    assert [v.law for v in found] == ["no_retrace"]


def _mean(stack):
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), stack)


OURS = {
    "value_and_grad": (gradients.value_and_grad, {"evaluations": 1, "tolerance": 1e-5}),
    "microbatch": (
        lambda f: gradients.microbatch(gradients.value_and_grad(f), 2),
        {"evaluations": 2, "tolerance": 1e-5, "splits_batch": True},
    ),
    "sam": (lambda f: gradients.sam(gradients.value_and_grad(f)), {"evaluations": 2}),
    "imbsam": (
        lambda f: gradients.imbsam(f, lambda batch: batch["y"][:, 0] > 0, tail_weight=1.0),
        {"evaluations": 2, "per_example": True},
    ),
    "jacobian": (
        gradients.jacobian,
        {"evaluations": 1, "per_example": True, "stacked": True, "tolerance": 1e-5},
    ),
    "per_example": (
        lambda f: gradients.per_example(f, parallel=4),
        {"evaluations": 2, "per_example": True, "stacked": True, "tolerance": 1e-5, "splits_batch": True},
    ),
    "iwrm": (
        lambda f: gradients.iwrm(f, _mean),
        {"evaluations": 1, "per_example": True, "tolerance": 1e-5, "splits_batch": True},
    ),
    # 1e-2 moves a loss of order one by some thousand roundings of its own
    "zeroth_order": (
        lambda f: gradients.zeroth_order(f, directions=2, smoothing=1e-2),
        {"evaluations": 4, "samples": True, "rtol": 1e-2},
    ),
    "zeroth_order_sphere": (
        lambda f: gradients.zeroth_order(f, smoothing=1e-2, distribution="sphere", scheme="forward"),
        {"evaluations": 2, "samples": True, "rtol": 1e-2},
    ),
    # 16 parameters, and float32's best step
    "finite_differences": (gradients.finite_differences, {"evaluations": 32, "tolerance": 2e-3, "rtol": 2e-3}),
}


@pytest.mark.parametrize("name", OURS)
def test_ours_keep_the_laws(name):
    make, options = OURS[name]
    kit.check_grad_fn(make, **options)


def test_every_law_has_a_fault():
    assert {*FAULTS, "other_key", "sharded", "no_retrace"} == set(kit.GRAD_FN_LAWS)


def test_an_unknown_law():
    with pytest.raises(ValueError, match="there is no law 'speed'; the laws are runs, dtype"):
        kit.check_grad_fn(gradients.value_and_grad, laws=["speed"])
    with pytest.raises(kit.ContractError, match="the gradient function breaks 1 law"):
        kit.check_grad_fn(FAULTS["evaluations"], laws=["evaluations"], evaluations=1)
