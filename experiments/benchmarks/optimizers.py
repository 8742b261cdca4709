"""The cost of transformations: ours against optax's nearest, and against the memory that must move.

A step is a donated, jitted update and apply on the parameters of a small GPT-2 (76 leaves, 23.6 M parameters with
``--scale 1``). The floor is the bytes that the step must read and write (parameters, gradients and every array of the
state; gradients are only read) over the bandwidth of a donated in-place ``a + 1`` measured in the same process.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks._timing import machine, print_table, side_by_side

TITLE = "Optimizers and averages against optax's nearest and against memory bandwidth"


class Candidate(NamedTuple):
    """What is timed, next to what.

    Attributes:
      make: the transformation.
      nearest: name of optax's nearest; itself for a reference.
    """

    make: Callable[[], optax.GradientTransformation]
    nearest: str


def candidates() -> dict[str, Candidate]:
    """References of optax, then ours."""
    from jaxtrain.averaging import swa, switch_ema
    from jaxtrain.optimizers import adahessian, soap

    def with_average(average):
        return lambda: optax.chain(optax.adamw(1e-3), average)

    return {
        "optax.sgd": Candidate(lambda: optax.sgd(1e-3), "optax.sgd"),
        "optax.adamw": Candidate(lambda: optax.adamw(1e-3), "optax.adamw"),
        "optax.adamw + ema of updates": Candidate(
            lambda: optax.chain(optax.adamw(1e-3), optax.ema(0.999)), "optax.adamw + ema of updates"
        ),
        "adamw + swa": Candidate(with_average(swa(start_step=0, period=1)), "optax.adamw + ema of updates"),
        "adamw + switch_ema": Candidate(
            with_average(switch_ema(decay=0.999, switch_every=100)), "optax.adamw + ema of updates"
        ),
        "adahessian": Candidate(lambda: adahessian(1e-3), "optax.adamw"),
        "soap, no refresh timed": Candidate(
            lambda: soap(1e-3, precondition_frequency=10**9, max_precond_dim=2048), "optax.adamw"
        ),
        "soap, refresh every 10": Candidate(
            lambda: soap(1e-3, precondition_frequency=10, max_precond_dim=2048), "optax.adamw"
        ),
    }


def shapes(scale: float) -> dict[str, tuple[int, ...]]:
    """The leaves of a GPT-2 of width 384·scale with six layers; 1: 23.6 M parameters less some."""
    width = max(8, int(384 * scale) // 8 * 8)
    found = {"embedding": (max(64, int(32_768 * scale)), width), "positions": (256, width)}
    for i in range(6):
        layer = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
        for name, shape in layer.items():
            found[f"{i}/{name}/kernel"], found[f"{i}/{name}/bias"] = shape, shape[-1:]
        for name in ("norm1", "norm2"):
            found[f"{i}/{name}/scale"], found[f"{i}/{name}/bias"] = (width,), (width,)
    return found | {"norm/scale": (width,), "norm/bias": (width,)}


def _nbytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


class _Run:
    """Steps of one transformation from where it stopped, all buffers donated but the gradients'."""

    def __init__(self, tx: optax.GradientTransformation, params: Any, grads: Any, steps: int):
        self.tx, self.grads, self.steps = optax.with_extra_args_support(tx), grads, steps
        self.params = jax.tree.map(jnp.copy, params)
        # copied: a state may hold the very arrays of the parameters, which cannot be donated twice
        self.state = jax.tree.map(jnp.copy, self.tx.init(self.params))
        # the gradients are only read; the parameters and the state are read and written
        self.bytes = 2 * (_nbytes(self.params) + _nbytes(self.state)) + _nbytes(grads)

        def step(params, state, grads):
            extras = {"hessian_diag": grads} if _takes_hessian(tx) else {}
            updates, state = self.tx.update(grads, state, params, **extras)
            return optax.apply_updates(params, updates), state

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self) -> Any:
        for _ in range(self.steps):
            self.params, self.state = self.step(self.params, self.state, self.grads)
        return self.params


def _takes_hessian(tx: optax.GradientTransformation) -> bool:
    from jaxtrain.optimizers import AdaHessianState

    state = jax.eval_shape(tx.init, jnp.zeros(1))
    return any(isinstance(x, AdaHessianState) for x in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "nu")))


class _Copy:
    """The floor: ``a + 1`` in place."""

    def __init__(self, count: int):
        self.a = jnp.zeros(count, jnp.float32)
        self.step = jax.jit(lambda a: a + 1, donate_argnums=0)

    def __call__(self) -> Any:
        self.a = self.step(self.a)
        return self.a


def measure(
    names: list[str] | None = None, *, scale: float = 1.0, rounds: int = 15, steps: int = 1
) -> dict[str, dict[str, float]]:
    """Milliseconds, ratio to optax's nearest and to the floor of every transformation.

    Raises:
      AssertionError: a transformation moved no parameter.
    """
    table = candidates()
    names = list(table) if names is None else names
    names += [n for n in dict.fromkeys(table[name].nearest for name in names) if n not in names]
    tree = shapes(scale)
    key = jax.random.key(0)
    params = {n: 0.02 * jax.random.normal(jax.random.fold_in(key, i), s) for i, (n, s) in enumerate(tree.items())}
    grads = jax.tree.map(lambda p: 0.1 * p + 0.01, params)
    runs = {name: _Run(table[name].make(), params, grads, steps) for name in names}
    # well above the caches, however small the model
    copy = _Copy(max(2 * sum(p.size for p in params.values()), 1 << 24))
    timings = side_by_side({**runs, "copy": copy}, rounds=rounds)
    bandwidth = 2 * copy.a.nbytes / timings.median("copy")
    found = {"copy": {"GB/s": bandwidth / 1e9, "ms": 1e3 * timings.median("copy")}}
    for name, run in runs.items():
        moved = [bool(jnp.any(run.params[n] != params[n])) for n in tree]
        assert all(moved), (
            f"{name} left {tree.keys() - {n for n, m in zip(tree, moved, strict=True) if m}} where they were"
        )
        seconds = timings.median(name) / steps
        found[name] = {
            "ms": 1e3 * seconds,
            "MB": run.bytes / 1e6,
            "× floor": seconds / (run.bytes / bandwidth),
            "× nearest": float(np.median(timings.seconds[name] / timings.seconds[table[name].nearest])),
        }
    return found


def main(argv: list[str] | None = None) -> int:
    """``jaxtrain bench optimizers``."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench optimizers", description=TITLE)
    parser.add_argument("--scale", type=float, default=1.0, help="width of the model, 1 is 24 M parameters")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is timed")
    parser.add_argument("--steps", type=int, default=1, help="steps in one timing")
    parser.add_argument("--only", nargs="+", choices=list(candidates()), metavar="NAME", help="these only")
    arguments = parser.parse_args(argv)
    found = measure(arguments.only, scale=arguments.scale, rounds=arguments.rounds, steps=arguments.steps)
    count = sum(int(np.prod(s)) for s in shapes(arguments.scale).values())
    copy = found.pop("copy")
    rows = [
        (
            name,
            f"{r['ms']:.2f}",
            f"{r['MB']:.0f}",
            f"{r['× floor']:.2f}",
            f"{r['× nearest']:.2f}",
            candidates()[name].nearest,
        )
        for name, r in found.items()
    ]
    print(machine())
    print(
        f"{count / 1e6:.1f} M parameters in {len(shapes(arguments.scale))} leaves; in-place copy {copy['GB/s']:.1f} GB/s"
    )
    print_table(TITLE, ("transformation", "ms", "MB moved", "× floor", "× nearest", "nearest"), rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
