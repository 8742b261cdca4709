"""What the experiments on robust aggregation share: digits drawn by workers, attacks, rounds of training.

A rule is compiled once: learning rate, attack, shares of the classes and seed are arguments of one vectorised program.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import supervised as s
from jaxtrain import aggregation as ag

TRAIN, SIZES, ROUNDS = 1000, (64, 32, 10), 120
ATTACKS = ("none", "sign_flip", "ipm", "alie", "mimic", "label_flip", "gaussian", "constant")
Rule = Callable[[jax.Array, Any], tuple[Any, dict[str, jax.Array]]]


def attack(which: jax.Array, names: Sequence[str], key: jax.Array, good: Any, own: Any) -> Any:
    """What the Byzantine workers send, from the good workers' stack and from what they would send themselves."""
    f = len(jax.tree.leaves(own)[0])

    def alike(row: Any) -> Any:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (f, *x.shape)), row)

    sent = {
        "none": lambda: own,
        "label_flip": lambda: own,  # they are trained on other labels
        "sign_flip": lambda: ag.bit_flip_attack(jax.tree.map(lambda g: 5 * g, own)),
        "ipm": lambda: alike(ag.ipm_attack(good, epsilon=0.5)),
        "alie": lambda: alike(ag.alie_attack(good, num_byzantine=f, z=1.5)),
        "mimic": lambda: alike(ag.mimic_attack(good)),
        "gaussian": lambda: ag.gaussian_attack(key, good, num_byzantine=f, sigma=1.0),
        "constant": lambda: jax.tree.map(jnp.ones_like, own),
    }
    return jax.lax.switch(which, [sent[name] for name in names])


@functools.cache
def data() -> tuple[s.Data, s.Data, np.ndarray, np.ndarray]:
    """Digits with a validation part, and with the test part; the numbers of each class's images, padded, and their count.

    Always trained on the 750 images that are neither validation nor test.
    """
    tuning, final = s.digits(TRAIN, validation=True), s.digits(TRAIN, validation=False)
    members = [np.flatnonzero(tuning.y == c) for c in range(10)]
    counts = np.array([len(m) for m in members])
    return tuning, final, np.stack([np.resize(m, counts.max()) for m in members]), counts


def batches(key: jax.Array, shares: jax.Array, rounds: int, size: int) -> jax.Array:
    """For every round and worker ``size`` images, their classes drawn from its shares."""
    _, _, members, counts = data()
    which, where = jax.random.split(key)
    shape = (rounds, len(shares), size)
    label = jax.random.categorical(which, jnp.log(shares)[None, :, None, :], axis=-1, shape=shape)
    place = jax.random.uniform(where, shape) * jnp.asarray(counts)[label]
    return jnp.asarray(members)[label, place.astype(jnp.int32)]


def class_shares(key: jax.Array, workers: int, alpha: float | None) -> jax.Array:
    """Each worker's share of the ten classes: even, or from a Dirichlet distribution."""
    if alpha is None:
        return jnp.full((workers, 10), 0.1)
    return jnp.maximum(jax.random.dirichlet(key, jnp.full(10, alpha), (workers,)), 1e-8)


def accuracies(params: Any) -> dict[str, jax.Array]:
    """On the part to tune on, and on the test part."""
    tuning, final, _, _ = data()
    return {
        "validation_accuracy": s.accuracy(params, tuning.held_x, tuning.held_y),
        "test_accuracy": s.accuracy(params, final.held_x, final.held_y),
    }


def train(
    key: jax.Array,
    rate: jax.Array,
    which: jax.Array,
    shares: jax.Array,
    *,
    rule: Rule,
    names: Sequence[str],
    byzantine: int,
    rounds: int,
    beta: float = 0.9,
    batch: int = 8,
) -> dict[str, jax.Array]:
    """Rounds of SGD on what a rule makes of the workers' momenta; the last ``byzantine`` workers attack.

    Returns the accuracies, and the means over the rounds of what the rule reports.
    """
    tuning, _, _, _ = data()
    x, y = jnp.asarray(tuning.x), jnp.asarray(tuning.y)
    start, draw, run = jax.random.split(key, 3)
    params = s.mlp(start, SIZES)
    workers = len(shares)
    honest = workers - byzantine
    flip = jnp.array([name == "label_flip" for name in names])[which]

    def step(carry, inputs):
        params, momenta = carry
        index, t = inputs
        noise, own = jax.random.split(jax.random.fold_in(run, t))
        labels = y[index]
        flipped = labels.at[honest:].set(ag.label_flip(labels[honest:], num_classes=10))
        labels = jnp.where(flip, flipped, labels)
        grads = jax.vmap(jax.grad(s.cross_entropy), (None, 0, 0))(params, x[index], labels)
        momenta = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, momenta, grads)
        good, rest = (jax.tree.map(lambda m, c=c: m[c], momenta) for c in (slice(honest), slice(honest, None)))
        bad = attack(which, names, noise, good, rest)
        update, report = rule(own, jax.tree.map(lambda g, b: jnp.concatenate([g, b]), good, bad))
        return (jax.tree.map(lambda p, u: p - rate * u, params, update), momenta), report

    zeros = jax.tree.map(lambda p: jnp.zeros((workers, *p.shape)), params)
    inputs = batches(draw, shares, rounds, batch), jnp.arange(rounds)
    (params, _), reports = jax.lax.scan(step, (params, zeros), inputs)
    return accuracies(params) | {k: jnp.mean(v) for k, v in reports.items()}


TUNING = 2
"""Seeds to choose the learning rate on; no claim is measured on them."""


def at_the_best_rate(
    run: Callable[..., dict[str, jax.Array]], keys: jax.Array, rates: Sequence[float], *arguments: Any
):
    """``run(key, rate, *arguments)`` of every key at the rate with the best mean validation accuracy of other seeds."""
    rates = jnp.asarray(rates, jnp.float32)
    everything = jnp.concatenate([jax.random.split(jax.random.key(20_000), TUNING), keys])
    over = (None,) * len(arguments)
    seeds = jax.vmap(run, in_axes=(0, None, *over))
    found = jax.vmap(seeds, in_axes=(None, 0, *over))(everything, rates, *arguments)
    best = jnp.argmax(jnp.mean(jnp.nan_to_num(found["validation_accuracy"][:, :TUNING]), axis=1))
    return {k: v[best, TUNING:] for k, v in found.items()} | {"learning_rate": jnp.full(len(keys), rates[best])}
