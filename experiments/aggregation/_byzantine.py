"""What the experiments on robust aggregation share: digits split over workers, attacks, rounds of training."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import supervised as s
from jaxtrain import aggregation as ag

TRAIN, SIZES = 1000, (64, 32, 10)


def _alike(row: Any, count: int) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), row)


def attack(name: str, key: jax.Array, good: Any, own: Any) -> Any:
    """The stack that the Byzantine workers send, from the good workers' stack and from what they would send themselves."""
    f = len(jax.tree.leaves(own)[0])
    if name in ("none", "label_flip"):
        return own
    if name == "sign_flip":
        return ag.bit_flip_attack(jax.tree.map(lambda g: 5 * g, own))
    if name == "ipm":
        return _alike(ag.ipm_attack(good, epsilon=0.5), f)
    if name == "alie":
        return _alike(ag.alie_attack(good, num_byzantine=f, z=1.5), f)
    if name == "mimic":
        return _alike(ag.mimic_attack(good), f)
    if name == "constant":
        return jax.tree.map(jnp.ones_like, own)
    if name == "gaussian":
        return ag.gaussian_attack(key, good, num_byzantine=f, sigma=1.0)
    raise ValueError(f"no attack {name!r}")


def data(validation: bool) -> tuple[s.Data, np.ndarray, np.ndarray]:
    """The digits, and for each class the numbers of its training images, padded, with their count."""
    found = s.digits(TRAIN, validation=validation)
    members = [np.flatnonzero(found.y == c) for c in range(10)]
    counts = np.array([len(m) for m in members])
    return found, np.stack([np.resize(m, counts.max()) for m in members]), counts


def batches(key: jax.Array, shares: jax.Array, members: np.ndarray, counts: np.ndarray, size: int) -> jax.Array:
    """For every worker ``size`` images, their classes drawn from its shares: ``(workers, size)`` numbers."""
    which, where = jax.random.split(key)
    n = len(shares)
    label = jax.random.categorical(which, jnp.log(shares)[:, None, :], axis=-1, shape=(n, size))
    place = jax.random.uniform(where, (n, size)) * jnp.asarray(counts)[label]
    return jnp.asarray(members)[label, place.astype(jnp.int32)]


def class_shares(key: jax.Array, workers: int, alpha: float | None) -> jax.Array:
    """Each worker's share of the ten classes: even, or from a Dirichlet distribution."""
    if alpha is None:
        return jnp.full((workers, 10), 0.1)
    return jnp.maximum(jax.random.dirichlet(key, jnp.full(10, alpha), (workers,)), 1e-8)


def train(
    key: jax.Array,
    rate: jax.Array,
    *,
    rule: Callable[[jax.Array, Any], tuple[Any, dict[str, jax.Array]]],
    name: str,
    alpha: float | None,
    workers: int,
    byzantine: int,
    rounds: int,
    validation: bool,
    beta: float = 0.9,
    batch: int = 16,
) -> dict[str, jax.Array]:
    """Rounds of SGD on what a rule makes of the workers' momenta; the last ``byzantine`` workers attack.

    Returns the held-out accuracy, and the means over the rounds of what the rule reports.
    """
    found, members, counts = data(validation)
    x, y = jnp.asarray(found.x), jnp.asarray(found.y)
    start, split, run = jax.random.split(key, 3)
    shares = class_shares(split, workers, alpha)
    params = s.mlp(start, SIZES)
    honest = workers - byzantine

    def step(carry, t):
        params, momenta = carry
        draw, noise, own = jax.random.split(jax.random.fold_in(run, t), 3)
        index = batches(draw, shares, members, counts, batch)
        labels = y[index]
        if name == "label_flip":
            labels = labels.at[honest:].set(ag.label_flip(labels[honest:], num_classes=10))
        grads = jax.vmap(jax.grad(s.cross_entropy), (None, 0, 0))(params, x[index], labels)
        momenta = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, momenta, grads)
        good, rest = (jax.tree.map(lambda m, c=c: m[c], momenta) for c in (slice(honest), slice(honest, None)))
        bad = attack(name, noise, good, rest)
        sent = jax.tree.map(lambda g, b: jnp.concatenate([g, b]), good, bad)
        update, report = rule(own, sent)
        return (jax.tree.map(lambda p, u: p - rate * u, params, update), momenta), report

    zeros = jax.tree.map(lambda p: jnp.zeros((workers, *p.shape)), params)
    (params, _), reports = jax.lax.scan(step, (params, zeros), jnp.arange(rounds))
    accuracy = s.accuracy(params, found.held_x, found.held_y)
    return {"test_accuracy": accuracy} | {k: jnp.mean(v) for k, v in reports.items()}


def measured(keys: jax.Array, smoke: bool, rates: tuple[float, ...], **options: Any) -> dict[str, jax.Array]:
    """The run of every key at the best of the rates, chosen on two other seeds and another split of the data."""
    run = functools.partial(train, **options, rounds=10 if smoke else ROUNDS)
    rate = s.best(lambda k, r: 1 - run(k, r, validation=True)["test_accuracy"], rates[:1] if smoke else rates, seeds=2)
    result = jax.jit(jax.vmap(lambda k: run(k, jnp.asarray(rate), validation=False)))(keys)
    return result | {"learning_rate": jnp.full(len(keys), rate)}


ROUNDS = 150
