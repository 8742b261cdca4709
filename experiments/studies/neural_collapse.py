"""Neural collapse below deep linear heads, balanced on digits and imbalanced in the model of free features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain import studies

WIDTH, CLASSES, EACH, STEPS, RATE, DECAY = 32, 10, 20, 3000, 1e-3, 1e-3
COUNTS, FREE_STEPS, FREE_RATE = (500, 100, 20), 6000, 0.02
# the smallest class lies below the threshold N² lam_w lam_h = 38.4 examples, the others above
LAM_W, LAM_H = 1e-2, 1e-2


def _features(params, x):
    for layer in params["body"]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x


def _collapse(key, depth, smoke):
    """An MLP with a linear head of ``depth`` layers without bias, squared error, weight decay in the loss, all examples."""
    data = s.digits(1000, validation=False)
    index = np.concatenate([np.flatnonzero(data.y == c)[:EACH] for c in range(CLASSES)])
    x, y = jnp.asarray(data.x[index]), jnp.asarray(data.y[index])
    target = jax.nn.one_hot(y, CLASSES)
    body, head = jax.random.split(key)
    sizes = [WIDTH] * depth + [CLASSES]
    params = {
        "body": s.mlp(body, (64, 2 * WIDTH, WIDTH)),
        "head": [
            jax.random.normal(k, (m, n)) / jnp.sqrt(m)
            for k, m, n in zip(jax.random.split(head, depth), sizes[:-1], sizes[1:], strict=True)
        ],
    }

    def loss(params, _):
        outputs = functools.reduce(jnp.matmul, params["head"], _features(params, x))
        decay = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
        return jnp.mean(jnp.sum((outputs - target) ** 2, axis=1)) / 2 + DECAY / 2 * decay

    def metrics(params):
        head = functools.reduce(jnp.matmul, params["head"])
        return studies.nc_metrics(_features(params, x), y, head.T, num_classes=CLASSES, frame="orthogonal")

    steps = 20 if smoke else STEPS
    trained = s.descend(loss, optax.adam(optax.cosine_decay_schedule(RATE, steps)), params, length=steps)
    before, after = metrics(params), metrics(trained)
    return {f"{n}_fall_depth_{depth}": jnp.log10(before[n] / after[n]) for n in ("nc1", "nc2", "nc3")}


def _free(key, smoke):
    """Adam on the free model from a random start; the features of a class are one column with weight n, its exact minimum
    over equal features, so that 620 columns need not be carried."""
    counts = jnp.asarray(COUNTS, jnp.float32)
    total = counts.sum()
    k = len(COUNTS)
    a, b = jax.random.split(key)
    params = (0.3 * jax.random.normal(a, (k, 8)), 0.3 * jax.random.normal(b, (8, k)))

    def loss(params, _):
        w, h = params
        fit = jnp.sum(counts * jnp.sum((w @ h - jnp.eye(k)) ** 2, axis=0)) / (2 * total)
        return fit + LAM_W / 2 * jnp.sum(w**2) + LAM_H / 2 * jnp.sum(counts * jnp.sum(h**2, axis=0))

    steps = 50 if smoke else FREE_STEPS
    w, _ = s.descend(loss, optax.adam(optax.cosine_decay_schedule(FREE_RATE, steps)), params, length=steps)
    lengths = jnp.linalg.norm(w, axis=1)
    exact = studies.gof_singular_values(counts, lam_w=LAM_W, lam_h=LAM_H)
    return {
        "relative_error_of_lengths": jnp.max(
            jnp.where(exact > 0, jnp.abs(lengths / jnp.where(exact > 0, exact, 1) - 1), 0)
        ),
        "minority_length": lengths[-1] / lengths[0],
    }


def _arm(keys, smoke, *, one):
    return jax.jit(lambda keys: jax.lax.map(lambda key: one(key, smoke=smoke), keys))(keys)


def _falls(depth):
    words = {"nc1": ("spread within classes falls to a hundredth", 2.0), "nc2": ("means near the frame", 1.0)}
    words["nc3"] = ("classifier aligned with the means", 1.0)
    return [
        Comparison(
            f"{what}, {depth} linear layers", f"depth_{depth}", None, f"{n}_fall_depth_{depth}", "higher", margin
        )
        for n, (what, margin) in words.items()
    ]


DEPTHS = (1, 3, 6)
CLAIM = Claim(
    paper="P262",
    slug="neural_collapse",
    says="With weight decay features, class means and classifier below deep linear heads collapse; with unequal classes the "
    "lengths of the classifier's rows follow a law of square roots, and a class below a threshold vanishes.",
    setup=f"Depths 1, 3 and 6 of a linear head without bias on an MLP 64-{2 * WIDTH}-{WIDTH}, squared error, weight decay "
    f"{DECAY} on everything, {EACH} of scikit-learn's digits from each class, {STEPS:,} steps of Adam on all of them; log10 of "
    "the metric before training over after: 2 is a hundredth, 1 a tenth. Free model: counts 500, 100, 20, lam_w = lam_h = "
    f"0.01, threshold 38.4 examples, {FREE_STEPS:,} steps of Adam.",
    tuning="none; rates and steps were fixed before the run",
    arms={
        **{f"depth_{m}": functools.partial(_arm, one=functools.partial(_collapse, depth=m)) for m in DEPTHS},
        "free": functools.partial(_arm, one=_free),
    },
    comparisons=(
        *(c for m in DEPTHS for c in _falls(m)),
        Comparison("lengths within 1 % of the law", "free", None, "relative_error_of_lengths", "lower", 0.01),
        Comparison("the minority's row below 1 % of the majority's", "free", None, "minority_length", "lower", 0.01),
    ),
    seeds=6,
    claimed_by="arXiv 2301.00437: theorems for balanced and imbalanced classes, experiments",
)
