"""Ensembles as one program against a Python loop over members, and against PyTorch where it is installed."""

import argparse
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks._timing import machine, print_table, side_by_side
from jaxtrain.core import Aux
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import create_state, ensemble, make_step

TITLE = "ensembles: members as one program against a loop over them"
LIMIT = 1.05


def _mlp(key: jax.Array) -> Any:
    sizes = (64, 128, 128, 10)
    keys = jax.random.split(key, 3)
    return [jax.random.normal(k, (a, b)) / a**0.5 for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def _mlp_logits(params: Any, x: jax.Array) -> jax.Array:
    for w in params[:-1]:
        x = jax.nn.relu(x @ w)
    return x @ params[-1]


def _cnn(key: jax.Array) -> Any:
    a, b, c = jax.random.split(key, 3)
    shapes = ((3, 3, 1, 16), (3, 3, 16, 32), (512, 10))
    return [jax.random.normal(k, s) / np.prod(s[:-1]) ** 0.5 for k, s in zip((a, b, c), shapes, strict=True)]


def _cnn_logits(params: Any, x: jax.Array) -> jax.Array:
    x = x.reshape(-1, 8, 8, 1)
    for w, stride in zip(params[:2], (1, 2), strict=True):
        x = jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x)
    return x.reshape(len(x), -1) @ params[2]


def _functions(make: Any, logits: Any) -> tuple[Any, Any]:
    def objective(params, model_state, batch, key):
        log_p = jax.nn.log_softmax(logits(params, batch["x"]))
        return -jnp.mean(jnp.take_along_axis(log_p, batch["y"][:, None], 1)), Aux(model_state, {})

    tx = optax.adamw(1e-3)
    step = make_step(value_and_grad(objective), tx)
    return (lambda key, hyper: create_state(make(key), tx, key)), (lambda state, batch, hyper: step(state, batch))


class _Ensemble:
    def __init__(self, program: Any, batch: Any, steps: int):
        self.program, self.batch, self.steps = program, batch, steps
        self.state = program.init()

    def __call__(self) -> None:
        for _ in range(self.steps):
            self.state, _ = self.program.step(self.state, self.batch)
        jax.block_until_ready(self.state)


class _Loop:
    """What one would write without ensembles: a jitted step, donated, called for each member in turn."""

    def __init__(self, init: Any, step: Any, members: int, batch: Any, steps: int):
        self.states = [init(jax.random.key(seed), {}) for seed in range(members)]
        self.step, self.batch, self.steps = jax.jit(lambda s, b: step(s, b, {}), donate_argnums=0), batch, steps

    def __call__(self) -> None:
        for _ in range(self.steps):
            self.states = [self.step(state, self.batch)[0] for state in self.states]
        jax.block_until_ready(self.states)


def _torch_loop(members: int, batch: Any, steps: int) -> Any:
    """The same MLP in PyTorch, members in turn, fused AdamW; None where PyTorch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    x, y = torch.tensor(np.asarray(batch["x"])), torch.tensor(np.asarray(batch["y"])).long()
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    x, y = x.to(device), y.to(device)
    models = []
    for _ in range(members):
        layers = [torch.nn.Linear(a, b, bias=False) for a, b in ((64, 128), (128, 128), (128, 10))]
        model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]).to(device)
        models.append((model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)))

    def run() -> None:
        for _ in range(steps):
            for model, optimizer in models:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def main(argv: Sequence[str]) -> int:
    """Prints a table for each network; 1 where the mode that ``auto`` picks is slower than the loop by over 5 %."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench ensemble", description=TITLE)
    parser.add_argument("--rounds", type=int, default=9, help="default: 9")
    parser.add_argument("--members", type=int, nargs="+", help="default: 1 4 16 64 (MLP), 1 8 (CNN)")
    parser.add_argument("--quick", action="store_true", help="few rounds of small ensembles, to see that it works")
    args = parser.parse_args(list(argv))
    print(machine())
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(128, 64)).astype(np.float32), "y": rng.integers(0, 10, 128).astype(np.int32)}
    batch = jax.device_put(batch)
    worst, rounds = 0.0, 3 if args.quick else args.rounds
    for name, make, logits, counts, steps in (
        ("MLP 64-128-128-10", _mlp, _mlp_logits, (1, 4, 16, 64), 10),
        ("CNN 3×3×16, 3×3×32", _cnn, _cnn_logits, (1, 8), 2),
    ):
        counts = (2,) if args.quick else args.members or counts
        rows = []
        for members in counts:
            init, step = _functions(make, logits)
            build = functools.partial(ensemble, init, step, seeds=range(members))
            loop = _Loop(init, step, members, batch, steps)
            candidates = {"by hand": loop}
            modes = ("vmap", "map", "loop") if members > 1 else ("solo",)
            candidates |= {mode: _Ensemble(build(mode=mode), batch, steps) for mode in modes}
            if logits is _mlp_logits and (torch_loop := _torch_loop(members, batch, steps)) is not None:
                candidates["torch loop"] = torch_loop
            times = side_by_side(candidates, rounds=rounds, per_call=steps)
            best = min(modes, key=times.median)
            worst = max(worst, times.ratio(best, "by hand"))
            # the work was done, and it was the same: a member has moved and equals the loop's
            for mode in modes:
                done = candidates[mode]
                member = done.program.member(done.state, 0)
                assert int(member.step) == int(loop.states[0].step) == (rounds + 2) * steps
                jax.tree.map(
                    lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-2, atol=5e-3),
                    member.params,
                    loop.states[0].params,
                )
            rows += [
                (
                    f"{members}: {row[0]}{' ← auto' if row[0] == best else ''}",
                    row[1],
                    f"{float(row[1]) / members:.3f}",
                    *row[2:],
                )
                for row in times.rows("by hand")
            ]
        print_table(name, ("members: way", "ms a step", "ms a member", "ratio to by hand", "quartiles"), rows)
    print(f"\nworst ratio of the faster mode to the loop: {worst:.3f}, limit {LIMIT}")
    return int(worst > LIMIT and not args.quick)


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))
