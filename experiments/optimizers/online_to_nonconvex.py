"""Online-to-non-convex conversion: stationary points of a function with kinks, in Goldstein's sense."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.optimizers import o2nc, o2nc_radius

ROWS, DIM, DELTA = 20, 10, 0.1
ROUNDS = tuple(2**k for k in range(10, 17))
RATES = tuple(10.0 ** np.arange(-5, 1.25, 0.5))


def _problem(key):
    """Rows of length 1 and targets; F = mean (|r| + sin(3 r) / 3), r = a_i w - b_i, has kinks, is not convex, and G = 2."""
    rows, targets = jax.random.split(key)
    a = jax.random.normal(rows, (ROWS, DIM))
    return a / jnp.linalg.norm(a, axis=1, keepdims=True), jax.random.normal(targets, (ROWS,))


def _gradient(w, a, b):
    r = a @ w - b
    return (jnp.sign(r) + jnp.cos(3 * r)) @ a / ROWS


def _noise(key):
    """Of mean squared length 1."""
    return jax.random.normal(key, (DIM,)) / np.sqrt(DIM)


def _converted(key, rounds):
    """The mean over epochs of the length of an epoch's mean gradient."""
    data, run = jax.random.split(key)
    a, b = _problem(data)
    eta, radius, interval = o2nc_radius(rounds, DELTA, lipschitz=2.0, noise=1.0, gap=1.0)
    tx = o2nc(eta, radius, reset_interval=interval)

    def step(carry, key):
        w, state = carry
        point, noise = jax.random.split(key)
        gradient = _gradient(w, a, b)
        updates, state = tx.update(gradient + _noise(noise), state, w, key=point)
        return (w + updates, state), gradient

    def epoch(carry, keys):
        carry, gradients = jax.lax.scan(step, carry, keys)
        return carry, jnp.linalg.norm(jnp.mean(gradients, axis=0))

    epochs = rounds // interval
    keys = jax.random.split(run, epochs * interval).reshape(epochs, interval)
    w = jnp.zeros(DIM)
    return jnp.mean(jax.lax.scan(epoch, (w, tx.init(w)), keys)[1])


def _plain(key, rounds, rate):
    """The mean over iterates of SGD of the gradient's length, rate/√N."""
    data, run = jax.random.split(key)
    a, b = _problem(data)

    def step(w, key):
        gradient = _gradient(w, a, b)
        return w - rate / np.sqrt(rounds) * (gradient + _noise(key)), jnp.linalg.norm(gradient)

    return jnp.mean(jax.lax.scan(step, jnp.zeros(DIM), jax.random.split(run, rounds))[1])


def _arm(keys, smoke, *, name):
    counts = ROUNDS[:2] if smoke else ROUNDS
    means, rates = [], []
    for rounds in counts:
        run = functools.partial(_converted, rounds=rounds)
        if name == "sgd":
            grid = [r * np.sqrt(rounds) for r in (RATES[4:6] if smoke else RATES)]
            rates.append(s.best(lambda key, rate, n=rounds: _plain(key, n, rate), grid))
            run = functools.partial(_plain, rounds=rounds, rate=rates[-1])
        means.append(jax.jit(jax.vmap(run))(keys))
    means = jnp.stack(means, axis=1)
    x = np.log(counts) - np.log(counts).mean()
    found = {"slope": jnp.log(means) @ x / np.sum(x**2), "last": means[:, -1], "curve": means}
    if rates:
        found["rates"] = jnp.tile(jnp.asarray(rates) / np.sqrt(counts), (len(keys), 1))
    return found


CLAIM = Claim(
    paper="P194",
    slug="online_to_nonconvex",
    says="On functions with kinks the conversion finds points whose neighbourhood has a small mean gradient, at a rate of "
    "N^(-1/3) in the number of gradients; the gradients at SGD's iterates do not vanish.",
    setup="F = mean of |r| + sin(3 r)/3, r = a_i w - b_i, 20 unit rows of 10 numbers, normal targets, gradients with noise of "
    "mean squared length 1; N = 2^10 … 2^16 from zero, delta = 0.1, step size, radius and epochs by theory for G = 2 and "
    "sigma = F_0 - F* = 1. The exact gradient's mean over each epoch's points (within delta of their mean), its length, the "
    "mean over epochs; for SGD with constant steps the mean length of the gradient at its iterates. Slope: of log length "
    "over log N.",
    tuning="none for the conversion; SGD's step, for each N, from 1e-5, 10^-4.5, … 10 by the mean of its metric over 3 other "
    "seeds. An earlier run had log(1 + |r|), whose gradients vanish far away: SGD took the largest step and left",
    arms={name: functools.partial(_arm, name=name) for name in ("sgd", "o2nc")},
    comparisons=(
        Comparison("the mean gradient falls at least as N^-0.25", "o2nc", None, "slope", "lower", -0.25),
        Comparison("SGD's gradients hardly fall", "sgd", None, "slope", "higher", -0.1),
        Comparison("it ends lower than SGD", "o2nc", "sgd", "last", "lower", 0.0, "log_ratio"),
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2302.03775: abstract, theorem 8",
)
