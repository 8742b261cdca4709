"""Generalized normal errors: does a learned shape help values and their uncertainty?"""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from experiments.optimizers._arms import around
from jaxtrain.losses import gg_td_loss, ggd_nll

STATES, TRANSITIONS, FRESH, STEPS, GAMMA = 10, 500, 5000, 1000, 0.8
RATES = around(1e-3, 1.0)
NOISES = {
    "laplace": jax.random.laplace,
    "normal": lambda key, shape: jnp.sqrt(0.5) * jax.random.normal(key, shape),
    "student": lambda key, shape: jax.random.t(key, 3.0, shape),
}
SHAPES = {"laplace": 1.0, "normal": 2.0}


def _squared(error, head):
    return error**2 + 0 * head


def _normal(error, head):
    variance = jax.nn.softplus(head) + 1e-6
    return 0.5 * (error**2 / variance + jnp.log(2 * jnp.pi * variance))


def _learned_shape(error, head):
    return gg_td_loss(error[:, None], head[:, None], lam=0.0)


LOSSES = {"squared": _squared, "normal": _normal, "learned_shape": _learned_shape}


def _rewards():
    return 0.5 * jnp.sin(2 * jnp.pi * jnp.arange(STATES) / STATES)


def _true_values():
    walk = 0.5 * (jnp.roll(jnp.eye(STATES), 1, axis=1) + jnp.roll(jnp.eye(STATES), -1, axis=1))
    return jnp.linalg.solve(jnp.eye(STATES) - GAMMA * walk, _rewards())


def _draw(key, noise, count):
    """Transitions of a random walk on a ring, from states drawn evenly."""
    where, way, errors = jax.random.split(key, 3)
    state = jax.random.randint(where, (count,), 0, STATES)
    after = (state + jax.random.rademacher(way, (count,), jnp.int32)) % STATES
    return state, after, _rewards()[state] + NOISES[noise](errors, (count,))


def _fit(key, rate, loss, noise, steps):
    seen, fresh = jax.random.split(key)
    state, after, reward = _draw(seen, noise, TRANSITIONS)

    def errors(v, state, after, reward):
        # semi-gradient: the target is a constant
        return v[state] - (reward + GAMMA * jax.lax.stop_gradient(v)[after])

    def objective(params, _):
        return loss(errors(params["v"], state, after, reward), params["head"][state]).mean()

    tx = optax.adam(optax.cosine_decay_schedule(rate, steps))
    # the head starts at shape (or variance) 1
    params = {"v": jnp.zeros(STATES), "head": jnp.full(STATES, 0.5413)}
    params = s.descend(objective, tx, params, length=steps)
    state, after, reward = _draw(fresh, noise, FRESH)
    error, head = errors(params["v"], state, after, reward), params["head"][state]
    nll = ggd_nll(error, jnp.clip(jax.nn.softplus(head), 0.1, 5.0)) if loss is _learned_shape else _normal(error, head)
    return {
        "rmse": jnp.sqrt(jnp.mean((params["v"] - _true_values()) ** 2)),
        "nll": jnp.mean(nll),
        "shape": jnp.mean(jax.nn.softplus(params["head"])),
    }


def _arm(keys, smoke, *, name):
    found = {}
    for noise in NOISES:
        fit = functools.partial(_fit, loss=LOSSES[name], noise=noise, steps=50 if smoke else STEPS)
        rate = s.best(lambda key, rate, fit=fit: fit(key, rate)["rmse"], RATES[2:4] if smoke else RATES)
        out = jax.jit(jax.vmap(lambda key, fit=fit, rate=rate: fit(key, rate)))(keys)
        if noise in SHAPES:
            out["off_shape"] = jnp.abs(out["shape"] - SHAPES[noise])
        found |= {f"{noise}_{k}": v for k, v in out.items()} | {f"{noise}_rate": jnp.full(len(keys), rate)}
    return found


def _better(metric, baseline, says, scale):
    return Comparison(name=says, arm="learned_shape", baseline=baseline, metric=metric, better="lower", scale=scale)


def _shape(noise):
    return Comparison(
        name=f"the learned shape is that of {noise} noise within 0.2",
        arm="learned_shape",
        baseline=None,
        metric=f"{noise}_off_shape",
        better="lower",
        margin=0.2,
    )


CLAIM = Claim(
    paper="P013",
    slug="generalized_gaussian_td",
    says="With rewards of heavy tails, temporal-difference errors under a generalized normal distribution of learned shape give "
    "values nearer to the true ones and a better likelihood of fresh errors than under a normal distribution of learned "
    "variance; the learned shape is near 1 for Laplace's noise and near 2 for normal noise.",
    setup="A random walk on a ring of 10 states, discount 0.8, rewards of amplitude 0.5 plus noise: Laplace's of scale 1, normal "
    "of variance 1/2, Student's t with 3 degrees of freedom. Tables of values and of shapes (or variances), fitted to 500 "
    "transitions by 1,000 full-batch semi-gradient Adam steps with cosine decay; values against the exact ones, likelihood "
    "on 5,000 fresh transitions. One member and no second term: the loss for the shape alone.",
    tuning="the rate of each arm and noise, half a decade apart from 0.001 to 1, by the error of values over 3 other seeds",
    arms={name: functools.partial(_arm, name=name) for name in LOSSES},
    comparisons=(
        _better("laplace_rmse", "normal", "values, Laplace's noise", "log_ratio"),
        _better("student_rmse", "normal", "values, Student's noise", "log_ratio"),
        _better("laplace_nll", "normal", "likelihood, Laplace's noise", "difference"),
        _better("student_nll", "normal", "likelihood, Student's noise", "difference"),
        _shape("laplace"),
        _shape("normal"),
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2408.02295: heavy tails of TD errors, and its comparison with normal errors",
)
