"""MoNNA without a server: with and without momentum under three attacks, against training without attackers."""

import functools

import jax
import jax.numpy as jnp

from experiments import supervised as s
from experiments.aggregation import _byzantine as b
from experiments.harness import Claim, Comparison
from jaxtrain.aggregation import monna_step

NODES, BYZANTINE, BATCH = 16, 3, 8
ATTACKS = ("sign_flip", "alie", "ipm")
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def _run(key, rate, which, beta, *, names, rounds):
    tuning, _, _, _ = b.data()
    x, y = jnp.asarray(tuning.x), jnp.asarray(tuning.y)
    start, draw = jax.random.split(key)
    honest = NODES - BYZANTINE
    one = s.mlp(start, b.SIZES)
    params = jax.tree.map(lambda p: jnp.broadcast_to(p, (honest, *p.shape)), one)

    def step(carry, index):
        params, momenta = carry
        grads = jax.vmap(jax.grad(s.cross_entropy))(params, x[index], y[index])

        def sent(half):
            # what is attacked is the move of this round
            move = jax.tree.map(jnp.subtract, half, params)
            bad = b.attack(which, names, None, move, jax.tree.map(lambda m: m[:BYZANTINE], move))
            return jax.tree.map(lambda m, p: m + jnp.mean(p, axis=0), bad, params)

        params, momenta = monna_step(
            params,
            momenta,
            grads,
            learning_rate=rate,
            beta=beta,
            num_byzantine=BYZANTINE if names else 0,
            byzantine=sent if names else None,
        )
        squares = [jnp.sum((p - jnp.mean(p, axis=0)) ** 2) / honest for p in jax.tree.leaves(params)]
        return (params, momenta), jnp.sqrt(sum(squares))

    indices = b.batches(draw, jnp.full((honest, 10), 0.1), rounds, BATCH)
    (params, _), drift = jax.lax.scan(step, (params, jax.tree.map(jnp.zeros_like, params)), indices)
    found = jax.tree.map(jnp.mean, jax.vmap(b.accuracies)(params))
    tenth = max(rounds // 10, 1)
    late, early = jnp.mean(drift[-tenth:]), jnp.mean(drift[tenth : 2 * tenth])
    return found | {"drift": late, "drift_growth": late / jnp.maximum(early, 1e-12)}


@functools.cache
def _program(names, rounds):
    run = functools.partial(_run, names=names, rounds=rounds)
    one = lambda keys, which, beta: b.at_the_best_rate(run, keys, RATES, which, beta)  # noqa: E731
    return jax.jit(jax.vmap(one, in_axes=(None, 0, None)))


def _arm(keys, smoke, *, beta, names):
    result = _program(names, 10 if smoke else b.ROUNDS)(keys, jnp.arange(max(len(names), 1)), jnp.float32(beta))
    found = {f"{k}_{attack}": v[i] for k, v in result.items() for i, attack in enumerate(names or ("none",))}
    return found | {"worst_accuracy": jnp.min(result["test_accuracy"], axis=0)}


CLAIM = Claim(
    paper="P126",
    slug="monna",
    says="Without a server and under attacks, nodes that average their nearest neighbours are as accurate as without "
    "attackers if they use momentum, less accurate without it under a hidden attack, and stay close to one another.",
    setup="scikit-learn's digits, 750 training images, MLP 64-32-10, 16 nodes with data alike, 3 of whom attack the move "
    "of each round: minus five times it, A Little Is Enough (z = 1.5) or minus half the mean. 120 rounds, batches of 8, "
    "momentum 0.9 (the paper's 0.99 is for thousands of rounds) or none. Accuracy: the mean over the honest nodes' "
    "models, at the worst of the attacks; clean: 13 honest nodes that average all.",
    tuning="7 learning rates, 0.01 to 10, for each arm and attack by the mean validation accuracy of 2 other seeds",
    arms={
        "clean": functools.partial(_arm, beta=0.9, names=()),
        "monna": functools.partial(_arm, beta=0.9, names=ATTACKS),
        "no_momentum": functools.partial(_arm, beta=0.0, names=ATTACKS),
    },
    comparisons=(
        # "close": three points
        Comparison("within 3 points of no attack", "monna", "clean", "worst_accuracy", "higher", -0.03),
        Comparison("momentum helps against ALIE", "monna", "no_momentum", "test_accuracy_alie", "higher"),
        Comparison("the nodes' distance at most doubles", "monna", None, "drift_growth_alie", "lower", 2.0),
    ),
    seeds=10,
    claimed_by="arXiv 2209.10931, section 5",
)
