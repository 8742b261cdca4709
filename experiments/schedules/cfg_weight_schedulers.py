"""Guidance that grows while a sample is denoised, for a model that confuses classes, with scores that are known."""

import functools

import jax
import jax.numpy as jnp

from experiments.harness import Claim, Comparison
from jaxtrain.estimators import sliced_wasserstein
from jaxtrain.schedules import cfg_schedule, guided_score

CLASSES, MODES, WIDTH = 4, 6, 0.08
CONFUSED = 0.3
SAMPLES, STEPS, TOP = 1000, 48, 10.0
HIGH = 4.0
SCALES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
CLAMPS = (0.0, 0.25, 0.5, 1.0, 2.0)
TUNING_SEEDS = 6
SHAPES = {
    "constant": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "inv_linear": "inv_linear",
    "sine": "sine",
    "clamp_linear": "linear",
}


def _modes(key):
    """The centres of a problem: each class is a bent segment of a ring, the segments of random radii overlap a bit."""
    angle, radius = jax.random.split(key)
    first = jnp.arange(CLASSES) * 2 * jnp.pi / CLASSES + jax.random.uniform(angle)
    along = first[:, None] + jnp.linspace(0, 0.9 * 2 * jnp.pi / CLASSES, MODES)
    r = jax.random.uniform(radius, (CLASSES, 1), minval=0.7, maxval=1.3) * jnp.linspace(0.9, 1.1, MODES)
    return jnp.stack([r * jnp.cos(along), r * jnp.sin(along)], axis=-1)


def _score(x, sigma, centres, log_weights):
    """The score of a mixture of Gaussians with noise of size sigma added."""
    variance = WIDTH**2 + sigma**2
    away = centres - x[:, None]
    share = jax.nn.softmax(log_weights - jnp.sum(away**2, axis=-1) / (2 * variance), axis=1)
    return jnp.einsum("nk,nkd->nd", share, away) / variance


def _distance(key, shape, scale, clamp):
    """Sliced Wasserstein distance of guided samples of class 0 to samples of that class."""
    problem, noise, data, slices = jax.random.split(key, 4)
    modes = _modes(problem)
    centres = modes.reshape(-1, 2)
    # a model that has not quite learnt what a class is: 30 % of its class are anything
    own = jnp.where(jnp.arange(CLASSES * MODES) < MODES, 1 / MODES, 0.0)
    believed = jnp.log((1 - CONFUSED) * own + CONFUSED / (CLASSES * MODES))
    anything = jnp.zeros(CLASSES * MODES)
    weight = cfg_schedule(shape, scale=scale, clamp=clamp)
    sigmas = jnp.append((TOP ** (1 / 7) + jnp.linspace(0, 1, STEPS) * (0.002 ** (1 / 7) - TOP ** (1 / 7))) ** 7, 0.0)

    def step(x, i):
        sigma = sigmas[i]
        score = guided_score(
            _score(x, sigma, centres, believed), _score(x, sigma, centres, anything), weight(1 - i / (STEPS - 1))
        )
        return x - (sigmas[i + 1] - sigma) * sigma * score, None

    x, _ = jax.lax.scan(step, TOP * jax.random.normal(noise, (SAMPLES, 2)), jnp.arange(STEPS))
    which, spread = jax.random.split(data)
    true = modes[0][jax.random.randint(which, (SAMPLES,), 0, MODES)]
    true = true + WIDTH * jax.random.normal(spread, (SAMPLES, 2))
    return sliced_wasserstein(x, true, key=slices, num_projections=32)


@functools.cache
def _program(shape):
    return jax.jit(lambda pairs: jax.lax.map(lambda p: _distance(p[0], shape, p[1], p[2]), pairs))


def _run(shape, keys, scale, clamp):
    ones = jnp.ones(len(keys))
    return _program(shape)((keys, scale * ones, clamp * ones))


def _arm(keys, smoke, *, name):
    shape = SHAPES[name]
    clamps = CLAMPS if name == "clamp_linear" else (0.0,)
    grid = [(scale, clamp) for scale in (SCALES[2:4] if smoke else SCALES) for clamp in clamps]
    others = jax.random.split(jax.random.key(20_000), len(keys) if smoke else TUNING_SEEDS)
    scale, clamp = min(grid, key=lambda p: float(jnp.mean(_run(shape, others, *p))))
    return {
        "distance": _run(shape, keys, scale, clamp),
        "distance_at_4": _run(shape, keys, HIGH, clamp),
        "scale": jnp.full(len(keys), scale),
        "clamp": jnp.full(len(keys), clamp),
    }


def _comparison(arm, baseline, metric):
    where = "each with its best scale" if metric == "distance" else "mean weight 4"
    return Comparison(
        name=f"{arm} better than {baseline}, {where}",
        arm=arm,
        baseline=baseline,
        metric=metric,
        better="lower",
        scale="log_ratio",
    )


CLAIM = Claim(
    paper="P223",
    slug="cfg_weight_schedulers",
    says="Of guidance weights with the same mean, increasing ones give better samples than a constant one, and a constant "
    "one better samples than decreasing ones; a tuned lower limit improves an increasing one further.",
    setup="Four classes, each 6 Gaussians along a bent segment in the plane, at random for each seed. The conditional "
    "model is the exact score of a mixture that confuses classes: 30 % of a class are anything; the unconditional one is "
    "exact. 1,000 samples by 48 Euler steps from noise 10 (rho 7; the time of the weight runs with the steps), sliced "
    "Wasserstein distance with 32 directions to 1,000 samples of the class.",
    tuning="the scale of each arm from 0, 0.25, 0.5, 1, 2, 4, 8, and the limit of clamp_linear from 0, 0.25, 0.5, 1, 2, "
    "by the mean distance of 6 other seeds; a second comparison at scale 4 for all arms (with that limit)",
    arms={name: functools.partial(_arm, name=name) for name in SHAPES},
    comparisons=(
        *(_comparison(arm, "constant", m) for m in ("distance", "distance_at_4") for arm in ("linear", "cosine")),
        *(_comparison("constant", arm, m) for m in ("distance", "distance_at_4") for arm in ("inv_linear", "sine")),
        _comparison("clamp_linear", "linear", "distance"),
    ),
    seeds=40,
    smoke_seeds=4,
    claimed_by="arXiv 2404.13040: abstract, figures 6, 7 and 10",
)
