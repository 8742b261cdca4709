"""AdaGrad-Norm: any step size will do, and the rates under affine variance."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.harness import Claim, Comparison
from jaxtrain.optimizers import adagrad_norm

DIM, STEPS = 10, 16_384
RATES = tuple(10.0 ** np.arange(-2, 2.25, 0.5))
# standard deviation of the noise: what is constant, and what grows with the gradient
NOISE = {"exact": (0.0, 0.0), "growing": (0.0, 2.0), "constant": (1.0, 0.0), "both": (1.0, 2.0)}
# a run that left this behind counts as this
CAP = 1e12
FACTORIES = {"sgd": optax.sgd, "adagrad_norm": adagrad_norm}


def _gradient(w):
    """Of sum_i a_i (w_i² + 3 sin² w_i) / 2: smooth, not convex, with unbounded gradients."""
    return jnp.logspace(0, -1, DIM) * (w + 1.5 * jnp.sin(2 * w))


def _squared_norms(key, name, rate, noise, steps):
    """‖∇f‖² before every step."""
    constant, growing = noise
    start, run = jax.random.split(key)
    tx = FACTORIES[name](rate)
    w = 3 * jax.random.normal(start, (DIM,))

    def step(carry, key):
        w, state = carry
        gradient = _gradient(w)
        square = jnp.sum(gradient**2)
        deviation = jnp.sqrt((constant**2 + growing**2 * square) / DIM)
        updates, state = tx.update(gradient + deviation * jax.random.normal(key, (DIM,)), state, w)
        return (optax.apply_updates(w, updates), state), square

    return jax.lax.scan(step, (w, tx.init(w)), jax.random.split(run, steps))[1]


def _arm(keys, smoke, *, name):
    steps = 256 if smoke else STEPS
    points = steps // 2 ** np.arange(5)

    def slope(key, noise):
        """Of log mean ‖∇f‖² over log T, at a rate of 1."""
        means = jnp.cumsum(_squared_norms(key, name, 1.0, noise, steps))[points - 1] / points
        x = np.log(points) - np.log(points).mean()
        return jnp.sum(x * jnp.log(means)) / np.sum(x**2)

    def worst(key, noise):
        """The largest mean ‖∇f‖² of any rate."""
        norms = jax.vmap(lambda rate: _squared_norms(key, name, rate, noise, steps // 8))(jnp.asarray(RATES))
        means = jnp.mean(norms, axis=1)
        return jnp.max(jnp.where(means < CAP, means, CAP))

    found = {}
    for label, noise in NOISE.items():
        found[f"worst_{label}"] = jax.jit(jax.vmap(functools.partial(worst, noise=noise)))(keys)
        if name != "sgd":  # which does not survive a rate of 1
            found[f"slope_{label}"] = jax.jit(jax.vmap(functools.partial(slope, noise=noise)))(keys)
    return found


CLAIM = Claim(
    paper="P103",
    slug="adagrad_norm",
    says="SGD with AdaGrad's scalar step sizes needs no knowledge of smoothness or noise: for any step size the mean "
    "squared gradient norm falls as 1/T without constant noise and as 1/sqrt(T) with it, also where noise grows with the "
    "gradient; SGD diverges where its step size is too large.",
    setup="Ten numbers w, f = sum a_i (w_i² + 3 sin² w_i)/2 with a from 1 to 0.1, smoothness 4, not convex; Gaussian noise of "
    "standard deviation sqrt(s0² + s1² ‖∇f‖²), (s0, s1) = (0, 0) exact, (0, 2) growing, (1, 0) constant, (1, 2) both. "
    "Worst: the largest mean of ‖∇f‖² over 2,048 steps among nine rates from 0.01 to 100 (diverged runs count as 1e12). "
    "Slope: of log mean ‖∇f‖² over log T, T = 1,024 … 16,384, at a rate of 1; 0.1 is allowed for logarithms.",
    tuning="none: both arms run with all nine rates",
    arms={name: functools.partial(_arm, name=name) for name in FACTORIES},
    comparisons=(
        *(
            Comparison(
                name=f"the worst of nine rates is 10 times better than SGD's, {label}",
                arm="adagrad_norm",
                baseline="sgd",
                metric=f"worst_{label}",
                better="lower",
                margin=math.log(10),
                scale="log_ratio",
            )
            for label in NOISE
        ),
        *(
            Comparison(
                name=f"falls at least as T^{margin}, {label}",
                arm="adagrad_norm",
                baseline=None,
                metric=f"slope_{label}",
                better="lower",
                margin=margin,
            )
            for label, margin in (("exact", -0.9), ("growing", -0.9), ("constant", -0.4), ("both", -0.4))
        ),
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2302.08783: abstract, theorems 1 and 2",
)
