"""Grams against Adam and cautious Adam: the training loss after a fixed number of steps."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.optimizers import grams, scale_by_cautious

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
DIMENSIONS, STEPS = 50, 500


def _optimizer(name, rate):
    if name == "grams":
        return grams(rate)
    direction = optax.scale_by_adam(eps=1e-6)
    return optax.chain(
        scale_by_cautious(direction) if name == "cautious" else direction, optax.scale_by_learning_rate(rate)
    )


def _quadratic(key, name, rate, smoke):
    """Mean loss of the last tenth of a run on a rotated quadratic of condition 1e3, with noise in the gradient."""
    basis, start, run = jax.random.split(key, 3)
    q = jnp.linalg.qr(jax.random.normal(basis, (DIMENSIONS, DIMENSIONS)))[0]
    hessian = (q * jnp.logspace(0, -3, DIMENSIONS)) @ q.T
    steps, tx = 20 if smoke else STEPS, _optimizer(name, rate)

    def step(carry, key):
        w, state = carry
        g = hessian @ w + 0.01 * jax.random.normal(key, w.shape)
        updates, state = tx.update(g, state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), w @ hessian @ w / 2

    w = jax.random.normal(start, (DIMENSIONS,))
    _, losses = jax.lax.scan(step, (w, tx.init(w)), jax.random.split(run, steps))
    return losses[-(steps // 10) :].mean()


def _mlp(key, name, rate, smoke):
    """Training loss of an MLP on digits after a few epochs."""
    data = s.digits(1000, validation=False)
    init = functools.partial(s.mlp, sizes=(64, 32, 32, 10))
    state, _ = s.train(key, _optimizer(name, rate), data, init=init, epochs=2 if smoke else 5, batch_size=50)
    return s.cross_entropy(state.params, data.x, data.y)


PROBLEMS = {"quadratic": _quadratic, "mlp": _mlp}


def _arm(keys, smoke, *, name):
    found = {}
    for label, problem in PROBLEMS.items():
        run = functools.partial(problem, name=name, smoke=smoke)
        rate = s.best(lambda key, rate, run=run: run(key, rate=rate), RATES[3:5] if smoke else RATES)
        found[f"{label}_loss"] = jax.jit(jax.vmap(lambda key, run=run, rate=rate: run(key, rate=rate)))(keys)
        found[f"{label}_rate"] = jnp.full(len(keys), rate)
    return found


CLAIM = Claim(
    paper="P165",
    slug="grams",
    says="After a fixed number of steps the training loss of Grams is lower than Adam's and cautious Adam's.",
    setup="A 50-dimensional rotated quadratic of condition 1e3 with Gaussian gradient noise of 0.01 per coordinate, 500 "
    "steps, mean loss of the last 50; an MLP 64-32-32-10 on 1,000 of scikit-learn's digits, batch 50, training loss "
    "after 5 epochs (100 steps). Constant learning rates, betas 0.9 and 0.999, eps 1e-6 in all arms.",
    tuning="the learning rate of each arm and problem from 8 values of 1e-4 to 0.3, half a decade apart, by the mean of 3 "
    "other seeds",
    arms={name: functools.partial(_arm, name=name) for name in ("adam", "cautious", "grams")},
    comparisons=tuple(
        Comparison(
            name=f"a lower loss than {baseline}'s, {label}",
            arm="grams",
            baseline=baseline,
            metric=f"{label}_loss",
            better="lower",
            scale="log_ratio",
        )
        for label in PROBLEMS
        for baseline in ("adam", "cautious")
    ),
    seeds=20,
    claimed_by="arXiv 2412.17107: abstract",
)
