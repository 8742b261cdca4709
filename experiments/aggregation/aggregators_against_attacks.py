"""All aggregators against all attacks, workers with equal and with different data: accuracy on digits."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.aggregation import _byzantine as b
from experiments.harness import Claim, Comparison
from jaxtrain import aggregation as ag

WORKERS, BYZANTINE = 15, 3
RATES = (0.1, 0.3, 1.0)
ATTACKS = tuple(name for name in b.ATTACKS if name != "constant")
SPLITS = {"alike": None, "different": 0.3}


def _mixed(rule: Any) -> Any:
    return lambda x: rule(ag.nearest_neighbor_mixing(x, num_byzantine=BYZANTINE))


_trimmed = functools.partial(ag.trimmed_mean, num_byzantine=BYZANTINE)
_krum = functools.partial(ag.krum, num_byzantine=BYZANTINE)
RULES: dict[str, Any] = {
    "mean": ag.mean,
    "median": ag.coordinate_median,
    "trimmed mean": _trimmed,
    "geometric median": ag.geometric_median,
    "Krum": _krum,
    "Multi-Krum": functools.partial(ag.multi_krum, num_byzantine=BYZANTINE),
    "Bulyan": functools.partial(ag.bulyan, num_byzantine=BYZANTINE),
    "clipping": lambda x: ag.centered_clip(x, ag.coordinate_median(x), tau=0.3),
    "flag": lambda x: ag.flag_aggregate(x)[0],
    "GAS (Multi-Krum)": lambda key, x: ag.gas(key, x, num_byzantine=BYZANTINE, num_groups=50)[0],
    "buckets of 2 + median": lambda key, x: ag.coordinate_median(ag.bucketing(key, x, bucket_size=2)),
    "mixing + trimmed mean": _mixed(_trimmed),
    "mixing + Krum": _mixed(_krum),
}
DRAWS = {"GAS (Multi-Krum)", "buckets of 2 + median"}


def _arm(keys, smoke, *, name):
    fn = RULES[name]
    rule = (lambda key, x: (fn(key, x), {})) if name in DRAWS else (lambda key, x: (fn(x), {}))
    run = functools.partial(b.train, rule=rule, names=ATTACKS, byzantine=BYZANTINE, rounds=10 if smoke else b.ROUNDS)
    shares = jnp.stack([b.class_shares(jax.random.key(7), WORKERS, alpha) for alpha in SPLITS.values()])
    # one program: every attack on every split
    grid = jax.vmap(jax.vmap(functools.partial(b.at_the_best_rate, run, keys, RATES), (0, None)), (None, 0))
    accuracy = np.asarray(jax.jit(grid)(jnp.arange(len(ATTACKS)), shares)["test_accuracy"])
    cells = {f"{split}: {a}": accuracy[i, j] for i, split in enumerate(SPLITS) for j, a in enumerate(ATTACKS)}
    return cells | {f"worst, {split}": accuracy[i].min(axis=0) for i, split in enumerate(SPLITS)}


def _means(result: Any) -> tuple[list[str], list[str], np.ndarray]:
    rules = list(result["values"])
    cells = list(result["values"][rules[0]])
    return rules, cells, np.array([[np.mean(result["values"][r][c]) for c in cells] for r in rules])


def table(result: Any) -> str:
    """Mean test accuracy in per cent, rule by rule, as Markdown."""
    rules, cells, means = _means(result)
    lines = ["| rule | " + " | ".join(cells) + " |", "|---" * (len(cells) + 1) + "|"]
    lines += [
        f"| {r} | " + " | ".join(f"{100 * v:.1f}" for v in row) + " |" for r, row in zip(rules, means, strict=True)
    ]
    return "\n".join(lines)


def draw(claim: Any, result: Any, path: Path) -> None:
    """The same as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rules, cells, means = _means(result)
    figure, axis = plt.subplots(figsize=(0.62 * len(cells) + 2.2, 0.34 * len(rules) + 1.6), layout="constrained")
    axis.imshow(means, vmin=0.1, vmax=1.0, cmap="viridis", aspect="auto")
    for i, row in enumerate(means):
        for j, value in enumerate(row):
            color = "black" if value > 0.6 else "white"
            axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=color)
    axis.set_xticks(range(len(cells)), cells, rotation=40, ha="right", fontsize=7)
    axis.set_yticks(range(len(rules)), rules, fontsize=7)
    axis.set_title("test accuracy, %: digits, 3 of 15 workers attack", fontsize=9, loc="left")
    figure.savefig(path, dpi=90)
    plt.close(figure)


CLAIM = Claim(
    paper="study",
    slug="aggregators_against_attacks",
    says="Where workers' data differ, a rule behind nearest-neighbour mixing is more accurate at its worst attack than "
    "without it, and Krum loses more than five points against the mean when nobody attacks.",
    setup="scikit-learn's digits, 750 training images, MLP 64-32-10, 15 workers, 3 of whom attack: minus five times their "
    "own momentum, minus half the mean (ipm), A Little Is Enough (z = 1.5), the first worker's momentum (mimic), labels "
    "flipped, Gaussian of deviation 1, or none. 120 rounds, batches of 8, worker momentum 0.9. Data alike, or classes by "
    "shares from Dirichlet(0.3). Clipping: around the coordinates' median, radius 0.3. GAS: 50 groups.",
    tuning="3 learning rates for each rule, attack and split by the mean validation accuracy of 2 other seeds",
    arms={name: functools.partial(_arm, name=name) for name in RULES},
    comparisons=(
        Comparison(
            "mixing helps the trimmed mean", "mixing + trimmed mean", "trimmed mean", "worst, different", "higher"
        ),
        Comparison("mixing helps Krum", "mixing + Krum", "Krum", "worst, different", "higher"),
        Comparison("Krum loses without an attack", "mean", "Krum", "different: none", "higher", 0.05),
    ),
    seeds=5,
    claimed_by="arXiv 2302.01772 and 2012.10333",
)
