"""Heavy ball with step decay against SGD with step decay, by their exact expected risk on quadratics."""

import functools
import math

import jax
import jax.numpy as jnp

from experiments.harness import Claim, Comparison
from jaxtrain.schedules import heavy_ball_momentum, shb_excess_risk, step_decay_schedule

DIM = 50
CONDITIONS = (30, 300, 3000)
TARGET = 1e-3
LENGTHS = tuple(2**k for k in range(5, 18))
SETTINGS = [(rate, decay) for rate in (0.25, 0.5, 1.0, 1.5, 1.9, 3.0) for decay in (2.0, 4.0)]
TUNING_SEEDS = 3
# variances of the gradient over L: a large batch, and one that is all noise
LARGE, SMALL = 1e-7, 1e-2
SMALL_LENGTH, SMALL_CONDITION = 2**13, 300


def _problem(key, condition):
    """Eigenvalues between 1/κ and 1, evenly in their logarithm, and an error of which each has an equal share of risk."""
    eigs = jnp.exp(-jnp.log(condition) * jnp.sort(jax.random.uniform(key, (DIM,))))
    eigs = eigs.at[0].set(1.0).at[-1].set(1 / condition)
    signs = jax.random.rademacher(jax.random.fold_in(key, 1), (DIM,), jnp.float32)
    return eigs, signs / jnp.sqrt(eigs)


def _final(key, rate, decay, *, name, condition, length, noise):
    """Risk after the run, over the risk before it; infinite where it diverges."""
    eigs, start = _problem(key, condition)
    momentum = heavy_ball_momentum(condition) if name == "heavy_ball" else 0.0
    reach = length * math.sqrt(condition) if name == "heavy_ball" else length
    stages = jnp.ceil(jnp.log(reach) / jnp.log(decay)).astype(jnp.int32)
    schedule = step_decay_schedule(rate, length, num_stages=stages, decay=decay)
    risk = shb_excess_risk(eigs, start, noise, lrs=schedule(jnp.arange(length)), momentum=momentum)
    ratio = risk[-1] / risk[0]
    return jnp.where(jnp.isfinite(ratio), ratio, jnp.inf)


@functools.cache
def _program(name, condition, length, noise):
    run = functools.partial(_final, name=name, condition=condition, length=length, noise=noise)
    return jax.jit(jax.vmap(run))


def _tuned_risks(keys, name, condition, length, noise, settings):
    """Final risks of the seeds with the setting that is best for others, and that setting."""
    others = jnp.tile(jax.random.split(jax.random.key(20_000), TUNING_SEEDS), len(settings))
    rates, decays = jnp.repeat(jnp.asarray(settings), TUNING_SEEDS, axis=0).T
    run = _program(name, condition, length, noise)
    scores = run(others, rates, decays).reshape(len(settings), TUNING_SEEDS).mean(axis=1)
    rate, decay = settings[int(jnp.argmin(scores))]
    ones = jnp.ones(len(keys))
    return run(keys, rate * ones, decay * ones), rate


def _steps_to_target(keys, name, condition, lengths, settings):
    """The length of the shortest run that ends at the target, interpolated between lengths in both logarithms."""
    risks = []
    for length in lengths:
        risks.append(_tuned_risks(keys, name, condition, length, LARGE, settings)[0])
        if float(jnp.max(risks[-1])) < TARGET:
            break
    log_risk = jnp.log(jnp.stack(risks))
    reached = log_risk < jnp.log(TARGET)
    last = jnp.argmax(reached, axis=0)
    after = jnp.take_along_axis(log_risk, last[None], axis=0)[0]
    before = jnp.take_along_axis(log_risk, jnp.maximum(last - 1, 0)[None], axis=0)[0]
    part = (jnp.log(TARGET) - before) / (after - before)
    steps = jnp.asarray(lengths[: len(risks)])[last] * 2.0 ** (jnp.clip(part, 0, 1) - 1)
    return jnp.where(jnp.any(reached, axis=0), steps, jnp.nan)


def _arm(keys, smoke, *, name):
    lengths = LENGTHS[:6] if smoke else LENGTHS
    settings = SETTINGS[2:6] if smoke else SETTINGS
    steps = [_steps_to_target(keys, name, condition, lengths, settings) for condition in CONDITIONS]
    small = _tuned_risks(keys, name, SMALL_CONDITION, 256 if smoke else SMALL_LENGTH, SMALL, settings)
    # the risk in units of what the best estimator has, d σ² / 2T
    risk = small[0] * 0.5 * DIM / (0.5 * DIM * SMALL / SMALL_LENGTH)
    found = {f"steps_{c}": s for c, s in zip(CONDITIONS, steps, strict=True)}
    exponent = jnp.log(steps[-1] / steps[0]) / math.log(CONDITIONS[-1] / CONDITIONS[0])
    return found | {"exponent": exponent, "noise_risk": risk, "noise_rate": jnp.full(len(keys), small[1])}


CLAIM = Claim(
    paper="P238",
    slug="stochastic_heavy_ball_step_decay",
    says="With large batches the heavy ball with step decay needs steps in proportion to the root of the condition number "
    "where SGD with step decay needs them in proportion to it; with small batches its risk stays within a logarithm of "
    "the least possible.",
    setup="Quadratics of 50 dimensions with spectra at random between 1/κ and 1, κ = 30, 300 and 3,000; the start has an "
    "equal share of risk in every direction; gradient noise σ² H. Expected risks are exact (the recursion of second "
    "moments). Steps: the shortest run with its own step decay that ends at a thousandth of the first risk, σ² = 1e-7. "
    "Small batch: κ = 300, σ² = 1e-2, 8,192 steps, risk in units of d σ²/2T. Heavy ball: momentum (1 - 1/√κ)², "
    "log_C(T √κ) stages; SGD: log_C T. 'In proportion to' is an exponent of κ below 0.7, or above 0.8.",
    tuning="for every arm, condition and length the first rate from 0.25, 0.5, 1, 1.5, 1.9, 3 (over L) and the decay C "
    "from 2, 4 by the mean final risk of 3 other seeds; from 2 on SGD diverges, and heavy ball from 2 (1 + momentum) on",
    arms={name: functools.partial(_arm, name=name) for name in ("heavy_ball", "sgd")},
    comparisons=(
        Comparison("steps of the heavy ball grow slower than κ^0.7", "heavy_ball", None, "exponent", "lower", 0.7),
        Comparison("steps of SGD grow faster than κ^0.8", "sgd", None, "exponent", "higher", 0.8),
        Comparison(
            "at κ = 3,000 a quarter of SGD's steps",
            "heavy_ball",
            "sgd",
            "steps_3000",
            "lower",
            math.log(4),
            "log_ratio",
        ),
        Comparison(
            "small batch: within a factor log2 T = 13 of the least risk",
            "heavy_ball",
            None,
            "noise_risk",
            "lower",
            13.0,
        ),
        Comparison(
            "small batch: at most twice SGD's risk",
            "heavy_ball",
            "sgd",
            "noise_risk",
            "lower",
            -math.log(2),
            "log_ratio",
        ),
    ),
    seeds=20,
    smoke_seeds=3,
    claimed_by="arXiv 2312.14567: abstract, theorem on step decay",
)
