"""AdaBound: as fast as Adam at the start, as good as SGD at the end?"""

import functools
import itertools

import numpy as np
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from experiments.optimizers import _arms
from jaxtrain.optimizers import adabound, amsbound

EPOCHS, EARLY, GAMMA = 30, 2, 0.1
# twenty settings for every arm: rates a quarter of a decade apart, or rates of Adam and of SGD
QUARTERS = [float(10**x) for x in np.linspace(-3.5, 1.25, 20)]
PAIRS = list(itertools.product((1e-3, 3e-3, 1e-2, 3e-2, 0.1), (0.03, 0.1, 0.3, 1.0)))
MAKE = {
    "adam": optax.adam,
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9),
    "adabound": lambda pair: adabound(pair[0], pair[1], gamma=GAMMA),
    "amsbound": lambda pair: amsbound(pair[0], pair[1], gamma=GAMMA),
}


def _run(key, setting, *, name, smoke, validation):
    data = s.digits(1000, validation=validation)
    found = _arms.mlp_on_digits(
        key,
        lambda steps: MAKE[name](setting),
        epochs=3 if smoke else EPOCHS,
        validation=validation,
        record=lambda params: s.cross_entropy(params, data.x, data.y),
    )
    # of SGD, where there is one
    final = setting[1] if setting.ndim else setting
    return found | {"early_loss": found["curve"][EARLY - 1], "final_rate": final}


def _arm(keys, smoke, *, name):
    settings = PAIRS if name in ("adabound", "amsbound") else QUARTERS
    run = functools.partial(_run, name=name, smoke=smoke)
    best = _arms.at_its_best(
        keys,
        functools.partial(run, validation=False),
        settings,
        by="held_loss",
        smoke=smoke,
        tune=functools.partial(run, validation=True),
    )
    return {metric: best[metric] for metric in ("held_error", "held_loss", "early_loss", "loss", "rate", "final_rate")}


CLAIM = Claim(
    paper="P157",
    slug="adabound",
    says="AdaBound and AMSBound are as fast as Adam at the start (here: a loss after two epochs at most a tenth higher) and as "
    "good as SGD in the end (here: a test error at most half a point above SGD's, and above Adam's).",
    setup="MLP 64-32-32-10 on 1,000 of scikit-learn's digits, 30 epochs of batch 50 at constant rates, test error on the other 797, "
    "training loss after 2 epochs. Bounds with γ = 0.1, which makes γ times the steps 60 (the paper: 78). SGD with momentum 0.9.",
    tuning="twenty settings for every arm by the loss on a quarter of the training part, 3 other seeds: rates from 3e-4 to 18 in quarters "
    "of a decade for Adam and SGD; for the others Adam's rate from 1e-3 to 0.1 and SGD's, for a momentum that is a mean, from 0.03 to 1, in half decades (an earlier run had Adam's up "
    "to 0.03, which both chose)",
    arms={name: functools.partial(_arm, name=name) for name in MAKE},
    comparisons=tuple(
        comparison
        for arm in ("adabound", "amsbound")
        for comparison in (
            Comparison(
                name=f"{arm}: a loss after two epochs at most a tenth above Adam's",
                arm=arm,
                baseline="adam",
                metric="early_loss",
                better="lower",
                margin=-0.1,
                scale="log_ratio",
            ),
            Comparison(
                name=f"{arm}: a test error at most half a point above SGD's",
                arm=arm,
                baseline="sgd",
                metric="held_error",
                better="lower",
                margin=-0.005,
            ),
            Comparison(
                name=f"{arm}: a test error at most half a point above Adam's",
                arm=arm,
                baseline="adam",
                metric="held_error",
                better="lower",
                margin=-0.005,
            ),
        )
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 1902.09843: abstract, section 5",
)
