"""What a fresh process waits for: ``jaxtrain bench coldstart``.

Every figure is a median over fresh processes, the candidates in turns. Imports are measured from before the first import;
the first step includes making the state, tracing, compiling and running. The same is done without the library beside it.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.benchmarks._timing import Timings, machine, print_table

TITLE = "import time and time to the first step in a fresh process"
LIMIT = 0.15
BASE = "jax, flax, optax"
_IMPORTS = {
    "jax": "import jax",
    BASE: "import jax, flax, optax",
    "jax, flax, optax, jaxtrain": "import jax, flax, optax, jaxtrain",
    "jax, flax, optax, orbax": "import jax, flax, optax, orbax.checkpoint",
    "jaxtrain and every stage": "import jaxtrain\nfor name in jaxtrain.__all__: getattr(jaxtrain, name)",
}
_TIMED = """
import json, time
start = time.perf_counter()
{program}
print(json.dumps(time.perf_counter() - start))
"""
_PROBLEM = """
import json, time
start = time.perf_counter()
import jax, jax.numpy as jnp, optax
{imports}
imported = time.perf_counter()
tx = optax.adamw(1e-3)
x, y = jnp.ones((32, 64)), jnp.ones((32, 8))
def init(key):
    a, b = jax.random.split(key)
    return {{"a": jax.random.normal(a, (64, 128)), "b": jax.random.normal(b, (128, 8))}}
def loss_fn(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["a"]) @ params["b"] - y) ** 2)
params = init(jax.random.key(0))
before = jax.device_get(params)
{step}
jax.block_until_ready(params)
done = time.perf_counter()
changed = all(bool((a != b).any()) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(jax.device_get(params))))
print(json.dumps([imported - start, done - imported, done - start, changed]))
"""
_STEPS = {
    "jax and optax by hand": (
        "",
        """
opt_state = tx.init(params)
@jax.jit
def step(params, opt_state, t, key, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, t + 1, loss
params, opt_state, t, loss = step(params, opt_state, jnp.zeros((), jnp.int32), jax.random.key(0), x, y)
""",
    ),
    "jaxtrain": (
        """
from jaxtrain.core import Aux
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import create_state, make_step
""",
        """
def objective(params, model_state, batch, key):
    return loss_fn(params, *batch), Aux(model_state, {})
state, metrics = jax.jit(make_step(value_and_grad(objective), tx))(
    create_state(params, tx, jax.random.key(0)), (x, y)
)
params = state.params
""",
    ),
}


def _fresh(program: str) -> object:
    root = Path(__file__).parents[2]
    # without a compilation cache: a first step is a first compilation
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH", "")]))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"a fresh process failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str]) -> int:
    """Prints the tables; 1 where importing costs more than the limit."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench coldstart", description=TITLE)
    parser.add_argument("--rounds", type=int, default=9, help="fresh processes for each figure; default: 9")
    parser.add_argument("--quick", action="store_true", help="one round, to see that it works")
    args = parser.parse_args(list(argv))
    rounds = 1 if args.quick else args.rounds
    imports: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    steps: dict[str, list[list[float]]] = {name: [] for name in _STEPS}
    # one round before, not counted: bytecode and the disk's cache
    for i in range(-1, rounds):
        for name, program in _IMPORTS.items():
            seconds = float(_fresh(_TIMED.format(program=program)))
            if i >= 0:
                imports[name].append(seconds)
        for name, (extra, step) in _STEPS.items():
            *parts, changed = _fresh(_PROBLEM.format(imports=extra, step=step))
            assert changed, f"{name}: the parameters have not changed"
            if i >= 0:
                steps[name].append(parts)
    print(machine())
    times = Timings({name: np.asarray(values) for name, values in imports.items()})
    print_table("import", ("what", "s", "ratio", "quartiles of the ratio"), times.rows(BASE, unit=1.0))
    rows = [(name, *(f"{x:.3f}" for x in np.median(values, axis=0))) for name, values in steps.items()]
    print_table("first step (medians, s)", ("what", "import", "state and first step", "together"), rows)
    more = float(np.median(times.seconds["jax, flax, optax, jaxtrain"] - times.seconds[BASE]))
    ours, hand = (np.asarray(steps[name])[:, 1] for name in ("jaxtrain", "jax and optax by hand"))
    print(f"\nimport jaxtrain on top of {BASE}: {more:+.3f} s, limit {LIMIT} s")
    print(f"state and first step against by hand: {float(np.median(ours / hand)):.3f}")
    return int(more > LIMIT and not args.quick)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
