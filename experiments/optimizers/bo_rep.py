"""Weights of examples with wrong labels, learnt from clean ones: normalised and plain hypergradient momentum."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import _ends
from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.optimizers import BilevelBatch, bo_rep

TRAIN, VALID, WRONG = 600, 200, 0.4
BATCH, STEPS, REFINE = 64, 400, 100
# lengths of steps for the normalised method (600 numbers of order one), rates for the others
RATES = {
    "bo_rep": (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4),
    "plain": (25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0),
    "clipped": (100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0, 12_800.0),
    "none": (0.0,),
}
TUNING_SEEDS = 3


def _data(key):
    """Training images with 40 % of wrong labels, clean ones to learn the weights by, and test images."""
    data = s.digits(TRAIN + VALID + 200, validation=False)
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    order, which, wrong = jax.random.split(key, 3)
    order = jax.random.permutation(order, len(x))
    first, second = order[:TRAIN], order[TRAIN : TRAIN + VALID]
    off = jax.random.bernoulli(which, WRONG, (TRAIN,))
    labels = jnp.where(off, (y[first] + jax.random.randint(wrong, (TRAIN,), 1, 10)) % 10, y[first])
    return (x[first], labels), (x[second], y[second]), (jnp.asarray(data.held_x), jnp.asarray(data.held_y)), off


def _losses(params, x, y):
    return optax.losses.softmax_cross_entropy_with_integer_labels(x @ params["w"] + params["b"], y)


def _run(key, rate, *, name, smoke):
    split, draws = jax.random.split(key)
    (x, labels), (clean_x, clean_y), (test_x, test_y), off = _data(split)

    def lower(weights, params, i):
        weighted = jnp.mean(jax.nn.sigmoid(weights[i]) * _losses(params, x[i], labels[i]))
        return weighted + 0.01 * optax.tree.norm(params, squared=True)

    def upper(weights, params, i):
        return jnp.mean(_losses(params, clean_x[i], clean_y[i]))

    momentum = {
        "bo_rep": None,
        "none": optax.sgd(0.0),
        "plain": optax.chain(optax.ema(0.9, debias=False), optax.scale_by_learning_rate(rate)),
        # as deep bilevel codes do: the hypergradient is clipped at the norm that it has in the first steps
        "clipped": optax.chain(
            optax.clip_by_global_norm(0.003), optax.ema(0.9, debias=False), optax.scale_by_learning_rate(rate)
        ),
    }[name]
    init, step = bo_rep(upper, lower, eta=rate, beta=0.9, nu=0.1, lower_lr=0.2, period=2, optimizer=momentum)
    params = {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)}
    steps = 20 if smoke else STEPS
    refine, runs = jax.random.split(draws)
    state = init(jnp.zeros(TRAIN), params, jax.random.randint(refine, (REFINE, BATCH), 0, TRAIN))

    def one(state, key):
        k = jax.random.split(key, 4)
        batch = BilevelBatch(
            jax.random.randint(k[0], (BATCH,), 0, VALID),
            jax.random.randint(k[1], (3, BATCH), 0, TRAIN),
            jax.random.randint(k[2], (BATCH,), 0, TRAIN),
            jax.random.randint(k[3], (BATCH,), 0, TRAIN),
        )
        return step(state, batch), None

    state, _ = jax.lax.scan(one, state, jax.random.split(runs, steps))
    # the lower problem solved for the weights that were learnt, so that no arm gains by its last steps
    everything = jnp.arange(TRAIN)

    def polish(params, _):
        g = jax.grad(lower, argnums=1)(state.x, params, everything)
        return jax.tree.map(lambda p, g: p - 0.2 * g, params, g), None

    solved, _ = jax.lax.scan(polish, params, length=20 if smoke else 500)
    loss = upper(state.x, solved, jnp.arange(VALID))
    return {
        "upper_loss": loss,
        "accuracy": jnp.mean(((test_x @ solved["w"] + solved["b"]).argmax(-1) == test_y) * 1.0),
        "found": jnp.mean(jnp.where(off, state.x < jnp.median(state.x), state.x >= jnp.median(state.x)) * 1.0),
    }


def _arm(keys, smoke, *, name):
    rates = RATES[name][:2] if smoke else RATES[name]
    run = jax.jit(lambda pairs: jax.lax.map(lambda q: _run(*q, name=name, smoke=smoke), pairs))
    others = jnp.tile(jax.random.split(jax.random.key(20_000), TUNING_SEEDS), len(rates))
    losses = run((others, jnp.repeat(jnp.asarray(rates), TUNING_SEEDS)))["upper_loss"]
    losses = losses.reshape(len(rates), TUNING_SEEDS).mean(axis=1)
    best = _ends.lowest(losses, rates)
    found = run((keys, jnp.full(len(keys), rates[best])))
    return found | {"rate": jnp.full(len(keys), rates[best])}


CLAIM = Claim(
    paper="P296",
    slug="bo_rep",
    says="Normalised momentum reaches a lower upper loss in hyper-cleaning than hypergradient steps that are not normalised, "
    "and the weights that it learns are better than none.",
    setup="600 of scikit-learn's digits with 40 % of wrong labels; weights sigmoid(x_i) of the examples are learnt by the loss "
    "on 200 clean ones (upper), a linear classifier with weight decay 0.01 on the weighted ones (lower). 400 steps of batch "
    "64, refined start, three lower steps every other step, momentum 0.9, all the same for all arms; plain: the momentum "
    "itself; clipped: hypergradients clipped at norm 0.003; none: weights stay as they are. Upper loss after the lower "
    "problem is solved for the last weights.",
    tuning="length of steps from 0.05 to 6.4 (normalised), rates from 25 to 3,200 (plain) and from 100 to 12,800 (clipped), "
    "all in factors of 2, by the mean upper loss of 3 other seeds. An earlier run had factors of 3 for plain and clipped, a "
    "coarser grid than that of the normalised method, which was 1.3 and 0.4 % better",
    arms={name: functools.partial(_arm, name=name) for name in ("bo_rep", "plain", "clipped", "none")},
    comparisons=(
        Comparison("lower upper loss than plain momentum", "bo_rep", "plain", "upper_loss", "lower", 0.0, "log_ratio"),
        Comparison("lower upper loss than clipped", "bo_rep", "clipped", "upper_loss", "lower", 0.0, "log_ratio"),
        Comparison("lower upper loss than without weights", "bo_rep", "none", "upper_loss", "lower", 0.0, "log_ratio"),
        Comparison("better test accuracy than without weights", "bo_rep", "none", "accuracy", "higher", 0.0),
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2401.09587: abstract, experiments on hyper-cleaning",
)
