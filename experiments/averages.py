"""All averages side by side: on one run of digits, of MNIST digits and of a small byte transformer.

    python -m experiments.averages

writes ``results/averages.json``, a table ``results/averages.md`` and a figure ``results/averages.png``; ``--smoke`` tries
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

from experiments import data, supervised
from experiments._flatness import top_hessian_eigenvalue
from jaxtrain import averaging as a

RESULTS = Path(__file__).parent / "results"
CHECKPOINTS = 20


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is trained, and what is measured of it.

    Attributes:
      says: data, model, optimizer, in words.
      init: ``key -> params``.
      loss: ``(params, batch) -> scalar``.
      batch: ``key -> batch``.
      training: batch on which the training loss and its Hessian are taken.
      validation: batch for SWAD.
      measure: ``params -> number`` on test data.
      metric: what it is.
      optimizer: ``learning rate (or schedule) -> transformation``.
      schedule_free: its schedule-free form at a constant rate.
      rate: the learning rate.
      steps: of a run, a multiple of ``CHECKPOINTS``.
      seeds: how many.
    """

    says: str
    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    batch: Callable[[jax.Array], Any]
    training: Any
    validation: Any
    measure: Callable[[Any], jax.Array]
    metric: str
    optimizer: Callable[[Any], optax.GradientTransformation]
    schedule_free: Callable[[float], optax.GradientTransformation]
    rate: float
    steps: int
    seeds: int


def _images(says, x, y, *, sizes, train, validation, rate, batch, steps, seeds):
    """An MLP on images, of which the last are to test on."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    test = slice(train + validation, None)

    def optimizer(rate):
        return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, momentum=0.9))

    def schedule_free(rate):
        # momentum is schedule-free's own
        return optax.contrib.schedule_free(
            optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(10 * rate)), 10 * rate, b1=0.9
        )

    def draw(key):
        i = jax.random.randint(key, (batch,), 0, train)
        return x[i], y[i]

    return Problem(
        says=says,
        init=functools.partial(supervised.mlp, sizes=sizes),
        loss=lambda params, batch: supervised.cross_entropy(params, *batch),
        batch=draw,
        training=(x[:500], y[:500]),
        validation=(x[train : train + validation], y[train : train + validation]),
        measure=lambda params: supervised.accuracy(params, x[test], y[test]),
        metric="test accuracy",
        optimizer=optimizer,
        schedule_free=schedule_free,
        rate=rate,
        steps=steps,
        seeds=seeds,
    )


def digits(smoke: bool) -> Problem:
    """scikit-learn's digits and the MLP of the claims."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x, y = (bunch.data[order] / 8 - 1).astype(np.float32), bunch.target[order].astype(np.int32)
    return _images(
        "500 training, 200 validation and 1,097 test images of scikit-learn's digits; MLP 64-128-10; SGD, rate 0.05, "
        "momentum 0.9, weight decay 5e-4, batch 32, 1,200 steps",
        x, y, sizes=(64, 128, 10), train=500, validation=200, rate=0.05, batch=32,
        steps=40 if smoke else 1200, seeds=2 if smoke else 4,
    )  # fmt: skip


def mnist(smoke: bool) -> Problem:
    """5,000 MNIST digits."""
    x, y = data.mnist_5k()
    order = np.random.default_rng(0).permutation(len(y))
    return _images(
        "3,000 training, 500 validation and 1,500 test images of MNIST; MLP 784-64-10; SGD, rate 0.05, momentum 0.9, "
        "weight decay 5e-4, batch 32, 800 steps",
        x[order], y[order], sizes=(784, 64, 10), train=3000, validation=500, rate=0.05, batch=32,
        steps=40 if smoke else 800, seeds=2,
    )  # fmt: skip


def transformer(smoke: bool) -> Problem:
    """A small decoder on bytes of documentation; lower is better."""
    from jaxtrain.workloads.bytes import Transformer, load

    length, size = 32, 16
    model = Transformer(width=32, layers=2, heads=2, length=length)
    train, rest = (jnp.asarray(part, jnp.int32) for part in load())

    def windows(text, starts):
        return text[starts[:, None] + jnp.arange(length + 1)]

    def loss(params, tokens):
        logits = model.apply(params, tokens[:, :-1])
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    starts = np.random.default_rng(0).integers(0, len(rest) - length, 192)
    test = windows(rest, jnp.asarray(starts[:128]))
    return Problem(
        says="0.4 MB of Python's documentation as bytes; decoder of width 32, two blocks, 32 bytes of context; AdamW, rate "
        "0.003, batch 16, 400 steps; held-out bits per byte",
        init=lambda key: model.init(key, jnp.zeros((1, length), jnp.int32)),
        loss=loss,
        batch=lambda key: windows(train, jax.random.randint(key, (size,), 0, len(train) - length)),
        training=windows(train, jnp.asarray(np.random.default_rng(1).integers(0, len(train) - length, 64))),
        validation=windows(rest, jnp.asarray(starts[128:])),
        measure=lambda params: loss(params, test) / jnp.log(2.0),
        metric="bits per byte",
        optimizer=lambda rate: optax.adamw(rate, b2=0.99, weight_decay=0.01),
        schedule_free=lambda rate: optax.contrib.schedule_free_adamw(rate, b2=0.99, weight_decay=0.01),
        rate=3e-3,
        steps=40 if smoke else 400,
        seeds=2,
    )


PROBLEMS = {"digits": digits, "mnist_5k": mnist, "bytes": transformer}


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


def table(result: dict[str, Any]) -> str:
    """The page with the tables, from the result."""
    lines = ["# Averages side by side", "", f"Written by `{result['command']}`.", ""]
    lines += [(__doc__ or "").partition("``--smoke``")[2].partition("nothing. ")[2].strip(), ""]
    lines += ["Mean over seeds ± standard deviation over seeds.", ""]
    for name, found in result["problems"].items():
        lines += [f"## {name}", "", f"{found['says']}; {found['seeds']} seeds.", ""]
        lines += [f"| average | {found['metric']} | training loss | largest Hessian eigenvalue |", "|---|---|---|---|"]
        for average, values in found["found"].items():
            cells = []
            for key, form in (
                ("final", "{:.4f} ± {:.4f}"),
                ("training_loss", "{:.4f} ± {:.4f}"),
                ("sharpness", "{:.3g} ± {:.2g}"),
            ):
                cells.append(form.format(np.mean(values[key]), np.std(values[key], ddof=1)))
            lines.append(f"| {average} | {' | '.join(cells)} |")
        lines.append("")
    cost = result["cost"]
    lines += [
        "## Cost of a step",
        "",
        f"{cost['machine']}. {cost['parameters']:,} parameters; SGD alone takes {cost['plain ms']:.2f} ms. What an average "
        "adds, against the memory that it must move at the bandwidth of an in-place copy (`jaxtrain bench averaging`).",
        "",
        "| average | added ms | floor ms | × floor | models kept |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in cost["rows"]]
    return "\n".join([*lines, "", "![averages](averages.png)"]) + "\n"


def draw(result: dict[str, Any], path: Path) -> None:
    """Curves over the run, and the final value against flatness."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problems = result["problems"]
    figure, axes = plt.subplots(
        2, len(problems), figsize=(4.2 * len(problems), 6.4), layout="constrained", squeeze=False
    )
    for (name, found), above, below in zip(problems.items(), *axes, strict=True):
        last = np.array([np.mean(v["curve"], 0)[len(v["curve"][0]) // 4 :] for v in found["found"].values()])
        for i, (average, values) in enumerate(found["found"].items()):
            style = {"color": plt.get_cmap("tab20")(i % 20), "lw": 1.1, "label": average}
            curve = np.mean(values["curve"], 0)
            above.plot(np.linspace(0, 1, len(curve) + 1)[1:], curve, **style)
            below.plot(np.mean(values["sharpness"]), np.mean(values["final"]), "o", ms=5, color=style["color"])
        pad = 0.05 * (last.max() - last.min())
        above.set_ylim(last.min() - pad, last.max() + pad)
        above.set_title(f"{name}: {found['metric']}", fontsize=9, loc="left")
        above.set_xlabel("share of the run", fontsize=8)
        below.set_xscale("log")
        below.set_xlabel("largest Hessian eigenvalue of the training loss", fontsize=8)
        below.set_ylabel(found["metric"], fontsize=8)
        for axis in (above, below):
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=7)
    figure.savefig(path, dpi=80)
    plt.close(figure)


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
    file = RESULTS / "averages.json"
    if arguments.draw:
        result = json.loads(file.read_text(encoding="utf-8"))
    else:
        from experiments.benchmarks import averaging
        from experiments.benchmarks._timing import machine

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
        if arguments.smoke or arguments.only:
            return 0
        cost = averaging.measure(rounds=9)
        result = _plain(
            {
                "command": "python -m experiments.averages",
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
        file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (RESULTS / "averages.md").write_text(table(result))
    draw(result, RESULTS / "averages.png")
    print("written: experiments/results/averages.json, .md and .png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
