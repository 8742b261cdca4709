"""UPGrad side by side with torchjd, and what the other rules of several objectives cost.

Where torch or torchjd is missing its columns say so. Three kinds of gradients: independent ones, ones of a quarter of the
rank, and ones with a common conflict; the solver needs the more factorisations the more of them conflict.
"""

import argparse
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks._timing import machine, print_table, side_by_side

TITLE = "Aggregation of several objectives: UPGrad against torchjd, and the other rules"
LIMITS = {64: 2.0, 128: 5.0}
"""How many times faster than torchjd UPGrad has to be, by the number of objectives."""
AGREEMENT = 1e-3


def gradients(kind: str, m: int, n: int) -> np.ndarray:
    """``(m, n)`` in single precision."""
    rng = np.random.default_rng(m)
    if kind == "independent":
        x = rng.normal(size=(m, n))
    elif kind == "dependent":
        rank = max(2, m // 4)
        x = rng.normal(size=(m, rank)) @ rng.normal(size=(rank, n)) / np.sqrt(rank)
    else:  # half of them pull one way, half the other
        x = rng.normal(size=(m, n)) + 0.5 * rng.choice([-1.0, 1.0], size=(m, 1)) * rng.normal(size=(1, n))
    return x.astype(np.float32)


def _peer() -> Callable[[np.ndarray], Callable[[], np.ndarray]] | None:
    """torchjd's UPGrad of a matrix, as a call without arguments."""
    try:
        import torch
        from torchjd.aggregation import UPGrad
    except ImportError:
        return None
    aggregator = UPGrad()

    def make(x: np.ndarray) -> Callable[[], np.ndarray]:
        matrix = torch.tensor(x)
        return lambda: aggregator(matrix).numpy()

    return make


def rules() -> dict[str, Callable]:
    """The other rules, with their defaults."""
    from jaxtrain import aggregation as a

    return {
        "mean": lambda x: jnp.mean(x, axis=0),
        "upgrad": a.upgrad,
        "dualproj": a.dualproj,
        "mgda": a.mgda,
        "cagrad": a.cagrad,
        "nash_mtl": a.nash_mtl,
        "imtl_g": a.imtl_g,
        "config": a.config,
        "aligned_mtl": a.aligned_mtl,
        "pcgrad": lambda x: a.pcgrad(jax.random.key(0), x),
        "graddrop": lambda x: a.graddrop(jax.random.key(0), x),
    }


def against_torchjd(sizes: Sequence[int], kinds: Sequence[str], n: int, rounds: int) -> list[dict]:
    """One row for each kind and size: milliseconds, how many times faster, the difference with torchjd's constants."""
    from jaxtrain.aggregation import upgrad

    peer = _peer()
    ours = jax.jit(upgrad)
    same = jax.jit(lambda x: upgrad(x, scaling="trace", norm_eps=1e-4))
    found = []
    for kind in kinds:
        for m in sizes:
            x = gradients(kind, m, n)
            on_device = jnp.asarray(x)
            candidates = {"jaxtrain": lambda g=on_device: ours(g)}
            if peer is not None:
                candidates["torchjd"] = peer(x)
            times = side_by_side(candidates, rounds=rounds)
            row = {"kind": kind, "m": m, "ms": 1e3 * times.median("jaxtrain")}
            if peer is not None:
                want = candidates["torchjd"]()
                row["peer ms"] = 1e3 * times.median("torchjd")
                row["faster"] = times.ratio("torchjd", "jaxtrain")
                row["quartiles"] = times.ratio_range("torchjd", "jaxtrain")
                row["difference"] = float(np.linalg.norm(same(on_device) - want) / np.linalg.norm(want))
            found.append(row)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """``jaxtrain bench objectives``; 1 where UPGrad misses a limit or disagrees with torchjd."""
    parser = argparse.ArgumentParser(prog="jaxtrain bench objectives", description=TITLE)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16, 64, 128], help="numbers of objectives")
    parser.add_argument("--kinds", nargs="+", default=["independent", "dependent", "conflicting"])
    parser.add_argument("--parameters", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15, help="how often each is timed")
    parser.add_argument("--quick", action="store_true", help="the smallest size, to see that it works")
    args = parser.parse_args(argv)
    sizes, kinds, rounds = (args.sizes[:1], args.kinds[:1], 3) if args.quick else (args.sizes, args.kinds, args.rounds)
    print(machine())
    found = against_torchjd(sizes, kinds, args.parameters, rounds)
    wrong = []
    rows = []
    for row in found:
        if "faster" not in row:
            rows.append((row["kind"], row["m"], f"{row['ms']:.2f}", "no torchjd here", "", "", ""))
            continue
        low, high = row["quartiles"]
        rows.append(
            (
                row["kind"],
                row["m"],
                f"{row['ms']:.2f}",
                f"{row['peer ms']:.2f}",
                f"{row['faster']:.1f}",
                f"{low:.1f} … {high:.1f}",
                f"{row['difference']:.1e}",
            )
        )
        if row["faster"] < LIMITS.get(row["m"], 0.0) or row["difference"] > AGREEMENT:
            wrong.append(row)
    header = ("gradients", "objectives", "ms", "torchjd ms", "× faster", "quartiles", "difference")
    print_table(f"UPGrad, {args.parameters:,} parameters, float32", header, rows)
    m = sizes[-1]
    x = jnp.asarray(gradients("independent", m, args.parameters))
    compiled = {name: jax.jit(rule) for name, rule in rules().items()}
    times = side_by_side({name: lambda f=f: f(x) for name, f in compiled.items()}, rounds=rounds)
    header = ("rule", "ms", "× mean", "quartiles")
    print_table(f"All rules, {m} independent gradients, {args.parameters:,} parameters", header, times.rows("mean"))
    for row in wrong:
        print(f"missed: {row}")
    return int(bool(wrong) and not args.quick)


if __name__ == "__main__":
    raise SystemExit(main())
