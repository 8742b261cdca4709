"""What a checkpoint costs: the stall of a save, and throughput against plain Orbax and against copying a file."""

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from orbax.checkpoint import v1 as ocp

from experiments.benchmarks._timing import machine, print_table
from jaxtrain.training import Checkpointer, create_state

TITLE = "checkpoints: stall of a save, save and restore against plain Orbax and a file copy"
LIMIT = 0.02


def main(argv: Sequence[str]) -> int:
    """Prints the table; 1 where one save a minute would stall a run by more than 2 %."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench checkpoint", description=TITLE)
    parser.add_argument("--megabytes", type=int, default=192, help="size of the state; default: 192")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--quick", action="store_true", help="a small state once, to see that it works")
    args = parser.parse_args(list(argv))
    rounds, megabytes = (1, 3) if args.quick else (args.rounds, args.megabytes)
    print(machine())
    leaves, width = 12, int((megabytes * 1e6 / 4 / 3 / 12) ** 0.5)  # parameters and two moments, of float32
    keys = jax.random.split(jax.random.key(0), leaves)
    params = {f"layer_{i}": jax.random.normal(k, (width, width)) for i, k in enumerate(keys)}
    state = jax.block_until_ready(create_state(params, optax.adam(1e-3), jax.random.key(1)))
    size = sum(x.nbytes for x in jax.tree.leaves((state.params, state.opt_state))) / 1e6
    abstract = jax.eval_shape(lambda: state)
    arrays = {"params": state.params, "opt": state.opt_state[0].mu, "nu": state.opt_state[0].nu}
    seconds: dict[str, list[float]] = {
        name: [] for name in ("stall", "save", "orbax save", "copy", "restore", "orbax restore")
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        payload = folder / "payload"
        payload.write_bytes(np.random.default_rng(0).bytes(int(size * 1e6)))
        for i in range(rounds):
            start = time.perf_counter()
            checkpoints = Checkpointer(folder / f"ours_{i}")
            checkpoints.save(i, state)
            seconds["stall"].append(time.perf_counter() - start)
            checkpoints.wait()
            seconds["save"].append(time.perf_counter() - start)
            start = time.perf_counter()
            ocp.save(folder / f"orbax_{i}", arrays)
            seconds["orbax save"].append(time.perf_counter() - start)
            start = time.perf_counter()
            shutil.copyfile(payload, folder / "copied")
            seconds["copy"].append(time.perf_counter() - start)
            start = time.perf_counter()
            found = jax.block_until_ready(checkpoints.restore(abstract).state)
            seconds["restore"].append(time.perf_counter() - start)
            start = time.perf_counter()
            jax.block_until_ready(ocp.load(folder / f"orbax_{i}", arrays))
            seconds["orbax restore"].append(time.perf_counter() - start)
            jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), found.params, state.params)
            assert bool(jnp.all(found.opt_state[0].count == state.opt_state[0].count))
            for part in (f"ours_{i}", f"orbax_{i}"):
                shutil.rmtree(folder / part)
    against = {"save": "orbax save", "restore": "orbax restore"}
    rows = []
    for what, values in seconds.items():
        ratio = ""
        if what in against:
            ratio = f"{np.median(np.array(values) / np.array(seconds[against[what]])):.2f} × plain Orbax"
        rows.append((what, f"{1e3 * np.median(values):.1f}", f"{size / np.median(values):.0f}", ratio))
    print_table(f"a state of {size:.0f} MB", ("what", "ms", "MB/s", "ratio"), rows)
    share = float(np.median(seconds["stall"])) / 60
    print(f"\none save a minute stalls the run by {100 * share:.2f} % of its time, limit {100 * LIMIT:.0f} %")
    print("(save and restore include SHA-256 of every file: what is restored is known to be what was written)")
    return int(share > LIMIT)


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))
