"""What a step costs beyond one that is written by hand: ``jaxtrain bench step``.

Both train the same network with the same chain from the same weights on the same batches, in turns. Both are jitted and
donate their state, so that only what ``make_step`` adds can differ: in the compiled program, and in the number of
arrays that Python hands over. Afterwards their parameters must have changed, and on a CPU be equal to the bit.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks._timing import Carried, machine, print_table, side_by_side
from jaxtrain.core import Aux
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import create_state, make_step

TITLE = "make_step's step against a hand-written jitted one"
LIMIT = 1.02


def _chain() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 100_000)))


def _network(key: jax.Array, width: int, depth: int) -> tuple[Any, Any]:
    keys = jax.random.split(key, depth + 1)
    hidden = [
        {
            "w": jax.random.normal(k, (width, width)) * (2 / width) ** 0.5,
            "scale": jnp.ones(width),
            "bias": jnp.zeros(width),
        }
        for k in keys[:-1]
    ]
    params = {"hidden": hidden, "head": jax.random.normal(keys[-1], (width, 10)) * width**-0.5}
    return params, [{"mean": jnp.zeros(width), "var": jnp.ones(width)} for _ in hidden]


def _forward(params: Any, stats: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, tuple[Any, jax.Array]]:
    x, new = batch["x"], []
    for layer, old in zip(params["hidden"], stats, strict=True):
        x = x @ layer["w"]
        mean, var = x.mean(0), x.var(0)
        x = jax.nn.relu((x - mean) * jax.lax.rsqrt(var + 1e-5) * layer["scale"] + layer["bias"])
        new.append({"mean": 0.9 * old["mean"] + 0.1 * mean, "var": 0.9 * old["var"] + 0.1 * var})
    x = x * jax.random.bernoulli(key, 0.9, x.shape[-1:]) / 0.9
    logits = x @ params["head"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, (new, jnp.mean((logits.argmax(-1) == batch["y"]).astype(jnp.float32)))


def _ours(width: int, depth: int) -> tuple[Callable, Any]:
    def objective(params, model_state, batch, key):
        loss, (new, accuracy) = _forward(params, model_state, batch, key)
        return loss, Aux(new, {"accuracy": accuracy})

    tx, key = _chain(), jax.random.key(0)
    params, stats = _network(key, width, depth)
    state = create_state(params, tx, key, stats)
    return jax.jit(make_step(value_and_grad(objective), tx), donate_argnums=0), state


def _by_hand(width: int, depth: int) -> tuple[Callable, Any]:
    tx, key = _chain(), jax.random.key(0)
    params, stats = _network(key, width, depth)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        params, stats, opt_state, t, key = state
        (loss, (stats, accuracy)), grads = jax.value_and_grad(_forward, has_aux=True)(
            params, stats, batch, jax.random.fold_in(key, t)
        )
        updates, opt_state = tx.update(grads, opt_state, params)
        state = optax.apply_updates(params, updates), stats, opt_state, t + 1, key
        return state, {"loss": loss, "accuracy": accuracy}

    return step, (params, stats, tx.init(params), jnp.zeros((), jnp.int32), jnp.copy(key))


def main(argv: Sequence[str]) -> int:
    """Prints the table; 1 where a ratio is above the limit."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench step", description=TITLE)
    parser.add_argument("--rounds", type=int, default=101, help="default: 101")
    parser.add_argument("--quick", action="store_true", help="few rounds of the smallest size, to see that it works")
    args = parser.parse_args(list(argv))
    if jax.default_backend() == "cpu":
        sizes = [(32, 4, 64, 40), (128, 8, 256, 4), (512, 4, 256, 1)]
    else:
        sizes = [(32, 4, 64, 40), (512, 8, 1024, 20), (4096, 8, 4096, 4)]
    rounds, sizes = (5, sizes[:1]) if args.quick else (args.rounds, sizes)
    print(machine())
    rows, worst, largest = [], 0.0, 0.0
    for width, depth, size, steps in sizes:
        rng = np.random.default_rng(0)
        batch = jax.device_put(
            {
                "x": rng.normal(size=(size, width)).astype(np.float32),
                "y": rng.integers(0, 10, size).astype(np.int32),
            }
        )
        (step, state), (hand, hand_state) = _ours(width, depth), _by_hand(width, depth)
        start = jax.device_get(state.params)
        ours, by_hand = Carried(step, state, batch, steps=steps), Carried(hand, hand_state, batch, steps=steps)
        times = side_by_side({"hand-written": by_hand, "make_step": ours}, rounds=rounds, per_call=steps)
        apart = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), ours.state.params, by_hand.state[0])
        largest = max(largest, *jax.tree.leaves(apart))
        moved = jax.tree.map(lambda a, b: bool(np.any(a != np.asarray(b))), start, ours.state.params)
        assert all(jax.tree.leaves(moved)), "some parameters have not changed"
        assert int(ours.state.step) == (rounds + 2) * steps and step._cache_size() == 1
        name = f"{depth} × {width}, batch {size}"
        rows += [(f"{name}: {row[0]}", *row[1:]) for row in times.rows("hand-written")]
        worst = max(worst, times.ratio("make_step", "hand-written"))
    print_table(TITLE, ("network: step", "ms", "ratio", "quartiles of the ratio"), rows)
    print(f"\nlargest difference of a parameter after all rounds: {largest:g}; worst ratio {worst:.3f}, limit {LIMIT}")
    if jax.default_backend() == "cpu":  # elsewhere two compilations may pick other kernels
        assert largest == 0.0, "the two steps differ"
    return int(worst > LIMIT and not args.quick)


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))
