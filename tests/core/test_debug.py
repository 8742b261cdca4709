"""What tracing cannot see is found on request, through every transformation, and costs nothing otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxtrain.core import check_finite_number, checked, debug_check
from jaxtrain.losses import comp_sum_loss, ldr_kl_loss, stablemax_cross_entropy

LOGITS, LABELS = jnp.array([[0.5, -1.0, 2.0], [0.0, 1.0, -3.0]]), jnp.array([2, 1])


def _loss(logits, labels):
    return comp_sum_loss(logits, labels).sum()


THROUGH = {
    "plain": _loss,
    "jit": jax.jit(_loss),
    "grad": lambda x, y: jax.grad(_loss)(x, y),
    "vmap": lambda x, y: jax.vmap(_loss)(x[None], y[None]),
    "scan": lambda x, y: jax.lax.scan(lambda c, _: (c + _loss(x, y), None), 0.0, length=2),
    "checkpoint": lambda x, y: jax.grad(jax.checkpoint(_loss))(x, y),
    "shard_map": lambda x, y: jax.shard_map(
        lambda x, y: comp_sum_loss(x, y),
        mesh=jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=(PartitionSpec("data"), PartitionSpec("data")),
        out_specs=PartitionSpec("data"),
    )(x, y),
}


@pytest.mark.parametrize("through", THROUGH)
def test_labels_are_seen_through(through):
    fun = THROUGH[through]
    jax.jit(fun)(LOGITS, LABELS)  # compiled without checks before
    run = checked(fun)
    for got, want in zip(jax.tree.leaves(run(LOGITS, LABELS)), jax.tree.leaves(fun(LOGITS, LABELS)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)  # another program: rounding
    with pytest.raises(ValueError, match="comp_sum_loss: label 5 is none of the 3 classes"):
        run(LOGITS, LABELS.at[1].set(5))
    with pytest.raises(ValueError, match="label -1 is none of the 3 classes"):
        run(LOGITS, LABELS.at[0].set(-1))


def test_an_inner_jit_is_looked_into_whenever_it_was_compiled():
    inner = jax.jit(comp_sum_loss)
    run = checked(lambda x, y: inner(x, y))
    for rows in (1, 2):  # before the first call, and before another shape comes
        wrong = LABELS[:rows].at[0].set(5)
        inner(LOGITS[:rows], wrong)
        with pytest.raises(ValueError, match="label 5 is none of the 3 classes"):
            run(LOGITS[:rows], wrong)
        inner(LOGITS[:rows], wrong)


def test_an_empty_batch_has_nothing_wrong():
    assert checked(comp_sum_loss)(LOGITS[:0], LABELS[:0]).shape == (0,)


def test_labels_of_few_bits():
    # in eight bits class 300 is 44
    logits, labels = jnp.zeros((2, 400)).at[:, 300].set(3.0), jnp.array([44, 100], jnp.int8)
    for loss in (comp_sum_loss, ldr_kl_loss, stablemax_cross_entropy):
        for fn in (loss, jax.jit(loss), checked(loss)):
            np.testing.assert_allclose(fn(logits, labels), loss(logits, labels.astype(jnp.int32)), rtol=1e-6)


def test_probabilities_for_logits_are_seen():
    run = checked(_loss)
    with pytest.raises(ValueError, match="give the logits before the softmax"):
        run(jax.nn.softmax(LOGITS), LABELS)
    run(jax.nn.log_softmax(LOGITS), LABELS)
    run(jax.nn.softmax(LOGITS) - 0.1, LABELS)
    with pytest.raises(ValueError, match="give the logits before the softmax"):
        run(jax.nn.softmax(LOGITS).astype(jnp.bfloat16), LABELS)


def test_traced_numbers_are_seen():
    run = checked(lambda lam: ldr_kl_loss(LOGITS, LABELS, lam=lam))
    np.testing.assert_allclose(run(0.5), ldr_kl_loss(LOGITS, LABELS, lam=0.5), rtol=1e-6)
    with pytest.raises(ValueError, match=r"lam must lie in \[.*, inf\], got 0.0"):
        run(0.0)
    several = checked(lambda b: check_finite_number("b", b, low=0.0, high=1.0))
    several(jnp.array([0.0, 1.0]))
    for bad in (1.5, jnp.nan, -0.1):
        with pytest.raises(ValueError, match=r"b must lie in \[0.0, 1.0\]"):
            several(jnp.array([0.5, bad]))


def test_nothing_is_added_otherwise():
    plain = jax.make_jaxpr(_loss)(LOGITS, LABELS)
    assert not plain.effects and "check" not in str(plain)

    def fail():
        raise AssertionError("evaluated although nobody asked")

    debug_check(fail, "x")
    with pytest.raises(RuntimeError, match="inside"):
        checked(lambda: (_ for _ in ()).throw(RuntimeError("inside")))()
    assert not jax.make_jaxpr(_loss)(LOGITS, LABELS).effects  # the request ends with an error too
