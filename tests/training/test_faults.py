"""Whatever happens to a run, what it gives in the end is what it would have given: tested by fresh processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

DIGITS = [
    "seeds=0..1",
    "epochs=24",
    "batch_size=16",
    "max_images=64",
    "channels=4",
    "eval_epochs=3",
    "checkpoint_epochs=2",
    "mode=map",
]
BYTES = [
    "steps=90",
    "batch_size=4",
    "length=16",
    "width=16",
    "layers=1",
    "heads=2",
    "eval_every=11",
    "eval_batches=2",
    "checkpoint_every=7",
    "warmup=5",
]
# workload, settings: four optimizers, with Switch EMA and SWA (digits) or SWA (bytes)
CHAINS = {
    "digits-adamw": ("digits", [*DIGITS, "optimizer=adamw"]),
    "digits-sgd": ("digits", [*DIGITS, "optimizer=sgd", "switch_epochs=1"]),
    "bytes-lion": ("bytes", [*BYTES, "optimizer=lion", "learning_rate=1e-4", "accumulate=2"]),
    "bytes-soap": ("bytes", [*BYTES, "optimizer=soap"]),
}
KILLS_EACH = 5


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts ``jaxtrain run`` in a process of its own; compiled programs are shared between them."""
    cache = tmp_path_factory.mktemp("compiled")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def run(name, workdir, *more):
        workload, settings = CHAINS[name]
        words = [
            sys.executable,
            "-m",
            "jaxtrain",
            "run",
            workload,
            "--workdir",
            str(workdir),
            "--set",
            *settings,
            *more,
        ]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    return run


def _finish(process, timeout=120):
    out, _ = process.communicate(timeout=timeout)
    return process.returncode, out


def _wait_for_progress(process, workdir):
    """Until the process has written a row of metrics of its own (or ended)."""
    file = workdir / "metrics.csv"
    before = file.stat().st_mtime_ns if file.exists() else -1
    while process.poll() is None:
        if file.exists() and file.stat().st_mtime_ns != before and file.stat().st_size > 40:
            return
        time.sleep(0.01)


def _results(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    return summary["digests"], summary["state_digest"], (workdir / "metrics.csv").read_bytes()


@pytest.mark.parametrize("name", CHAINS)
def test_killed_at_random_moments_and_resumed_is_bit_for_bit_the_uninterrupted_run(name, start, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, out = _finish(start(name, whole))
    assert code == 0, out
    moments = random.Random(name)
    kills = 0
    for _ in range(KILLS_EACH):
        process = start(name, broken)
        _wait_for_progress(process, broken)
        time.sleep(moments.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        _finish(process)
        kills += process.returncode == -signal.SIGKILL
        if (broken / "summary.json").exists():
            break
    code, out = _finish(start(name, broken))
    assert code == 0, out
    assert kills == KILLS_EACH, f"only {kills} kills: the run ended before; make it longer"
    digests, state, metrics = _results(whole)
    assert _results(broken)[2].decode().splitlines() == metrics.decode().splitlines()
    assert _results(broken) == (digests, state, metrics)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_once_and_says_how_to_go_on(number, code, start, tmp_path):
    process = start("digits-adamw", tmp_path / "run")
    _wait_for_progress(process, tmp_path / "run")
    process.send_signal(number)
    sent = time.monotonic()
    got, out = _finish(process)
    assert got == code, out
    assert time.monotonic() - sent < 30  # the grace that schedulers give
    assert "saved at step" in out and "--workdir" in out
    checkpoints = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    step = int(out.split("saved at step ")[1].split()[0])
    assert checkpoints[-1] == f"{step:08d}" and not [c for c in checkpoints if "writing" in c]
    got, out = _finish(start("digits-adamw", tmp_path / "run"))
    assert got == 0 and f"going on from step {step}" in out
    got, again = _finish(start("digits-adamw", tmp_path / "run"))
    assert got == 0 and "holds a finished run" in again and "accuracy" in again
    got, out = _finish(start("digits-adamw", tmp_path / "run", "epochs=17"))
    assert got == 2 and "epochs: 24 → 17" in out and "--force" in out
