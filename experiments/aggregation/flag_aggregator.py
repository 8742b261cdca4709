"""The flag aggregator against Bulyan, Multi-Krum and the median under three plain attacks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.aggregation import _byzantine as b
from experiments.harness import Claim, Comparison
from jaxtrain.aggregation import bulyan, coordinate_median, flag_aggregate, multi_krum

WORKERS, BYZANTINE = 15, 3
ATTACKS = ("gaussian", "sign_flip", "constant")
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
RULES = {
    "bulyan": functools.partial(bulyan, num_byzantine=BYZANTINE),
    "multi_krum": functools.partial(multi_krum, num_byzantine=BYZANTINE),
    "median": coordinate_median,
}


def _rule(name, key, sent):
    if name == "flag":
        aggregate, ratios = flag_aggregate(sent)
        honest = WORKERS - BYZANTINE
        return aggregate, {"ratio_gap": jnp.mean(ratios[:honest]) - jnp.mean(ratios[honest:])}
    return RULES[name](sent), {}


def _arm(keys, smoke, *, name):
    shares = [b.class_shares(jax.random.key(7), WORKERS, None)]
    result = b.grid(
        functools.partial(_rule, name),
        ATTACKS,
        keys,
        RATES,
        shares,
        byzantine=BYZANTINE,
        rounds=10 if smoke else b.ROUNDS,
    )
    found = {f"{k}_{attack}": v[0, i] for k, v in result.items() for i, attack in enumerate(ATTACKS)}
    return found | {"test_accuracy": np.mean(result["test_accuracy"][0], axis=0)}


CLAIM = Claim(
    paper="P121",
    slug="flag_aggregator",
    says="Under attackers that send noise, the negative of their gradient or a constant, the flag aggregator is at least "
    "as accurate as Bulyan, Multi-Krum and the median, and reconstructs honest workers' gradients better than attackers'.",
    setup="scikit-learn's digits, 750 training images, MLP 64-32-10, 15 workers with data alike, 3 of whom attack: "
    "Gaussian of deviation 1, minus five times their own momentum, or all ones. 120 rounds, batches of 8, worker "
    "momentum 0.9. Flag: rank 8, no pairwise term, unit columns, 5 iterations. Accuracy: the mean of the three attacks.",
    tuning="5 learning rates, 0.1 to 10, for each arm and attack by the mean validation accuracy of 2 other seeds",
    arms={name: functools.partial(_arm, name=name) for name in ("flag", "bulyan", "multi_krum", "median")},
    comparisons=(
        # "at least": to one point
        *(
            Comparison(f"at least as accurate as {name}", "flag", name, "test_accuracy", "higher", -0.01)
            for name in ("bulyan", "multi_krum", "median")
        ),
        *(
            Comparison(
                f"honest workers are reconstructed better, {attack}", "flag", None, f"ratio_gap_{attack}", "higher"
            )
            for attack in ATTACKS
        ),
    ),
    seeds=10,
    claimed_by="arXiv 2302.05865, section 4",
)
