"""Batches that grow by the norm test against small and large ones, with one adaptive learning rate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.schedules import adaptive_batch_size, norm_test_batch_size

RATES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
TUNING_SEEDS = 3
ETA = 0.75
# examples seen; where "early" is; small, large and largest batch; problems differ in size
PROBLEMS = {
    "logistic": {"budget": 40_000, "early": 2_000, "small": 4, "large": 512, "maximum": 1024},
    "mlp": {"budget": 20_000, "early": 2_000, "small": 8, "large": 256, "maximum": 256},
}


@functools.cache
def _logistic_data():
    """4,096 examples of 20 features of different scales, labels by a noisy linear rule; to train and to measure on."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4096, 20)) * np.logspace(0, -1, 20)
    y = (x @ rng.normal(size=20) * 2 + 0.5 * rng.normal(size=4096) > 0).astype(np.int32)
    x = x.astype(np.float32)
    return s.Data(x, y, x, y)


def _data(problem, validation):
    return _logistic_data() if problem == "logistic" else s.digits(1000, validation=validation)


def _run(key, rate, *, name, problem, smoke, validation=False):
    """AdaGrad-Norm until the budget of examples is spent; batches are padded to the largest size."""
    p = PROBLEMS[problem] | ({"budget": 600, "early": 300} if smoke else {})
    data = _data(problem, validation)
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    start, batches = jax.random.split(key)
    sizes = (20, 2) if problem == "logistic" else (64, 32, 10)
    params = s.mlp(start, sizes)
    if problem == "logistic":
        params = jax.tree.map(jnp.zeros_like, params)
    first, largest = {
        "adaptive": (p["small"], p["maximum"]),
        "small": (p["small"], p["small"]),
        "large": (p["large"], p["large"]),
    }[name]
    init, update = adaptive_batch_size(first, largest, functools.partial(norm_test_batch_size, eta=ETA))

    def full_norm(params):
        g = jax.grad(s.cross_entropy)(params, x, y)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(g))

    def step(carry):
        params, total, size, seen, steps, at_early = carry
        chosen = jax.random.randint(jax.random.fold_in(batches, steps), (largest,), 0, len(x))
        one = lambda p, x, y: s.cross_entropy(p, x[None], y[None])  # noqa: E731
        grads = jax.vmap(jax.grad(one), (None, 0, 0))(params, x[chosen], y[chosen])
        weights = (jnp.arange(largest) < size.size) / size.size
        mean = jax.tree.map(lambda g: jnp.tensordot(weights, g, axes=1), grads)
        # AdaGrad-Norm: one rate for all parameters, over the root of the sum of squared gradient norms
        total = total + sum(jnp.sum(g**2) for g in jax.tree.leaves(mean))
        new = jax.tree.map(lambda q, g: q - rate * g / jnp.sqrt(total), params, mean)
        seen = seen + size.size
        crossed = (at_early[1] == 0) & (seen >= p["early"])
        at_early = jax.tree.map(lambda a, b: jnp.where(crossed, a, b), (new, size.size), at_early)
        return new, total, update(size, grads, valid=size.size), seen, steps + 1, at_early

    zero = jnp.zeros((), jnp.int32)
    carry = (params, jnp.asarray(1e-4), init(), zero, zero, (params, zero))
    params, _, size, _, _, (early, _) = jax.lax.while_loop(lambda c: c[3] < p["budget"], step, carry)
    norms = full_norm(early), full_norm(params)
    return {
        "early": norms[0],
        "late": norms[1],
        "loss": s.cross_entropy(params, data.held_x, data.held_y),
        "accuracy": s.accuracy(params, data.held_x, data.held_y),
        "final_batch": size.size.astype(jnp.float32),
    }


def _arm(keys, smoke, *, name):
    found = {}
    rates = RATES[2:5] if smoke else RATES
    for problem in PROBLEMS:
        others = jax.random.split(jax.random.key(20_000), TUNING_SEEDS)
        run = functools.partial(_run, name=name, problem=problem, smoke=smoke)
        grid = jax.jit(lambda pairs, run=run: jax.lax.map(lambda q: run(*q, validation=True)["loss"], pairs))
        pairs = jnp.tile(others, len(rates)), jnp.repeat(jnp.asarray(rates), TUNING_SEEDS)
        losses = grid(pairs).reshape(len(rates), TUNING_SEEDS).mean(axis=1)
        rate = rates[int(jnp.nanargmin(losses))]
        got = jax.jit(lambda keys, run=run, rate=rate: jax.lax.map(lambda k: run(k, rate), keys))(keys)
        found |= {f"{problem}_{metric}": values for metric, values in got.items()}
        found[f"{problem}_rate"] = jnp.full(len(keys), rate)
    return found


CLAIM = Claim(
    paper="P134",
    slug="adadagrad",
    says="With AdaGrad-Norm, batches that grow by the norm test reach smaller gradients than large batches early and than "
    "small ones late, in the same number of examples, and generalise as small ones do.",
    setup="Logistic regression on 4,096 made-up examples of 20 features (40,000 examples are drawn; early is 2,000; batch "
    "4, 512, or 4 growing to at most 1,024), squared norm of the whole gradient; an MLP 64-32-10 on 1,000 of "
    "scikit-learn's digits (20,000 examples; batch 8, 256, or 8 growing to 256), test accuracy. Batches are drawn with "
    "replacement; eta 0.75; the test is made at every step.",
    tuning="the rate of each arm and problem from 0.3, 1, 3, 10, 30, 100, 300 by the mean loss of 3 other seeds (MLP: on a "
    "quarter of the training images); a first grid ended at 30, which two arms chose",
    arms={name: functools.partial(_arm, name=name) for name in ("adaptive", "small", "large")},
    comparisons=(
        Comparison(
            "smaller gradient than large batches early",
            "adaptive",
            "large",
            "logistic_early",
            "lower",
            0.0,
            "log_ratio",
        ),
        Comparison(
            "smaller gradient than small batches late", "adaptive", "small", "logistic_late", "lower", 0.0, "log_ratio"
        ),
        Comparison("test accuracy within 1 % of small batches", "adaptive", "small", "mlp_accuracy", "higher", -0.01),
        Comparison("test accuracy better than large batches", "adaptive", "large", "mlp_accuracy", "higher", 0.0),
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2402.11215: abstract, experiments",
)
