"""Polyak's step size with momentum: insensitive to the momentum and to the cap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.optimizers import alr_heavy_ball, alr_mag

DIM, STEPS = 20, 2000
BETAS = (0.5, 0.7, 0.9, 0.95, 0.99)
RATES = tuple(2.0 ** np.arange(-6, 3))
QUADRATIC = {
    "polyak": lambda rate, beta: alr_mag(0.0, jnp.inf),
    "heavy_ball": lambda rate, beta: optax.trace(beta),
    "alr_hb": lambda rate, beta: alr_heavy_ball(beta, jnp.inf),
    "alr_mag": lambda rate, beta: alr_mag(beta, jnp.inf),
}
# five rates, two decades, around a middle one
AROUND = tuple(10.0 ** np.arange(-1, 1.25, 0.5))
MIDDLES = tuple(10.0 ** np.arange(-3, 2.25, 0.5))
NETWORK = {
    "sgd_momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "alr_smag": lambda rate: alr_mag(0.9, rate),
}


def _quadratic(key, name, rate, steps):
    """The final loss over the first one, and the share of steps that go up, for every momentum."""
    h = jnp.logspace(0, -4, DIM)
    start = jax.random.normal(key, (DIM,))

    def run(beta):
        tx = QUADRATIC[name](rate, beta)
        scale = -rate if name == "heavy_ball" else 1.0

        def step(carry, _):
            x, state = carry
            loss = 0.5 * jnp.sum(h * x**2)
            u, state = optax.with_extra_args_support(tx).update(h * x, state, x, value=loss)
            return (x + scale * u, state), loss

        (x, _), losses = jax.lax.scan(step, (start, tx.init(start)), None, steps)
        # 1e-20 is exact enough, and 1e20 diverged
        end = jnp.clip(0.5 * jnp.sum(h * x**2) / losses[0], 1e-20, 1e20)
        return jnp.where(jnp.isnan(end), 1e20, end), jnp.mean(losses[1:] > losses[:-1])

    return jax.vmap(run)(jnp.asarray(BETAS))


def _on_quadratic(keys, smoke, *, name):
    steps = 50 if smoke else STEPS
    rate = 1.0
    if name == "heavy_ball":
        rate = s.best(lambda key, rate: jnp.max(_quadratic(key, name, rate, steps)[0]), RATES)
    chosen = int(
        s.best(lambda key, i: jnp.log(_quadratic(key, name, rate, steps)[0][i.astype(int)]), range(len(BETAS)))
    )
    ends, ups = jax.jit(jax.vmap(lambda key: _quadratic(key, name, rate, steps)))(keys)
    return {
        "loss": jnp.max(ends, axis=1),
        "ups": jnp.max(ups, axis=1),
        "loss_at_best": ends[:, chosen],
        "beta": jnp.full(len(keys), BETAS[chosen]),
        "rate": jnp.full(len(keys), rate),
        "loss_by_momentum": ends,
    }


def _error(key, name, rate, smoke, validation):
    """Held-out error of an MLP on digits."""
    data = s.digits(1000, validation=validation)
    init = functools.partial(s.mlp, sizes=(64, 32, 10))
    state, _ = s.train(key, NETWORK[name](rate), data, init=init, epochs=1 if smoke else 10, batch_size=50)
    return 1 - s.accuracy(state.params, data.held_x, data.held_y)


def _on_network(keys, smoke, *, name):
    def worst(key, middle, validation):
        return jnp.max(
            jax.lax.map(lambda factor: _error(key, name, middle * factor, smoke, validation), jnp.asarray(AROUND))
        )

    middle = s.best(lambda key, m: worst(key, m, True), MIDDLES[4:6] if smoke else MIDDLES)
    errors = jax.jit(jax.vmap(lambda key: worst(key, middle, False)))(keys)
    return {"error": errors, "middle": jnp.full(len(keys), middle)}


CLAIM = Claim(
    paper="P155",
    slug="generalized_polyak_momentum",
    says="With Polyak's step size the heavy ball is insensitive to the momentum and does not oscillate on ill-conditioned "
    "problems; with momentum it is faster than without; its stochastic form is insensitive to the cap on the step size.",
    setup="Quadratics of 20 numbers, condition 1e4, exact gradients, 2,000 steps, momenta 0.5, 0.7, 0.9, 0.95, 0.99: the final "
    "loss relative to the first and the share of steps on which the loss rises, of the worst (or best) momentum; the heavy ball "
    "has one fixed rate for all. An MLP 64-32-10 on 1,000 of scikit-learn's digits, 10 epochs of batch 50, momentum 0.9: "
    "held-out error of the worst of five rates (or caps) over two decades.",
    tuning="the heavy ball's rate from 2^-6 … 2^2 by the mean worst final loss of 3 other seeds; Polyak's rules have none. "
    "Best momentum: by the mean log final loss of 3 other seeds. An earlier run had no comparisons at the best momentum. "
    "The middle of the two decades from 1e-3, 3e-3, … 1e2 for both arms, by the worst validation error of 3 other seeds",
    arms={
        **{name: functools.partial(_on_quadratic, name=name) for name in QUADRATIC},
        **{name: functools.partial(_on_network, name=name) for name in NETWORK},
    },
    comparisons=(
        Comparison(
            "better than the heavy ball at the worst momentum",
            "alr_hb",
            "heavy_ball",
            "loss",
            "lower",
            0.0,
            "log_ratio",
        ),
        Comparison("the heavy ball oscillates more", "alr_hb", "heavy_ball", "ups", "lower", 0.1),
        *(
            Comparison(
                f"{name} better than Polyak's without momentum, at its {which} momentum",
                name,
                "polyak",
                metric,
                "lower",
                0.0,
                "log_ratio",
            )
            for name in ("alr_hb", "alr_mag")
            for which, metric in (("worst", "loss"), ("best", "loss_at_best"))
        ),
        Comparison("less sensitive to the cap than SGD to its rate", "alr_smag", "sgd_momentum", "error", "lower"),
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2305.12939: abstract, sections 3 and 5",
)
