"""On eight devices: the values of one, what lies where, and no more communication than the strategy needs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxtrain.averaging import SwaState, averaged_params, swa, switch_ema
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import (
    batch_shardings,
    bytes_per_device,
    count_collectives,
    create_state,
    ensemble,
    fsdp,
    make_mesh,
    make_step,
    param_specs,
    state_shardings,
)
from tests.training.problems import PROBLEMS

RULES = (
    (r"^(qkv|up|unembed)|dense/kernel", P("fsdp", "tensor")),
    (r"^(out|down|embed)", P("tensor", "fsdp")),
    (r"head/kernel", P(("fsdp", "tensor"))),
)
MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "tensor": {"tensor": 4, "data": 2},
    "fsdp+tensor": {"fsdp": 2, "tensor": 4},
    "data+fsdp": {"data": 2, "fsdp": 4},
}
STEPS = 4


def _tx():
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2), switch_ema(0.9, 2), swa(1, 1))


def _program(problem, mesh):
    make, objective, _ = PROBLEMS[problem]

    def init(key, hyper):
        params, model_state = make(key)
        return create_state(params, _tx(), key, model_state)

    step = make_step(value_and_grad(objective), _tx())
    return ensemble(init, lambda s, b, h: step(s, b), seeds=(0,), mesh=mesh, rules=RULES)


def _run(problem, mesh):
    program = _program(problem, mesh)
    state, losses = program.init(), []
    for t in range(STEPS):
        state, metrics = program.step(state, program.put(PROBLEMS[problem][2](t)))
        losses.append(float(metrics["loss"][0]))
    return program, state, losses


@pytest.fixture(scope="module")
def alone():
    return {name: _run(name, None) for name in PROBLEMS}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("strategy", MESHES)
def test_values_are_those_of_one_device_and_everything_is_distributed(problem, strategy, alone):
    mesh = make_mesh(**MESHES[strategy])
    _, state, losses = _run(problem, mesh)
    _, solo, solo_losses = alone[problem]
    # float32: sums over eight devices in another order, through four steps of Adam of size 1e-2
    np.testing.assert_allclose(losses, solo_losses, rtol=1e-5)
    for view in (
        lambda s: s.params,
        lambda s: averaged_params(s.opt_state, s.params, kind=SwaState),
        lambda s: s.model_state,
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), view(state), view(solo))
    wanted = state_shardings(mesh, RULES, jax.eval_shape(lambda: solo))
    for x, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        assert x.sharding.is_equivalent_to(sharding, x.ndim)
    if strategy != "data":
        # five trees lie like the parameters: themselves, two moments, two averages; small vectors stay whole
        held, whole = bytes_per_device(state), bytes_per_device(solo)["cpu:0"]
        assert len(held) == 8 and len(set(held.values())) == 1
        ways = int(np.prod([MESHES[strategy].get(axis, 1) for axis in ("fsdp", "tensor")]))
        assert held["cpu:0"] < whole * (1 / ways + 0.25), (held, whole)


def _collectives(problem, mesh):
    program = _program(problem, mesh)
    return count_collectives(program.lower(PROBLEMS[problem][2](0)).compile().as_text())


@pytest.mark.parametrize("problem", PROBLEMS)
def test_data_parallel_only_reduces(problem):
    found = _collectives(problem, make_mesh(data=8))
    assert set(found) == {"all-reduce"}, found


@pytest.mark.parametrize("problem", PROBLEMS)
def test_fsdp_gathers_parameters_and_reduces_gradients(problem):
    found = _collectives(problem, make_mesh(fsdp=8))
    # XLA's CPU backend writes reduce-scatter as an all-reduce and a slice; on accelerators it is one operation
    assert set(found) <= {"all-gather", "all-reduce", "reduce-scatter", "all-to-all"} and found["all-gather"] >= 1, (
        found
    )
    assert "collective-permute" not in found


def test_a_solo_step_communicates_nothing_and_members_do_not_talk():
    program = _program("bn", None)
    text = program.lower(PROBLEMS["bn"][2](0)).compile().as_text()
    assert count_collectives(text) == {}
    make, objective, batch = PROBLEMS["bn"]

    def init(key, hyper):
        params, model_state = make(key)
        return create_state(params, _tx(), key, model_state)

    step = make_step(value_and_grad(objective), _tx())
    for mode in ("vmap", "map"):
        spread = ensemble(init, lambda s, b, h: step(s, b), seeds=range(8), mesh=make_mesh(member=8), mode=mode)
        text = spread.lower(batch(0)).compile().as_text()
        assert count_collectives(text) == {}, mode


def _stacked_factors(params):
    """A state like that of matrix methods: for each parameter a tuple of factors of other shapes."""
    return jax.tree.map(lambda p: (jnp.zeros((p.shape[0], p.shape[0])), jnp.zeros(())), params)


@pytest.mark.parametrize(
    "tx",
    [
        optax.masked(optax.adam(1e-3), {"a": True, "b": False}),
        optax.partition({"x": optax.adam(1e-3), "y": optax.sgd(0.1, momentum=0.9)}, {"a": "x", "b": "y"}),
        optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3),
        optax.MultiSteps(optax.adam(1e-3), 2),
        optax.apply_if_finite(optax.chain(optax.adam(1e-3), swa(0, 1)), 3),
    ],
    ids=["masked", "partition", "inject_hyperparams", "MultiSteps", "apply_if_finite"],
)
def test_the_state_of_any_chain_lies_like_its_parameters(tx):
    mesh = make_mesh(fsdp=8)
    params = {"a": jnp.zeros((16, 3)), "b": jnp.zeros((3, 24))}
    abstract = jax.eval_shape(lambda: create_state(params, tx, jax.random.key(0)))
    shardings = state_shardings(mesh, ((".*", fsdp),), abstract)
    wanted = {(16, 3): P("fsdp"), (3, 24): P(None, "fsdp")}
    seen = set()
    for x, s in zip(jax.tree.leaves(abstract), jax.tree.leaves(shardings), strict=True):
        assert s.spec == wanted.get(x.shape, P()), (x.shape, s.spec)
        seen.add(x.shape)
    assert seen >= set(wanted)
    state = jax.jit(lambda: create_state(params, tx, jax.random.key(0)), out_shardings=shardings)()
    assert len(bytes_per_device(state)) == 8


def test_what_a_method_keeps_besides_is_replicated():
    mesh = make_mesh(fsdp=8)
    tx = optax.GradientTransformation(_stacked_factors, lambda u, s, p=None: (u, s))
    abstract = jax.eval_shape(lambda: create_state({"a": jnp.zeros((16, 3))}, tx, jax.random.key(0)))
    shardings = state_shardings(mesh, ((".*", fsdp),), abstract)
    assert {s.spec for s in jax.tree.leaves(shardings.opt_state)} == {P()}


def test_clear_errors():
    mesh = make_mesh(fsdp=8)
    with pytest.raises(
        ValueError, match=r"dimension 0 of w, shape \(12, 2\), is not divisible by the 8 places of the mesh axis fsdp"
    ):
        param_specs(mesh, (("w", P("fsdp")),), {"w": jnp.zeros((12, 2))})
    with pytest.raises(ValueError, match=r"too few dimensions for the layout"):
        param_specs(mesh, (("w", P(None, "fsdp")),), {"w": jnp.zeros(8)})
    with pytest.raises(ValueError, match=r"names 'model'; the mesh has member, data, fsdp, tensor"):
        param_specs(mesh, (("w", P("model")),), {"w": jnp.zeros(8)})
    with pytest.raises(ValueError, match=r"dimension 0 of the batch \(x\), shape \(6, 2\), is not divisible by the 8"):
        batch_shardings(mesh, {"x": np.zeros((6, 2))})
    with pytest.raises(ValueError, match="has 6 places, but there are 8 devices"):
        make_mesh(data=6)
    with pytest.raises(ValueError, match="only one axis of a mesh may be -1"):
        make_mesh(data=-1, fsdp=-1)
    with pytest.raises(ValueError, match="at least 1"):
        make_mesh(data=0)
    assert dict(make_mesh(data=-1, tensor=2).shape) == {"member": 1, "data": 4, "fsdp": 1, "tensor": 2}
