"""All aggregators against all attacks, workers with equal and with different data: accuracy on digits.

    python -m experiments.aggregators

writes ``results/aggregators.json``, the page ``docs/aggregators.md`` and its figure ``results/aggregators.png``; ``--smoke``
tries it and writes nothing. Scikit-learn's digits, 750 images to train on, an MLP 64-32-10, 15 workers of whom 3 attack,
120 rounds with batches of 8 and a worker momentum of 0.9; each worker draws its classes evenly ("alike") or by shares from
Dirichlet(0.3) ("different"). The learning rate of every rule, split and attack is the best of four by the validation
accuracy of two other seeds; shown are means over eight seeds. Rules are told the number of attackers and are otherwise at
their defaults.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments._aggregators_page import draw, page
from experiments.aggregation import _byzantine as b
from jaxtrain import aggregation as ag

ROOT = Path(__file__).parent
RESULT, FIGURE = ROOT / "results" / "aggregators.json", ROOT / "results" / "aggregators.png"
PAGE = ROOT.parent / "docs" / "aggregators.md"
WORKERS, BYZANTINE, SEEDS = 15, 3, 8
RATES = (0.1, 0.4, 1.6, 6.4)
SPLITS = {"alike": None, "different": 0.3}
ATTACKS = {
    "none": "nobody attacks",
    "sign_flip": "minus five times the own momentum",
    "ipm": "minus half the mean of the good ones",
    "alie": "the mean less 1.5 deviations of each coordinate (A Little Is Enough)",
    "mimic": "what the first worker sends",
    "label_flip": "trained on labels 9 − y",
    "gaussian": "noise of deviation 1",
}


def _told(rule: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """As :func:`_byzantine.train` calls it; the number of attackers is known."""
    options = {"num_byzantine": BYZANTINE} | options
    return lambda key, x: (rule(x, **options), {})


def _untold(rule: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda key, x: (rule(x), {})


def _drawn(rule: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda key, x: (rule(key, x), {})


def _mixed(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda key, x: (rule(ag.nearest_neighbor_mixing(x, num_byzantine=BYZANTINE), num_byzantine=BYZANTINE), {})


RULES: dict[str, Callable[..., Any]] = {
    "mean": _untold(ag.mean),
    "median": _untold(ag.coordinate_median),
    "trimmed mean": _told(ag.trimmed_mean),
    "mean around the median": _told(ag.mean_around_median),
    "geometric median": _untold(ag.geometric_median),
    "Krum": _told(ag.krum),
    "Multi-Krum": _told(ag.multi_krum),
    "Bulyan": _told(ag.bulyan),
    "clipping around the median": _untold(lambda x: ag.centered_clip(x, ag.coordinate_median(x), tau=0.3)),
    "flag": _untold(lambda x: ag.flag_aggregate(x)[0]),
    "GAS, Multi-Krum": _drawn(lambda k, x: ag.gas(k, x, num_byzantine=BYZANTINE, num_groups=50, base="krum")[0]),
    "buckets of 2, median": _drawn(lambda k, x: ag.coordinate_median(ag.bucketing(k, x, bucket_size=2))),
    "mixing, trimmed mean": _mixed(ag.trimmed_mean),
    "mixing, Krum": _mixed(ag.krum),
}


def measure(rules: list[str], *, seeds: int = SEEDS, rounds: int = b.ROUNDS) -> dict[str, dict[str, np.ndarray]]:
    """Rule -> test accuracy and learning rate, each ``(splits, attacks, seeds)``."""
    keys = jax.vmap(jax.random.key)(np.arange(seeds, dtype=np.uint32))
    shares = [b.class_shares(jax.random.key(7), WORKERS, alpha) for alpha in SPLITS.values()]
    found = {}
    for name in rules:
        began = time.perf_counter()
        every = b.grid(RULES[name], tuple(ATTACKS), keys, RATES, shares, byzantine=BYZANTINE, rounds=rounds)
        found[name] = {k: every[k] for k in ("test_accuracy", "learning_rate")}
        worst = every["test_accuracy"].mean(axis=2).min(axis=1)
        print(f"{name:<28} worst {worst[0]:.3f} {worst[1]:.3f} ({time.perf_counter() - began:.1f} s)", flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    """Measures everything and writes the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one rule, a few rounds; nothing is written")
    parser.add_argument("--draw", action="store_true", help="page and figure again from the result that is there")
    arguments = parser.parse_args(argv)
    if arguments.draw:
        result = json.loads(RESULT.read_text(encoding="utf-8"))
    else:
        began = time.perf_counter()
        found = measure(["mean"], seeds=2, rounds=3) if arguments.smoke else measure(list(RULES))
        if arguments.smoke:
            return 0
        result = {
            "command": "python -m experiments.aggregators",
            "says": (__doc__ or "").partition("writes nothing. ")[2].strip(),
            "splits": list(SPLITS),
            "attacks": ATTACKS,
            "rates": RATES,
            "seconds": round(time.perf_counter() - began, 1),
            "found": {
                name: {
                    "test_accuracy": np.round(values["test_accuracy"], 5).tolist(),
                    "learning_rate": values["learning_rate"][:, :, 0].tolist(),
                }
                for name, values in found.items()
            },
            "versions": {p: metadata.version(p) for p in ("jax", "jaxlib", "numpy", "scikit-learn")},
            "python": platform.python_version(),
        }
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(result))
    draw(result, FIGURE)
    print("written: experiments/results/aggregators.json, .png and docs/aggregators.md")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
