"""AMP against plain training and SAM on digits with wrong labels, and in a landscape of two wells."""

import functools
import itertools

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s
from experiments.data import with_wrong_labels
from experiments.gradients import _flatness as flatness
from experiments.gradients._tuning import tuned
from experiments.harness import Claim, Comparison
from jaxtrain.core import Aux
from jaxtrain.gradients import amp, sam, value_and_grad
from jaxtrain.training import create_state, make_step

SIZES, BATCH, STEPS, WRONG = (64, 64, 10), 64, 600, 0.4
RATES = (0.003, 0.01, 0.03, 0.1)
OTHERS = {
    "erm": (0.0, 5e-4, 5e-3, 2e-2, 5e-2),
    "sam": (0.01, 0.03, 0.1, 0.3, 1.0),
    "amp": (0.03, 0.1, 0.3, 1.0, 3.0),
}
RADIUS = 0.5


def _run(key, value, *, method, smoke):
    """The error on the images for tuning, and what is measured of the trained parameters."""
    rate, other = value
    data = s.digits(1000, validation=False)
    # 750 to train on, 250 to tune on
    x, y = jnp.asarray(data.x[:750]), jnp.asarray(data.y[:750])
    noise, start, order, run, power = jax.random.split(key, 5)
    y, _ = with_wrong_labels(noise, y, fraction=WRONG, num_classes=10)
    steps = 10 if smoke else STEPS

    def objective(params, model_state, batch, key):
        return s.cross_entropy(params, *batch), Aux(model_state, {})

    plain = value_and_grad(objective)
    grad_fn = {
        "erm": lambda: plain,
        "sam": lambda: sam(plain, rho=other),
        "amp": lambda: amp(plain, epsilon=other),
    }[method]()
    decay = other if method == "erm" else 5e-4
    tx = optax.chain(
        optax.add_decayed_weights(decay), optax.sgd(optax.cosine_decay_schedule(rate, steps), momentum=0.9)
    )
    step = make_step(grad_fn, tx)

    def body(state, index):
        return step(state, (x[index], y[index]))[0], None

    batches = jax.random.randint(order, (steps, BATCH), 0, len(x))
    state, _ = jax.lax.scan(body, create_state(s.mlp(start, SIZES), tx, run), batches)
    params = state.params

    def loss(params):
        return s.cross_entropy(params, x, y)

    return 1 - s.accuracy(params, data.x[750:], data.y[750:]), {
        "accuracy": s.accuracy(params, data.held_x, data.held_y),
        "top_eigenvalue": flatness.top_eigenvalue(loss, params, power, iterations=5 if smoke else 50),
        "rise_in_ball": flatness.rise_in_ball(loss, params, RADIUS),
    }


def _arm(keys, smoke, *, method):
    grid = list(itertools.product(RATES, OTHERS[method]))
    run = jax.vmap(functools.partial(_run, method=method, smoke=smoke))
    metrics, (rate, other) = tuned(run, keys, grid[:2] if smoke else grid)
    return metrics | {"learning_rate": jnp.full(len(keys), rate), "radius_or_decay": jnp.full(len(keys), other)}


def _two_wells(x):
    """One narrow well at -1 and one wide at 1, equally deep."""
    return -jnp.exp(-((x + 1) ** 2) / (2 * 0.15**2)) - jnp.exp(-((x - 1) ** 2) / (2 * 0.75**2))


def _wells(keys, smoke, *, method):
    """The share of 200 starts between -1.5 and 1.5 that end in the wide well; gradient descent of rate 0.01."""
    plain = value_and_grad(lambda w, s, x, k: (_two_wells(w), Aux(s, {})))
    grad_fn = plain if method == "erm" else amp(plain, epsilon=0.5)

    def descend(x):
        def step(x, _):
            return x - 0.01 * grad_fn(x, {}, None, None)[1], None

        return jax.lax.scan(step, x, None, 50 if smoke else 3000)[0]

    @jax.jit
    @jax.vmap
    def share(key):
        ends = jax.vmap(descend)(jax.random.uniform(key, (200,), minval=-1.5, maxval=1.5))
        return jnp.mean(ends > 0)

    return {"in_the_wide_well": share(keys)}


CLAIM = Claim(
    paper="P213",
    slug="adversarial_model_perturbation",
    says="AMP generalises better than plain training and about as well as SAM, ends in flatter minima, and of two wells of "
    "equal depth finds the wide one more often.",
    setup="scikit-learn's digits, 750 to train on with 40 % of labels wrong, 797 to test on, MLP 64-64-10, SGD with "
    "momentum 0.9 and cosine decay, 600 steps of batch 64; AMP as released: one inner step of rate 1, a ball for each "
    "tensor. Flatness of the training loss: top Hessian eigenvalue by 50 power iterations, and the rise that 10 steps of "
    "ascent find within a distance of 0.5. Two Gaussian wells of widths 0.15 and 0.75 on a line: gradient descent from 200 "
    "random starts for each seed, AMP with radius 0.5.",
    tuning="20 settings of each arm by the error of 3 other seeds on 250 more images with right labels: 4 rates, 0.003 to "
    "0.1, × 5 radii (plain training: × 5 weight decays, 0 to 0.05). An earlier run had 12, which ended at what plain training "
    "(rate 0.01, decay 0.005) and SAM (rate 0.01, radius 0.1) chose; none for the wells",
    arms={name: functools.partial(_arm, method=name) for name in ("erm", "sam", "amp")}
    | {f"wells_{name}": functools.partial(_wells, method=name) for name in ("erm", "amp")},
    comparisons=(
        Comparison("AMP more accurate than plain training", "amp", "erm", "accuracy", "higher"),
        # fixed before the run
        Comparison("AMP within a point of SAM", "amp", "sam", "accuracy", "higher", -0.01),
        Comparison(
            "AMP's top eigenvalue below plain training's", "amp", "erm", "top_eigenvalue", "lower", 0.0, "log_ratio"
        ),
        Comparison(
            "AMP's rise in a ball below plain training's", "amp", "erm", "rise_in_ball", "lower", 0.0, "log_ratio"
        ),
        Comparison("the wide well from more starts", "wells_amp", "wells_erm", "in_the_wide_well", "higher"),
    ),
    seeds=18,
    claimed_by="arXiv 2010.04925: the theorem on Gaussian wells and the tables on CIFAR and SVHN",
)
