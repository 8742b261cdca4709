"""A run from its first step to its summary, through kills, signals and full disks."""

import contextlib
import dataclasses
import json
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtrain.training.checkpoint import Checkpointer, CheckpointError
from jaxtrain.training.ensemble import Ensemble, States
from jaxtrain.training.experiment import Experiment
from jaxtrain.training.preemption import StopRequests
from jaxtrain.training.progress import Progress, duration
from jaxtrain.training.record import checkpoint_extra, on_every_host, summary_of
from jaxtrain.training.run_folder import RunFolder, digest, environment, versions, write_json
from jaxtrain.training.summary import summarise
from jaxtrain.training.writers import CsvWriter, NoWriter, Row, Writer

EXIT_INTERRUPTED = 130
"""Ctrl-C: the run was saved and can go on."""
EXIT_TERMINATED = 143
"""SIGTERM (preemption): the run was saved and can go on."""
EXIT_DISK = 74
"""Something could not be written; the last good checkpoint and the metrics up to it are there."""


class Stopped(Exception):
    """The run ended before its last step. ``code`` is what the process should exit with."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class _Asked(Exception):
    """A request to stop, seen inside an evaluation."""


def run(
    experiment: Experiment,
    workdir: Path | str,
    *,
    name: str,
    config: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: bool = True,
    writers: Sequence[Writer] = (),
    keep: int = 3,
) -> dict[str, Any]:
    """Trains, evaluates, checkpoints and summarises; goes on where an earlier process stopped.

    Killed at any moment and started again, the run ends with the same bits: parameters, optimizer and averaging state,
    running statistics, and every row of ``metrics.csv``. On SIGTERM and Ctrl-C it saves once and raises
    :class:`Stopped`. On a finished run it returns the summary that is there.

    Args:
      experiment: what to run.
      workdir: the run's folder.
      name: of the experiment; a folder belongs to one.
      config: what the experiment was built from, as JSON can hold it; a resumed run must have the same.
      force: go on with a changed configuration.
      progress: show how far the run is.
      writers: further places for the metrics.
      keep: checkpoints to keep besides the best.

    Returns:
      The content of ``summary.json``.

    Raises:
      Stopped: see above; ``code`` is 130, 143 or 74.
      RunFolderError: the folder belongs to something else, another configuration or a living process.
      CheckpointError: there are checkpoints, none of which can be used.
    """
    folder = RunFolder(workdir)
    first = jax.process_index() == 0
    if first:
        folder.lock()
    try:
        if first:
            folder.claim(name, dict(config or {}), force=force)
        if folder.summary_file.exists():
            return json.loads(folder.summary_file.read_text())
        # with several processes JAX listens for SIGTERM itself, so that they can agree on when to stop
        with StopRequests() if jax.process_count() == 1 else contextlib.nullcontext(StopRequests()) as stop:
            return _Run(
                experiment, folder, name, stop, Progress(experiment.num_steps, show=progress and first), writers, keep
            ).go()
    finally:
        folder.unlock()


@dataclasses.dataclass
class _Run:
    experiment: Experiment
    folder: RunFolder
    name: str
    stop: StopRequests
    progress: Progress
    writers: Sequence[Writer]
    keep: int

    def go(self) -> dict[str, Any]:
        began = time.perf_counter()
        self.first = jax.process_index() == 0
        self.costs = dict.fromkeys(("choose_mode_seconds", "compile_seconds", "train_seconds", "evaluate_seconds"), 0.0)
        self.checkpoints = Checkpointer(self.folder.checkpoints, keep=self.keep, log=self.progress.say)
        self.iterator = self.experiment.batches()
        self.program = self._program()
        restored = self.checkpoints.restore(self.program.abstract_state())
        self.evaluated: dict[tuple[str, str], np.ndarray] = {}
        self.said_non_finite = False
        if restored is None:
            if self.first:
                write_json(self.folder.environment_file, environment())
            state, step, pending_evaluation, position = self.program.init(), 0, False, None
            self.earlier_seconds = 0.0
        else:
            state, step, extra = restored.state, restored.step, restored.extra
            self.iterator.set_state(extra["data"])
            pending_evaluation, position = extra["evaluation_pending"], extra["metrics_position"]
            self.earlier_seconds = extra["seconds"]
            self.progress.say(f"going on from step {step} of {self.experiment.num_steps}")
            self._compare_versions(extra["versions"])
            self.evaluated = {(split, metric): np.asarray(values) for split, metric, values in extra["last_evaluation"]}
        self.began = began
        try:
            self.metrics = CsvWriter(self.folder.metrics_file, position) if self.first else NoWriter()
            try:
                return self._train(
                    state, step, pending_evaluation, stopped_early=bool(restored and restored.extra["stopped_early"])
                )
            finally:
                try:
                    self.metrics.close()
                    for writer in self.writers:
                        writer.close()
                finally:  # a full disk fails both
                    self._settle()
        except OSError as error:
            newest = self.checkpoints.latest
            raise Stopped(
                EXIT_DISK,
                f"{self.name}: {error}. The last good checkpoint is "
                + (f"of step {newest}" if newest is not None else "none")
                + "; with room on the disk the same command goes on from there",
            ) from error

    def _settle(self) -> None:
        """However the run ends, a checkpoint that is being written is finished before the folder is given back."""
        try:
            self.checkpoints.wait()
        except CheckpointError as error:
            self.progress.say(str(error))

    def _compare_versions(self, saved: Mapping[str, str]) -> None:
        now = versions()
        changed = [f"{p} {saved.get(p, 'absent')} → {now.get(p, 'absent')}" for p in sorted(saved.keys() | now.keys())
                   if saved.get(p) != now.get(p)]  # fmt: skip
        if changed:
            self.progress.say(f"saved with other versions ({', '.join(changed)}): the rest may differ in its last bits")

    def _program(self) -> Ensemble:
        e = self.experiment
        program = e.program()
        chosen = json.loads(self.folder.program_file.read_text())["mode"] if self.folder.program_file.exists() else None
        if chosen is not None and (program.mode == "auto" or e.mode == "auto"):
            return dataclasses.replace(program, mode=chosen)
        if program.mode == "auto":
            self.progress.line("measuring which way of running the members is the faster")
            start, before = time.perf_counter(), self.iterator.get_state()
            program = program.resolve(next(self.iterator))
            self.iterator.set_state(before)
            self.costs["choose_mode_seconds"] = time.perf_counter() - start
        # kept, so that a resumed run repeats the choice and with it every bit
        if self.first:
            write_json(self.folder.program_file, {"mode": program.mode})
        return program

    def _train(self, state: States, step: int, pending_evaluation: bool, *, stopped_early: bool) -> dict[str, Any]:
        e, total = self.experiment, self.experiment.num_steps
        late: tuple[int, Any] | None = None
        try:
            if pending_evaluation:
                stopped_early = self._evaluate(state, step)
            while step < total and not stopped_early:
                self._obey(state, step)
                batch = self.program.put(next(self.iterator))
                start = time.perf_counter()
                state, metrics = self.program.step(state, batch)
                step += 1
                # the step before is fetched while this one runs: the device never waits for the host
                self._write(late)
                late = (step, metrics) if step % e.log_every == 0 or step == total else None
                if self.costs["compile_seconds"] == 0.0:
                    jax.block_until_ready(state)
                    self.costs["compile_seconds"] = time.perf_counter() - start
                else:
                    self.costs["train_seconds"] += time.perf_counter() - start
                self.progress.update(step, self._note)
                for every, call in e.callbacks:
                    if step % every == 0:
                        call(step, state)
                if step == total or (e.eval_every and step % e.eval_every == 0):
                    self._write(late)
                    late = None
                    stopped_early = self._evaluate(state, step)
                if e.checkpoint_every and step % e.checkpoint_every == 0 and step < total:
                    self._write(late)
                    late = None
                    self._save(state, step, stopped_early=stopped_early)
            return self._finish(state, step)
        except _Asked:
            self._stop(state, step, evaluation_pending=True)

    _note = ""

    def _write(self, late: tuple[int, Any] | None) -> None:
        if late is None:
            return
        step, metrics = late
        values = {name: np.atleast_1d(value) for name, value in _fetch(metrics).items()}
        self._rows(step, "train", values)
        loss = values.get("loss")
        if loss is not None:
            self._note = f"loss {np.nanmean(loss) if np.isfinite(loss).any() else float('nan'):.4f}"
            bad = ~np.isfinite(loss)
            if bad.any() and not self.said_non_finite:
                self.said_non_finite = True
                who = "every member" if bad.all() else f"member {', '.join(map(str, np.flatnonzero(bad)))}"
                self.progress.say(
                    f"the training loss of {who} is not finite at step {step} (said once; the run goes on)"
                )

    def _rows(self, step: int, split: str, values: Mapping[str, np.ndarray]) -> None:
        rows = [
            Row(step, split, metric, member, float(value))
            for metric, array in values.items()
            for member, value in enumerate(array)
        ]
        self.metrics.write(rows)
        for writer in self.writers if self.first else ():
            writer.write(rows)

    def _evaluate(self, state: States, step: int) -> bool:
        """Evaluates; its rows are written together, so that one that is interrupted leaves none. True: stop early."""
        e = self.experiment
        if e.evaluate is None:
            return False
        start = time.perf_counter()
        found: list[tuple[str, dict[str, np.ndarray]]] = []
        self.progress.line(f"step {step}/{e.num_steps} evaluating")
        for split, values in e.evaluate(self.program, state):
            if self.stop.received and jax.process_count() == 1:
                raise _Asked
            if values:
                found.append((split, {name: np.atleast_1d(value) for name, value in _fetch(values).items()}))
        for split, values in found:
            self._rows(step, split, values)
            self.evaluated.update({(split, metric): array for metric, array in values.items()})
        self.costs["evaluate_seconds"] += time.perf_counter() - start
        if e.early_stop is None:
            return False
        return bool(
            e.early_stop(step, {f"{split}/{metric}": array for (split, metric), array in self.evaluated.items()})
        )

    def _obey(self, state: States, step: int) -> None:
        if jax.process_count() > 1:
            # all processes must stop at the same step: they agree on one through JAX's coordination service
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.stop.received = signal.SIGTERM
        if self.stop.received:
            self._stop(state, step, evaluation_pending=False)

    def _stop(self, state: States, step: int, *, evaluation_pending: bool) -> None:
        self._save(state, step, evaluation_pending=evaluation_pending, last=True)
        interrupted = self.stop.received == signal.SIGINT
        raise Stopped(
            EXIT_INTERRUPTED if interrupted else EXIT_TERMINATED,
            f"{'interrupted' if interrupted else 'asked to terminate'} and saved at step {step} of "
            f"{self.experiment.num_steps}; the same command goes on from there: --workdir {self.folder.path}",
        )

    def _save(
        self,
        state: States,
        step: int,
        *,
        evaluation_pending: bool = False,
        stopped_early: bool = False,
        last: bool = False,
    ) -> None:
        extra = checkpoint_extra(
            data=self.iterator.get_state(),
            metrics_position=self.metrics.position,
            evaluated=self.evaluated,
            seconds=self.earlier_seconds + time.perf_counter() - self.began,
            mode=self.program.mode,
            config=json.loads(self.folder.config_file.read_text()) if self.folder.config_file.exists() else {},
            evaluation_pending=evaluation_pending,
            stopped_early=stopped_early,
        )
        score = None
        if self.experiment.best is not None:
            values = self.evaluated.get(tuple(self.experiment.best))
            if values is not None and np.isfinite(values).any():
                sign = 1 if self.experiment.best[1].rpartition("/")[2] in self.experiment.higher_is_better else -1
                score = sign * float(np.nanmean(values))
        try:
            self.checkpoints.save(step, state, extra, score=score)
            if last:
                self.checkpoints.wait()
        except CheckpointError as error:
            if last:
                raise Stopped(EXIT_DISK, f"{self.name}: {error}. The metrics up to it are kept") from error
            self.progress.say(f"{error}. The run goes on without it")

    def _finish(self, state: States, step: int) -> dict[str, Any]:
        e = self.experiment
        digests: dict[str, list[str]] = {}
        for view, take in e.views.items():
            params = on_every_host(self.program.map(take)(state))
            digests[view] = [digest(jax.tree.map(lambda x, i=i: x[i], params)) for i in range(self.program.num_members)]
        self._save(state, step, stopped_early=step < e.num_steps, last=True)
        seconds = self.earlier_seconds + time.perf_counter() - self.began
        summary = summary_of(
            e,
            self.program,
            state,
            name=self.name,
            step=step,
            results=summarise(self.evaluated, baseline=e.baseline),
            costs=self.costs | {"checkpoint_stall_seconds": self.checkpoints.stall_seconds, "seconds": seconds},
            digests=digests,
            baseline=e.baseline,
            stopped_early=step < e.num_steps,
        )
        if self.first:
            write_json(self.folder.summary_file, summary)
        self.progress.say(f"{step} steps in {duration(seconds)}")
        return summary


def _fetch(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Metrics on the host, in their order (trees of dictionaries are sorted)."""
    found = on_every_host(dict(values))
    return {name: found[name] for name in values}
