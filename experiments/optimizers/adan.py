"""Adan with half of the steps against AdamW with all of them."""

import functools
from collections.abc import Callable
from typing import Any

import optax

from experiments.harness import Claim, Comparison
from experiments.optimizers import _arms
from jaxtrain.optimizers import adan

MAKE: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.0),
    "adan": adan,
    # what optax 0.2.8 calls by the name
    "optax_adan": lambda rate: optax.adan(rate, eps_root=0.0),
}
FRACTION = {"adamw": 1.0, "adan": 0.5, "optax_adan": 0.5}
RATES = _arms.around(1e-3, 10.0)


def _mlp(key, rate, *, name, smoke):
    epochs = round(FRACTION[name] * (4 if smoke else 24))
    return _arms.mlp_on_digits(key, lambda steps: MAKE[name](_arms.warm_cosine(rate, steps)), epochs=epochs)


def _squares(key, rate, *, name, smoke):
    steps = round(FRACTION[name] * (60 if smoke else 1000))
    return _arms.least_squares(key, lambda steps: MAKE[name](_arms.warm_cosine(rate, steps)), steps=steps)


def _arm(keys, smoke, *, name):
    found = {}
    for label, run, metric in (("mlp", _mlp, "loss"), ("squares", _squares, "excess")):
        run = functools.partial(run, name=name, smoke=smoke)
        found |= _arms.prefixed(label, _arms.at_its_best(keys, run, RATES, by=metric, smoke=smoke), metric)
    return found


CLAIM = Claim(
    paper="P115",
    slug="adan",
    says="Adan reaches AdamW's final training loss with half of the steps.",
    setup="AdamW runs all steps and Adan half of them, each with its whole schedule (warm-up over a tenth, cosine decay to zero). "
    "MLP 64-32-32-10 on 1,000 of scikit-learn's digits, 24 epochs of batch 50, final training loss; least squares in 50 "
    "dimensions of condition 1000, 1,000 steps of batch 32, final loss over the optimum's. No weight decay, each paper's betas. The arm "
    "optax_adan is optax's, whose differences have the weight 0.08 in place of 0.92; nothing is claimed of it.",
    tuning="peak rate of each arm and problem from 1e-3 to 10 in half decades by the mean final loss of 3 other seeds. An earlier run had "
    "rates up to 1, which Adan chose on least squares",
    arms={name: functools.partial(_arm, name=name) for name in MAKE},
    comparisons=tuple(
        Comparison(
            name=f"with half of the steps a loss as low as AdamW's, {label}",
            arm="adan",
            baseline="adamw",
            metric=metric,
            better="lower",
            margin=0.0,
            scale="log_ratio",
        )
        for label, metric in (("MLP", "mlp_loss"), ("least squares", "squares_excess"))
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2208.06677: abstract",
)
