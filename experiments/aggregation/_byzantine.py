"""What the experiments on robust aggregation share: digits drawn by workers, attacks, rounds of training.

A rule is compiled once: learning rate, attack, shares of the classes and seed are arguments of one vectorised program.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _ends
from experiments import supervised as s
from jaxtrain import aggregation as ag

TRAIN, SIZES, ROUNDS = 1000, (64, 32, 10), 120
ATTACKS = ("none", "sign_flip", "ipm", "alie", "mimic", "label_flip", "gaussian", "constant")
Rule = Callable[[jax.Array, Any], tuple[Any, dict[str, jax.Array]]]


def attack(which: jax.Array, names: Sequence[str], noise: Any, good: Any, own: Any) -> Any:
    """What the Byzantine workers send, from the good workers' stack, what they would send themselves, and noise like it."""
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
        "gaussian": lambda: noise,
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


class Start(NamedTuple):
    """What a seed decides: first parameters, images of every round and worker, Gaussian noise of the attackers, keys."""

    params: Any
    index: jax.Array
    noise: Any
    keys: jax.Array


@functools.partial(jax.jit, static_argnames=("rounds", "batch", "byzantine"))
def starts(keys: jax.Array, shares: jax.Array, *, rounds: int, batch: int, byzantine: int) -> Start:
    """Those of several seeds. Drawn apart from the training: the drawing takes XLA longer to compile than all the rest."""

    def one(key: jax.Array) -> Start:
        init, draw, run = jax.random.split(key, 3)
        params = s.mlp(init, SIZES)
        steps = jax.random.split(run, rounds)
        good = jax.tree.map(lambda p: jnp.zeros((1, *p.shape)), params)
        noise = jax.vmap(lambda k: ag.gaussian_attack(k, good, num_byzantine=byzantine, sigma=1.0))(steps)
        return Start(params, batches(draw, shares, rounds, batch), noise, steps)

    return jax.lax.map(one, keys)


def train(
    start: Start, rate: jax.Array, which: jax.Array, *, rule: Rule, names: Sequence[str], byzantine: int, beta: float
) -> dict[str, jax.Array]:
    """Rounds of SGD on what a rule makes of the workers' momenta; the last ``byzantine`` workers attack.

    Returns the accuracies, and the means over the rounds of what the rule reports.
    """
    tuning, _, _, _ = data()
    x, y = jnp.asarray(tuning.x), jnp.asarray(tuning.y)
    workers = start.index.shape[1]
    honest = workers - byzantine
    flip = jnp.array([name == "label_flip" for name in names])[which]

    def step(carry, inputs):
        params, momenta = carry
        index, noise, own = inputs
        labels = y[index]
        flipped = labels.at[honest:].set(ag.label_flip(labels[honest:], num_classes=10))
        labels = jnp.where(flip, flipped, labels)
        grads = jax.vmap(jax.grad(s.cross_entropy), (None, 0, 0))(params, x[index], labels)
        momenta = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, momenta, grads)
        good, rest = (jax.tree.map(lambda m, c=c: m[c], momenta) for c in (slice(honest), slice(honest, None)))
        bad = attack(which, names, noise, good, rest)
        update, report = rule(own, jax.tree.map(lambda g, b: jnp.concatenate([g, b]), good, bad))
        return (jax.tree.map(lambda p, u: p - rate * u, params, update), momenta), report

    zeros = jax.tree.map(lambda p: jnp.zeros((workers, *p.shape)), start.params)
    (params, _), reports = jax.lax.scan(step, (start.params, zeros), (start.index, start.noise, start.keys))
    return accuracies(params) | {k: jnp.mean(v) for k, v in reports.items()}


TUNING = 2
"""Seeds to choose the learning rate on; no claim is measured on them."""


@functools.partial(jax.jit, static_argnames=("rule", "names", "byzantine", "beta"))
def _runs(starts, who, rates, which, *, rule, names, byzantine, beta):
    # one after the other: on a CPU faster than side by side
    one = functools.partial(train, rule=rule, names=names, byzantine=byzantine, beta=beta)
    return jax.lax.map(lambda a: one(jax.tree.map(lambda x: x[a[0]], starts), a[1], a[2]), (who, rates, which))


def grid(
    rule: Rule,
    names: Sequence[str],
    keys: jax.Array,
    rates: Sequence[float],
    splits: Sequence[jax.Array],
    *,
    byzantine: int,
    rounds: int = ROUNDS,
    beta: float = 0.9,
    batch: int = 8,
) -> dict[str, np.ndarray]:
    """Every split of the classes (``(workers, 10)`` shares) × every attack × every seed, at the best of the rates.

    The rate of each split and attack has the best mean validation accuracy of ``TUNING`` seeds of its own. A rule is
    compiled once, for as many runs as the seeds or the tuning need, whichever is more.

    Returns metric -> ``(splits, attacks, seeds)``, ``learning_rate`` among them.
    """
    seeds = jnp.concatenate([jax.random.split(jax.random.key(20_000), TUNING), keys])
    each = [starts(seeds, shares, rounds=rounds, batch=batch, byzantine=byzantine) for shares in splits]
    pool = jax.tree.map(lambda *x: jnp.concatenate(x), *each)
    cells = [(i, j) for i in range(len(splits)) for j in range(len(names))]
    size = len(cells) * max(len(rates) * TUNING, len(keys))

    def run(jobs):
        who, rate, which = zip(*jobs, *[jobs[0]] * (size - len(jobs)), strict=True)
        found = _runs(
            pool, jnp.array(who), jnp.array(rate, jnp.float32), jnp.array(which),
            rule=rule, names=tuple(names), byzantine=byzantine, beta=beta,
        )  # fmt: skip
        return {k: np.asarray(v)[: len(jobs)] for k, v in found.items()}

    tried = run([(i * len(seeds) + t, r, j) for i, j in cells for r in rates for t in range(TUNING)])
    score = tried["validation_accuracy"].reshape(len(cells), len(rates), TUNING)
    best = [rates[_ends.lowest(-cell, rates)] for cell in np.nan_to_num(score).mean(axis=2)]
    final = run(
        [(i * len(seeds) + TUNING + n, r, j) for (i, j), r in zip(cells, best, strict=True) for n in range(len(keys))]
    )
    shape = (len(splits), len(names), len(keys))
    rate = np.broadcast_to(np.reshape(best, (*shape[:2], 1)), shape)
    return {k: v.reshape(shape) for k, v in final.items()} | {"learning_rate": rate}


def at_the_best_rate(
    run: Callable[..., dict[str, jax.Array]], keys: jax.Array, rates: Sequence[float], *arguments: Any
):
    """``run(key, rate, *arguments)`` of every key at the rate with the best mean validation accuracy of other seeds."""
    rates = jnp.asarray(rates, jnp.float32)
    everything = jnp.concatenate([jax.random.split(jax.random.key(20_000), TUNING), keys])
    over = (None,) * len(arguments)
    seeds = jax.vmap(run, in_axes=(0, None, *over))
    found = jax.vmap(seeds, in_axes=(None, 0, *over))(everything, rates, *arguments)
    best = _ends.lowest(-jnp.mean(jnp.nan_to_num(found["validation_accuracy"][:, :TUNING]), axis=1), rates)
    return {k: v[best, TUNING:] for k, v in found.items()} | {"learning_rate": jnp.full(len(keys), rates[best])}
