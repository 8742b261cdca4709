"""Combinations of copies of layers against an ensemble, and the average of the copies against one model."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import _ends
from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.averaging import averaged_params, dca_predict, dca_train_loss, dcwa, swa
from jaxtrain.core import Aux
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import create_state, make_step
from jaxtrain.workloads._metrics import classification_metrics

TRAIN, BATCH, SIZES, COPIES, SAMPLES = 500, 32, (64, 48, 48, 10), 5, 25
RATES = (0.02, 0.05, 0.1, 0.25, 0.6, 1.5)
NOISE, WEIGHT_DECAY = 0.6, 2e-4


def _halves(path):
    """Two components: the first layer, and the rest; about as many parameters in each."""
    return path.startswith("[0]")


def _schedule(steps):
    """Constant, then linear from half-way to a hundredth at nine tenths, as released."""
    return optax.linear_schedule(1.0, 0.01, int(0.4 * steps), transition_begin=int(0.5 * steps))


def _train(key, rate, option, *, family, epochs, data):
    """The trained state: of one model, or of stacked copies."""
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    steps = len(x) // BATCH
    schedule = _schedule(epochs * steps)
    tx = optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY),
        optax.sgd(lambda t: rate * schedule(t), momentum=0.9),
        swa(epochs * steps // 2, steps),
    )
    start, orders, run = jax.random.split(key, 3)

    def objective(params, model_state, batch, key):
        if family == "one":
            loss = s.cross_entropy(params, *batch)
        elif family == "ensemble":  # the sum of losses of models that share nothing
            loss = jnp.sum(jax.vmap(lambda p: s.cross_entropy(p, *batch))(params))
        else:
            loss = dca_train_loss(
                key, params, s.logits, *batch, num_repeats=COPIES,
                granularity=_halves if family == "coarse" else "layer", consistency=option,
            ).mean()  # fmt: skip
        return loss, Aux(model_state, {})

    if family == "one":
        params = s.mlp(start, SIZES)
    elif family == "fine":  # all copies alike, as in the released code
        params = jax.tree.map(lambda p: jnp.broadcast_to(p, (COPIES, *p.shape)), s.mlp(start, SIZES))
    else:
        params = jax.vmap(lambda k: s.mlp(k, SIZES))(jax.random.split(start, COPIES))
    step = make_step(value_and_grad(objective), tx)

    def epoch(state, number):
        chosen = s.order(orders, number, len(x), BATCH)
        return jax.lax.scan(lambda st, i: (step(st, (x[i], y[i]))[0], None), state, chosen)

    return jax.lax.scan(epoch, create_state(params, tx, run), jnp.arange(epochs))[0]


def _log_probabilities(key, state, x, option, *, family):
    if family == "one":  # the option: live or averaged weights
        averaged = averaged_params(state.opt_state, state.params)
        return jax.nn.log_softmax(
            s.logits(jax.tree.map(lambda p, q: jnp.where(option > 0, q, p), state.params, averaged), x)
        )
    if family == "fine":
        return jax.nn.log_softmax(s.logits(dcwa(state.params), x))
    if family == "ensemble":
        return jnp.log(jax.vmap(lambda p: jax.nn.softmax(s.logits(p, x)))(state.params).mean(axis=0))
    # all 25 combinations of two components would do; so many are drawn
    return jnp.log(dca_predict(key, state.params, s.logits, x, num_samples=SAMPLES, granularity=_halves))


@functools.cache
def _programs(family, epochs):
    def trained(key, rate, option, data):
        return _train(key, rate, option, family=family, epochs=epochs, data=data)

    def tune(rates, option):
        data = s.digits(TRAIN, validation=True)

        def loss(key, rate):
            state = trained(key, rate, option, data)
            log_p = _log_probabilities(jax.random.fold_in(key, 7), state, data.held_x, option, family=family)
            return -jnp.take_along_axis(log_p, data.held_y[:, None], axis=1).mean()

        keys = jax.random.split(jax.random.key(20_000), 3)
        return jax.vmap(lambda r: jnp.mean(jax.vmap(lambda k: loss(k, r))(keys)))(rates)

    def measure(key, rate, option):
        data = s.digits(TRAIN, validation=False)
        state = trained(key, rate, option, data)
        draw, noise = jax.random.split(jax.random.fold_in(key, 7))
        shifted = data.held_x + NOISE * jax.random.normal(noise, data.held_x.shape)

        def of(x):
            return classification_metrics(_log_probabilities(draw, state, x, option, family=family), data.held_y)

        found = jax.vmap(of)(jnp.stack([jnp.asarray(data.held_x), shifted]))
        return {f"{name}_{m}": v[i] for i, name in enumerate(("test", "shifted")) for m, v in found.items()}

    return jax.jit(tune), jax.jit(jax.vmap(measure, (0, None, None)))


def _arm(keys, smoke, *, family, option=0.0):
    tune, measure = _programs(family, 2 if smoke else 25)
    rates, option = jnp.asarray(RATES), jnp.asarray(option)
    scores = tune(rates, option)
    rate = rates[_ends.lowest(scores, RATES)]
    return measure(keys, rate, option) | {"learning_rate": jnp.full(len(keys), rate)}


CLAIM = Claim(
    paper="P065",
    slug="deep_combinatorial_aggregation",
    says="Under a shift of the inputs, random combinations of few large components predict and know their errors better "
    "than an ensemble of as many parameters; the mean of the copies of every layer is more accurate than a model "
    "trained alone and about as accurate as SWA, thanks to the consistency loss, without which it fails.",
    setup="500 training images of scikit-learn's digits, 1,297 test images; shift: Gaussian noise of standard deviation "
    "0.6 on pixels in [-1, 1]; MLP 64-48-48-10; 25 epochs of batch 32; SGD with momentum 0.9, rate constant and then "
    "falling linearly from half-way, weight decay 2e-4; 5 copies of every component, 5 combinations a step. coarse: two "
    "components (the first layer; the other two), initialised apart, 25 combinations drawn for a prediction. ensemble: 5 "
    "models initialised apart, each trained on every batch. dcwa: every layer a component, copies alike at first as in "
    "the released code, their mean evaluated; without: the same without the consistency loss. one and swa: one model; "
    "the mean over the epochs from half-way.",
    tuning="each arm's rate from the same 6, 0.02 to 1.5, by the mean validation loss (without shift) of 3 other seeds",
    arms={
        "one": functools.partial(_arm, family="one"),
        "swa": functools.partial(_arm, family="one", option=1.0),
        "ensemble": functools.partial(_arm, family="ensemble"),
        "coarse": functools.partial(_arm, family="coarse", option=1.0),
        "dcwa": functools.partial(_arm, family="fine", option=1.0),
        "dcwa_without": functools.partial(_arm, family="fine"),
    },
    comparisons=(
        Comparison("lower loss under shift than an ensemble", "coarse", "ensemble", "shifted_loss", "lower"),
        Comparison(
            "better calibrated under shift than an ensemble", "coarse", "ensemble", "shifted_calibration_error", "lower"
        ),
        Comparison("the mean of copies is more accurate than one model", "dcwa", "one", "test_accuracy", "higher"),
        # "on par": within half a point, fixed before the run
        Comparison("the mean of copies is as accurate as SWA", "dcwa", "swa", "test_accuracy", "higher", -0.005),
        Comparison("the mean of copies needs the consistency loss", "dcwa", "dcwa_without", "test_accuracy", "higher"),
    ),
    seeds=12,
    claimed_by="arXiv 2210.06436: abstract, section 4",
)
