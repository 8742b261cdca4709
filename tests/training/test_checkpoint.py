"""Checkpoints come back exactly, on other meshes too; damaged ones are named and passed over; nothing is deleted."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.averaging import swa
from jaxtrain.training import Checkpointer, create_state, fsdp, make_mesh, state_shardings
from jaxtrain.training.checkpoint import CheckpointError
from tests.training.problems import bn_net


def _state(seed=0):
    params, model_state = bn_net(jax.random.key(seed))
    tx = optax.chain(optax.adam(1e-3), swa(0, 1))
    return create_state(params, tx, jax.random.key(seed), model_state)


def _equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder with the checkpoints of three steps, each of another state."""
    folder = tmp_path_factory.mktemp("three")
    checkpoints = Checkpointer(folder)
    for step in (10, 20, 30):
        checkpoints.save(step, _state(step), {"note": step})
    checkpoints.wait()
    return folder


@pytest.fixture
def folder(three, tmp_path):
    shutil.copytree(three, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def _open(folder):
    said = []
    return Checkpointer(folder, log=said.append), said


def test_the_newest_comes_back_exactly(folder):
    checkpoints, said = _open(folder)
    found = checkpoints.restore(jax.eval_shape(_state))
    assert (found.step, found.extra, said) == (30, {"note": 30}, [])
    _equal(found.state, _state(30))
    _equal(checkpoints.restore(jax.eval_shape(_state), step=20).state, _state(20))


def _files(folder, step):
    return sorted(p for p in (folder / f"{step:08d}").rglob("*") if p.is_file() and p.name != "manifest.json")


def _truncate(folder):
    file = max(_files(folder, 30), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-7])


def _flip(folder):
    file = max(_files(folder, 30), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _lose(folder):
    max(_files(folder, 30), key=lambda p: p.stat().st_size).unlink()


def _lose_manifest(folder):
    (folder / "00000030" / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [_truncate, _flip, _lose, _lose_manifest])
def test_a_damaged_newest_is_named_and_the_one_before_it_is_used(damage, folder):
    damage(folder)
    before = sorted(p for p in folder.rglob("*"))
    checkpoints, said = _open(folder)
    found = checkpoints.restore(jax.eval_shape(_state))
    assert found.step == 20
    _equal(found.state, _state(20))
    assert len(said) == 1 and said[0].startswith("the checkpoint of step 30 is damaged (") and "step 20" in said[0]
    assert sorted(p for p in folder.rglob("*")) == before


def test_a_damaged_checkpoint_is_written_anew_when_its_step_comes_again(folder):
    """Else a run that fell back behind it would never have a newest one again; what was damaged is put aside."""
    _flip(folder)
    checkpoints, said = _open(folder)
    checkpoints.save(20, _state(99))  # whole: stays
    checkpoints.save(30, _state(31), {"note": 31})
    checkpoints.wait()
    assert len(said) == 1 and said[0].startswith("the damaged checkpoint of step 30 (") and "written anew" in said[0]
    _equal(checkpoints.restore(jax.eval_shape(_state)).state, _state(31))
    _equal(checkpoints.restore(jax.eval_shape(_state), step=20).state, _state(20))
    _flip(folder)
    checkpoints.save(30, _state(32))
    checkpoints.wait()
    names = ["00000010", "00000020", "00000030", "00000030.damaged", "00000030.damaged.2"]
    assert sorted(p.name for p in folder.iterdir()) == names


def test_every_single_file_is_guarded(folder):
    """One bit of any file, wherever it lies."""
    checkpoints, _ = _open(folder)
    for file in _files(folder, 30):
        data = file.read_bytes()
        if data:
            file.write_bytes(bytes([data[0] ^ 128]) + data[1:])
            assert checkpoints.damage(30) is not None, file
            file.write_bytes(data)
    assert checkpoints.damage(30) is None


def test_none_left_is_a_clear_error(folder):
    for step in (10, 20, 30):
        (folder / f"{step:08d}" / "extra.json").unlink()
    checkpoints, said = _open(folder)
    with pytest.raises(
        CheckpointError, match=r"no usable checkpoint .* step 30: extra.json is missing; step 20.*Nothing was deleted"
    ):
        checkpoints.restore(jax.eval_shape(_state))
    assert len(said) == 3 and checkpoints.steps() == [10, 20, 30]
    assert Checkpointer(folder / "nowhere").restore(jax.eval_shape(_state)) is None


def test_another_tree_names_the_first_paths_that_differ(folder):
    checkpoints, _ = _open(folder)
    other = jax.eval_shape(_state)
    other = other.replace(
        params=other.params | {"scale": jax.ShapeDtypeStruct((17,), jnp.float32), "new": other.params["scale"]}
    )
    with pytest.raises(ValueError, match="checkpoint of step 30 holds another state") as error:
        checkpoints.restore(other)
    assert ".params['new'] is missing" in str(error.value)
    assert ".params['scale'] is float32[16], expected float32[17]" in str(error.value)


def test_retention_keeps_the_newest_and_the_best(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=2)
    for step, score in [(1, 0.1), (2, 0.9), (3, 0.5), (4, 0.3)]:
        checkpoints.save(step, {"w": jnp.ones(2) * step}, score=score)
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3, 4] and checkpoints.best == 2 and checkpoints.latest == 4
    with pytest.raises(ValueError, match="keep must be at least 1"):
        Checkpointer(tmp_path, keep=0)


def test_trees_on_which_orbax_fails(tmp_path):
    """Arrays of size zero (it refuses them) and a key a.b beside a path a → b (it restores wrong values)."""
    tree = {
        "a.b": jnp.arange(3.0),
        "a": {"b": jnp.arange(3.0) + 10, "/": jnp.zeros((0, 4))},
        "empty": jnp.zeros(0, jnp.int32),
    }
    tree |= {"half": jnp.ones(3, jnp.bfloat16), "keys": jax.random.split(jax.random.key(1), 4), "n": jnp.int32(3)}
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, tree)
    checkpoints.wait()
    _equal(checkpoints.restore(jax.eval_shape(lambda: tree)).state, tree)


def test_a_write_that_fails_leaves_the_good_ones_and_says_which(folder, monkeypatch):
    checkpoints, _ = _open(folder)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxtrain.training.checkpoint.ocp.save_async", full)
    with pytest.raises(CheckpointError, match="step 40 could not be written: .*No space left"):
        checkpoints.save(40, _state(40))
    monkeypatch.undo()
    monkeypatch.setattr("jaxtrain.training.checkpoint._digest", full)
    checkpoints.save(50, _state(50))
    with pytest.raises(CheckpointError, match="No space left.*newest good one is of step 30"):
        checkpoints.wait()
    monkeypatch.undo()
    assert sorted(p.name for p in folder.iterdir()) == ["00000010", "00000020", "00000030"]
    checkpoints.save(60, _state(60))
    checkpoints.wait()
    assert checkpoints.restore(jax.eval_shape(_state)).step == 60


@pytest.mark.parametrize("mesh", [{"data": 8}, {"fsdp": 8}, {"data": 2}, {}], ids=str)
def test_saved_on_4_by_2_and_restored_elsewhere(mesh, tmp_path):
    rules = ((".*", fsdp),)

    def on(mesh):
        return jax.jit(_state, out_shardings=state_shardings(mesh, rules, jax.eval_shape(_state)))

    saved = on(make_mesh(data=2, fsdp=4))()
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, saved)
    checkpoints.wait()
    size = int(np.prod(list(mesh.values()) or [1]))
    target = make_mesh(**mesh, devices=jax.devices()[:size])
    shardings = state_shardings(target, rules, jax.eval_shape(_state))
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), jax.eval_shape(_state), shardings
    )
    found = checkpoints.restore(abstract).state
    _equal(found, saved)
    for x, s in zip(jax.tree.leaves(found), jax.tree.leaves(shardings), strict=True):
        assert x.sharding.is_equivalent_to(s, x.ndim)
