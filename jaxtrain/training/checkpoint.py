"""Checkpoints that can be trusted: written aside, sealed by a manifest of digests, then moved into place."""

import dataclasses
import hashlib
import itertools
import json
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxtrain.core import compare_leaves, describe_leaves
from jaxtrain.training.sharding import placed

_MANIFEST = "manifest.json"


class CheckpointError(RuntimeError):
    """No checkpoint can be used, or one could not be written."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What :meth:`Checkpointer.restore` found."""

    step: int
    state: Any
    extra: dict[str, Any]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _free_name(path: Path) -> Path:
    """The path, or it with the first number that makes it a new one."""
    numbered = (path.with_name(f"{path.name}.{n}") for n in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not p.exists())


def _names(tree: Any) -> list[str]:
    """A name for every leaf that no other has and every file system takes, readable where possible.

    Orbax is handed a flat dictionary: a tree with a key ``a.b`` beside a path ``a`` → ``b`` would be restored wrongly
    by it, without a word (0.12.8).
    """
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [f"{i:04d}_{re.sub(r'[^A-Za-z0-9]+', '_', path).strip('_')[-80:]}" for i, path in enumerate(paths)]


class Checkpointer:
    """Saves and restores states of training in a folder, one sub-folder a step.

    A save returns when the arrays are copied off the device; writing goes on in the background. A checkpoint is whole
    or absent: it is written under another name, sealed with the SHA-256 of each of its files and then renamed.
    Orbax (``orbax.checkpoint.v1``) writes the arrays, each process its own shards.

    Args:
      directory: made when the first checkpoint is written.
      keep: how many of the newest to keep, at least 1. The best one (by ``score``) is kept besides.
      log: is told, in one line, of a damaged checkpoint.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpointer(Path(folder))
    ...     checkpoints.save(3, {"w": jnp.arange(2.0)}, {"note": "third"})
    ...     checkpoints.wait()
    ...     found = checkpoints.restore({"w": jax.ShapeDtypeStruct((2,), jnp.float32)})
    >>> found.step, found.state["w"].tolist(), found.extra
    (3, [0.0, 1.0], {'note': 'third'})
    """

    def __init__(self, directory: Path, *, keep: int = 3, log: Callable[[str], None] = print):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory).absolute()
        self.keep = keep
        self.stall_seconds = 0.0
        self._log = log
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, whole or damaged, in ascending order."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.is_dir() and re.fullmatch(r"\d{8,}", p.name))

    @property
    def latest(self) -> int | None:
        """The newest step, or None."""
        steps = self.steps()
        return steps[-1] if steps else None

    @property
    def best(self) -> int | None:
        """The step with the highest score, or None where none was given."""
        scores = {step: self._seal(step).get("score") for step in self.steps()}
        scores = {step: score for step, score in scores.items() if score is not None}
        return max(scores, key=lambda step: (scores[step], step)) if scores else None

    def _path(self, step: int) -> Path:
        return self.directory / f"{step:08d}"

    def _seal(self, step: int) -> dict[str, Any]:
        try:
            return json.loads((self._path(step) / _MANIFEST).read_text())
        except (OSError, ValueError):
            return {}

    def save(self, step: int, state: Any, extra: dict[str, Any] | None = None, *, score: float | None = None) -> None:
        """Starts to write a checkpoint; waits for the one before it. One that is there and whole is left as it is.

        Raises:
          CheckpointError: the one before it could not be written.
        """
        start = time.perf_counter()
        self.wait()
        first = jax.process_index() == 0
        if self._path(step).exists():
            if (fault := self.damage(step)) is None:
                return
            # a run that fell back behind a damaged checkpoint has come by again: it is put aside, not deleted
            if first:
                self._log(f"the damaged checkpoint of step {step} ({fault}) is written anew")
                self._path(step).rename(_free_name(self._path(step).with_suffix(".damaged")))
        aside = self.directory / f"{step:08d}.writing"
        try:
            if first:
                self.directory.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir()
            if jax.process_count() > 1:
                from jax.experimental import multihost_utils

                multihost_utils.sync_global_devices(f"checkpoint folder of step {step}")
            # Orbax refuses arrays of size zero (0.12.8); they hold nothing, so their shape is enough
            leaves = dict(zip(_names(state), jax.tree.leaves(state), strict=True))
            arrays = {name: leaf for name, leaf in leaves.items() if np.size(leaf)}
            response = ocp.save_async(aside / "arrays", arrays)
        except Exception as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(f"the checkpoint of step {step} could not be written: {error}") from error
        described = describe_leaves(state)

        def finish() -> None:
            try:
                response.result()
                if not first:
                    return
                (aside / "extra.json").write_text(json.dumps({"extra": extra or {}, "tree": described}))
                files = {str(f.relative_to(aside)): _digest(f) for f in sorted(aside.rglob("*")) if f.is_file()}
                (aside / _MANIFEST).write_text(json.dumps({"step": step, "score": score, "files": files}, indent=0))
                aside.rename(self._path(step))
                self._forget()
            except BaseException as error:
                self._failure = error
                shutil.rmtree(aside, ignore_errors=True)

        self._writing = threading.Thread(target=finish, name=f"checkpoint-{step}")
        self._writing.start()
        self.stall_seconds += time.perf_counter() - start

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
          CheckpointError: the last checkpoint could not be written (a full disk, say). Older ones are untouched.
        """
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failure is not None:
            error, self._failure = self._failure, None
            newest = "there is none" if self.latest is None else f"the newest good one is of step {self.latest}"
            raise CheckpointError(f"a checkpoint could not be written ({error}); {newest}") from error

    def _forget(self) -> None:
        best = self.best
        for step in self.steps()[: -self.keep]:
            if step != best:
                shutil.rmtree(self._path(step), ignore_errors=True)

    def damage(self, step: int) -> str | None:
        """What is wrong with the files of a checkpoint, or None."""
        path = self._path(step)
        seal = self._seal(step)
        if "files" not in seal:
            return f"{_MANIFEST} is missing or unreadable"
        for name, digest in seal["files"].items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if _digest(file) != digest:
                return f"{name} does not have the bytes that were written"
        return None

    def restore(self, abstract_state: Any, step: int | None = None) -> Restored | None:
        """The newest whole checkpoint (or that of ``step``), laid out as ``abstract_state`` says.

        A damaged checkpoint is named in one line and the one before it is used; nothing is deleted.

        Args:
          abstract_state: shapes, dtypes and shardings, as of ``jax.eval_shape``; another mesh than the one that wrote
            it is fine. Where it has a NumPy array, the leaf comes as one.
          step: only this one.

        Returns:
          What was found, or None where there is no checkpoint at all.

        Raises:
          CheckpointError: there are checkpoints, all of them damaged.
          ValueError: the checkpoint holds another tree; names the first paths that differ.
        """
        steps = [step] if step is not None else self.steps()[::-1]
        faults = []
        for candidate in steps:
            fault = self.damage(candidate)
            if fault is None:
                return self._load(candidate, abstract_state)
            older = [s for s in steps if s < candidate]
            then = f"trying that of step {older[0]}" if older else "there is none before it"
            self._log(f"the checkpoint of step {candidate} is damaged ({fault}); {then}")
            faults.append(f"step {candidate}: {fault}")
        if faults:
            raise CheckpointError(
                f"no usable checkpoint in {self.directory.name}: " + "; ".join(faults) + ". Nothing was deleted; "
                "to start again use another folder"
            )
        return None

    def _load(self, step: int, abstract_state: Any) -> Restored:
        path = self._path(step)
        meta = json.loads((path / "extra.json").read_text())
        compare_leaves(
            describe_leaves(abstract_state), meta["tree"], where=f"the checkpoint of step {step} holds another state"
        )
        leaves, structure = jax.tree.flatten(placed(abstract_state))
        names = _names(abstract_state)
        arrays = ocp.load(path / "arrays", {n: x for n, x in zip(names, leaves, strict=True) if np.prod(x.shape)})
        filled = [arrays[n] if n in arrays else jnp.zeros(x.shape, x.dtype) for n, x in zip(names, leaves, strict=True)]
        return Restored(step, structure.unflatten(filled), meta["extra"])
