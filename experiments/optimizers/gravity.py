"""Gravity against Adam and RMSProp: how much the validation accuracy still moves, how high it is, how fast it starts."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.optimizers import gravity

RATES = {
    "adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1),
    "rmsprop": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1),
    "gravity": (1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0),
    "from_rest": (1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0),
}
EPOCHS, LAST = 30, 10


def _optimizer(name, rate, key):
    if name == "adam":
        return optax.adam(rate)
    if name == "rmsprop":
        return optax.rmsprop(rate)
    return gravity(rate, alpha=0.0 if name == "from_rest" else 0.01, seed=key)


def _curves(key, name, rate, smoke, *, validation):
    """Held-out loss and accuracy and training loss after every epoch."""
    data = s.digits(1000, validation=validation)

    def record(state):
        p = state.params
        return (
            s.cross_entropy(p, data.held_x, data.held_y),
            s.accuracy(p, data.held_x, data.held_y),
            s.cross_entropy(p, data.x, data.y),
        )

    tx = _optimizer(name, rate, jax.random.fold_in(key, 99))
    init = functools.partial(s.mlp, sizes=(64, 64, 10))
    _, curves = s.train(key, tx, data, init=init, epochs=3 if smoke else EPOCHS, batch_size=50, record=record)
    return curves


def _arm(keys, smoke, *, name):
    def tuned(key, rate):
        return _curves(key, name, rate, smoke, validation=True)[0][-1]

    rate = s.best(tuned, RATES[name][2:4] if smoke else RATES[name])
    run = functools.partial(_curves, name=name, rate=rate, smoke=smoke, validation=False)
    loss, accuracy, training = jax.jit(jax.vmap(run))(keys)
    last = accuracy[:, -LAST:]
    return {
        "accuracy": last.mean(axis=1),
        "fluctuation": last.std(axis=1),
        "first_epoch_loss": training[:, 0],
        "held_out_loss": loss,
        "rate": jnp.full(len(keys), rate),
    }


CLAIM = Claim(
    paper="P193",
    slug="gravity",
    says="Gravity's validation accuracy moves less over the last epochs than Adam's and RMSProp's and is as high, and the "
    "noise in its first velocity speeds the start up.",
    setup="MLP 64-64-10 on 1,000 of scikit-learn's digits, 797 held out, batch 50, 30 epochs, constant rates. Standard "
    "deviation and mean of the held-out accuracy over the last 10 epochs; training loss after the first epoch, against "
    "Gravity with alpha = 0 (from_rest). Other hyperparameters are the papers'.",
    tuning="the learning rate of each arm from 7 values half a decade apart (Adam, RMSProp: 1e-4 to 0.1; Gravity: 0.01 to "
    "10) by the mean final loss on a quarter of the training images with 3 other seeds",
    arms={name: functools.partial(_arm, name=name) for name in RATES},
    comparisons=(
        *(
            Comparison(
                name=f"moves less than {words}",
                arm="gravity",
                baseline=baseline,
                metric="fluctuation",
                better="lower",
            )
            for baseline, words in (("adam", "Adam's"), ("rmsprop", "RMSProp's"))
        ),
        Comparison(
            name="at most half a point less accurate than Adam",
            arm="gravity",
            baseline="adam",
            metric="accuracy",
            better="higher",
            margin=-0.005,
        ),
        Comparison(
            name="starts faster than from rest",
            arm="gravity",
            baseline="from_rest",
            metric="first_epoch_loss",
            better="lower",
            scale="log_ratio",
        ),
    ),
    seeds=20,
    claimed_by="arXiv 2101.09192: abstract, sections on experiments and on the initial velocity",
)
