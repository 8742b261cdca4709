"""Steps and time to a target, of all optimizers on three fixed problems with equal tuning budget.

Every optimizer may try seven learning rates, half a decade apart, around its usual one, each on two seeds; the rate
that reaches the target in the fewest steps is run on five others. All rates warm up over a twentieth of the steps and
then decay linearly to zero, where the optimizer takes a schedule. A target is a fixed loss on fixed data, set a little
above what tuned AdamW ends at. A run that never gets there counts as not reaching it, whatever its loss.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import supervised
from experiments.benchmarks._table import Entry, extra_arguments, table
from experiments.benchmarks._timing import machine, print_table

TITLE = "Steps and time to a target with equal tuning budgets"
RESULTS = Path(__file__).parents[1] / "results"
STEPS, EVERY = 400, 10
FACTORS = tuple(10.0 ** (k / 2) for k in range(-3, 4))
TUNING, SEEDS = 2, 5


class Problem(NamedTuple):
    """What is minimised.

    Attributes:
      init: ``key -> params``.
      loss: ``(params, batch) -> scalar``.
      data: all training examples, a tree with a leading axis.
      measured: the batch on which the target is measured.
      batch_size: examples in a step.
      target: a loss on ``measured``.
      what: in words.
    """

    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    data: Any
    measured: Any
    batch_size: int
    target: float
    what: str


def _badly_scaled() -> Problem:
    data = supervised.breast_cancer()
    x = data.x * np.logspace(-1.5, 1.5, data.x.shape[1], dtype=np.float32)
    batch = (x, data.y)

    def loss(params, batch):
        x, y = batch
        return optax.losses.sigmoid_binary_cross_entropy(x @ params["w"] + params["b"], y).mean()

    return Problem(
        lambda key: {"w": 0.01 * jax.random.normal(key, (x.shape[1],)), "b": jnp.zeros(())},
        loss, batch, batch, 64, 0.06,
        "logistic regression on breast cancer data, features scaled over three decades; training loss",
    )  # fmt: skip


def _digits() -> Problem:
    data = supervised.digits(1400, validation=False)
    return Problem(
        functools.partial(supervised.mlp, sizes=(64, 48, 48, 10)),
        lambda params, batch: supervised.cross_entropy(params, *batch),
        (data.x, data.y), (data.x, data.y), 64, 0.003,
        "an MLP 64-48-48-10 on scikit-learn's digits; training loss",
    )  # fmt: skip


def _text() -> Problem:
    from jaxtrain.workloads.bytes import load

    context = 6
    train, held = (
        np.lib.stride_tricks.sliding_window_view(part[:n], context + 1)
        for part, n in zip(load(), (200_000, 4_000), strict=True)
    )

    def init(key):
        table, rest = jax.random.split(key)
        return {
            "table": 0.3 * jax.random.normal(table, (128, 16)),
            "mlp": supervised.mlp(rest, (16 * context, 64, 128)),
        }

    def loss(params, windows):
        windows = jnp.minimum(windows, 127).astype(jnp.int32)
        x = params["table"][windows[:, :-1]].reshape(len(windows), -1)
        logits = supervised.logits(params["mlp"], x)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, windows[:, -1]).mean() / jnp.log(2.0)

    return Problem(
        init, loss, train, held[::2], 128, 3.2,
        "the next byte of Python's documentation from six, an embedding and an MLP; held-out bits",
    )  # fmt: skip


PROBLEMS: dict[str, Callable[[], Problem]] = {"badly scaled": _badly_scaled, "digits": _digits, "text": _text}


def _run(entry: Entry, problem: Problem, steps: int, key: jax.Array, rate: jax.Array) -> jax.Array:
    """Losses on the measured batch after every so many steps."""
    warm = max(1, steps // 20)

    def linear(count):
        return rate * jnp.minimum((count + 1) / warm, jnp.maximum(0.0, (steps - count) / (steps - warm)))

    tx = optax.with_extra_args_support(entry.make(linear if entry.scheduled else rate))
    start, order = jax.random.split(key)
    params = problem.init(start)
    n = len(jax.tree.leaves(problem.data)[0])

    def step(carry, key):
        params, state = carry
        chosen = jax.random.randint(key, (problem.batch_size,), 0, n)
        batch = jax.tree.map(lambda x: jnp.asarray(x)[chosen], problem.data)

        def loss(p):
            return problem.loss(p, batch)

        more = extra_arguments(entry, loss, params, key)
        updates, state = tx.update(jax.grad(loss)(params), state, params, **more)
        return (optax.apply_updates(params, updates), state), None

    def part(carry, keys):
        carry, _ = jax.lax.scan(step, carry, keys)
        return carry, problem.loss(carry[0], jax.tree.map(jnp.asarray, problem.measured))

    keys = jax.random.split(order, steps).reshape(steps // EVERY, EVERY)
    return jax.lax.scan(part, (params, tx.init(params)), keys)[1]


def steps_to(losses: np.ndarray, target: float) -> np.ndarray:
    """Steps after which a curve of ``(…, points)`` losses is first at the target; infinite where it never is.

    >>> steps_to(np.array([[3.0, 1.0, 2.0], [3.0, np.nan, 2.0]]), 1.5)
    array([20., inf])
    """
    reached = losses <= target
    return np.where(reached.any(-1), (1.0 + reached.argmax(-1)) * EVERY, np.inf)


def measure_one(entry: Entry, problem: Problem, *, steps: int = STEPS, smoke: bool = False) -> dict[str, Any]:
    """The tuned optimizer on a problem: its rate, steps to target of every seed, final losses, seconds a step."""
    # one run after the other: on a CPU batching small runs gains little, and conditions stay conditions
    run = jax.jit(functools.partial(_run, entry, problem, steps))
    factors = FACTORS[2:5] if smoke else FACTORS
    rates = [jnp.float32(entry.rate * f) for f in factors]

    def curves(first_seed: int, count: int, rate: jax.Array) -> np.ndarray:
        return np.stack([np.asarray(run(jax.random.key(first_seed + i), rate)) for i in range(count)])

    losses = np.stack([curves(1000, TUNING, rate) for rate in rates])
    taken = np.minimum(steps_to(losses, problem.target), 2 * steps).mean(1)
    final = np.where(np.isfinite(losses[..., -1]), losses[..., -1], np.inf).mean(1)
    best = min(range(len(rates)), key=lambda i: (taken[i], final[i]))
    start = time.perf_counter()
    measured = curves(0, 2 if smoke else SEEDS, rates[best])
    seconds = time.perf_counter() - start
    return {
        "rate": float(rates[best]),
        "at_edge": best in (0, len(rates) - 1),
        "steps": [float(s) for s in steps_to(measured, problem.target)],
        "final": [float(x) for x in measured[:, -1]],
        "us_per_step": 1e6 * seconds / (len(measured) * steps),
    }


def profile(steps: dict[str, dict[str, float]], at: float) -> dict[str, float]:
    """The fraction of problems that each optimizer solves within ``at`` times the fewest steps of any.

    >>> profile({"a": {"p": 100.0, "q": 40.0}, "b": {"p": 120.0, "q": np.inf}}, at=1.25)
    {'a': 1.0, 'b': 0.5}
    """
    problems = {p for found in steps.values() for p in found}
    best = {p: min(found.get(p, np.inf) for found in steps.values()) for p in problems}
    return {
        name: sum(bool(np.isfinite(found.get(p, np.inf)) and found[p] <= at * best[p]) for p in problems)
        / len(problems)
        for name, found in steps.items()
    }


def measure(names: list[str] | None = None, *, smoke: bool = False, say: Callable[[str], None] = print) -> dict:
    """All results by problem and optimizer."""
    everything = table()
    found: dict[str, dict[str, Any]] = {}
    for label, make in PROBLEMS.items():
        problem = make()
        found[label] = {}
        for name in names or everything:
            one = measure_one(everything[name], problem, steps=40 if smoke else STEPS, smoke=smoke)
            found[label][name] = one
            say(
                f"{label}: {name}: {np.median(one['steps']):g} steps to {problem.target:g} at rate {one['rate']:.2g}"
                f"{' (at the edge of the grid)' if one['at_edge'] else ''}, final {np.median(one['final']):.4f}"
            )
    return found


def rows_of(found: dict) -> list[tuple[str, ...]]:
    """The table: best profile first."""
    steps = {
        name: {label: float(np.median(found[label][name]["steps"])) for label in found}
        for name in next(iter(found.values()))
    }
    shares = {at: profile(steps, at) for at in (1.1, 1.5, 2.0)}
    reference = {label: found[label].get("optax.adamw", {}).get("us_per_step") for label in found}

    def cell(label, name):
        one = found[label][name]
        value = steps[name][label]
        return ("—" if np.isinf(value) else f"{value:.0f}") + ("*" if one["at_edge"] else "")

    def cost(name):
        ratios = [found[label][name]["us_per_step"] / reference[label] for label in found if reference[label]]
        return f"{np.median(ratios):.1f}" if ratios else ""

    order = sorted(steps, key=lambda n: (-sum(shares[at][n] for at in shares), sum(steps[n].values())))
    return [
        (name, *(cell(label, name) for label in found), cost(name), *(f"{shares[at][name]:.2f}" for at in shares))
        for name in order
    ]


COLUMNS = (*PROBLEMS, "× adamw a step", "within 1.1", "within 1.5", "within 2")
DOCS = Path(__file__).parents[2] / "docs"


def page(kept: dict) -> None:
    """Writes ``docs/convergence.md`` and the performance profiles from the kept result."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = kept["found"]
    rows = rows_of(found)
    steps = {row[0]: {label: float(np.median(found[label][row[0]]["steps"])) for label in found} for row in rows}
    factors = np.linspace(1.0, 3.0, 81)
    figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for name, *_ in rows[:10]:
        axis.step(factors, [profile(steps, at)[name] for at in factors], where="post", label=name, lw=1.4)
    axis.set_xlabel("steps, as a multiple of the fewest")
    axis.set_ylabel("fraction of problems solved")
    axis.legend(frameon=False, fontsize=7, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "convergence.png", dpi=90)
    plt.close(figure)
    lines = [
        "# Steps to a target, all optimizers with equal tuning budgets",
        "",
        f"Made by `jaxtrain bench convergence --write` on {kept['machine']}. Do not edit.",
        "",
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        "",
        *(f"- **{label}**: {make().what}, target {make().target:g}." for label, make in PROBLEMS.items()),
        "",
        "Steps are medians of the seeds; —: not reached; *: the best rate was the last of the grid, so that a wider one",
        "may do better. `within x`: the fraction of problems solved in at most x times the fewest steps of any. These are",
        "three small problems at otherwise default settings: methods with long memories (AdEMAMix) or conservative defaults",
        "are not made for 400 steps.",
        "",
        "![performance profiles](../experiments/results/convergence.png)",
        "",
    ]
    table_rows = [("optimizer", *COLUMNS), ("---",) * (len(COLUMNS) + 1), *((f"`{r[0]}`", *r[1:]) for r in rows)]
    lines += [f"| {' | '.join(cell.replace('*', chr(92) + '*') for cell in row)} |" for row in table_rows]
    DOCS.mkdir(exist_ok=True)
    (DOCS / "convergence.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """``jaxtrain bench convergence``."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench convergence", description=TITLE)
    parser.add_argument("--only", nargs="+", choices=list(table()), metavar="NAME", help="these only")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--write", action="store_true", help="keep the result, and write its page, docs/convergence.md")
    arguments = parser.parse_args(argv)
    if arguments.write and (arguments.only or arguments.smoke):
        parser.error("--write keeps the whole table: without --only and --smoke")
    print(machine(), flush=True)
    found = measure(arguments.only, smoke=arguments.smoke, say=lambda line: print(line, flush=True))
    for label, make in PROBLEMS.items():
        print(f"{label}: {make().what}, target {make().target:g}")
    print("medians of the seeds; —: not reached; *: the best rate was the last of the grid")
    print_table(TITLE, ("optimizer", *COLUMNS), rows_of(found))
    if arguments.write:
        RESULTS.mkdir(exist_ok=True)
        kept = {"machine": machine(), "found": found}
        (RESULTS / "convergence.json").write_text(json.dumps(kept, indent=1) + "\n")
        page(kept)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
