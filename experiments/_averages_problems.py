"""The three problems on which averages are compared: digits, MNIST digits, bytes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data, supervised


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is trained, and what is measured of it.

    Attributes:
      says: data, model, optimizer, in words.
      init: ``key -> params``.
      loss: ``(params, batch) -> scalar``.
      batch: ``key -> batch``.
      training: batch on which the training loss and its Hessian are taken.
      validation: batch for SWAD.
      measure: ``params -> number`` on test data.
      metric: what it is.
      optimizer: ``learning rate (or schedule) -> transformation``.
      schedule_free: its schedule-free form at a constant rate.
      rate: the learning rate.
      steps: of a run, a multiple of the number of checkpoints.
      seeds: how many.
    """

    says: str
    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    batch: Callable[[jax.Array], Any]
    training: Any
    validation: Any
    measure: Callable[[Any], jax.Array]
    metric: str
    optimizer: Callable[[Any], optax.GradientTransformation]
    schedule_free: Callable[[float], optax.GradientTransformation]
    rate: float
    steps: int
    seeds: int


def _images(says, x, y, *, sizes, train, validation, rate, batch, steps, seeds):
    """An MLP on images, of which the last are to test on."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    test = slice(train + validation, None)

    def optimizer(rate):
        return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, momentum=0.9))

    def schedule_free(rate):
        # momentum is schedule-free's own
        return optax.contrib.schedule_free(
            optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(10 * rate)), 10 * rate, b1=0.9
        )

    def draw(key):
        i = jax.random.randint(key, (batch,), 0, train)
        return x[i], y[i]

    return Problem(
        says=says,
        init=functools.partial(supervised.mlp, sizes=sizes),
        loss=lambda params, batch: supervised.cross_entropy(params, *batch),
        batch=draw,
        training=(x[:500], y[:500]),
        validation=(x[train : train + validation], y[train : train + validation]),
        measure=lambda params: supervised.accuracy(params, x[test], y[test]),
        metric="test accuracy",
        optimizer=optimizer,
        schedule_free=schedule_free,
        rate=rate,
        steps=steps,
        seeds=seeds,
    )


def digits(smoke: bool) -> Problem:
    """scikit-learn's digits and the MLP of the claims."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x, y = (bunch.data[order] / 8 - 1).astype(np.float32), bunch.target[order].astype(np.int32)
    return _images(
        "500 training, 200 validation and 1,097 test images of scikit-learn's digits; MLP 64-128-10; SGD, rate 0.05, "
        "momentum 0.9, weight decay 5e-4, batch 32, 1,200 steps",
        x, y, sizes=(64, 128, 10), train=500, validation=200, rate=0.05, batch=32,
        steps=40 if smoke else 1200, seeds=2 if smoke else 4,
    )  # fmt: skip


def mnist(smoke: bool) -> Problem:
    """5,000 MNIST digits."""
    x, y = data.mnist_5k()
    order = np.random.default_rng(0).permutation(len(y))
    return _images(
        "3,000 training, 500 validation and 1,500 test images of MNIST; MLP 784-64-10; SGD, rate 0.05, momentum 0.9, "
        "weight decay 5e-4, batch 32, 800 steps",
        x[order], y[order], sizes=(784, 64, 10), train=3000, validation=500, rate=0.05, batch=32,
        steps=40 if smoke else 800, seeds=2,
    )  # fmt: skip


def transformer(smoke: bool) -> Problem:
    """A small decoder on bytes of documentation; lower is better."""
    from jaxtrain.workloads.bytes import Transformer, load

    length, size = 32, 16
    model = Transformer(width=32, layers=2, heads=2, length=length)
    train, rest = (jnp.asarray(part, jnp.int32) for part in load())

    def windows(text, starts):
        return text[starts[:, None] + jnp.arange(length + 1)]

    def loss(params, tokens):
        logits = model.apply(params, tokens[:, :-1])
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    starts = np.random.default_rng(0).integers(0, len(rest) - length, 192)
    test = windows(rest, jnp.asarray(starts[:128]))
    return Problem(
        says="0.4 MB of Python's documentation as bytes; decoder of width 32, two blocks, 32 bytes of context; AdamW, rate "
        "0.003, batch 16, 400 steps; held-out bits per byte",
        init=lambda key: model.init(key, jnp.zeros((1, length), jnp.int32)),
        loss=loss,
        batch=lambda key: windows(train, jax.random.randint(key, (size,), 0, len(train) - length)),
        training=windows(train, jnp.asarray(np.random.default_rng(1).integers(0, len(train) - length, 32))),
        validation=windows(rest, jnp.asarray(starts[128:])),
        measure=lambda params: loss(params, test) / jnp.log(2.0),
        metric="bits per byte",
        optimizer=lambda rate: optax.adamw(rate, b2=0.99, weight_decay=0.01),
        schedule_free=lambda rate: optax.contrib.schedule_free_adamw(rate, b2=0.99, weight_decay=0.01),
        rate=3e-3,
        steps=40 if smoke else 400,
        seeds=2,
    )


PROBLEMS = {"digits": digits, "mnist_5k": mnist, "bytes": transformer}
