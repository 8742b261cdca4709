"""SGDP and AdamP on scale-invariant weights: how the lengths grow, and the loss that is reached."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.optimizers import adamp, sgdp

DIMENSIONS, STEPS, MOMENTUM = 50, 300, 0.9
RATES = {
    "momentum": (3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0),
    "adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3),
}


def _optimizer(family, projected, rate):
    if family == "momentum":
        return sgdp(rate, MOMENTUM) if projected else optax.sgd(rate, momentum=MOMENTUM)
    return adamp(rate) if projected else optax.adam(rate)


def _toy(key, tx, steps):
    """A Rayleigh quotient, which sees only the direction of w: the loss at the end and the growth of |w|."""
    basis, start = jax.random.split(key)
    q = jnp.linalg.qr(jax.random.normal(basis, (DIMENSIONS, DIMENSIONS)))[0]
    matrix = (q * jnp.logspace(0, -2, DIMENSIONS)) @ q.T

    def loss(w):
        return jnp.sum(w * (matrix @ w)) / jnp.sum(w * w)

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    w = jax.random.normal(start, (DIMENSIONS, 1))
    w = w / jnp.linalg.norm(w)
    (w, _), _ = jax.lax.scan(step, (w, tx.init(w)), length=steps)
    return loss(w), jnp.log(jnp.linalg.norm(w))


def _normalized_loss(params, x, y):
    """Cross-entropy of an MLP whose hidden layers are normalised over the batch: their weights have no scale."""
    for layer in params[:-1]:
        x = x @ layer["w"]
        x = (x - x.mean(axis=0)) * jax.lax.rsqrt(x.var(axis=0) + 1e-5)
        x = jax.nn.relu(x + layer["b"])
    logits = x @ params[-1]["w"] + params[-1]["b"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def _mlp(key, tx, smoke):
    data = s.digits(1000, validation=False)
    init = functools.partial(s.mlp, sizes=(64, 32, 32, 10))
    epochs = 2 if smoke else 5
    state, _ = s.train(key, tx, data, init=init, epochs=epochs, batch_size=50, loss=_normalized_loss)
    return _normalized_loss(state.params, data.x, data.y)


def _arm(keys, smoke, *, projected):
    found, steps = {}, 20 if smoke else STEPS
    for family, rates in RATES.items():
        problems = {"mlp": lambda key, tx: _mlp(key, tx, smoke)}
        if family == "momentum":
            problems["toy"] = lambda key, tx: _toy(key, tx, steps)[0]
        for label, problem in problems.items():

            def run(key, rate, problem=problem, family=family):
                return problem(key, _optimizer(family, projected, rate))

            rate = s.best(run, rates[2:4] if smoke else rates)
            found[f"{family}_{label}_loss"] = jax.jit(jax.vmap(functools.partial(run, rate=rate)))(keys)
            found[f"{family}_{label}_rate"] = jnp.full(len(keys), rate)
    # at one rate for both, where gradient descent takes as long steps as momentum in the end
    grow = jax.jit(jax.vmap(lambda key: _toy(key, _optimizer("momentum", projected, 0.1), steps)[1]))
    found["growth"] = grow(keys)
    if not projected:
        descent = optax.sgd(0.1 / (1 - MOMENTUM))
        found["growth_of_descent"] = jax.jit(jax.vmap(lambda key: _toy(key, descent, steps)[1]))(keys)
    return found


CLAIM = Claim(
    paper="P083",
    slug="adamp",
    says="On scale-invariant weights momentum makes |w| grow much faster than its projection does, and with the projection "
    "a lower loss is reached in the same number of steps.",
    setup="Toy: Rayleigh quotient of a 50 x 50 matrix of condition 100 from a random point of length 1, 300 steps; growth is "
    "log |w| at the end, at the rate 0.1 with momentum 0.9 (for comparison growth_of_descent: gradient descent of rate 1). MLP "
    "64-32-32-10 with hidden layers normalised over the batch on 1,000 of scikit-learn's digits, batch 50, training loss after 5 "
    "epochs (100 steps). Arms: optax's sgd with momentum and adam (plain), SGDP and AdamP (projected); no weight decay.",
    tuning="for losses the rate of each arm, family and problem from 8 values half a decade apart (momentum: 3e-3 to 10; Adam: "
    "1e-4 to 0.3) by the mean of 3 other seeds",
    arms={"plain": functools.partial(_arm, projected=False), "projected": functools.partial(_arm, projected=True)},
    comparisons=(
        Comparison(
            name="at most half of the growth",
            arm="projected",
            baseline="plain",
            metric="growth",
            better="lower",
            margin=0.693,  # log 2
            scale="log_ratio",
        ),
        *(
            Comparison(
                name=f"a lower loss: {words}",
                arm="projected",
                baseline="plain",
                metric=f"{metric}_loss",
                better="lower",
                scale="log_ratio",
            )
            for metric, words in (
                ("momentum_toy", "SGDP, toy"),
                ("momentum_mlp", "SGDP, mlp"),
                ("adam_mlp", "AdamP, mlp"),
            )
        ),
    ),
    seeds=20,
    claimed_by="arXiv 2006.08217: abstract, section on the problem with momentum",
)
