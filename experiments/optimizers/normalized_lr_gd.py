"""Normalized logistic gradient descent: steps that do not grow with the number of examples."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import Claim, Comparison
from jaxtrain.optimizers import normalized_logistic_gd_step

SIZES = (32, 64, 128, 256, 512)
RATES = (1.0, 10.0, 100.0, 1e4)


def _data(key, n):
    """Rows times labels: n - 1 easy ones around (1, 0), and a hard one that a direction right for them gets wrong."""
    easy = jnp.array([1.0, 0.0]) + 0.1 * jax.random.normal(key, (n - 1, 2))
    return jnp.concatenate([easy, jnp.array([[-1.0, 0.5]])])


def _plain(w, z, y, *, step_size):
    return w + step_size * jax.nn.sigmoid(-(z @ w)) @ z / len(z)


METHODS = {"gd": _plain, "normalized": normalized_logistic_gd_step}


def _solve(key, name, rate, n, limit):
    """Steps until every row is right, at most ``limit``, and the largest loss on the way."""
    z = _data(key, n)
    y = jnp.ones(n)

    def body(carry):
        w, steps, loss = carry
        loss = jnp.maximum(loss, jnp.mean(jax.nn.softplus(-(z @ w))))
        return METHODS[name](w, z, y, step_size=rate), steps + 1, loss

    _, steps, loss = jax.lax.while_loop(
        lambda c: jnp.any(z @ c[0] <= 0) & (c[1] < limit),
        body,
        (jnp.zeros(2), jnp.zeros((), jnp.int32), jnp.zeros(())),
    )
    return steps.astype(jnp.float32), loss


def _arm(keys, smoke, *, name, rate):
    sizes = SIZES[:2] if smoke else SIZES

    def measure(key):
        found = [_solve(key, name, rate, n, 200 * n) for n in sizes]
        steps = jnp.stack([f[0] for f in found])
        x = np.log(sizes) - np.log(sizes).mean()
        return steps[-1], found[-1][1], jnp.sum(x * jnp.log(steps)) / np.sum(x**2)

    steps, loss, slope = jax.jit(jax.vmap(measure))(keys)
    return {"steps": steps, "loss": loss, "slope": slope}


CLAIM = Claim(
    paper="P353",
    slug="normalized_lr_gd",
    says="Gradient descent on the logistic loss solves separable data with any step size, sooner with larger ones although "
    "the loss is then higher, but in a number of steps that grows with the number of examples; the normalized method's "
    "does not.",
    setup="n - 1 rows around (1, 0), standard deviation 0.1, and one at (-1, 0.5), n = 32, 64, 128, 256, 512; start at zero; "
    "steps until every row is right, at most 200 n. Slope: of log steps over log n. Steps, and the largest loss on the way, are those "
    "of n = 512.",
    tuning="none: both methods run with step sizes 1, 10, 100 and 1e4",
    arms={f"{name}_{rate:g}": functools.partial(_arm, name=name, rate=rate) for name in METHODS for rate in RATES},
    comparisons=(
        *(
            Comparison(
                f"gradient descent's steps grow with n, step size {rate:g}",
                f"gd_{rate:g}",
                None,
                "slope",
                "higher",
                0.8,
            )
            for rate in RATES
        ),
        *(
            Comparison(
                f"the normalized method's do not, step size {rate:g}",
                f"normalized_{rate:g}",
                None,
                "slope",
                "lower",
                0.2,
            )
            for rate in RATES
        ),
        Comparison("larger steps solve it sooner", "gd_10000", "gd_1", "steps", "lower", 0.0, "log_ratio"),
        Comparison(
            "while their loss is ten times higher", "gd_10000", "gd_1", "loss", "higher", math.log(10), "log_ratio"
        ),
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2412.08424: abstract, sections 4 to 6",
)
