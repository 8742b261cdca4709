"""What an average adds to a step, against the memory that must move for it.

A step is a donated, jitted SGD update and apply on the parameters of a narrow GPT-2 (148 leaves, ``--scale``
times as wide as the small one), with and without averages behind it; the difference in each round is their cost. The floor is one read of
the parameters and, of what an average has to change, one read and one write (one write alone for a model that is only
stored), over the bandwidth of a donated in-place ``a + 1`` measured in the same process on an array far larger than the
caches. Between captures an average that only captures now and then has nothing to move.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks._timing import machine, print_table, side_by_side
from experiments.benchmarks.optimizers import Copy, Run, lowered, nbytes, shapes

TITLE = "What averages add to a step, against memory bandwidth"


class Candidate(NamedTuple):
    """What is timed.

    Attributes:
      make: the average, or several.
      streams: passes over memory of the parameters' size that it cannot do without, in float32.
    """

    make: Callable[[], optax.GradientTransformation]
    streams: int


def candidates() -> dict[str, Candidate]:
    """Every average where it has to do something, some between captures, and all together."""
    from jaxtrain import averaging as a

    never = 10**9
    several = lambda: optax.chain(  # noqa: E731
        a.params_ema(0.999), a.power_function_ema([0.05, 0.1]), a.uniform_average(), a.swad(), a.lawa(4)
    )
    return {
        "params_ema": Candidate(lambda: a.params_ema(0.999), 3),
        "annealed_ema": Candidate(lambda: a.annealed_ema(0.999), 3),
        "switch_ema, no switch timed": Candidate(lambda: a.switch_ema(0.999, never), 3),
        "power_function_ema, two widths": Candidate(lambda: a.power_function_ema([0.05, 0.1]), 5),
        "uniform_average (swa every step)": Candidate(a.uniform_average, 3),
        "swa between captures": Candidate(lambda: a.swa(never, 1), 0),
        "swad (the open segment)": Candidate(a.swad, 3),
        "lawa of 4, every step": Candidate(lambda: a.lawa(4), 2),
        "lawa of 4 between captures": Candidate(lambda: a.lawa(4, 1, start_step=never), 0),
        "ema, two widths, uniform, swad, lawa at once": Candidate(several, 1 + 2 + 4 + 2 + 2 + 1),
    }


def _sums(state: Any) -> list[float]:
    """One number for every model that a state holds."""
    return [float(jnp.sum(x)) for x in jax.tree.leaves(state) if x.ndim and jnp.issubdtype(x.dtype, jnp.floating)]


def measure(names: list[str] | None = None, *, scale: float = 0.4, rounds: int = 15) -> dict[str, dict[str, float]]:
    """Milliseconds that each adds to a step, its floor, their ratio, and models of memory.

    Raises:
      AssertionError: a step did not change the parameters or the average.
    """
    table = candidates()
    names = list(table) if names is None else names
    key = jax.random.key(0)
    tree = shapes(scale)
    params = {n: 0.02 * jax.random.normal(jax.random.fold_in(key, i), s) for i, (n, s) in enumerate(tree.items())}
    grads = jax.tree.map(lambda p: 0.1 * p + 0.01, params)
    size = nbytes(params)
    shapes_of = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)

    def run(*more: optax.GradientTransformation) -> Run:
        tx = optax.with_extra_args_support(optax.chain(optax.sgd(1e-3), *more))
        return Run(tx, lowered(tx, shapes_of).compile(), 1, params, grads)

    plain = run()
    runs = {name: run(table[name].make()) for name in names}
    first = {name: _sums(run.state) for name, run in runs.items()}
    copy = Copy(max(2 * sum(p.size for p in params.values()), 1 << 24), 1)
    timings = side_by_side({"plain": plain, **runs, "copy": copy}, rounds=rounds)
    bandwidth = 2 * copy.a.nbytes / timings.median("copy")
    found = {
        "copy": {"GB/s": bandwidth / 1e9, "ms": 1e3 * timings.median("copy")},
        "plain": {"ms": 1e3 * timings.median("plain")},
    }
    for name, run in runs.items():
        streams = table[name].streams
        assert all(bool(jnp.any(run.params[n] != params[n])) for n in tree), f"{name}: parameters stood still"
        changed = first[name] != _sums(run.state)
        assert changed == (streams > 0), f"{name}: the average {'stood still' if streams else 'moved'}"
        added = float(np.median(timings.seconds[name] - timings.seconds["plain"]))
        floor = streams * size / bandwidth
        found[name] = {
            "added ms": 1e3 * added,
            "floor ms": 1e3 * floor,
            "× floor": added / floor if streams else float("nan"),
            "models": nbytes(run.state) / size,
        }
    return found


def rows(found: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    """The table: name, added milliseconds, floor, ratio, memory in models."""
    return [
        (
            name,
            f"{r['added ms']:.2f}",
            f"{r['floor ms']:.2f}",
            f"{r['× floor']:.2f}" if np.isfinite(r["× floor"]) else "",
            f"{r['models']:.1f}",
        )
        for name, r in found.items()
        if "models" in r
    ]


HEADER = ("average", "added ms", "floor ms", "× floor", "models kept")


def main(argv: list[str] | None = None) -> int:
    """``jaxtrain bench averaging``."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench averaging", description=TITLE)
    parser.add_argument("--scale", type=float, default=0.4, help="width of the model, 1 is GPT-2 small")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is timed")
    parser.add_argument("--only", nargs="+", choices=list(candidates()), metavar="NAME", help="these only")
    arguments = parser.parse_args(argv)
    found: dict[str, Any] = measure(arguments.only, scale=arguments.scale, rounds=arguments.rounds)
    count = sum(int(np.prod(s)) for s in shapes(arguments.scale).values())
    print(machine())
    print(
        f"{count / 1e6:.1f} M parameters in {len(shapes(arguments.scale))} leaves; in-place copy "
        f"{found['copy']['GB/s']:.1f} GB/s; SGD alone {found['plain']['ms']:.2f} ms"
    )
    print_table(TITLE, HEADER, rows(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
