"""MoNNA without a server: with and without momentum under three attacks, against training without attackers."""

import functools

import jax
import jax.numpy as jnp

from experiments import supervised as s
from experiments.aggregation import _byzantine as b
from experiments.harness import Claim, Comparison
from jaxtrain.aggregation import monna_step

NODES, BYZANTINE, ROUNDS, BATCH = 16, 3, 150, 16
ATTACKS = ("sign_flip", "alie", "ipm")
RATES = (0.1, 0.3, 1.0)


def _run(key, rate, *, attack, beta, rounds, validation):
    found, members, counts = b.data(validation)
    x, y = jnp.asarray(found.x), jnp.asarray(found.y)
    start, run = jax.random.split(key)
    honest = NODES - BYZANTINE
    shares = b.class_shares(key, honest, None)
    one = s.mlp(start, b.SIZES)
    params = jax.tree.map(lambda p: jnp.broadcast_to(p, (honest, *p.shape)), one)

    def step(carry, t):
        params, momenta = carry
        index = b.batches(jax.random.fold_in(run, t), shares, members, counts, BATCH)
        grads = jax.vmap(jax.grad(s.cross_entropy))(params, x[index], y[index])

        def sent(half):
            # what is attacked is the move of this round
            move = jax.tree.map(jnp.subtract, half, params)
            first = jax.tree.map(lambda m: m[:BYZANTINE], move)
            bad = b.attack(attack, key, move, first)
            return jax.tree.map(lambda m, p: m + jnp.mean(p, axis=0), bad, params)

        params, momenta = monna_step(
            params,
            momenta,
            grads,
            learning_rate=rate,
            beta=beta,
            num_byzantine=0 if attack == "none" else BYZANTINE,
            byzantine=None if attack == "none" else sent,
        )
        squares = [jnp.sum((p - jnp.mean(p, axis=0)) ** 2) / honest for p in jax.tree.leaves(params)]
        return (params, momenta), jnp.sqrt(sum(squares))

    (params, _), drift = jax.lax.scan(step, (params, jax.tree.map(jnp.zeros_like, params)), jnp.arange(rounds))
    accuracy = jnp.mean(jax.vmap(lambda p: s.accuracy(p, found.held_x, found.held_y))(params))
    tenth = max(rounds // 10, 1)
    late, early = jnp.mean(drift[-tenth:]), jnp.mean(drift[tenth : 2 * tenth])
    return {"test_accuracy": accuracy, "drift": late, "drift_growth": late / jnp.maximum(early, 1e-12)}


def _arm(keys, smoke, *, beta, attacks):
    found, accuracies = {}, []
    for attack in attacks:
        run = functools.partial(_run, attack=attack, beta=beta, rounds=10 if smoke else ROUNDS)
        rates = RATES[:1] if smoke else RATES
        rate = s.best(lambda k, r, run=run: 1 - run(k, r, validation=True)["test_accuracy"], rates, seeds=2)
        result = jax.jit(jax.vmap(lambda k, run=run, r=rate: run(k, jnp.asarray(r), validation=False)))(keys)
        accuracies.append(result["test_accuracy"])
        found |= {f"{key}_{attack}": value for key, value in result.items()}
        found[f"learning_rate_{attack}"] = jnp.full(len(keys), rate)
    return found | {"worst_accuracy": jnp.min(jnp.stack(accuracies), axis=0)}


CLAIM = Claim(
    paper="P126",
    slug="monna",
    says="Without a server and under attacks, nodes that average their nearest neighbours are as accurate as without "
    "attackers if they use momentum, less accurate without it under a hidden attack, and stay close to one another.",
    setup="scikit-learn's digits, 1,000 training images, MLP 64-32-10, 16 nodes, 3 of whom attack the move of each round: "
    "minus five times it, A Little Is Enough (z = 1.5) or minus half the mean. 150 rounds, batches of 16, momentum 0.9 (the paper's "
    "0.99 is for thousands of rounds) or none. Accuracy is the mean over the honest nodes' models; clean: 13 honest nodes that average all.",
    tuning="3 learning rates for each arm and attack by the mean validation accuracy of 2 other seeds",
    arms={
        "clean": functools.partial(_arm, beta=0.9, attacks=("none",)),
        "monna": functools.partial(_arm, beta=0.9, attacks=ATTACKS),
        "no_momentum": functools.partial(_arm, beta=0.0, attacks=ATTACKS),
    },
    comparisons=(
        # "close": three points, at the worst of the attacks
        Comparison("within 3 points of no attack", "monna", "clean", "worst_accuracy", "higher", -0.03),
        Comparison("momentum helps against ALIE", "monna", "no_momentum", "test_accuracy_alie", "higher"),
        Comparison("the nodes' distance at most doubles", "monna", None, "drift_growth_alie", "lower", 2.0),
    ),
    seeds=10,
    claimed_by="arXiv 2209.10931, section 5",
)
