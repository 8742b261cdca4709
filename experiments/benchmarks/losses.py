"""Cross-entropy and its relatives at a large vocabulary: time and peak memory against optax's.

Three tables: losses of logits that are there; the last layer with its loss, the logits stored or made in chunks; and
softmax itself in three passes or two (Dukhan, Ablavatski 2020, arXiv 2001.04438). Memory is XLA's account of what a
compiled program holds besides its arguments and results.
"""

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks._timing import machine, print_table, side_by_side
from jaxtrain import losses

TITLE = "Losses at a vocabulary of 50,257: time and peak memory against optax's cross-entropy"
MEMORY = 0.25
"""How much of the memory of stored logits the chunked losses may hold."""

_optax = optax.losses.softmax_cross_entropy_with_integer_labels


def of_logits() -> dict[str, Callable[[jax.Array, jax.Array], jax.Array]]:
    """Losses of logits and integer labels; the first is the baseline."""
    return {
        "optax cross-entropy": _optax,
        "comp_sum_loss": losses.comp_sum_loss,
        "generalized_cross_entropy_loss": losses.generalized_cross_entropy_loss,
        "symmetric_cross_entropy_loss": functools.partial(losses.symmetric_cross_entropy_loss, alpha=0.1, beta=1.0),
        "ldr_kl_loss": losses.ldr_kl_loss,
        "stablemax_cross_entropy": losses.stablemax_cross_entropy,
    }


def of_layer(chunk: int) -> dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]]:
    """Mean losses of ``(hidden, kernel, labels)``; the first is the baseline."""

    def reference(h, w, y):
        """What a careful user writes: chunks of logits, made again for the gradient."""
        chunks = h.reshape(-1, min(chunk, len(h)), h.shape[-1]), y.reshape(-1, min(chunk, len(h)))
        return jax.lax.map(jax.checkpoint(lambda x: _optax(x[0] @ w, x[1])), chunks).mean()

    def summed(h, w, y):
        return losses.linear_cross_entropy_sum(h, w, y, jnp.full(len(h), 1 / len(h)), chunk=chunk)

    return {
        "optax, logits stored": lambda h, w, y: _optax(h @ w, y).mean(),
        "optax, in chunks with checkpoint": reference,
        "linear_cross_entropy": lambda h, w, y: losses.linear_cross_entropy(h, w, y, chunk=chunk).mean(),
        "linear_cross_entropy_sum": summed,
    }


def softmaxes() -> dict[str, Callable[[jax.Array], jax.Array]]:
    """Ways to a softmax over the last axis; the first is the baseline."""
    ln2 = np.float32(np.log(2))

    def paired(x, value, start, merge, finish):
        """One pass that reduces pairs (sum, exponent), and a second that scales."""
        total, top = jax.lax.reduce(value(x), start, merge, (x.ndim - 1,))
        return finish(x, total[..., None], top[..., None])

    def merged(power):
        def merge(a, b):
            top = jnp.maximum(a[1], b[1])
            return a[0] * power(a[1] - top) + b[0] * power(b[1] - top), top

        return merge

    def mantissa_exponent(x):
        n = jnp.round(x / ln2)
        return jnp.exp(x - n * ln2), n

    def scaled(x, total, top):
        m, n = mantissa_exponent(x)
        return m * jnp.exp2(n - top) / total

    zero = jnp.float32(0)
    return {
        "jax.nn.softmax (three passes)": jax.nn.softmax,
        "two passes: mantissas and exponents": lambda x: paired(
            x, mantissa_exponent, (zero, jnp.float32(-1e30)), merged(jnp.exp2), scaled
        ),
        "two passes: running maximum": lambda x: paired(
            x,
            lambda x: (jnp.ones_like(x), x),
            (zero, jnp.float32(-jnp.inf)),
            merged(jnp.exp),
            lambda x, total, top: jnp.exp(x - top) / total,
        ),
        "no maximum at all (overflows)": lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x), axis=-1, keepdims=True),
    }


def measure(programs: Mapping[str, Callable[..., Any]], args: Sequence[jax.Array], rounds: int) -> list[dict]:
    """A row for each program, compared with the first: milliseconds, ratios, megabytes, difference of the results."""
    compiled = {name: jax.jit(fn).lower(*args).compile() for name, fn in programs.items()}
    times = side_by_side({name: functools.partial(run, *args) for name, run in compiled.items()}, rounds=rounds)
    first = next(iter(programs))
    held = {name: run.memory_analysis().temp_size_in_bytes for name, run in compiled.items()}
    wanted = jax.tree.leaves(compiled[first](*args))
    rows = []
    for name, run in compiled.items():
        pairs = zip(jax.tree.leaves(run(*args)), wanted, strict=True)
        rows.append(
            {
                "name": name,
                "ms": 1e3 * times.median(name),
                "ratio": times.ratio(name, first),
                "quartiles": times.ratio_range(name, first),
                "megabytes": held[name] / 2**20,
                "memory": held[name] / max(held[first], 1),
                "difference": max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in pairs),
            }
        )
    return rows


def _print(title: str, rows: Sequence[Mapping[str, Any]], same: bool) -> None:
    header = ("", "ms", "× first", "quartiles", "MiB held", *(("largest difference",) if same else ()))
    print_table(
        title,
        header,
        [
            (
                row["name"],
                f"{row['ms']:.1f}",
                f"{row['ratio']:.2f}",
                "{:.2f} … {:.2f}".format(*row["quartiles"]),
                f"{row['megabytes']:.1f}",
                *((f"{row['difference']:.1e}",) if same else ()),
            )
            for row in rows
        ],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """``jaxtrain bench losses``; 1 where a chunked loss holds more than a quarter or gives another result."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench losses", description=TITLE)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--tokens", type=int, default=1024, help="of the last layer; half as many for given logits")
    parser.add_argument("--width", type=int, nargs="+", default=[64, 256], help="of what enters the last layer")
    parser.add_argument("--chunk", type=int, default=128, help="tokens whose logits are there at once")
    parser.add_argument("--rounds", type=int, default=11, help="how often each is timed")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    args = parser.parse_args(argv)
    if args.quick:
        args.vocabulary, args.tokens, args.width, args.chunk, args.rounds = 500, 64, [8], 8, 2
    if args.tokens % args.chunk:
        parser.error(f"--tokens {args.tokens} is no multiple of --chunk {args.chunk}")
    print(machine())
    v, n, keys = args.vocabulary, args.tokens, jax.random.split(jax.random.key(0), 4)
    half = n // 2
    x, y = 2 * jax.random.normal(keys[0], (half, v)), jax.random.randint(keys[1], (n,), 0, v)
    graded = {
        name: jax.value_and_grad(lambda x, f=f: f(x, y[:half]).mean()) for name, f in of_logits().items()
    }  # fmt: skip
    _print(f"Value and gradient, {half} × {v:,} logits", measure(graded, (x,), args.rounds), same=False)
    valued = {name: lambda x, f=f: f(x, y[:half]) for name, f in of_logits().items()}
    _print(f"Value alone, {half} × {v:,} logits", measure(valued, (x,), args.rounds), same=False)
    missed = []
    for width in args.width:
        h = jax.random.normal(keys[2], (n, width))
        w = jax.random.normal(keys[3], (width, v)) / np.sqrt(width)
        layer = {name: jax.value_and_grad(f, (0, 1)) for name, f in of_layer(args.chunk).items()}
        rows = measure(layer, (h, w, y), args.rounds)
        _print(f"Last layer {width} → {v:,} and loss, {n} tokens, chunks of {args.chunk}", rows, same=True)
        # float32: sums of 1,024 terms in another order
        missed += [
            r for r in rows if r["difference"] > 1e-4 or (r["name"].startswith("linear") and r["memory"] > MEMORY)
        ]
    _print(f"Softmax of {half} × {v:,}", measure(softmaxes(), (x,), args.rounds), same=True)
    for row in missed:
        print(f"missed: {row}")
    return int(bool(missed) and not args.quick)


if __name__ == "__main__":
    raise SystemExit(main())
