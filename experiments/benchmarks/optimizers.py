"""The cost of optimizers: against optax's nearest, against PyTorch's, and against the memory that must move.

A step is a donated, jitted update and apply on the parameters of GPT-2 small (148 leaves, 124 M parameters) or of a
ResNet-50 (161 leaves, 25.6 M), with ``--scale`` times their width. The floor is the bytes that the step must read and
write (parameters, gradients and every array of the state; gradients are only read) over the bandwidth of a donated
in-place ``a + 1`` measured in the same rounds. Optimizers that evaluate the model themselves are left out: their cost
is the model's. A method that works at a period is timed over whole periods.
"""

import argparse
import concurrent.futures
import gc
import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxtrain.optimizers as ours
from experiments.benchmarks._table import Entry, table
from experiments.benchmarks._timing import machine, print_table, side_by_side

TITLE = "Optimizers against optax's nearest, PyTorch's and memory bandwidth"
TREES = ("gpt2", "resnet")


def candidates() -> dict[str, Entry]:
    """All optimizers whose updates need no model."""
    return {name: entry for name, entry in table().items() if "value_fn" not in entry.asks}


def shapes(scale: float, tree: str = "gpt2") -> dict[str, tuple[int, ...]]:
    """The leaves of GPT-2 small of width 768·scale with its tied embedding, or of a ResNet-50 of width 64·scale."""
    if tree == "gpt2":
        width = max(8, int(768 * scale) // 8 * 8)
        found = {"embedding": (max(64, int(50_257 * min(scale, 1))), width), "positions": (1024, width)}
        for i in range(12):
            kernels = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width)}
            for name, shape in (kernels | {"down": (4 * width, width)}).items():
                found[f"{i}/{name}/kernel"], found[f"{i}/{name}/bias"] = shape, shape[-1:]
            for name in ("norm1", "norm2"):
                found[f"{i}/{name}/scale"], found[f"{i}/{name}/bias"] = (width,), (width,)
        return found | {"norm/scale": (width,), "norm/bias": (width,)}
    found = {}

    def convolution(name, size, cin, cout):
        found[f"{name}/kernel"] = (size, size, cin, cout)
        found[f"{name}/scale"] = found[f"{name}/bias"] = (cout,)

    base = max(4, int(64 * scale))
    convolution("stem", 7, 3, base)
    cin = base
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = base * 2**stage
        for block in range(blocks):
            name = f"{stage}/{block}"
            convolution(f"{name}/a", 1, cin, width)
            convolution(f"{name}/b", 3, width, width)
            convolution(f"{name}/c", 1, width, 4 * width)
            if block == 0:
                convolution(f"{name}/shortcut", 1, cin, 4 * width)
            cin = 4 * width
    return found | {"head/kernel": (cin, 1000), "head/bias": (1000,)}


def nbytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def lowered(tx: optax.GradientTransformation, shapes_of: Any, asks: Sequence[str] = (), device: Any = None) -> Any:
    """A donated step on parameters of these shapes, traced but not yet compiled; for ``device``, or where JAX computes."""

    def step(params, state, grads):
        given = {"value": jnp.ones(()), "hessian_diag": grads, "key": jax.random.key(0)}
        asked = {"hessian_diag" if name == "grad_fn" else name for name in asks}
        updates, state = tx.update(grads, state, params, **{name: given[name] for name in asked})
        return optax.apply_updates(params, updates), state

    there = {}
    if device is not None:
        there["in_shardings"] = there["out_shardings"] = jax.sharding.SingleDeviceSharding(device)
    step = jax.jit(step, donate_argnums=(0, 1), **there)
    return step.lower(shapes_of, jax.eval_shape(tx.init, shapes_of), shapes_of)


class Run:
    """Steps of one optimizer from where it stopped, all buffers donated but the gradients'."""

    def __init__(self, tx: optax.GradientTransformation, step: Any, steps: int, params: Any, grads: Any):
        self.step, self.grads, self.steps = step, grads, steps
        self.params = jax.tree.map(jnp.copy, params)
        # copied: a state may hold the very arrays of the parameters, which cannot be donated twice
        self.state = jax.tree.map(jnp.copy, jax.jit(tx.init)(self.params))
        self.state_bytes = nbytes(self.state)
        # the gradients are only read; the parameters and the state are read and written
        self.bytes = 2 * (nbytes(self.params) + self.state_bytes) + nbytes(grads)

    def __call__(self) -> Any:
        for _ in range(self.steps):
            self.params, self.state = self.step(self.params, self.state, self.grads)
        return self.params


class _Torch:
    """PyTorch's fused optimizer on the same leaves, on the CPU."""

    def __init__(self, name: str, params: Any, steps: int):
        import torch

        self.steps = steps
        self.params = [torch.from_numpy(np.array(p)) for p in jax.tree.leaves(params)]
        for p in self.params:
            p.grad = 0.1 * p + 0.01
        make = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
        self.optimizer = make(self.params, lr=1e-5, fused=True)

    def __call__(self) -> None:
        for _ in range(self.steps):
            self.optimizer.step()


def _torch_twin(nearest: str) -> str | None:
    if importlib.util.find_spec("torch") is None or jax.default_backend() != "cpu":
        return None
    return {"optax.adamw": "adamw", "optax.sgd": "sgd"}.get(nearest)


class Copy:
    """The floor: ``a + 1`` in place."""

    def __init__(self, count: int, steps: int):
        self.a, self.steps = jnp.zeros(count, jnp.float32), steps
        self.step = jax.jit(lambda a: a + 1, donate_argnums=0)

    def __call__(self) -> Any:
        for _ in range(self.steps):
            self.a = self.step(self.a)
        return self.a


def measure(
    names: list[str] | None = None,
    *,
    tree: str = "gpt2",
    scale: float = 1.0,
    rounds: int = 15,
    seconds: float = 20.0,
    repeat: int = 1,
    fused: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, float]]:
    """Milliseconds, ratio to optax's nearest, to PyTorch and to the floor of every optimizer.

    Each is timed in rounds of its own with its nearest and the copy, and freed: large models fit. Programs are
    compiled side by side before.

    Args:
      names: which; None: all.
      tree: of which model.
      scale: of its width.
      rounds: how often each is timed; fewer where they would take longer than ``seconds``, never under 3.
      seconds: see there.
      repeat: periods in one timing; with several the host hands over the next step while the device works.
      fused: whether each is also timed behind ``fuse_small_leaves``.
      say: is told each result.

    Raises:
      AssertionError: an optimizer moved no parameter.
    """
    found, everything = {}, candidates()
    leaves = shapes(scale, tree)
    key = jax.random.key(0)
    params = {n: 0.02 * jax.random.normal(jax.random.fold_in(key, i), s) for i, (n, s) in enumerate(leaves.items())}
    grads = jax.tree.map(lambda p: 0.1 * p + 0.01, params)
    # well above the caches, however small the model
    copy = Copy(max(2 * sum(p.size for p in params.values()), 1 << 24), repeat)
    shapes_of = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    names = list(names or everything)
    needed = dict.fromkeys(n for name in names for n in (name, everything[name].nearest))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        made = {name: everything[name].make(everything[name].rate * 1e-3) for name in needed}
        if fused:
            made |= {f"{name}, fused": optax.chain(ours.fuse_small_leaves(), made[name]) for name in names}
        made = {name: optax.with_extra_args_support(tx) for name, tx in made.items()}
        entries = {name: everything[name.removesuffix(", fused")] for name in made}
        traced = {name: lowered(tx, shapes_of, entries[name].asks) for name, tx in made.items()}
        compiled = {name: pool.submit(program.compile) for name, program in traced.items()}
        programs = {name: (tx, compiled[name].result(), repeat * entries[name].period) for name, tx in made.items()}
    say(f"compiled {len(programs)} programs")
    for name in names:
        entry = everything[name]
        calls: dict[str, Any] = {name: Run(*programs[name], params, grads)}
        if entry.nearest != name:
            calls[entry.nearest] = Run(*programs[entry.nearest], params, grads)
        if fused:
            calls[f"{name}, fused"] = Run(*programs[f"{name}, fused"], params, grads)
        if twin := _torch_twin(entry.nearest):
            calls["torch"] = _Torch(twin, params, repeat)
        calls["copy"] = copy
        for call in calls.values():  # the first steps may differ: bases are started
            jax.block_until_ready(call())
        start = time.perf_counter()
        for call in calls.values():
            jax.block_until_ready(call())
        fit = int(np.clip(seconds / (time.perf_counter() - start), 3, rounds))
        timings = side_by_side(calls, rounds=fit, warmup=0)
        run = calls[name]
        still = [n for n in leaves if not bool(jnp.any(run.params[n] != params[n]))]
        assert not still, f"{name} left {', '.join(still)} where they were"
        took = timings.seconds[name] / run.steps
        floor = run.bytes * timings.seconds["copy"] / repeat / (2 * copy.a.nbytes)
        found[name] = {
            "ms": 1e3 * float(np.median(took)),
            "state B": run.state_bytes / sum(p.size for p in params.values()),
            "MB": run.bytes / 1e6,
            "GB/s": 2e-9 * repeat * copy.a.nbytes / timings.median("copy"),
            "× floor": float(np.median(took / floor)),
        }
        nearest = timings.seconds[entry.nearest] / calls[entry.nearest].steps
        found[name]["× nearest"] = float(np.median(took / nearest))
        if fused:
            also = timings.seconds[f"{name}, fused"] / calls[f"{name}, fused"].steps
            found[name]["fused × floor"] = float(np.median(also / floor))
        if twin:
            found[name]["× torch"] = float(np.median(took / timings.seconds["torch"] * repeat))
        say(f"{name}: {found[name]['ms']:.2f} ms, {found[name]['× floor']:.2f} × floor")
        del calls, run
        gc.collect()
    return found


COLUMNS = {
    "ms": "ms",
    "state B": "bytes of state a parameter",
    "× floor": "× floor",
    "× nearest": "× optax's nearest",
    "× torch": "× PyTorch's",
    "fused × floor": "small leaves fused: × floor",
}


def _cells(found: dict[str, dict[str, float]], words: bool = False) -> list[tuple[str, ...]]:
    """A head (in ``words`` or short) and a row for each optimizer, of the columns that were measured; the nearest last."""
    everything = candidates()
    columns = [c for c in COLUMNS if any(c in r for r in found.values())]
    rows = [
        (
            name,
            *(f"{r[c]:.2f}" if c in r else "" for c in columns),
            "" if (n := everything[name].nearest) == name else n,
        )
        for name, r in found.items()
    ]
    return [("optimizer", *(COLUMNS[c] if words else c for c in columns), "nearest"), *rows]


def _about(tree: str, scale: float, found: dict[str, dict[str, float]]) -> str:
    leaves = shapes(scale, tree)
    count = sum(int(np.prod(s)) for s in leaves.values())
    bandwidth = np.median([r["GB/s"] for r in found.values()])
    return f"{tree}: {count / 1e6:.1f} M parameters in {len(leaves)} leaves; in-place copy {bandwidth:.0f} GB/s"


FOUND_ON_CPU = """\
## What XLA makes of a step on a CPU

Found in the compiled programs of jaxlib 0.10 (operations, `temp_size_in_bytes`, page faults of a step):

- **New memory costs more than moving it.** What a step stores between is allocated anew at every step: each page of it
  is first faulted in. A stored copy of the parameters (125 MB here, 31 thousand faults) takes about as long as eight
  passes over it, and not always as long: one program of diffGrad took 48 to 65 ms in different runs. With `GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:glibc.malloc.arena_max=1`
  the process keeps the memory: forms of diffGrad and Cautious AdamW that store one and two arrays then took 35 ms instead
  of 53, and 42 instead of 85. The table is measured without.
- **Loops are parallel and are fused as far as one array goes.** Every array of the state is written by a loop of its
  own, and the parameters by another: Adam reads its gradient twice and its moments twice, Adan moves 18 arrays, not 11.
- **Sums are parallel** where a library (YNNPACK) takes them over with all that leads to them: sums, products, quotients,
  roots, powers, signs, absolute values, extrema; not comparisons and selections. They read at the speed of a copy, over rows
  as over columns, without storing anything. What they share with another loop is stored first, even a constant that is
  broadcast: the barrier (`jax.lax.optimization_barrier`) around what is computed again keeps the two apart. A sum of sums of
  rows becomes a second sum over everything, unless a barrier is between.
- **A state that becomes the gradient is copied before**, as nothing says that those who read its old value come first.
  `jaxtrain.core.numerics.after` lets it depend on an entry of what they computed (Adan, MARS, optimistic mirror descent).
- **Random bits of one parameter after the other** are many small programs: those of all parameters are drawn as one.

What that made of the methods: multiples of the floor before (now: see above), what they still store, what is left.

| optimizer | before | now stored between | what is left |
| --- | --- | --- | --- |
| `adafactor` | 8.5 | nothing | three means over gradients, one over parameters: the floor has none of them |
| `adamp`, `sgdp` | 7.9, 10 | nothing | four sums over rows of two or three arrays each |
| `adan`, `mars` | 2.2, 2.4 | nothing | the clipping of MARS reads both gradients twice (largest entry, then norm) |
| `psps`, `alr_heavy_ball` | 4.1, 2.3 | nothing | a norm before the step: gradients and state are read once more |
| `orthogonalized adam` | 3.0 | nothing | four sums, and the orthogonal gradient is computed three times |
| `optimistic_omd` | 2.5 | nothing | the variation of gradients is kept only where the rate follows it |
| `cautious adamw` | 4.4 | the update | what `optax.adamw` returns has a root in it, which XLA does not compute twice |
| `diffgrad` | 2.3 | last gradients | the parameters' loop reads them last, and no optimizer comes after that loop |
| `o2nc` | 4.1 | the last step | as diffGrad |
| `adamw in bfloat16` | 4.1 | moments, in bfloat16 | as diffGrad; the wide moments are computed twice, never stored |
| `ranger21` | 3.8 | the scaled gradient | three kinds of norms before the moments; momenta no longer change places |
| `ademamix`, `amsgrad` | 1.7, 1.4 | nothing | the arrays that optax's move, in as many loops: equal but for noise |
| `gravity` | 1.4 | nothing | the largest entry of each gradient, one pass that momentum SGD has not |
"""


def page(results: dict[str, dict[str, dict[str, float]]], scale: float, where: str, command: str) -> str:
    """The tables as a page of the documentation."""
    lines = [
        f"# What a step of an optimizer costs ({where.partition(',')[0]})",
        "",
        f"Written by `{command}` on {where}; medians of rounds in which all of a row took turns. The floor is the bytes",
        "that a step must read and write over the bandwidth of an in-place copy in the same rounds; ratios compare time.",
        "Methods that work at a period (Shampoo, SOAP, subspace momentum) are timed over whole periods.",
    ]
    for tree, found in results.items():
        head, *rows = _cells(found, words=True)
        rows = [tuple(f"`{c}`" if c and i in (0, len(head) - 1) else c for i, c in enumerate(r)) for r in rows]
        lines += ["", f"## Cost on {_about(tree, scale, found)}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
    if "(cpu)" in where:
        lines += ["", FOUND_ON_CPU.rstrip()]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """``jaxtrain bench optimizers``."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench optimizers", description=TITLE)
    parser.add_argument("--tree", nargs="+", choices=TREES, default=["gpt2"], help="whose parameters")
    parser.add_argument("--scale", type=float, default=1.0, help="of the model's width")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is timed, at most")
    parser.add_argument("--seconds", type=float, default=20.0, help="for the rounds of one optimizer, about")
    parser.add_argument("--repeat", type=int, default=1, help="periods in one timing; 10 on accelerators")
    parser.add_argument("--only", nargs="+", choices=list(candidates()), metavar="NAME", help="these only")
    parser.add_argument("--fused", action="store_true", help="also behind fuse_small_leaves, which is for GPUs")
    parser.add_argument("--page", metavar="FILE", help="also write the tables as a page of the documentation")
    arguments = parser.parse_args(argv)
    print(machine(), flush=True)
    results = {}
    for tree in arguments.tree:
        results[tree] = measure(
            arguments.only,
            tree=tree,
            scale=arguments.scale,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            repeat=arguments.repeat,
            fused=arguments.fused,
            say=lambda line: print(line, flush=True),
        )
        print(_about(tree, arguments.scale, results[tree]))
        head, *rows = _cells(results[tree])
        print_table(TITLE, head, rows)
    if arguments.page:
        words = [
            "jaxtrain bench optimizers",
            "--tree",
            *arguments.tree,
            "--scale",
            f"{arguments.scale:g}",
            "--repeat",
            str(arguments.repeat),
        ]
        if arguments.fused:
            words.append("--fused")
        if arguments.only:
            words += ["--only", *(f"'{name}'" if " " in name else name for name in arguments.only)]
        with open(arguments.page, "w", encoding="utf-8") as file:
            file.write(page(results, arguments.scale, machine(), " ".join(words)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
