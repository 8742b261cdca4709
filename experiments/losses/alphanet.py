"""AlphaNet: sub-networks of one slimmable network, distilled by the adaptive alpha-divergence, by KL, or not at all."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from experiments.optimizers._arms import at_its_best
from jaxtrain.losses import adaptive_alpha_distill_loss, alpha_divergence, sandwich_subnet_sampler

WIDTHS = (0.25, 0.5, 0.75, 1.0)
HIDDEN, BATCH, STEPS = 32, 50, 400
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1)


def _logits(params, x, width):
    """The first units of each hidden layer; the rest is cut off by a mask."""
    keep = jnp.arange(HIDDEN) < width * HIDDEN
    for layer in params[:-1]:
        x = jnp.where(keep, jax.nn.relu(x @ layer["w"] + layer["b"]), 0)
    return x @ params[-1]["w"] + params[-1]["b"]


def _labels(f, y):
    smooth = optax.smooth_labels(jax.nn.one_hot(y, 10), 0.1)
    return optax.losses.softmax_cross_entropy(f, smooth).mean()


_SMALL = {
    "adaptive": lambda teacher, f, y: adaptive_alpha_distill_loss(teacher, f).mean(),
    "kl": lambda teacher, f, y: alpha_divergence(teacher, f, alpha=1.0).mean(),
    "labels": lambda teacher, f, y: _labels(f, y),
}


def _calibration_error(f, y):
    """Expected calibration error in 15 bins."""
    p = jax.nn.softmax(f)
    sure, right = p.max(-1), (p.argmax(-1) == y).astype(jnp.float32)
    inside = jax.nn.one_hot(jnp.clip((sure * 15).astype(int), 0, 14), 15)
    return jnp.sum(jnp.abs((sure - right) @ inside)) / len(y)


def _run(key, rate, *, arm, steps, validation):
    data = s.digits(1000, validation=validation)
    x, y, held_x, held_y = map(jnp.asarray, data)
    start, batches = jax.random.split(key)
    # gradients clipped at a norm of 1, as in the authors' code, for all arms
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, steps)))

    def loss(params, key):
        choose, draw = jax.random.split(key)
        widths = sandwich_subnet_sampler(draw, {"width": jnp.array(WIDTHS)})["width"]
        i = jax.random.randint(choose, (BATCH,), 0, len(x))
        largest = _logits(params, x[i], 1.0)
        small = jax.vmap(lambda width: _SMALL[arm](largest, _logits(params, x[i], width), y[i]))(widths[1:])
        return _labels(largest, y[i]) + small.sum()

    params = s.descend(loss, tx, s.mlp(start, (64, HIDDEN, HIDDEN, 10)), jax.random.split(batches, steps))
    found = [_logits(params, held_x, width) for width in WIDTHS]
    errors = jnp.stack([jnp.mean(f.argmax(-1) != held_y) for f in found])
    return {
        "error": errors.mean(),
        "error_smallest": errors[0],
        "error_largest": errors[-1],
        "calibration_error": jnp.mean(jnp.stack([_calibration_error(f, held_y) for f in found[:-1]])),
    }


def _arm(keys, smoke, *, arm):
    run = functools.partial(_run, arm=arm, steps=20 if smoke else STEPS)
    tune = functools.partial(run, validation=True)
    run = functools.partial(run, validation=False)
    return at_its_best(keys, run, RATES, by="error", smoke=smoke, tune=tune)


def _lower(name, arm, baseline, metric="error"):
    return Comparison(name=name, arm=arm, baseline=baseline, metric=metric, better="lower")


CLAIM = Claim(
    paper="P074",
    slug="alphanet",
    says="Sub-networks of a slimmable network err less when distilled by the adaptive alpha-divergence than by KL, and by "
    "KL than when trained on labels, the smallest too; and they are better calibrated than those distilled by KL.",
    setup="1,000 digits, an MLP with two hidden layers of 32 units of which a quarter, a half, three quarters or all are "
    "used, the sandwich rule (largest on labels smoothed by 0.1, smallest and two random ones), 400 steps of Adam with cosine decay, "
    "batches of 50, gradients clipped at 1; errors are means over the four widths on 797 other digits; calibration is the expected "
    "calibration error, 15 bins, of the three smaller ones.",
    tuning="the rate of each arm from 0.001 to 0.1, half a decade apart, by the mean error of 3 other seeds on a quarter of the "
    "training images",
    arms={name: functools.partial(_arm, arm=name) for name in _SMALL},
    comparisons=(
        _lower("errs less than with KL", "adaptive", "kl"),
        _lower("KL errs less than labels", "kl", "labels"),
        _lower("the smallest errs less than with KL", "adaptive", "kl", "error_smallest"),
        _lower("better calibrated than with KL", "adaptive", "kl", "calibration_error"),
    ),
    seeds=10,
    smoke_seeds=2,
    claimed_by="arXiv 2102.07954: abstract and the experiments with slimmable networks",
)
