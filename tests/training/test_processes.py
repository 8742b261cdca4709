"""Two real processes over the loopback train one model, are both killed, and resume: as if it had been one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from jaxtrain.training.writers import read_rows

SETTINGS = "steps=80 batch_size=8 length=16 width=16 layers=1 heads=2 fsdp=2 eval_every=10 eval_batches=2 checkpoint_every=5 warmup=5"


def _environment(**more):
    return os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"} | more


def _start(workdir, processes):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "jaxtrain", "run", "bytes", "--workdir", str(workdir), "--set", *SETTINGS.split()]
    if processes == 1:
        environments = [_environment(JAX_NUM_CPU_DEVICES="4")]
    else:
        words.append("--distributed")
        environments = [
            _environment(
                JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}", JAX_NUM_PROCESSES=str(processes), JAX_PROCESS_ID=str(i)
            )
            for i in range(processes)
        ]
    return [
        subprocess.Popen(words, env=e, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for e in environments
    ]


def _finish(processes):
    outs = [p.communicate(timeout=150)[0] for p in processes]
    assert [p.returncode for p in processes] == [0] * len(processes), "\n".join(outs)


def test_two_processes_killed_and_resumed_equal_one_process(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    _finish(_start(one, 1))
    running = _start(two, 2)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (two / "checkpoints" / "00000010" / "manifest.json").exists():
        assert all(p.poll() is None for p in running), running[0].communicate()[0]
        time.sleep(0.02)
    for process in running:
        process.send_signal(signal.SIGKILL)
    for process in running:
        process.communicate()
    assert not (two / "summary.json").exists(), "the run ended before it could be killed: make it longer"
    _finish(_start(two, 2))
    a, b = read_rows(one / "metrics.csv"), read_rows(two / "metrics.csv")
    assert [r[:4] for r in a] == [r[:4] for r in b]
    # float32: Gloo adds the parts of two processes in another order than one process adds those of four devices
    np.testing.assert_allclose([r.value for r in a], [r.value for r in b], rtol=2e-4)
    results = [json.loads((folder / "summary.json").read_text())["results"] for folder in (one, two)]
    np.testing.assert_allclose([r["mean"] for r in results[0]], [r["mean"] for r in results[1]], rtol=2e-4)
