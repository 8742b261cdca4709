"""A training step of the byte-level transformer with matrix optimizers: ``jaxtrain bench matrix``.

The whole step, model included, of the workload ``bytes`` with SOAP and Shampoo against AdamW's. Bases and roots are
refreshed at every tenth step, so that a step's cost has two levels: ``median`` is that of most steps, ``mean`` includes
its share of the refreshes, ``dearest`` is one step with a refresh.
"""

import argparse
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks._timing import machine, print_table
from jaxtrain.workloads import bytes as workload

TITLE = "A training step of the byte-level transformer with matrix optimizers"
OPTIMIZERS = ("adamw", "soap", "shampoo")
PERIOD = 10


def measure(
    config: workload.Config, *, periods: int = 6, optimizers: tuple[str, ...] = OPTIMIZERS
) -> dict[str, np.ndarray]:
    """Milliseconds of every step, period after period of each optimizer in turns.

    Raises:
      AssertionError: a step changed no parameter.
    """
    states, steps, batches = {}, {}, None
    for name in optimizers:
        experiment = workload.build(dataclasses.replace(config, optimizer=name))
        batches = experiment.batches() if batches is None else batches
        states[name] = jax.jit(experiment.init)(jax.random.key(0), {})
        steps[name] = jax.jit(lambda state, batch, step=experiment.step: step(state, batch, {}), donate_argnums=0)
    batch = jax.tree.map(jnp.asarray, next(batches))
    found: dict[str, list[float]] = {name: [] for name in optimizers}
    for period in range(periods + 1):
        for name in optimizers:
            before = jax.device_get(states[name].params)
            for _ in range(PERIOD):
                start = time.perf_counter()
                states[name], _ = jax.block_until_ready(steps[name](states[name], batch))
                found[name].append(1e3 * (time.perf_counter() - start))
            if period == 0:  # compiles, and starts the bases
                found[name].clear()
            after = jax.device_get(states[name].params)
            moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
            assert all(jax.tree.leaves(moved)), f"{name} left parameters where they were: {moved}"
    return {name: np.array(values) for name, values in found.items()}


COLUMNS = ("optimizer", "median ms", "mean ms", "dearest ms", "mean × adamw", "median × adamw")


def _rows(found: dict[str, np.ndarray]) -> list[tuple[str, ...]]:
    # means of periods side by side: what drifts cancels
    periods = {name: values.reshape(-1, PERIOD).mean(1) for name, values in found.items()}
    return [
        (
            name,
            f"{np.median(values):.2f}",
            f"{values.mean():.2f}",
            f"{np.median(values.reshape(-1, PERIOD).max(1)):.2f}",
            f"{np.median(periods[name] / periods['adamw']):.2f}",
            f"{np.median(values) / np.median(found['adamw']):.2f}",
        )
        for name, values in found.items()
    ]


def _markdown(rows: list[tuple[str, ...]]) -> list[str]:
    head, *body = rows
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *body)]


def page(found: dict[str, np.ndarray], about: str, where: str, command: str) -> str:
    """The table and the cost of every step of a period as a page of the documentation."""
    curve = {name: np.median(values.reshape(-1, PERIOD), axis=0) for name, values in found.items()}
    count = len(next(iter(found.values()))) // PERIOD
    lines = [
        f"# What a training step costs with SOAP and Shampoo ({where.partition(',')[0]})",
        "",
        f"Written by `{command}` on {where}.",
        f"Whole training steps, model included, of the workload `bytes`: {about}.",
        f"{count} periods of {PERIOD} steps of each optimizer in turns; *median* is most steps' cost, *mean* includes the",
        "share of the refreshes, *dearest* is the dearest step of a period (median over periods); ratios compare periods",
        "side by side.",
        "",
        *_markdown([COLUMNS, *((f"`{name}`", *rest) for name, *rest in _rows(found))]),
        "",
        "## Over the steps of a period",
        "",
        f"Bases (SOAP) and roots (Shampoo) are refreshed at every {PERIOD}th step; the steps between use the last ones.",
        "Milliseconds, the median over periods of the step at each place:",
        "",
        *_markdown(
            [
                ("optimizer", *map(str, range(PERIOD)), "carries the refresh"),
                *((f"`{name}`", *(f"{ms:.1f}" for ms in values), _refresh(values)) for name, values in curve.items()),
            ]
        ),
    ]
    return "\n".join(lines) + "\n"


def _refresh(curve: np.ndarray) -> str:
    """The steps of a period that stand out from the others."""
    dear = [str(i) for i in range(PERIOD) if curve[i] > 1.15 * np.median(curve)]
    return f"{', '.join(dear)}: {curve.max() / np.median(curve):.2f} × the others" if dear else "none stands out"


def main(argv: list[str] | None = None) -> int:
    """``jaxtrain bench matrix``."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench matrix", description=TITLE)
    parser.add_argument("--periods", type=int, default=6, help="of ten steps each, timed in turns")
    parser.add_argument("--width", type=int, default=workload.Config.width, help="of the transformer")
    parser.add_argument("--layers", type=int, default=workload.Config.layers, help="of the transformer")
    parser.add_argument("--batch-size", type=int, default=workload.Config.batch_size, help="sequences a step")
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--page", metavar="FILE", help="also write the table and the costs over steps as a page")
    arguments = parser.parse_args(argv)
    config = workload.Config(
        width=arguments.width,
        layers=arguments.layers,
        batch_size=arguments.batch_size,
        bfloat16=arguments.bfloat16,
        steps=10_000,
    )
    print(machine(), flush=True)
    found = measure(config, periods=arguments.periods)
    about = f"width {config.width}, {config.layers} layers, {config.batch_size} × {config.length} bytes"
    print_table(f"{TITLE}: {about}", COLUMNS, _rows(found))
    if arguments.page:
        options = ("periods", "width", "layers", "batch_size")
        words = [f"--{name.replace('_', '-')} {getattr(arguments, name)}" for name in options]
        command = " ".join(["jaxtrain bench matrix", *words, *(["--bfloat16"] if arguments.bfloat16 else [])])
        with open(arguments.page, "w", encoding="utf-8") as file:
            file.write(page(found, about, machine(), command))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
