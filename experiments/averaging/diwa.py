"""DiWA: the average of diverse fine-tuned runs off their distribution."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s
from experiments.averaging import _merging as m
from experiments.harness import Claim, Comparison
from jaxtrain.averaging import averaged_params, diversity_ratio_error, soup, swa

MEMBERS, INDEPENDENT = 6, 2


def _member(key, start, data, epochs):
    """A run with hyperparameters of its own, and the average along it."""
    draw, run = jax.random.split(key)
    u = jax.random.uniform(draw, (2,))
    tx = optax.adamw(m.RATE * 3.0 ** (2 * u[0] - 1), weight_decay=10.0 ** (2 * u[1] - 4))
    tx = optax.chain(tx, swa(epochs * (m.TRAIN // m.BATCH) // 2, 1))
    state = m.finetune(run, start, tx, data.x, data.y, epochs=epochs)
    return state.params, averaged_params(state.opt_state, state.params)


@m.once
def _all(keys, smoke):
    epochs, before, members = (2, 1, 2) if smoke else (m.EPOCHS, m.BEFORE, MEMBERS)
    data = s.digits(m.TRAIN, validation=False)
    shifted = jnp.asarray(m.shifts(data.held_x))

    def measure(key):
        common, runs, others, other_runs = jax.random.split(key, 4)
        start = m.pretrain(common, epochs=before)
        run = functools.partial(_member, data=data, epochs=epochs)
        finals, averages = jax.vmap(lambda k: run(k, start))(jax.random.split(runs, members))
        starts = jax.vmap(lambda k: m.pretrain(k, epochs=before))(jax.random.split(others, INDEPENDENT))
        unrelated, _ = jax.vmap(run)(jax.random.split(other_runs, INDEPENDENT), starts)

        def both(params):
            return s.accuracy(params, data.held_x, data.held_y), m.shifted_accuracy(params, data)

        def ensemble(x):
            mean = jnp.mean(jax.vmap(lambda p: jax.nn.softmax(s.logits(p, x)))(finals), axis=0)
            return jnp.mean((mean.argmax(-1) == data.held_y).astype(jnp.float32))

        one, two = (s.logits(m.at(finals, i), shifted[0]).argmax(-1) for i in range(2))
        found = {
            "single": jax.tree.map(jnp.mean, jax.vmap(both)(finals)),
            "moving_average": jax.tree.map(jnp.mean, jax.vmap(both)(averages)),
            "ensemble": (ensemble(jnp.asarray(data.held_x)), jnp.mean(jax.vmap(ensemble)(shifted))),
            "diwa": both(soup(finals)),
            "independent": both(soup(unrelated)),
        }
        found = {name: {"test_accuracy": a, "shifted_accuracy": b} for name, (a, b) in found.items()}
        found["diwa"]["ratio_error"] = diversity_ratio_error(one, two, jnp.asarray(data.held_y))
        return found

    return jax.jit(jax.vmap(measure))(keys)


def _arm(keys, smoke, *, name):
    return _all(keys, smoke)[name]


ARMS = ("single", "moving_average", "ensemble", "diwa", "independent")
CLAIM = Claim(
    paper="P063",
    slug="diwa",
    says="The average of the weights of runs with different hyperparameters from one pretrained model is more accurate "
    "off the distribution than a run and than the average along a run, and about as accurate as the ensemble of the "
    "runs; averages of runs from different pretrained models collapse.",
    setup=m.GROUND + " by AdamW: 6 runs, learning rate and weight decay drawn log-uniformly over a factor of 9 (around "
    "0.01) and of 100. Accuracy on 1,297 test images, as they are and shifted: turned by ±20°, or with noise of 0.7. "
    "single and moving_average (all iterates of the second half): means over the runs. independent: 2 pretrained models.",
    tuning=m.TUNED,
    arms={name: functools.partial(_arm, name=name) for name in ARMS},
    comparisons=(
        Comparison("more accurate than a run, shifted", "diwa", "single", "shifted_accuracy", "higher"),
        Comparison(
            "more accurate than the average along a run, shifted",
            "diwa",
            "moving_average",
            "shifted_accuracy",
            "higher",
        ),
        # "close": within a point, fixed before the run
        Comparison("within a point of the ensemble, shifted", "diwa", "ensemble", "shifted_accuracy", "higher", -0.01),
        Comparison("unrelated runs fall by 20 points", "diwa", "independent", "test_accuracy", "higher", 0.2),
    ),
    claimed_by="arXiv 2205.09739: abstract, section 4, tables 1 and 2",
)
