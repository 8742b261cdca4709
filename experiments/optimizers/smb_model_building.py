"""SMB: learning rates that are too large for SGD."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _ends
from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.optimizers import smb

RATES = tuple(10.0 ** np.arange(-4, 7.25, 0.5))
# five rates: two decades
WINDOW = 5
ARMS = {"sgd": optax.sgd, "adam": optax.adam, "smb": smb}
SIZES = {"mlp": (64, 32, 10), "logistic": (64, 10)}


def _run(key, rate, *, name, problem, smoke, validation):
    """The training loss over that of guessing (at most 100), and the held-out error."""
    data = s.digits(1000, validation=validation)
    init = functools.partial(s.mlp, sizes=SIZES[problem])
    state, _ = s.train(key, ARMS[name](rate), data, init=init, epochs=1 if smoke else 10, batch_size=50)
    loss = s.cross_entropy(state.params, data.x, data.y) / math.log(10)
    return jnp.where(loss < 100, loss, 100.0), 1 - s.accuracy(state.params, data.held_x, data.held_y)


def _grid(keys, rates, **options):
    """Losses and errors, (keys, rates)."""
    run = functools.partial(_run, **options)
    return jax.jit(jax.vmap(lambda key: jax.vmap(lambda rate: run(key, rate))(jnp.asarray(rates))))(keys)


def _arm(keys, smoke, *, name):
    found = {}
    tuning = jax.random.split(jax.random.key(20_000), 3)
    for problem in SIZES:
        options = {"name": name, "problem": problem, "smoke": smoke}
        losses, errors = jax.device_get(_grid(tuning, RATES, **options, validation=True))
        best = RATES[int(np.argmin(losses.mean(axis=0)))]
        windows = np.lib.stride_tricks.sliding_window_view(errors, WINDOW, axis=1).max(axis=2).mean(axis=0)
        first = int(np.argmin(windows))
        _ends.note(best, RATES)
        _ends.note(RATES[first], RATES[: len(RATES) - WINDOW + 1])
        rates = (best, 10 * best, *RATES[first : first + WINDOW])
        losses, errors = _grid(keys, rates, **options, validation=False)
        found[f"{problem}_error"] = errors[:, 0]
        found[f"{problem}_loss_x10"] = losses[:, 1]
        found[f"{problem}_worst"] = errors[:, 2:].max(axis=1)
        found[f"{problem}_loss"] = losses[:, 0]
        found[f"{problem}_rates"] = jnp.tile(jnp.asarray((best, *rates[2:])), (len(keys), 1))
    return found


CLAIM = Claim(
    paper="P229",
    slug="smb_model_building",
    says="With a learning rate ten times too large SMB still trains where SGD does not; with a tuned one it is as good; over two "
    "decades of learning rates it is more accurate at its worst than SGD and Adam.",
    setup="An MLP 64-32-10 and logistic regression on 1,000 of scikit-learn's digits, 10 epochs of batch 50, constant rates: "
    "held-out error at the tuned rate; training loss, over that of guessing and at most 100, at ten times the tuned rate; "
    "held-out error at the worst of five rates over two decades.",
    tuning="23 rates from 1e-4 to 1e7, two in each decade, 3 other seeds on a validation split, for every arm: the rate with "
    "the lowest mean training loss, and the five neighbouring rates whose worst validation error is lowest on average. "
    "Earlier runs had rates up to 1e2 and 1e4, where the five of logistic regression ended; from about 1e5 on only the scale "
    "of its logits depends on the rate, so that a later end changes nothing",
    arms={name: functools.partial(_arm, name=name) for name in ARMS},
    comparisons=tuple(
        comparison
        for problem in SIZES
        for comparison in (
            Comparison(
                f"half of SGD's loss, rates ten times too large, {problem}",
                "smb",
                "sgd",
                f"{problem}_loss_x10",
                "lower",
                math.log(2),
                "log_ratio",
            ),
            Comparison(
                f"within a point of SGD where tuned, {problem}", "smb", "sgd", f"{problem}_error", "lower", -0.01
            ),
            Comparison(f"flatter than SGD, {problem}", "smb", "sgd", f"{problem}_worst", "lower"),
            Comparison(f"flatter than Adam, {problem}", "smb", "adam", f"{problem}_worst", "lower"),
        )
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2111.07058: abstract, section 4",
)
