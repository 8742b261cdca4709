"""For every law of transformations a wrong one that breaks just that law: the kit names it, and nothing else."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxtrain.testing import TRANSFORMATION_LAWS, ContractError, check_gradient_transformation, find_violations


def scaled(factor, *, state=lambda params: optax.EmptyState(), next_state=lambda g, s, p: s):
    """Updates times ``factor(updates, state, params)``, with a state of one's own."""

    def init(params):
        return state(params)

    def update(updates, state, params=None, **extra_args):
        del extra_args
        c = factor(updates, state, params)
        return jax.tree.map(lambda g: (c * g).astype(g.dtype), updates), next_state(updates, state, params)

    return optax.GradientTransformationExtraArgs(init, update)


def momentum(update_leaf=lambda m, g: 0.9 * m + g, out=lambda m, g: m.astype(g.dtype), init_leaf=jnp.zeros_like):
    """Momentum, to be spoilt in one place."""

    def init(params):
        return jax.tree.map(init_leaf, params)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        state = jax.tree.map(lambda m, g: update_leaf(m, g).astype(m.dtype), state, updates)
        return jax.tree.map(out, state, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def called_from(*names):
    return any(frame.function in names for frame in inspect.stack())


def traced(tree):
    return isinstance(jax.tree.leaves(tree)[0], jax.core.Tracer)


def runs():
    def update(updates, state, params=None):
        raise RuntimeError("not today")

    return {"tx": optax.GradientTransformation(lambda params: optax.EmptyState(), update)}


def pure():
    calls = []

    def factor(g, s, p):
        calls.append(0)
        # a hidden count: another result at every eager call
        return 1.0 if traced(g) else 1.0 + 0.1 * len(calls)

    return {"tx": scaled(factor)}


def abstract_init():
    def state(params):
        leaf = jax.tree.leaves(params)[0]
        return jnp.zeros(()) if isinstance(leaf, jax.core.Tracer) else jnp.zeros((1,))

    return {"tx": scaled(lambda g, s, p: 1.0, state=state)}


def stable_state():
    def state(params):
        return jnp.zeros((), jnp.int32)

    return {"tx": scaled(lambda g, s, p: 1.0, state=state, next_state=lambda g, s, p: s + 0.5)}


def dtype():
    # momentum kept in float32 and handed out as it is: wrong for bfloat16 and float64 parameters
    return {
        "tx": momentum(init_leaf=lambda p: jnp.zeros(p.shape, jnp.float32), out=lambda m, g: m),
    }


def no_shared_buffers():
    return {"tx": momentum(init_leaf=lambda p: p)}


def extra_args():
    def update(updates, state, params=None, *, value=None, value_fn=None, grad_fn=None, key=None):
        return updates, state

    return {"tx": optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)}


def jit():
    return {"tx": scaled(lambda g, s, p: 2.0 if traced(g) and not called_from("eval_shape") else 1.0)}


def no_retrace():
    # a weakly typed count becomes a strong one
    def count(params):
        return jnp.add(0.0, 0.0)

    return {"tx": scaled(lambda g, s, p: 1.0, state=count, next_state=lambda g, s, p: s + jnp.float32(1.0))}


def scan():
    return {"tx": scaled(lambda g, s, p: 3.0 if traced(g) and called_from("scan") else 1.0)}


def vmap():
    @jax.custom_batching.custom_vmap
    def same(x):
        return x

    @same.def_vmap
    def rule(axis_size, in_batched, x):
        return jnp.broadcast_to(x.mean(axis=0), x.shape), in_batched[0]

    def update(updates, state, params=None, **extra_args):
        return jax.tree.map(same, updates), state

    return {"tx": optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)}


def sharded_values():
    def factor(g, s, p):
        mesh = jax.sharding.get_abstract_mesh()
        return 1.0 if mesh.empty else 1.0 / mesh.size

    return {"tx": scaled(factor)}


def sharded():
    def whole(m, g):
        m = 0.9 * m + g
        return m if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(m, P())

    return {"tx": momentum(update_leaf=whole)}


def checkpoint():
    # Orbax takes the key "a.b" for the path a, b
    def init(params):
        return {"a": {"b": jnp.zeros(3)}, "a.b": jnp.ones(3)}

    return {"tx": scaled(lambda g, s, p: 1.0, state=init)}


def inject_hyperparams():
    def factory(rate):
        return optax.scale(-rate if isinstance(rate, float) else -2 * rate)

    return {"factory": factory, "hyperparams": {"rate": 0.1}}


def multi_steps():
    return {"tx": scaled(lambda g, s, p: 2.0 if called_from("_do_update") else 1.0)}


def _in(name):
    """Whether optax.masked calls, by itself or (it is built on it) for optax.partition."""
    frames = [f for f in inspect.stack() if f.filename.endswith("_masking.py")]
    inside_partition = any(f.filename.endswith("_combining.py") for f in inspect.stack())
    return bool(frames) and inside_partition == (name == "partition")


def partition():
    return {"tx": scaled(lambda g, s, p: 2.0 if _in("partition") else 1.0)}


def masked():
    return {"tx": scaled(lambda g, s, p: 2.0 if _in("masked") else 1.0)}


def scalar_leaf():
    def update(updates, state, params=None, **extra_args):
        return jax.tree.map(jnp.atleast_1d, updates), state

    return {"tx": optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)}


def empty_leaf():
    # NaN from the mean of nothing, spread to all by a global statistic
    def factor(g, s, p):
        return 1.0 + 0.0 * sum(jnp.mean(x) if x.size else jnp.nan for x in jax.tree.leaves(g))

    return {"tx": scaled(factor)}


def zero_gradients():
    return {"tx": scaled(lambda g, s, p: 1.0 / optax.tree.norm(g))}


def non_finite():
    return {"tx": optax.zero_nans()}


def skips():
    return {"tx": scaled(lambda g, s, p: 1.0), "non_finite": "skips"}


def leaves_a_trace():
    def finite(m, g):
        return jnp.where(jnp.isfinite(g), 0.9 * m + g, 0.0)

    def out(m, g):
        return jnp.where(jnp.isfinite(g).all(), m, 0.0).astype(g.dtype)

    return {"tx": optax.chain(momentum(update_leaf=finite, out=out)), "non_finite": "skips"}


FAULTS = {
    "runs": runs,
    "pure": pure,
    "abstract_init": abstract_init,
    "stable_state": stable_state,
    "dtype": dtype,
    "no_shared_buffers": no_shared_buffers,
    "extra_args": extra_args,
    "jit": jit,
    "no_retrace": no_retrace,
    "scan": scan,
    "vmap": vmap,
    "sharded": sharded,
    "checkpoint": checkpoint,
    "inject_hyperparams": inject_hyperparams,
    "multi_steps": multi_steps,
    "masked": masked,
    "partition": partition,
    "scalar_leaf": scalar_leaf,
    "empty_leaf": empty_leaf,
    "zero_gradients": zero_gradients,
    "non_finite": non_finite,
}


def test_every_law_has_a_fault():
    assert list(FAULTS) == list(TRANSFORMATION_LAWS)


@pytest.mark.parametrize("law", TRANSFORMATION_LAWS)
def test_a_planted_fault_breaks_its_law_and_no_other(law):
    found = find_violations(**FAULTS[law]())
    assert [v.law for v in found] == [law], found
    assert found[0].message and "\n" not in str(found[0])


@pytest.mark.parametrize(
    "fault, law", [(sharded_values, "sharded"), (skips, "non_finite"), (leaves_a_trace, "non_finite")]
)
def test_other_faults_of_a_law(fault, law):
    assert [v.law for v in find_violations(**fault())] == [law]


def test_the_error_has_a_line_for_each_law_with_leaf_and_values():
    with pytest.raises(ContractError) as caught:
        check_gradient_transformation(optax.adam(0.1, mu_dtype=jnp.float32), laws=["dtype", "jit"])
    assert str(caught.value) == (
        "the transformation breaks 1 law(s):\n  dtype at ['bias']: parameters bfloat16[8], updates float32[8]"
    )
    assert caught.value.violations[0].law == "dtype"


def test_a_sound_one_passes():
    check_gradient_transformation(factory=optax.adam, hyperparams={"learning_rate": 0.1})


def test_bad_arguments():
    with pytest.raises(ValueError, match="there is no law 'speed'"):
        find_violations(optax.sgd(0.1), laws=["speed"])
    with pytest.raises(ValueError, match="give a transformation"):
        find_violations()
    with pytest.raises(ValueError, match="non_finite must be"):
        find_violations(optax.sgd(0.1), non_finite="explodes")


def test_own_parameters_and_laws_left_out():
    params = {"w": np.ones((8, 8), np.float32)}
    assert find_violations(optax.adam(0.1, mu_dtype=jnp.float32), params=params, except_=["dtype"]) == []
