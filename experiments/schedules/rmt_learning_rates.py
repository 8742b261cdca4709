"""The top of the spectrum of batch Hessians, and the largest stable learning rates, over the batch size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.gradients import stochastic_lanczos_quadrature, top_eigenvalue

SIZES = (64, 16, 10)
WARM_STEPS = 100
SPECTRUM_BATCHES = (16, 32, 64, 128, 256, 512, 1024)
DRAWS = 12
LANCZOS_STEPS = 20
RATE_BATCHES = (4, 8, 16, 32)
STEPS = 150
RATES = {"sgd": 0.01 * 2 ** (np.arange(28) / 2), "adam": 1e-3 * 2 ** (np.arange(40) / 2)}


def _data():
    data = s.digits(1500, validation=False)
    return jnp.asarray(data.x), jnp.asarray(data.y)


def _batch(key, size):
    x, y = _data()
    chosen = jax.random.randint(key, (size,), 0, len(x))
    return x[chosen], y[chosen]


def _warm(key):
    """Parameters after a hundred steps of SGD, where the Hessian has its outliers."""

    def step(params, key):
        grads = jax.grad(s.cross_entropy)(params, *_batch(key, 32))
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), None

    start, run = jax.random.split(key)
    return jax.lax.scan(step, s.mlp(start, SIZES), jax.random.split(run, WARM_STEPS))[0]


def _spectrum(params, key, size):
    """The top eigenvalue of batch Hessians, and the edge of their bulk: where 97.5 % of the eigenvalues lie below, all but some 30."""

    def one(key):
        draw, top, rest = jax.random.split(key, 3)
        batch = _batch(draw, size)
        gradient = jax.grad(lambda p: s.cross_entropy(p, *batch))
        matvec = lambda v: jax.jvp(gradient, (params,), (v,))[1]  # noqa: E731
        nodes, weights = stochastic_lanczos_quadrature(rest, matvec, params, num_steps=LANCZOS_STEPS)
        above = jnp.cumsum(weights[0][::-1])
        edge = nodes[0][::-1][jnp.argmax(above > 0.025)]
        return jnp.stack([top_eigenvalue(top, matvec, params, num_steps=LANCZOS_STEPS), edge])

    return jax.lax.map(one, jax.random.split(key, DRAWS)).mean(axis=0)


def _slope(x, y):
    """Of a straight line through points, and the part of the variance that it explains."""
    x, y = x - x.mean(), y - y.mean(axis=-1, keepdims=True)
    slope = jnp.sum(x * y, axis=-1) / jnp.sum(x**2)
    return slope, 1 - jnp.sum((y - slope[:, None] * x) ** 2, axis=-1) / jnp.sum(y**2, axis=-1)


def _hessians(keys, smoke):
    warm = jax.jit(jax.vmap(_warm))(keys)
    batches = SPECTRUM_BATCHES[::3] if smoke else SPECTRUM_BATCHES
    found = []
    for size in batches:
        run = jax.jit(lambda p, k, size=size: jax.lax.map(lambda a: _spectrum(*a, size), (p, k)))
        found.append(run(warm, jax.vmap(lambda k, size=size: jax.random.fold_in(k, size))(keys)))
    found = jnp.stack(found, axis=1)
    slope, fit = _slope(1 / jnp.asarray(batches, jnp.float32), found[:, :, 0])
    edge, _ = _slope(jnp.log(jnp.asarray(batches, jnp.float32)), jnp.log(jnp.maximum(found[:, :, 1], 1e-6)))
    return {"fit": fit, "rise": slope, "edge_off": jnp.abs(edge + 0.5), "edge_exponent": edge, "top": found[:, :, 0]}


def _stable(key, rate, name, size, steps):
    """Whether a run from a fresh start ends with a lower loss on all data than it had."""
    start, run = jax.random.split(key)
    params = s.mlp(start, SIZES)
    tx = optax.sgd(rate) if name == "sgd" else optax.adam(rate)

    def step(carry, key):
        params, state = carry
        updates, state = tx.update(jax.grad(s.cross_entropy)(params, *_batch(key, size)), state, params)
        return (optax.apply_updates(params, updates), state), None

    first = s.cross_entropy(params, *_data())
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(run, steps))
    return s.cross_entropy(params, *_data()) < first


def _largest_rates(keys, smoke, name):
    rates = RATES[name][::9] if smoke else RATES[name]
    found = []
    for size in RATE_BATCHES:
        stable = functools.partial(_stable, name=name, size=size, steps=10 if smoke else STEPS)
        run = jax.jit(lambda keys, stable=stable: jax.lax.map(lambda k: jax.vmap(lambda r: stable(k, r))(rates), keys))
        # the largest of the grid below which all are stable
        count = jnp.cumprod(run(keys), axis=1).sum(axis=1)
        found.append(jnp.asarray(rates)[jnp.maximum(count - 1, 0)])
    return jnp.stack(found, axis=1)


def _rates(keys, smoke, *, name, expected):
    largest = _largest_rates(keys, smoke, name)
    slope, _ = _slope(jnp.log(jnp.asarray(RATE_BATCHES, jnp.float32)), jnp.log(largest))
    return {"slope": slope, "slope_off": jnp.abs(slope - expected), "largest_rate": largest}


def _alone(name, arm, metric, better, margin):
    return Comparison(name=name, arm=arm, baseline=None, metric=metric, better=better, margin=margin)


CLAIM = Claim(
    paper="P051",
    slug="rmt_learning_rates",
    says="The top eigenvalue of batch Hessians is that of all data plus a term in 1/b, the edge of the bulk falls like "
    "b^(-1/2); the largest stable learning rate of SGD grows like b for small b, that of Adam like the root of b.",
    setup="An MLP 64-16-10 on 1,500 of scikit-learn's digits. Spectra after 100 steps of SGD, means over 12 batches of 16, "
    "32, …, 1,024 drawn with replacement, 20 Lanczos steps; the edge is the 97.5 % quantile of the density, which leaves out 30 of 1,210. Largest rates: "
    "batches of 4, 8, 16, 32, 150 steps from a fresh start; stable is what ends with a lower loss on all data. A slope "
    "agrees within 0.2 of 1 (SGD), 0.15 of 1/2 (Adam, the edge); a fit explains more than 0.9 of the variance.",
    tuning="nothing: rates are what is measured, on a grid with steps of a root of 2, SGD from 0.01 to 116 and Adam "
    "from 1e-3 to 741. An earlier run's grid for Adam ended at 1.2, which most runs reached: a slope of 0.09",
    arms={
        "hessian": _hessians,
        "sgd": functools.partial(_rates, name="sgd", expected=1.0),
        "adam": functools.partial(_rates, name="adam", expected=0.5),
    },
    comparisons=(
        _alone("top eigenvalues lie on a line over 1/b", "hessian", "fit", "higher", 0.9),
        _alone("the edge of the bulk falls like b^(-1/2)", "hessian", "edge_off", "lower", 0.15),
        _alone("the largest rate of SGD grows like b", "sgd", "slope_off", "lower", 0.2),
        _alone("the largest rate of Adam grows like the root of b", "adam", "slope_off", "lower", 0.15),
    ),
    seeds=16,
    smoke_seeds=2,
    claimed_by="arXiv 2006.09092: abstract, sections 3 to 5",
)
