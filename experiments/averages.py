"""All averages side by side: on one run of digits, of MNIST digits and of a small byte transformer.

    python -m experiments.averages

writes ``results/averages.json``, the page ``docs/averages.md`` and its figure ``results/averages.png``; ``--smoke`` tries
it and writes nothing. In a run at a constant rate all averages that only look are read at the same checkpoints. What
changes the run itself (a decaying rate, Switch EMA, Lookahead, schedule-free) has a run of its own, from the same start
over the same batches. Windows are set as a share of the run, none is tuned, and the rate is one for all: the table says
what an average does to this run, not which could be made best. Flatness is the largest eigenvalue of the Hessian of the
training loss at the end.
"""

import argparse
import dataclasses
import functools
import json
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._averages_page import draw, page
from experiments._averages_problems import PROBLEMS, Problem
from experiments._flatness import top_hessian_eigenvalue
from jaxtrain import averaging as a

ROOT = Path(__file__).parent
RESULT, FIGURE = ROOT / "results" / "averages.json", ROOT / "results" / "averages.png"
PAGE = ROOT.parent / "docs" / "averages.md"
CHECKPOINTS = 20


def observers(steps: int) -> dict[str, tuple[optax.GradientTransformation, type, int]]:
    """Averages that only look: the transformation, its state and which of its averages."""
    segment = steps // CHECKPOINTS
    window = a.power_function_ema([0.05, 0.1, 0.2])
    return {
        "EMA, a 20th": (a.params_ema(1 - 20 / steps), a.ParamsEmaState, 0),
        "annealed EMA": (a.annealed_ema(0.999), a.ParamsEmaState, 1),
        "power EMA 0.05": (window, a.PowerEmaState, 0),
        "power EMA 0.10": (window, a.PowerEmaState, 1),
        "power EMA 0.20": (window, a.PowerEmaState, 2),
        "uniform (WAKD)": (a.uniform_average(steps // 10), a.SwaState, 0),
        "SWA, last quarter": (a.swa(steps - steps // 4, max(1, segment // 4)), a.SwaState, 1),
        "LAWA, 5 models": (a.lawa(5, max(1, segment // 4)), a.LawaState, 0),
        "SWAD": (a.swad(), a.SwadState, 0),
    }


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, and what is read of it.

    Attributes:
      tx: its transformation.
      readers: name -> ``(opt_state, params) -> averaged params``.
      wrap: the parameters as the transformation wants them.
      close: ``(opt_state, validation loss) -> opt_state`` at every checkpoint.
    """

    tx: optax.GradientTransformation
    readers: dict[str, Callable]
    wrap: Callable[[Any], Any] = lambda params: params
    close: Callable[[Any, jax.Array], Any] = lambda state, loss: state


def runs(problem: Problem) -> list[Run]:
    """One at a constant rate for all that look; one for each that changes it."""
    rate, steps = problem.rate, problem.steps
    watched = observers(steps)
    chain = optax.chain(problem.optimizer(rate), *dict.fromkeys(tx for tx, _, _ in watched.values()))
    live = {"no average": lambda state, params: params}
    looks = {
        name: functools.partial(a.averaged_params, kind=kind, index=index) for name, (_, kind, index) in watched.items()
    }
    decayed = problem.optimizer(optax.linear_schedule(rate, 0.0, steps))
    switched = optax.chain(problem.optimizer(rate), a.switch_ema(1 - 20 / steps, steps // CHECKPOINTS))
    ahead = optax.lookahead(problem.optimizer(rate), sync_period=5, slow_step_size=0.5)
    return [
        Run(chain, live | looks, close=a.swad_update),
        Run(decayed, {"no average, rate to 0": lambda state, params: params}),
        Run(switched, {"Switch EMA": a.averaged_params}),
        Run(ahead, {"Lookahead": a.averaged_params}, wrap=optax.LookaheadParams.init_synced),
        Run(problem.schedule_free(rate), {"schedule-free": a.averaged_params}),
    ]


def _trace(problem: Problem, run: Run, key: jax.Array):
    """One run: curves on test data ``(averages, checkpoints)``, and at the end what is read of it, stacked alike."""
    start, batches = jax.random.split(key)
    params = run.wrap(problem.init(start))

    def fast(params):
        return params.fast if isinstance(params, optax.LookaheadParams) else params

    def read(state, params):
        return jax.tree.map(lambda *x: jnp.stack(x), *[reader(state, params) for reader in run.readers.values()])

    def step(carry, key):
        params, state = carry
        updates, state = run.tx.update(jax.grad(problem.loss)(fast(params), problem.batch(key)), state, params)
        return (optax.apply_updates(params, updates), state), None

    def checkpoint(carry, key):
        (params, state), _ = jax.lax.scan(step, carry, jax.random.split(key, problem.steps // CHECKPOINTS))
        state = run.close(state, problem.loss(fast(params), problem.validation))
        return (params, state), jax.lax.map(problem.measure, read(state, params))

    (params, state), curves = jax.lax.scan(
        checkpoint, (params, run.tx.init(params)), jax.random.split(batches, CHECKPOINTS)
    )
    return curves.T, read(state, params)


def measure(problem: Problem) -> dict[str, dict[str, Any]]:
    """For each way to average: curves, final value, training loss and sharpness over seeds."""
    keys = jax.vmap(jax.random.key)(np.arange(problem.seeds, dtype=np.uint32))

    @jax.jit
    def at_the_end(params):
        training = lambda p: problem.loss(p, problem.training)  # noqa: E731
        return training(params), top_hessian_eigenvalue(training, params, jax.random.key(1))

    found: dict[str, Any] = {}
    for run in runs(problem):
        one = jax.jit(functools.partial(_trace, problem, run))
        parts: dict[str, list[dict[str, Any]]] = {name: [] for name in run.readers}
        for key in keys:
            curves, final = one(key)
            for i, name in enumerate(run.readers):
                loss, sharpness = at_the_end(jax.tree.map(lambda x, i=i: x[i], final))
                curve = np.asarray(curves[i])
                parts[name].append(
                    {"curve": curve, "final": curve[-1], "training_loss": float(loss), "sharpness": float(sharpness)}
                )
        found |= {name: {k: np.array([e[k] for e in each]) for k in each[0]} for name, each in parts.items()}
    return found


def _plain(value: Any) -> Any:
    """Six significant digits."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main(argv: list[str] | None = None) -> int:
    """Measures everything and writes the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few steps; nothing is written")
    parser.add_argument("--only", nargs="+", choices=list(PROBLEMS), help="these only; nothing is written")
    parser.add_argument("--draw", action="store_true", help="table and figure again from the result that is there")
    arguments = parser.parse_args(argv)
    if arguments.draw:
        result = json.loads(RESULT.read_text(encoding="utf-8"))
    else:
        from experiments.benchmarks import averaging
        from experiments.benchmarks._timing import machine

        # first: what fails there fails at once
        tried = arguments.smoke or arguments.only
        cost = averaging.measure(scale=0.02 if tried else 1.0, rounds=1 if tried else 7)
        problems = {}
        for name in arguments.only or PROBLEMS:
            began = time.perf_counter()
            problem = PROBLEMS[name](arguments.smoke)
            found = measure(problem)
            problems[name] = {
                "says": problem.says,
                "metric": problem.metric,
                "seeds": problem.seeds,
                "seconds": time.perf_counter() - began,
                "found": found,
            }
            for average, values in found.items():
                print(
                    f"{name:<10} {average:<24} {values['final'].mean():.4f} {values['sharpness'].mean():.4g}",
                    flush=True,
                )
        if tried:
            return 0
        result = _plain(
            {
                "command": "python -m experiments.averages",
                "says": (__doc__ or "").partition("writes nothing. ")[2].strip(),
                "problems": problems,
                "cost": {
                    "machine": machine(),
                    "parameters": int(sum(np.prod(s) for s in averaging.shapes(1.0).values())),
                    "plain ms": cost["plain"]["ms"],
                    "copy GB/s": cost["copy"]["GB/s"],
                    "rows": [list(row) for row in averaging.rows(cost)],
                },
                "versions": {p: metadata.version(p) for p in ("jax", "jaxlib", "optax", "flax", "numpy")},
                "python": platform.python_version(),
            }
        )
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(result))
    draw(result, FIGURE)
    print("written: experiments/results/averages.json, .png and docs/averages.md")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
