"""PAC-Bayes slices: do learned slices see more than uniform ones, does their bound hold, and do they resist noise?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from experiments.optimizers._arms import around
from jaxtrain.estimators import optimize_slices_vmf, pac_sw_objective, sample_vmf, sliced_wasserstein

DIM, MANY, FEW, SHIFT, CLIP, STEPS, SLICES, DELTA = 20, 250, 30, 3.0, 3.0, 100, 50, 0.01
RATES = around(3e-3, 1.0)


def _sample(key, n, shift):
    """Normal in every direction, cut off at three deviations, and moved along the first."""
    return jax.random.truncated_normal(key, -CLIP, CLIP, (n, DIM)).at[:, 0].add(shift)


def _measure(key, settings, *, kind, steps):
    """``settings``: rate, and lambda for many and few points, so that both learned arms are one program."""
    data, learn, fresh, few = jax.random.split(key, 4)
    x, y, x_few, y_few = (
        _sample(k, n, shift)
        for k, n, shift in zip(jax.random.split(data, 4), (MANY, MANY, FEW, FEW), (0.0, SHIFT, 0.0, 0.0), strict=True)
    )
    if kind == "uniform":
        value, noise = sliced_wasserstein(x, y, key=learn) ** 2, sliced_wasserstein(x_few, y_few, key=few) ** 2
        return {"value": value, "worth": value, "noise": noise, "noise_worth": noise}
    rate, lam, lam_few = settings
    fit = functools.partial(optimize_slices_vmf, num_projections=SLICES, num_steps=steps, learning_rate=rate)
    seen, blank = fit(learn, x, y, lam=lam), fit(few, x_few, y_few, lam=lam_few)
    # one distribution is the other moved by SHIFT along the first axis: along theta the distance is SHIFT^2 theta_1^2
    slices = sample_vmf(fresh, seen.mu, seen.kappa, 2000)
    truth = SHIFT**2 * jnp.mean(slices[:, 0] ** 2)
    diameter = np.sqrt((2 * CLIP + SHIFT) ** 2 + (DIM - 1) * (2 * CLIP) ** 2)
    bound = pac_sw_objective(seen.value, seen.kl, n=MANY, diameter=diameter, delta=DELTA)
    penalty = [found.kl / np.sqrt(n) for found, n in ((seen, MANY), (blank, FEW))]
    return {
        "value": seen.value,
        "worth": seen.value - penalty[0],
        "bound_holds": (bound <= truth).astype(jnp.float32),
        "worth_is_below": (seen.value - penalty[0] <= truth).astype(jnp.float32),
        "noise": blank.value,
        "noise_worth": blank.value - penalty[1],
        "gain": seen.value - seen.kl / lam + blank.value - blank.kl / lam_few,
    }


def _arm(keys, smoke, *, kind):
    run = functools.partial(_measure, kind=kind, steps=5 if smoke else STEPS)
    settings = (0.0, 1.0, 1.0)
    if kind != "uniform":
        # the largest distance has next to no penalty
        lams = {"pac": (np.sqrt(MANY), np.sqrt(FEW)), "largest": (1e6, 1e6)}[kind]
        grid = [(rate, *lams) for rate in (RATES[2:4] if smoke else RATES)]
        settings = s.best(lambda key, v: -run(key, v)["gain"], grid)
    found = jax.jit(jax.vmap(run, in_axes=(0, None)))(keys, jnp.asarray(settings))
    return found | {"rate": jnp.full(len(keys), settings[0])}


CLAIM = Claim(
    paper="P205",
    slug="pac_bayes_adaptive_sliced_wasserstein",
    says="Where two distributions differ in one of 20 directions, learned slices see at least three times what uniform slices "
    "see, and the PAC-Bayes lower bound holds; where they do not differ, slices learned with the penalty see at most half as "
    "much noise in few points as those of the largest distance.",
    setup="Normals in 20 dimensions cut off at 3, 250 points of each, one moved by 3 along an axis; and 30 points each of two "
    "equal ones. Von Mises-Fisher slices, 100 Adam steps of 50 slices from the best of 50, lambda the root of n, or no "
    "penalty. The truth along learned slices: 9 theta_1^2 over 2,000 fresh slices. The bound at 99 % without psi, with the "
    "diameter of the support; beside it the distance less KL / lambda alone.",
    tuning="the rate of both learned arms, half a decade apart from 0.003 to 1, by what each maximises, with 3 other seeds; a "
    "first run, confirmed too, began at kappa = 1, where some seeds lost the direction",
    arms={kind: functools.partial(_arm, kind=kind) for kind in ("uniform", "pac", "largest")},
    comparisons=(
        Comparison(
            name="learned slices see three times as much",
            arm="pac",
            baseline="uniform",
            metric="value",
            better="higher",
            margin=float(np.log(3)),
            scale="log_ratio",
        ),
        Comparison(
            name="the bound holds in 99 of 100",
            arm="pac",
            baseline=None,
            metric="bound_holds",
            better="higher",
            margin=0.99,
        ),
        Comparison(
            name="of nothing they see half as much as the largest distance",
            arm="pac",
            baseline="largest",
            metric="noise",
            better="lower",
            margin=float(np.log(2)),
            scale="log_ratio",
        ),
    ),
    seeds=12,
    smoke_seeds=2,
    claimed_by="arXiv 2206.03230: its theorem, and its experiments on synthetic Gaussians",
)
