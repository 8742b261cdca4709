"""Learning from the means of bags: between the bag-level and the instance-level loss, and the best size of private bags."""

import functools

import jax
import jax.numpy as jnp

from experiments import _ends
from experiments.harness import Claim, Comparison
from jaxtrain.losses import interpolated_bag_ridge, private_bag_means

DIM, EXAMPLES, NOISE = 50, 1000, 1.0
RHOS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0)
SIZES = (1, 2, 5, 10, 20)
RIDGES = (1e-6, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def _problem(key):
    truth, inputs, noise, last = jax.random.split(key, 4)
    w = jax.random.normal(truth, (DIM,)) / jnp.sqrt(DIM)
    x = jax.random.normal(inputs, (EXAMPLES, DIM))
    return w, x, x @ w + NOISE * jax.random.normal(noise, (EXAMPLES,)), last


def _risks(key, pairs, *, size, epsilon=None):
    """|b - w|² for each rho and ridge: inputs are white, so this is the excess risk on a fresh one."""
    w, x, y, last = _problem(key)
    ids = jnp.arange(EXAMPLES) // size
    m = EXAMPLES // size
    # without privacy the noise is that of an epsilon that leaves nothing of it
    means = private_bag_means(last, y, ids, num_bags=m, epsilon=epsilon or 1e9, clip=4.0)
    fit = jax.vmap(lambda pair: interpolated_bag_ridge(x, means, ids, rho=pair[0], ridge=pair[1]))
    return jnp.sum((fit(jnp.asarray(pairs)) - w) ** 2, axis=-1)


def _tuned(keys, smoke, some=slice(None), *, ridges=RIDGES[:1], **how):
    """Risks of all pairs for the keys; the pair with the lowest mean risk over 20 other seeds among some, and that mean."""
    other = jax.random.split(jax.random.key(20_000), 2 if smoke else 20)
    # in one program: it takes longer to compile than to run
    pairs = [(rho, ridge) for rho in RHOS for ridge in ridges]
    risks = jax.jit(jax.vmap(lambda key: _risks(key, pairs, **how)))(jnp.concatenate([keys, other]))
    means = risks[len(keys) :].mean(axis=0)[some]
    return risks[: len(keys)], _ends.lowest(means, pairs[some]) + (some.start or 0), means.min()


def _interpolated(keys, smoke, *, size):
    """Risks at both ends and at the rho that other seeds choose from those between."""
    found, best, _ = _tuned(keys, smoke, slice(1, len(RHOS) - 1), size=size)
    return {
        "risk": found[:, best],
        "log_over_bag_level": jnp.log(found[:, 0] / found[:, best]),
        "log_over_instance_level": jnp.log(found[:, -1] / found[:, best]),
        "best_rho": jnp.full(len(keys), RHOS[best]),
    }


def _private(keys, smoke, *, epsilon, ridges=RIDGES[:1]):
    """Risks by size of the bags; other seeds choose rho (and ridge) for each size, and the size between the extremes."""
    curve, means = [], []
    for size in SIZES:
        found, best, mean = _tuned(keys, smoke, size=size, ridges=ridges, epsilon=epsilon)
        curve.append(found[:, best])
        means.append(float(mean))
    curve, inner = jnp.stack(curve, axis=1), 1 + _ends.lowest(means[1:-1], SIZES[1:-1])
    return {
        "risk": curve[:, inner],
        "log_bags_of_one_over_best": jnp.log(curve[:, 0] / curve[:, inner]),
        "log_largest_over_best": jnp.log(curve[:, -1] / curve[:, inner]),
        "best_size": jnp.full(len(keys), float(SIZES[inner])),
        "curve": curve,
    }


def _positive(arm, metric, name):
    """The logarithm of a ratio of risks, so that no rare large ratio decides."""
    return Comparison(name=name, arm=arm, baseline=None, metric=metric, better="higher")


CLAIM = Claim(
    paper="P050",
    slug="aggregate_response_losses",
    says="Between the bag-level loss (no bias, much variance) and the instance-level loss (the reverse) lies a better one, for "
    "bags of every size; with private means a bag of some size is better than single responses and than large bags.",
    setup="linear regression in closed form, 50 Gaussian features, 1,000 examples in random bags, true weights of length about 1, "
    "noise of 1; the excess risk on fresh inputs. Private: responses clipped to [-4, 4], Laplace noise, epsilon 2, "
    "bags of 1, 2, 5, 10, 20. private_ridge, which is compared, has a tuned ridge for every size; private has none and "
    "stands alongside.",
    tuning="rho from 0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1 by the mean risk of 20 other seeds, which also choose the size "
    "between 1 and 20; the arms bags_of_* choose from the rhos between 0 and 1 only and are compared to both ends. "
    "private_ridge: each of 72 pairs with a ridge from 0, 0.01 to 10 in half decades; everywhere else there is none (1e-6). "
    "In a first run the arm private was compared and confirmed: rho shrinks the predictions for bags, and nothing did so for "
    "single responses, which erred more than predicting 0",
    arms={
        **{f"bags_of_{size}": functools.partial(_interpolated, size=size) for size in (2, 5, 10)},
        "private": functools.partial(_private, epsilon=2.0),
        "private_ridge": functools.partial(_private, epsilon=2.0, ridges=RIDGES),
    },
    comparisons=(
        *(
            _positive(f"bags_of_{k}", "log_over_bag_level", f"better than the bag level, bags of {k}")
            for k in (2, 5, 10)
        ),
        *(
            _positive(f"bags_of_{k}", "log_over_instance_level", f"better than the instance level, bags of {k}")
            for k in (2, 5, 10)
        ),
        _positive("private_ridge", "log_bags_of_one_over_best", "private bags are better than private responses"),
        _positive("private_ridge", "log_largest_over_best", "private bags of 20 are too large"),
    ),
    seeds=40,
    smoke_seeds=2,
    claimed_by="arXiv 2401.11081: the theorems on the risk of the interpolating estimator and the optimal private bag size",
)
