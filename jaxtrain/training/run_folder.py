"""The folder of a run: what is in it, who writes it, and what it belongs to."""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

_PACKAGES = ("jaxtrain", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "scikit-learn")


class RunFolderError(RuntimeError):
    """The folder cannot be used for this run; says why and what to do."""


class RunFolder:
    """``config.json``, ``environment.json``, ``metrics.csv``, ``checkpoints/``, ``summary.json``, ``report.html``."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.environment_file = self.path / "environment.json"
        self.program_file = self.path / "program.json"
        self.metrics_file = self.path / "metrics.csv"
        self.checkpoints = self.path / "checkpoints"
        self.summary_file = self.path / "summary.json"
        self.report_file = self.path / "report.html"
        self._lock: Any = None

    def lock(self) -> None:
        """Takes the folder for this process; the operating system gives it back when the process ends, however it ends.

        Raises:
          RunFolderError: a living process writes to it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; --workdir names a folder")
        self.path.mkdir(parents=True, exist_ok=True)
        file = open(self.path / "lock", "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise RunFolderError(
                f"{self.path} is being written by {holder}; wait for it or choose another --workdir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self._lock = file

    def unlock(self) -> None:
        """Gives the folder back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def claim(self, name: str, config: dict[str, Any], *, force: bool = False) -> bool:
        """Makes the folder that of ``name`` with ``config``, or checks that it is already. True: there was a run in it.

        Raises:
          RunFolderError: it holds other files, another experiment, or the same with another configuration.
        """
        mine = {"experiment": name, "config": config}
        if not self.config_file.exists():
            strangers = [p.name for p in self.path.iterdir() if p.name != "lock"]
            if strangers:
                raise RunFolderError(
                    f"{self.path} is not the folder of a run but holds {', '.join(sorted(strangers)[:3])}; "
                    "choose an empty or new --workdir"
                )
            write_json(self.config_file, mine)
            return False
        theirs = json.loads(self.config_file.read_text())
        if theirs["experiment"] != name:
            raise RunFolderError(
                f"{self.path} belongs to the experiment '{theirs['experiment']}', not '{name}'; "
                "choose another --workdir"
            )
        if theirs["config"] != json.loads(json.dumps(config)):
            old, new = _flat(theirs["config"]), _flat(json.loads(json.dumps(config)))
            fields = [
                f"{k}: {old.get(k, 'absent')} → {new.get(k, 'absent')}"
                for k in sorted(old.keys() | new.keys())
                if old.get(k) != new.get(k)
            ]
            if not force:
                raise RunFolderError(
                    f"{self.path} was started with another configuration ({'; '.join(fields)}); go on with the "
                    "old one, choose another --workdir, or go on with the new one by --force"
                )
            write_json(self.config_file, mine)
        return True


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        k: v for key, value in config.items() for k, v in _flat(value, f"{prefix}.{key}" if prefix else key).items()
    }


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all."""
    aside = path.with_suffix(path.suffix + ".writing")
    aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.rename(path)


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a run computes."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def environment() -> dict[str, Any]:
    """Versions, devices and the state of the code."""
    kinds: dict[str, int] = {}
    for device in jax.devices():
        kinds[device.device_kind] = kinds.get(device.device_kind, 0) + 1
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "versions": versions(),
        "devices": kinds,
        "processes": jax.process_count(),
        "git": _git_state(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _git_state() -> dict[str, Any] | None:
    def git(*words: str) -> str:
        where = Path(__file__).parent
        done = subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def digest(tree: Any) -> str:
    """SHA-256 over the leaves of a tree in the order of their paths: path, dtype, shape and bytes.

    >>> digest({"a": np.zeros(2, np.float32)}) == hashlib.sha256(b"['a'] float32 (2,)\\n" + bytes(8)).hexdigest()
    True
    """
    sha = hashlib.sha256()
    leaves = [(jax.tree_util.keystr(path), np.asarray(x)) for path, x in jax.tree_util.tree_leaves_with_path(tree)]
    for path, array in sorted(leaves, key=lambda pair: pair[0]):
        sha.update(f"{path} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
