"""What a run writes, and what it does when it is asked for something that it cannot do."""

import itertools
import json
import os
import signal
import time

import jax
import numpy as np
import optax
import pytest

from jaxtrain.gradients import value_and_grad
from jaxtrain.training import Experiment, create_state, make_step
from jaxtrain.training.run_folder import RunFolder, RunFolderError, digest
from jaxtrain.training.runner import EXIT_DISK, Stopped, run
from jaxtrain.training.writers import CsvWriter, Row, TensorBoardWriter, WandbWriter, read_rows
from tests.training.problems import bn_batch, bn_net, bn_objective


class Batches:
    def __init__(self):
        self.next = 0

    def __next__(self):
        self.next += 1
        return bn_batch(self.next)

    def get_state(self):
        return self.next

    def set_state(self, state):
        self.next = state


def _experiment(**changes):
    tx = optax.adam(1e-2)
    step = make_step(value_and_grad(bn_objective), tx)

    def init(key, hyper):
        params, model_state = bn_net(key)
        return create_state(params, tx, key, model_state)

    def evaluate(program, state):
        norms = program.map(lambda s: optax.tree.norm(s.params))(state)
        yield "test", {"live/norm": norms, "twice/norm": 2 * norms}

    settings = {
        "init": init, "step": lambda s, b, h: step(s, b), "batches": Batches, "num_steps": 12, "seeds": (0, 1),
        "evaluate": evaluate, "eval_every": 6, "log_every": 4, "checkpoint_every": 5, "mode": "map",
    }  # fmt: skip
    return Experiment(**(settings | changes))


def _run(workdir, config=None, name="toy", force=False, writers=(), **changes):
    return run(
        _experiment(**changes),
        workdir,
        name=name,
        config=config or {"a": 1},
        force=force,
        writers=writers,
        progress=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "toy"
    return workdir, _run(workdir)


def test_the_folder_holds_what_it_should(finished):
    workdir, summary = finished
    names = {p.name for p in workdir.iterdir()}
    assert names >= {"config.json", "environment.json", "metrics.csv", "checkpoints", "summary.json"}
    rows = read_rows(workdir / "metrics.csv")
    train = [(r.step, r.metric, r.member) for r in rows if r.split == "train"]
    assert sorted(train) == sorted(itertools.product((4, 8, 12), ("accuracy", "loss"), (0, 1)))
    assert sorted({r.step for r in rows if r.split == "test"}) == [6, 12]
    assert [r.step for r in rows] == sorted(r.step for r in rows)
    assert json.loads((workdir / "config.json").read_text()) == {"experiment": "toy", "config": {"a": 1}}
    assert set(json.loads((workdir / "environment.json").read_text())) >= {"python", "versions", "devices", "git"}
    assert (summary["steps"], summary["members"], summary["mode"]) == (12, 2, "map")
    per_member = (
        4 * 3 * (8 * 16 + 16 + 16 * 4 + 4) + 4 * 2 * 16 + 4 + 4 + 8
    )  # with two moments; statistics, counts, key
    assert summary["state_bytes_per_device"] == {"cpu:0": 2 * per_member}
    by_view = {r["view"]: r for r in summary["results"]}
    np.testing.assert_allclose(by_view["twice"]["difference"], by_view["live"]["mean"], rtol=1e-5)


def test_the_rows_are_the_metrics_of_the_steps(finished):
    """Fetched one step late, but under their own step: a loop by hand gives the same numbers."""
    workdir, summary = finished
    experiment = _experiment()
    state = experiment.init(jax.random.key(0), {})
    step, batches, losses = jax.jit(lambda s, b: experiment.step(s, b, {})), Batches(), {}
    for t in range(1, 13):
        state, metrics = step(state, next(batches))
        losses[t] = float(metrics["loss"])
    found = {r.step: r.value for r in read_rows(workdir / "metrics.csv") if (r.metric, r.member) == ("loss", 0)}
    for t, value in found.items():
        # float32; inside the sequential map XLA may fuse differently
        np.testing.assert_allclose(value, losses[t], rtol=1e-4)
    assert summary["digests"]["live"][0] != summary["digests"]["live"][1]


def test_a_finished_run_is_shown_and_left_alone(finished):
    workdir, summary = finished
    before = (workdir / "metrics.csv").stat().st_mtime_ns
    assert _run(workdir) == summary and (workdir / "metrics.csv").stat().st_mtime_ns == before


def test_folders_of_others_are_refused(finished, tmp_path):
    workdir, _ = finished
    with pytest.raises(RunFolderError, match="belongs to the experiment 'toy', not 'other'"):
        _run(workdir, name="other")
    with pytest.raises(RunFolderError, match=r"another configuration \(a: 1 → 2; b: absent → 3\).*--force"):
        _run(workdir, config={"a": 2, "b": 3})
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match=r"not the folder of a run but holds thesis.tex"):
        _run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        _run(tmp_path / "file")
    holder = RunFolder(tmp_path / "held")
    holder.lock()
    with pytest.raises(RunFolderError, match=r"is being written by process \d+ on"):
        _run(tmp_path / "held")
    holder.unlock()


class _Preempted(Exception):
    pass


def _breaks_at(step):
    def call(now, state):
        if now == step:
            raise _Preempted

    return call


def test_resumed_after_an_exception_it_ends_alike(finished, tmp_path):
    whole, summary = finished
    with pytest.raises(_Preempted):
        _run(tmp_path / "run", callbacks=((1, _breaks_at(8)),))
    assert _run(tmp_path / "run")["digests"] == summary["digests"]
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_an_exception_waits_for_the_checkpoint_that_is_being_written(tmp_path, monkeypatch):
    """Also where writing is slow: the folder is given back with the last checkpoint in it."""
    from jaxtrain.training import checkpoint

    plain = checkpoint._digest

    def slowly(path):
        time.sleep(0.1)  # each of its files
        return plain(path)

    monkeypatch.setattr(checkpoint, "_digest", slowly)
    with pytest.raises(_Preempted):
        _run(tmp_path / "run", callbacks=((1, _breaks_at(6)),))
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["00000005"]


def test_so_does_a_disk_that_is_full_for_the_metrics_too(tmp_path, monkeypatch):
    from jaxtrain.training import checkpoint, runner

    plain = checkpoint._digest

    def slowly(path):
        time.sleep(0.1)
        return plain(path)

    class Full(runner.CsvWriter):
        def close(self):
            super().close()
            raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "_digest", slowly)
    monkeypatch.setattr(runner, "CsvWriter", Full)
    with pytest.raises(Stopped, match="no space left. The last good checkpoint is of step 5"):
        _run(tmp_path / "run", callbacks=((1, _breaks_at(6)),))


def test_an_exception_is_not_hidden_by_a_checkpoint_that_failed(tmp_path, monkeypatch, capsys):
    from jaxtrain.training import checkpoint

    def full(path):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "_digest", full)
    with pytest.raises(_Preempted):
        run(_experiment(callbacks=((1, _breaks_at(6)),)), tmp_path / "run", name="toy", progress=True)
    assert "no space left" in capsys.readouterr().out


def test_forced_changes_and_new_steps(tmp_path):
    with pytest.raises(_Preempted):
        _run(tmp_path / "run", callbacks=((1, _breaks_at(8)),))
    assert _run(tmp_path / "run", config={"a": 2}, force=True)["steps"] == 12


def test_a_request_to_stop_inside_an_evaluation_is_heard(finished, tmp_path):
    """The evaluation leaves no rows, the run is saved before it, and the resumed run repeats it."""
    whole, summary = finished
    plain = _experiment().evaluate

    def slow(program, state):
        os.kill(os.getpid(), signal.SIGTERM)
        yield "", {}
        raise AssertionError("the evaluation went on")

    with pytest.raises(Stopped, match="asked to terminate and saved at step 6 of 12") as stopped:
        _run(tmp_path / "run", evaluate=slow)
    assert stopped.value.code == 143
    assert not [r for r in read_rows(tmp_path / "run" / "metrics.csv") if r.split == "test"]
    assert _run(tmp_path / "run", evaluate=plain)["digests"] == summary["digests"]
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


@pytest.mark.parametrize("moment", ["as it starts", "while it is written"])
def test_a_request_to_stop_inside_a_save_is_heard(moment, finished, tmp_path, monkeypatch):
    """The save is finished, the run is saved once more at the next step, and the resumed run ends alike."""
    whole, summary = finished
    from jaxtrain.training import checkpoint

    where, plain = {
        "as it starts": (checkpoint.ocp, checkpoint.ocp.save_async),
        "while it is written": (checkpoint, checkpoint._digest),
    }[moment]
    sent = []

    def interrupted(*args):
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args)

    monkeypatch.setattr(where, plain.__name__, interrupted)
    with pytest.raises(Stopped, match=r"asked to terminate and saved at step \d+ of 12") as stopped:
        _run(tmp_path / "run")
    assert stopped.value.code == 143
    last = int(str(stopped.value).split("at step ")[1].split()[0])
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == sorted({f"{5:08d}", f"{last:08d}"}) and 5 <= last < 12
    assert _run(tmp_path / "run")["digests"] == summary["digests"]
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_other_versions_are_said(tmp_path, monkeypatch, capsys):
    with pytest.raises(_Preempted):
        _run(tmp_path / "run", callbacks=((1, _breaks_at(8)),))
    monkeypatch.setattr("jaxtrain.training.runner.versions", lambda: {"jax": "99.0"})
    run(_experiment(), tmp_path / "run", name="toy", config={"a": 1}, progress=True)
    out = capsys.readouterr().out
    assert f"jax {jax.__version__} → 99.0" in out and "may differ in its last bits" in out


def test_early_stop_and_callbacks(tmp_path):
    seen = []
    summary = _run(
        tmp_path / "run",
        early_stop=lambda step, rows: step >= 6 and rows["test/live/norm"].shape == (2,),
        callbacks=((3, lambda step, state: seen.append((step, int(state.step[0])))),),
    )
    assert (summary["steps"], summary["stopped_early"]) == (6, True)
    assert seen == [(3, 3), (6, 6)]


def test_a_full_disk_is_said_and_nothing_good_is_lost(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with pytest.raises(_Preempted):
        _run(tmp_path / "run", callbacks=((1, _breaks_at(8)),))
    monkeypatch.setattr("jaxtrain.training.checkpoint.ocp.save_async", full)
    with pytest.raises(Stopped, match="No space left") as stopped:
        _run(tmp_path / "run")
    assert stopped.value.code == EXIT_DISK
    monkeypatch.undo()
    monkeypatch.setattr(CsvWriter, "write", full)
    with pytest.raises(Stopped, match="last good checkpoint is of step 5"):
        _run(tmp_path / "run")
    monkeypatch.undo()
    assert _run(tmp_path / "run")["steps"] == 12


def test_a_diverging_member_is_said_once(tmp_path, capsys):
    def bad(state, batch, hyper):
        new, metrics = _experiment().step(state, batch, hyper)
        return new, metrics | {
            "loss": jax.numpy.where(jax.random.key_data(state.key)[-1] == 1, np.nan, metrics["loss"])
        }

    run(_experiment(step=bad), tmp_path / "run", name="toy", progress=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "not finite" in line]
    assert len(said) == 1 and "member 1 is not finite at step 4" in said[0]


def test_a_grain_iterator_travels_along(tmp_path):
    import grain

    def batches():
        source = grain.MapDataset.range(64).seed(3).shuffle().repeat()
        rows = source.map(lambda i: jax.tree.map(lambda x: x[i % 16], bn_batch(0)))
        return iter(rows.batch(8).to_iter_dataset())

    with pytest.raises(_Preempted):
        _run(tmp_path / "run", batches=batches, callbacks=((1, _breaks_at(8)),))
    broken = _run(tmp_path / "run", batches=batches)
    assert broken["digests"] == _run(tmp_path / "whole", batches=batches)["digests"]


class Recorder:
    def __init__(self):
        self.rows, self.closed = [], False

    def write(self, rows):
        self.rows += rows

    def close(self):
        self.closed = True


def test_further_writers_get_the_rows(tmp_path):
    recorder = Recorder()
    _run(tmp_path / "run", writers=(recorder,))
    stored = read_rows(tmp_path / "run" / "metrics.csv")
    assert recorder.closed and [r[:4] for r in recorder.rows] == [r[:4] for r in stored]
    # nine digits hold a float32
    assert [np.float32(r.value) for r in stored] == [np.float32(r.value) for r in recorder.rows]


def test_csv_is_cut_at_the_position_of_the_checkpoint(tmp_path):
    writer = CsvWriter(tmp_path / "m.csv")
    writer.write([Row(1, "train", "loss", 0, 0.1)])
    position = writer.position
    writer.write([Row(2, "train", "loss", 0, 0.2)])
    writer.close()
    writer = CsvWriter(tmp_path / "m.csv", position)
    writer.write([Row(2, "train", "loss", 0, 0.3)])
    writer.close()
    assert [r.value for r in read_rows(tmp_path / "m.csv")] == [0.1, 0.3]
    with pytest.raises(ValueError, match="the checkpoint knows of 10000"):
        CsvWriter(tmp_path / "m.csv", 10_000)


@pytest.mark.parametrize(
    "module, make", [("tensorboardX", TensorBoardWriter), ("wandb", lambda p: WandbWriter("p", {}))]
)
def test_optional_writers(module, make, tmp_path, monkeypatch):
    import sys
    import types

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="pip install 'jaxtrain"):
        make(tmp_path)
    seen = []
    fake = types.ModuleType(module)
    if module == "tensorboardX":
        summary = types.SimpleNamespace(add_scalar=lambda *a: seen.append(a), close=lambda: seen.append("closed"))
        fake.SummaryWriter = lambda folder: summary
    else:
        log = types.SimpleNamespace(log=lambda v, step: seen.append((v, step)), finish=lambda: seen.append("closed"))
        fake.init = lambda **kwargs: log
    monkeypatch.setitem(sys.modules, module, fake)
    writer = make(tmp_path)
    writer.write([Row(3, "test", "loss", 1, 0.5)])
    writer.close()
    first = ("test/loss/1", 0.5, 3) if module == "tensorboardX" else ({"test/loss/1": 0.5}, 3)
    assert seen == [first, "closed"]


def test_digest_tells_values_names_and_types_apart():
    tree = {"a": np.arange(3.0), "b": np.ones(2, np.float32)}
    same = {"b": np.ones(2, np.float32), "a": np.arange(3.0)}
    assert digest(tree) == digest(same)
    others = (
        tree | {"a": np.nextafter(tree["a"], 9)},
        tree | {"a": tree["a"].astype(np.float32)},
        {"a": tree["a"], "c": tree["b"]},
    )
    assert len({digest(tree), *map(digest, others)}) == 4
