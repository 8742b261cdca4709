"""Switch EMA against a plain EMA and against no average."""

import functools
import itertools

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.averaging import averaged_params, switch_ema

TRAIN, BATCH, SIZES = 500, 32, (64, 128, 10)
RATES, WEIGHT_DECAYS = (1e-2, 2e-2, 5e-2, 1e-1), (0.01, 0.1, 0.3, 1.0)
DECAY = 0.9


def _weights(state, average):
    return state.params if average == "none" else averaged_params(state.opt_state, state.params)


def _run(key, tuned, *, average, epochs, validation):
    rate, weight_decay = tuned
    data = s.digits(TRAIN, validation=validation)
    steps = len(data.x) // BATCH
    schedule = optax.cosine_decay_schedule(1.0, epochs * steps)
    tx = optax.adamw(lambda count: rate * schedule(count), weight_decay=weight_decay)
    if average != "none":
        tx = optax.chain(tx, switch_ema(DECAY, steps if average == "switch" else None))

    def record(state):
        return s.cross_entropy(_weights(state, average), data.held_x, data.held_y)

    init = functools.partial(s.mlp, sizes=SIZES)
    state, curve = s.train(key, tx, data, init=init, epochs=epochs, batch_size=BATCH, record=record)
    return _weights(state, average), curve


def _sharpness(key, params, data):
    """Largest eigenvalue of the Hessian of the training loss, by 50 power iterations."""

    def product(v):
        return jax.jvp(jax.grad(lambda p: s.cross_entropy(p, data.x, data.y)), (params,), (v,))[1]

    def iterate(v, _):
        hv = product(v)
        return optax.tree.scale(1 / (optax.global_norm(hv) + 1e-30), hv), None

    v = optax.tree.random_like(jax.random.fold_in(key, 1), params)
    v = optax.tree.scale(1 / optax.global_norm(v), v)
    v, _ = jax.lax.scan(iterate, v, length=50)
    return optax.tree.vdot(v, product(v))


def _arm(keys, smoke, *, average):
    epochs = 4 if smoke else 40

    def final(key, tuned):
        return _run(key, tuned, average=average, epochs=epochs, validation=True)[1][-1]

    grid = itertools.product(RATES[1:3], WEIGHT_DECAYS[:1]) if smoke else itertools.product(RATES, WEIGHT_DECAYS)
    tuned = s.best(final, list(grid))

    def measure(key):
        data = s.digits(TRAIN, validation=False)
        params, curve = _run(key, tuned, average=average, epochs=epochs, validation=False)
        return {
            "test_loss": curve[-1],
            "half_budget_test_loss": curve[epochs // 2 - 1],
            "test_accuracy": s.accuracy(params, data.held_x, data.held_y),
            "sharpness": _sharpness(key, params, data),
            "learning_rate": jnp.asarray(tuned[0]),
            "weight_decay": jnp.asarray(tuned[1]),
        }

    return jax.jit(jax.vmap(measure))(keys)


def _lower(name, metric, baseline):
    return Comparison(
        name=name, arm="switch_ema", baseline=baseline, metric=metric, better="lower", margin=0.0, scale="log_ratio"
    )


CLAIM = Claim(
    paper="P066",
    slug="switch_ema",
    says="Switching the trained parameters to their moving average after every epoch gives a lower test loss than the "
    "plain average and than no average, gets there faster, and ends in a flatter place.",
    setup="500 training images of scikit-learn's digits, 1,297 test images; MLP 64-128-10; AdamW with cosine decay, "
    "batch 32, 40 epochs; decay of the averages 0.9, a switch every epoch (15 steps).",
    tuning="each arm from the same 16 settings (learning rate 0.01, 0.02, 0.05, 0.1; weight decay 0.01, 0.1, 0.3, 1) by "
    "the mean final loss of 3 other seeds on a quarter of the training images held out. The grid and the decay come from "
    "two earlier runs: both averages chose 0.9 over 0.99 on those seeds, and all arms rates above 0.01. In those runs, "
    "whose arms were not tuned alike, Switch EMA won on loss where the baseline's weight decay was small and lost where "
    "it was tuned",
    arms={
        "adamw": functools.partial(_arm, average="none"),
        "ema": functools.partial(_arm, average="ema"),
        "switch_ema": functools.partial(_arm, average="switch"),
    },
    comparisons=(
        _lower("lower test loss than without an average", "test_loss", "adamw"),
        _lower("lower test loss than a plain average", "test_loss", "ema"),
        _lower("lower test loss at half the budget than without an average", "half_budget_test_loss", "adamw"),
        _lower("flatter than without an average", "sharpness", "adamw"),
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2402.09240: abstract, figures on convergence and on landscapes",
)
