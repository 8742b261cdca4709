"""Adafactor against Adam: loss and memory; and what update clipping does where the second moment is slow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from experiments.optimizers import _arms
from jaxtrain.optimizers import adafactor

SIZES = (64, 32, 32, 10)


def _slow(rate, threshold):
    """Adafactor with Adam's decay of 0.999, bias-corrected, in place of the growing one."""

    def decay(count, _):
        t = count + 1.0
        return 0.999 * (1 - 0.999 ** (t - 1)) / (1 - 0.999**t)

    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=2, decay_rate_fn=decay),
        optax.clip_by_block_rms(threshold),
        optax.scale_by_learning_rate(rate),
        optax.scale_by_param_block_rms(1e-3),
    )


# with warm-up and cosine; or, without warm-up, at constant rates
MAKE = {
    "adam": lambda rate, steps: optax.adam(_arms.warm_cosine(rate, steps)),
    "adafactor": lambda rate, steps: adafactor(_arms.warm_cosine(rate, steps)),
    "slow_clipped": lambda rate, steps: _slow(rate, 1.0),
    "slow_unclipped": lambda rate, steps: _slow(rate, 1e9),
}
RATES = _arms.around(1e-3, 1.0)


def _run(key, rate, *, name, smoke):
    return _arms.mlp_on_digits(key, lambda steps: MAKE[name](rate, steps), epochs=2 if smoke else 20, sizes=SIZES)


def _arm(keys, smoke, *, name):
    best = _arms.at_its_best(keys, functools.partial(_run, name=name, smoke=smoke), RATES, by="loss", smoke=smoke)
    state = jax.eval_shape(lambda key: MAKE[name](0.1, 100).init(s.mlp(key, SIZES)), keys[0])
    numbers = sum(x.size for x in jax.tree.leaves(state) if x.ndim)
    return {"loss": best["loss"], "rate": best["rate"], "numbers": jnp.full(len(keys), float(numbers))}


CLAIM = Claim(
    paper="P071",
    slug="adafactor",
    says="Adafactor trains like Adam (here: a final loss at most a twentieth higher) with a fraction of its memory (here: a tenth), and "
    "where the second moment decays slowly and nothing is warmed up, clipped updates train better than unclipped ones.",
    setup="MLP 64-32-32-10 on 1,000 of scikit-learn's digits, 20 epochs of batch 50, final training loss, numbers in the state. Adam and "
    "Adafactor with warm-up over a tenth and cosine decay. The slow arms have the decay 0.999, bias-corrected, and a constant "
    "rate without warm-up; clipped: to a root mean square of 1.",
    tuning="rate of each arm (for Adafactor relative to the parameters) from 1e-3 to 1 in half decades by the mean final loss of 3 other seeds",
    arms={name: functools.partial(_arm, name=name) for name in MAKE},
    comparisons=(
        Comparison(
            name="a final loss at most a twentieth above Adam's",
            arm="adafactor",
            baseline="adam",
            metric="loss",
            better="lower",
            margin=-0.05,
            scale="log_ratio",
        ),
        Comparison(
            name="a tenth of the memory",
            arm="adafactor",
            baseline="adam",
            metric="numbers",
            better="lower",
            margin=float(np.log(10)),
            scale="log_ratio",
        ),
        Comparison(
            name="clipping helps where the second moment is slow",
            arm="slow_clipped",
            baseline="slow_unclipped",
            metric="loss",
            better="lower",
            margin=0.0,
            scale="log_ratio",
        ),
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 1804.04235: abstract, sections 5 to 7",
)
