"""Members of an ensemble are the runs they would be alone, in one program that is traced once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.averaging import SwaState, averaged_params, swa
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import Checkpointer, create_state, ensemble, make_mesh, make_step
from tests.training.problems import bn_batch, bn_net, bn_objective

SEEDS, STEPS = (3, 1, 7, 0), 6
HYPER = {"lr": [0.1, 0.01, 0.05, 0.2], "decay": [0.0, 1e-3, 1e-2, 0.1]}


def _chain(hyper):
    return optax.chain(optax.adamw(hyper["lr"], weight_decay=hyper["decay"]), swa(2, 2))


def _init(key, hyper):
    params, model_state = bn_net(key)
    return create_state(params, _chain(hyper), key, model_state)


class _Counted:
    def __init__(self):
        self.traces = 0

    def __call__(self, state, batch, hyper):
        self.traces += 1
        return make_step(value_and_grad(bn_objective), _chain(hyper))(state, batch)


def _run(program, batches, state=None):
    state = program.init() if state is None else state
    rows = []
    for batch in batches:
        state, metrics = program.step(state, program.put(batch))
        rows.append(jax.device_get(metrics))
    return state, rows


@pytest.fixture(scope="module")
def batches():
    return [bn_batch(t) for t in range(STEPS)]


@pytest.fixture(scope="module")
def alone(batches):
    states = []
    for i, seed in enumerate(SEEDS):
        hyper = {name: [values[i]] for name, values in HYPER.items()}
        program = ensemble(_init, _Counted(), seeds=[seed], hyper=hyper)
        assert program.mode == "solo"
        states.append(_run(program, batches))
    return states


def _mesh(name):
    return {
        "no mesh": lambda: None,
        "member=4,data=2": lambda: make_mesh(member=4, data=2),
    }[name]()


@pytest.mark.parametrize(
    "mode, mesh",
    [
        ("vmap", "no mesh"),
        ("map", "no mesh"),
        ("loop", "no mesh"),
        ("vmap", "member=4,data=2"),
        ("map", "member=4,data=2"),
    ],
)
def test_a_member_is_its_solo_run_and_the_grid_is_traced_once(mode, mesh, batches, alone):
    step = _Counted()
    program = ensemble(_init, step, seeds=SEEDS, hyper=HYPER, mode=mode, mesh=_mesh(mesh))
    state, rows = _run(program, batches)
    assert step.traces == 1
    assert rows[0]["loss"].shape == (len(SEEDS),)
    for i, (solo, solo_rows) in enumerate(alone):
        member = program.member(state, i)
        assert jax.tree.structure(member) == jax.tree.structure(solo)
        # float32: vectorised matrix products add in another order; Adam's normalisation carries the difference
        # through six steps of size lr ≤ 0.2
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4),
            jax.device_get((member.params, member.model_state, averaged_params(member.opt_state, member.params))),
            jax.device_get((solo.params, solo.model_state, averaged_params(solo.opt_state, solo.params))),
        )
        assert jax.random.key_data(member.key).tolist() == jax.random.key_data(solo.key).tolist()
        for row, solo_row in zip(rows, solo_rows, strict=True):
            np.testing.assert_allclose(row["loss"][i], solo_row["loss"][0], rtol=1e-4)


@pytest.mark.parametrize("mode", ["map", "loop"])
def test_in_turn_is_exact_for_a_member_of_another_ensemble(mode, batches):
    """One after the other, a member's arithmetic does not depend on its company: bit for bit."""
    whole = ensemble(_init, _Counted(), seeds=SEEDS, hyper=HYPER, mode=mode)
    part = {name: values[1:3] for name, values in HYPER.items()}
    half = ensemble(_init, _Counted(), seeds=SEEDS[1:3], hyper=part, mode=mode)
    a, b = whole.member(_run(whole, batches)[0], 2), half.member(_run(half, batches)[0], 1)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


@pytest.mark.parametrize("mode", ["vmap", "map", "loop"])
def test_a_diverged_member_does_not_touch_the_others(mode, batches):
    good = ensemble(_init, _Counted(), seeds=SEEDS, hyper=HYPER, mode=mode)
    bad = ensemble(_init, _Counted(), seeds=SEEDS, hyper=HYPER | {"lr": [0.1, np.inf, 0.05, 0.2]}, mode=mode)
    a, b = _run(good, batches)[0], _run(bad, batches)[0]
    assert not np.isfinite(np.asarray(bad.member(b, 1).params["head"]["kernel"])).any()
    for i in (0, 2, 3):
        jax.tree.map(np.testing.assert_array_equal, good.member(a, i).params, bad.member(b, i).params)


@pytest.mark.parametrize("mode", ["map", "loop"])
def test_batches_of_their_own(mode):
    """With batch_axis=0 member i sees row i."""
    own = [jax.tree.map(lambda *x: np.stack(x), *(bn_batch(100 * i + t) for i in range(4))) for t in range(3)]
    program = ensemble(_init, _Counted(), seeds=SEEDS, hyper=HYPER, mode=mode, batch_axis=0)
    state, _ = _run(program, own)
    solo = ensemble(_init, _Counted(), seeds=SEEDS[2:3], hyper={k: v[2:3] for k, v in HYPER.items()}, batch_axis=0)
    other, _ = _run(solo, [jax.tree.map(lambda x: x[2:3], batch) for batch in own])
    np.testing.assert_allclose(
        program.member(state, 2).params["dense"]["kernel"], other.params["dense"]["kernel"], rtol=1e-5, atol=1e-6
    )  # float32, three steps
    with pytest.raises(ValueError, match="member axis of 3, the ensemble 4 members"):
        program.step(state, jax.tree.map(lambda x: x[:3], own[0]))


@pytest.mark.parametrize("mode", ["vmap", "map", "loop"])
def test_map_over_members(mode):
    program = ensemble(_init, _Counted(), seeds=SEEDS, hyper=HYPER, mode=mode)
    norms = program.map(lambda state, x: jnp.sum(state.params["scale"]) + jnp.sum(x))(program.init(), jnp.ones(3))
    np.testing.assert_allclose(norms, np.full(4, 19.0))


@pytest.mark.parametrize(
    "mode, mesh", [("vmap", "no mesh"), ("map", "no mesh"), ("loop", "no mesh"), ("vmap", "member=4,data=2")]
)
def test_one_member_of_a_checkpoint_can_be_restored_alone(mode, mesh, batches, tmp_path):
    program = ensemble(_init, _Counted(), seeds=SEEDS, hyper=HYPER, mode=mode, mesh=_mesh(mesh))
    state, _ = program.step(program.init(), program.put(batches[0]))
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, state, {"note": "all"})
    checkpoints.wait()
    elsewhere = ensemble(_init, _Counted(), seeds=SEEDS, hyper=HYPER, mode=mode)
    found = elsewhere.restore_member(checkpoints, 2)
    assert (found.step, found.extra) == (1, {"note": "all"})
    expected = program.member(state, 2)
    assert jax.tree.structure(found.state) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found.state), jax.tree.leaves(expected), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype and isinstance(a, jax.Array)
        np.testing.assert_array_equal(a, b)
    # it goes on alone
    solo = ensemble(_init, _Counted(), seeds=SEEDS[2:3], hyper={k: v[2:3] for k, v in HYPER.items()})
    assert int(solo.step(found.state, solo.put(batches[1]))[0].step) == 2
    with pytest.raises(IndexError, match="there is no member 4: the ensemble has members 0 … 3"):
        elsewhere.restore_member(checkpoints, 4)
    with pytest.raises(ValueError, match="give the mode of its run"):
        ensemble(_init, _Counted(), seeds=SEEDS, hyper=HYPER).restore_member(checkpoints, 0)
    assert elsewhere.restore_member(Checkpointer(tmp_path / "nowhere"), 0) is None


def test_auto_chooses_one_of_the_modes(batches):
    program = ensemble(_init, _Counted(), seeds=SEEDS, hyper=HYPER)
    with pytest.raises(ValueError, match="chosen by measurement"):
        program.map(lambda state: state.step)(0)
    assert program.resolve(batches[0]).mode in ("vmap", "map", "loop")


def test_abstract_state_has_the_shapes_and_shardings_of_the_state():
    program = ensemble(_init, _Counted(), seeds=SEEDS, hyper=HYPER, mode="vmap", mesh=make_mesh(member=4, data=2))
    state, abstract = program.init(), program.abstract_state()
    for a, x in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype) == (x.shape, x.dtype)
        assert a.sharding.is_equivalent_to(x.sharding, x.ndim)
    average = next(s for s in state.opt_state if isinstance(s, SwaState)).average
    assert {s.data.shape for s in average["scale"].addressable_shards} == {(1, 16)}


def test_clear_errors():
    with pytest.raises(ValueError, match="at least one seed"):
        ensemble(_init, _Counted(), seeds=[])
    with pytest.raises(ValueError, match="'lr' has 3 values for 4 seeds"):
        ensemble(_init, _Counted(), seeds=SEEDS, hyper={"lr": [1, 2, 3]})
    with pytest.raises(TypeError, match="'lr' must be numeric"):
        ensemble(_init, _Counted(), seeds=SEEDS, hyper={"lr": ["a"] * 4})
    with pytest.raises(ValueError, match="mode must be one of"):
        ensemble(_init, _Counted(), seeds=SEEDS, mode="pmap")
    with pytest.raises(ValueError, match="do not spread evenly over a member axis of 8"):
        ensemble(_init, _Counted(), seeds=SEEDS, mesh=make_mesh(member=8))
    with pytest.raises(ValueError, match="mode='loop' runs members in turn"):
        ensemble(_init, _Counted(), seeds=SEEDS, mesh=make_mesh(member=4, data=2), mode="loop")
    program = ensemble(_init, _Counted(), seeds=SEEDS, hyper=HYPER, mode="map")
    with pytest.raises(IndexError, match="members 0 … 3"):
        program.member(program.abstract_state(), 4)
