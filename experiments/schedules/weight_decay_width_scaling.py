"""How singular values grow with the width under AdamW, and which decay carries over to a wider model."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from jaxtrain.schedules import layerwise_adamw, singular_spectrum

WIDTHS = (32, 64, 128, 256)
BASE = WIDTHS[0]
STEPS, BATCH, NOISE = 1500, 64, 0.1
RATE, DECAY = 0.01, 1.0  # for the singular values: a memory of 1 / (rate · decay) = 100 steps at the base width
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1)
DECAYS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# the decay for a width m times the base
RULES = {"sqrt": 0.5, "constant": 0.0, "linear": 1.0}


def _init(key, width):
    embed, up, down, head = jax.random.split(key, 4)
    return {
        "embed": jax.random.normal(embed, (64, width)) / 8,
        "up": jax.random.normal(up, (width, width)) / jnp.sqrt(width),
        "down": jax.random.normal(down, (width, width)) / jnp.sqrt(width),
        "gain": jnp.ones(width),
        "last_gain": jnp.ones(width),
        "head": jax.random.normal(head, (width, 10)) / jnp.sqrt(BASE),
    }


def _normal(h, gain):
    return h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6) * gain


def _logits(params, x):
    h = x @ params["embed"]
    h = h + jax.nn.relu(_normal(h, params["gain"]) @ params["up"]) @ params["down"]
    # the head of muP: a multiplier of 1 / m
    return _normal(h, params["last_gain"]) @ params["head"] * (BASE / len(params["gain"]))


def _cross_entropy(params, x, y):
    return optax.losses.softmax_cross_entropy_with_integer_labels(_logits(params, x), y).mean()


def _run(key, width, rate, decay, power, steps, *, scaled, validation):
    """Loss on held-out images, and the mean log of the largest singular value of the two matrices."""
    data = s.digits(1000, validation=validation)
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    init, run = jax.random.split(key)
    m = width / BASE
    # layerwise_adamw multiplies the decay by the root of m: the other rules are put on top of it
    tx = layerwise_adamw(rate, decay * m ** (power - 0.5), width_mult=m, eps=1e-12) if scaled else None
    tx = tx or layerwise_adamw(rate, decay, width_mult=1.0, eps=1e-12)

    def step(carry, key):
        params, state = carry
        which, noisy, other = jax.random.split(key, 3)
        chosen = jax.random.randint(which, (BATCH,), 0, len(x))
        # labels redrawn at every step keep the gradients noisy to the end
        label = jnp.where(
            jax.random.uniform(noisy, (BATCH,)) < NOISE, jax.random.randint(other, (BATCH,), 0, 10), y[chosen]
        )
        updates, state = tx.update(jax.grad(_cross_entropy)(params, x[chosen], label), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = _init(init, width)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(run, steps))
    top = jnp.log(singular_spectrum(jnp.stack([params["up"], params["down"]]))[:, 0]).mean()
    return _cross_entropy(params, jnp.asarray(data.held_x), jnp.asarray(data.held_y)), top


def _exponent(keys, smoke, power, *, scaled):
    """The slope of log singular value against log width, for each seed."""
    widths, steps = (WIDTHS[:2], 20) if smoke else (WIDTHS, STEPS)
    tops = []
    for width in widths:
        of = functools.partial(
            _run, width=width, rate=RATE, decay=DECAY, power=power, steps=steps, scaled=scaled, validation=False
        )
        tops.append(jax.jit(lambda keys, of=of: jax.lax.map(lambda key: of(key)[1], keys))(keys))
    logs = jnp.log(jnp.asarray(widths)) - jnp.log(jnp.asarray(widths)).mean()
    return logs @ jnp.stack(tops) / jnp.sum(logs**2)


@functools.cache
def _tuned(smoke):
    """Rate and decay of the narrow model, which all rules carry over."""
    grid = [(a, b) for a in RATES for b in DECAYS]
    steps = 20 if smoke else STEPS
    loss = lambda key, v: _run(key, BASE, v[0], v[1], 0.5, steps, scaled=False, validation=True)[0]  # noqa: E731
    return s.best(loss, grid[:2] if smoke else grid, one_by_one=True)


def _rule(keys, smoke, *, name):
    width, steps = (WIDTHS[1], 20) if smoke else (WIDTHS[-1], STEPS)
    rate, decay = _tuned(smoke)
    loss = lambda key: _run(key, width, rate, decay, RULES[name], steps, scaled=True, validation=False)[0]  # noqa: E731
    slope = _exponent(keys, smoke, RULES[name], scaled=True)
    return {
        "drift": jnp.abs(slope),
        "exponent": slope,
        "loss": jax.jit(lambda keys: jax.lax.map(loss, keys))(keys),
        "base_rate": jnp.full(len(keys), rate),
        "base_decay": jnp.full(len(keys), decay),
    }


def _fixed(keys, smoke):
    return {"exponent": _exponent(keys, smoke, 0.5, scaled=False)}


CLAIM = Claim(
    paper="P385",
    slug="weight_decay_width_scaling",
    says="Under AdamW with one rate and decay the largest singular value of a matrix grows like the width to the 0.75 "
    "(± 0.1). With the rate of muP (1/m) a decay that grows like √m keeps it still, better than a constant or a linear "
    "one, and carries rate and decay over from a narrow to a wide model with a lower loss than these.",
    setup="scikit-learn's digits, 1,000 training images, a tenth of the labels redrawn at random at every step; a "
    "residual block of two square matrices between RMS norms, widths 32, 64, 128, 256; constant rates, 1,500 steps of "
    "batch 64. Singular values at rate 0.01 and decay 1 at width 32: exponent is the slope over the four widths, drift "
    "its absolute value. Loss: of held-out images at width 256, with what was tuned at width 32.",
    tuning="rate (0.001 to 0.1) and decay (0.01 to 3) of the narrow model, a grid of 30 half a decade apart, by the mean "
    "validation loss of 3 other seeds; the same for all rules, as that is what they carry over",
    arms={"fixed": _fixed} | {name: functools.partial(_rule, name=name) for name in RULES},
    comparisons=(
        Comparison("the exponent is at least 0.65", "fixed", None, "exponent", "higher", 0.65),
        Comparison("the exponent is at most 0.85", "fixed", None, "exponent", "lower", 0.85),
        *(
            Comparison(f"the root rule drifts less than the {name} one", "sqrt", name, "drift", "lower")
            for name in ("constant", "linear")
        ),
        *(
            Comparison(
                f"the root rule has a lower loss than the {name} one", "sqrt", name, "loss", "lower", scale="log_ratio"
            )
            for name in ("constant", "linear")
        ),
    ),
    seeds=8,
    smoke_seeds=2,
    claimed_by="arXiv 2510.15262: abstract",
)
