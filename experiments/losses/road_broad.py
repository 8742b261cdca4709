"""ROAD and BROAD: does weight where the group is given away make a classifier fair in every region?"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.losses import broad_weights, local_disparate_impact, normalize_ratio, road_predictor_loss, road_ratio_loss

TRAIN, HELD, BATCH, STEPS, INNER, REGIONS = 2000, 8000, 256, 400, 10, 8
FAIR, ACCURATE = (
    0.05,
    0.7,
)  # what a setting must keep on the validation part: difference of rates at most, accuracy at least
LAMS, TAUS = tuple(np.geomspace(1.0, 64.0, 7)), (0.05, 0.2, 0.8, 3.2)
GRIDS = {
    # as many settings for each: 28 strengths alone, or 7 with 4 temperatures
    "uniform": tuple((lam, 1.0) for lam in np.geomspace(1.0, 64.0, 28)),
    "broad": tuple(itertools.product(LAMS, TAUS)),
    "road": tuple(itertools.product(LAMS, TAUS)),
}
SIZES = {"f": (3, 16, 1), "g": (1, 16, 1), "r": (4, 16, 1)}


def _data(key, n):
    """Place, merit and a hint at the group; the group decides the label too, but only in the last quarter of places."""
    keys = jax.random.split(key, 5)
    place = jax.random.uniform(keys[0], (n,), minval=-1.0, maxval=1.0)
    merit = jax.random.normal(keys[1], (n,))
    group = jax.random.bernoulli(keys[2], 0.5, (n,)).astype(jnp.int32)
    hint = (2 * group - 1) + 0.5 * jax.random.normal(keys[3], (n,))
    score = 2 * merit + 3 * (2 * group - 1) * (place > 0.5)
    y = jax.random.bernoulli(keys[4], jax.nn.sigmoid(score)).astype(jnp.int32)
    return jnp.stack([place, merit, hint], axis=1), group, y


def _net(params, x):
    return s.logits(params, x)[:, 0]


def _bce(logits, labels):
    return optax.losses.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))


def _run(key, setting, arm, *, steps=STEPS):
    """Trains the players in turn; accuracy, and differences of the groups' rates over all and in the worst region."""
    lam, tau = setting
    keys = jax.random.split(key, 6)
    x, group, y = _data(keys[0], TRAIN)
    tx = optax.adam(0.01)
    params = {name: s.mlp(k, SIZES[name]) for name, k in zip(SIZES, keys[1:4], strict=True)}

    def adversary_losses(p, f, group):
        return _bce(_net(p["g"], f[:, None]), group)

    def ratio(p, x, group, losses):
        if arm == "uniform":
            return jnp.ones_like(losses)
        if arm == "broad":
            return broad_weights(losses, group, temperature=tau, num_groups=2)
        inputs = jnp.concatenate([x, 2.0 * group[:, None] - 1], axis=1)
        return normalize_ratio(jnp.exp(_net(p["r"], inputs)), group, num_groups=2)

    def play(name, loss, p, opt):
        """One step of one player, the others held."""
        grads = jax.grad(lambda own: loss(p | {name: own}))(p[name])
        updates, state = tx.update(grads, opt[name], p[name])
        return p | {name: optax.apply_updates(p[name], updates)}, opt | {name: state}

    def step(carry, key):
        i = jax.random.randint(key, (BATCH,), 0, TRAIN)
        bx, bg, by = x[i], group[i], y[i]
        p, opt = carry
        f = _net(p["f"], bx)

        def inner(_, carry):
            return play("g", lambda p: adversary_losses(p, f, bg).mean(), *carry)

        def inner_ratio(_, carry):
            def loss(p):
                return road_ratio_loss(ratio(p, bx, bg, held), held, temperature=tau).mean()

            return play("r", loss, *carry)

        p, opt = jax.lax.fori_loop(0, INNER, inner, (p, opt))
        if arm == "road":
            held = adversary_losses(p, f, bg)
            p, opt = jax.lax.fori_loop(0, INNER, inner_ratio, (p, opt))

        def loss(q):
            f = _net(q["f"], bx)
            against = adversary_losses(p, f, bg)
            return road_predictor_loss(_bce(f, by), against, ratio(p, bx, bg, against), lam=lam).mean()

        return play("f", loss, p, opt), None

    start = (params, {name: tx.init(params[name]) for name in params})
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(keys[4], steps))
    x, group, y = _data(keys[5], HELD)
    yes = (_net(params["f"], x) > 0).astype(jnp.float32)
    region = jnp.clip(((x[:, 0] + 1) / 2 * REGIONS).astype(jnp.int32), 0, REGIONS - 1)
    local = local_disparate_impact(yes, group, region, num_regions=REGIONS)
    everywhere = local_disparate_impact(yes, group, jnp.zeros_like(region), num_regions=1)
    return {
        "worst": local.max,
        "mean_region": local.mean,
        "global": everywhere.max,
        "accuracy": jnp.mean((yes == y).astype(jnp.float32)),
    }


def _arm(keys, smoke, *, name):
    run = functools.partial(_run, arm=name, steps=5 if smoke else STEPS)

    def score(key, setting):
        found = run(key, setting)
        broken = jnp.maximum(found["global"] - FAIR, 0) + jnp.maximum(ACCURATE - found["accuracy"], 0)
        return found["worst"] + 10 * broken

    setting = s.best(score, GRIDS[name][:2] if smoke else GRIDS[name])
    found = jax.jit(jax.vmap(lambda key: run(key, jnp.asarray(setting))))(keys)
    return found | {"lam": jnp.full(len(keys), setting[0]), "tau": jnp.full(len(keys), setting[1])}


def _comparisons(arm):
    return (
        Comparison(
            name=f"{arm}: worst region fairer",
            arm=arm,
            baseline="uniform",
            metric="worst",
            better="lower",
            margin=0.03,
        ),
        Comparison(
            name=f"{arm}: as fair over all",
            arm=arm,
            baseline="uniform",
            metric="global",
            better="lower",
            margin=-0.03,
        ),
        Comparison(
            name=f"{arm}: within a point of accuracy",
            arm=arm,
            baseline="uniform",
            metric="accuracy",
            better="higher",
            margin=-0.01,
        ),
    )


CLAIM = Claim(
    paper="P143",
    slug="road_broad",
    says="At equal global fairness and accuracy, an adversary weighted where it finds the group most easily (BROAD in closed "
    "form, ROAD by a network) leaves less disparity in the worst region than a uniform one.",
    setup="2,000 examples of a place, a merit and a hint at the group; the group moves the label's score by 6, in the last "
    "quarter of places only. MLP 3-16-1 against an adversary 1-16-1 that sees its output, 400 steps of Adam (0.01) on "
    "batches of 256 with 10 steps of the adversary (and of ROAD's ratio, MLP 4-16-1) before each. Differences between the "
    "groups' rates of positive decisions over all places and in eight equal regions, and accuracy, on 8,000 new examples.",
    tuning="28 settings for each arm: the strength from 1 to 64 (28 values), or 7 of them with the temperatures 0.05, 0.2, "
    "0.8 and 3.2; by the worst region on 3 other seeds, with ten times what the global difference exceeds 0.05 and what the "
    "accuracy lacks to 0.7 added. A first run, with 5 inner steps, had its best strength at the edge of a grid that ended at "
    "12.8, and was inconclusive",
    arms={name: functools.partial(_arm, name=name) for name in GRIDS},
    comparisons=(*_comparisons("broad"), *_comparisons("road")),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2310.18413: its figures of local against global disparate impact at a given accuracy",
)
