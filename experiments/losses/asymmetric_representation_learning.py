"""ARL: should a fused classifier rely more on the modality that varies less?"""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from experiments.optimizers._arms import around, at_its_best
from jaxtrain.losses import arl_coefficients, arl_loss, grad_scale, modality_variance_weights

NOISE, EPOCHS, WARM, BATCH, WIDTH, BALANCE = (0.5, 2.0), 40, 5, 50, 32, 0.5
RATES = around(3e-4, 0.3)
ARMS = ("joint", "unimodal_losses", "balanced", "arl")


def _halves(key, x):
    """The left and the right half of 8 × 8 images, with noise of their own."""
    images = jnp.asarray(x).reshape(-1, 8, 8)
    views = images[:, :, :4].reshape(-1, 32), images[:, :, 4:].reshape(-1, 32)
    return jnp.stack(
        [v + std * jax.random.normal(k, v.shape) for v, std, k in zip(views, NOISE, jax.random.split(key), strict=True)]
    )


def _init(key):
    a, b, head = jax.random.split(key, 3)
    encoders = jax.tree.map(lambda *x: jnp.stack(x), s.mlp(a, (32, WIDTH, WIDTH)), s.mlp(b, (32, WIDTH, WIDTH)))
    return {"encoders": encoders, "head": s.mlp(head, (2 * WIDTH, 10))[0]}


def _forward(params, views, scale):
    """Fused logits, and those of each view alone: one linear head on both features, or with the other's at 0."""
    features = jax.vmap(lambda p, x: jax.nn.relu(s.logits(p, x)))(params["encoders"], views)
    features = grad_scale(features, scale[:, None, None])
    head = params["head"]
    parts = jnp.einsum("mbf,mfc->mbc", features, head["w"].reshape(2, WIDTH, 10))
    return parts.sum(axis=0) + head["b"], parts + head["b"]


def _scale(arm, params, views, y):
    """How much is added to the gradients into the two encoders."""
    _, alone = _forward(params, views, jnp.zeros(2))
    if arm == "arl":
        return arl_coefficients(list(alone))
    if arm == "balanced":  # the modality that is ahead is held back (OGM-GE)
        p = jnp.take_along_axis(jax.nn.softmax(alone), y[None, :, None], axis=2).sum(axis=(1, 2))
        ahead = p / p[::-1]
        return jnp.where(ahead > 1, -jnp.tanh(BALANCE * ahead), 0.0)
    return jnp.zeros(2)


def _run(key, rate, arm, *, validation=False, epochs=EPOCHS):
    data = s.digits(1000, validation=validation)
    start, noise, held_noise, orders = jax.random.split(key, 4)
    views, y = _halves(noise, data.x), jnp.asarray(data.y)
    held, held_y = _halves(held_noise, data.held_x), jnp.asarray(data.held_y)
    tx = optax.sgd(rate, momentum=0.9)
    params = _init(start)
    gamma = 0.0 if arm in ("joint", "balanced") else 1.0

    def epoch(carry, number):
        def step(carry, i):
            params, opt = carry
            scale = jnp.where(number >= WARM, _scale(arm, params, views[:, i], y[i]), 0.0)

            def objective(params):
                fused, alone = _forward(params, views[:, i], scale)
                return arl_loss(fused, list(alone), y[i], gamma=gamma).mean()

            updates, opt = tx.update(jax.grad(objective)(params), opt, params)
            return (optax.apply_updates(params, updates), opt), None

        return jax.lax.scan(step, carry, s.order(orders, number, len(y), BATCH))

    (params, _), _ = jax.lax.scan(epoch, (params, tx.init(params)), jnp.arange(epochs))
    fused, alone = _forward(params, held, jnp.zeros(2))
    size, wanted = jnp.abs(alone).sum(axis=(1, 2)), modality_variance_weights(list(alone))
    return {
        "accuracy": jnp.mean((fused.argmax(-1) == held_y).astype(jnp.float32)),
        "held_loss": optax.losses.softmax_cross_entropy_with_integer_labels(fused, held_y).mean(),
        "dependence": jnp.log(size[0] / size[1]),
        "departure": jnp.abs(jnp.log(size[0] / size[1]) - jnp.log(wanted[0] / wanted[1])),
    }


def _arm(keys, smoke, *, name):
    run = functools.partial(_run, arm=name, epochs=WARM + 1 if smoke else EPOCHS)

    def tune(key, rate):
        return {"error": 1 - run(key, rate, validation=True)["accuracy"]}

    return at_its_best(keys, run, RATES, by="error", smoke=smoke, tune=tune)


def _better(baseline, margin):
    name = f"more accurate than {baseline.replace('_', ' ')}"
    return Comparison(name=name, arm="arl", baseline=baseline, metric="accuracy", better="higher", margin=margin)


CLAIM = Claim(
    paper="P020",
    slug="asymmetric_representation_learning",
    says="Encoders whose gradients follow the inverse variances of their modalities give a better fused classifier than joint "
    "training and than balanced learning speeds, and each is relied on closer to its inverse variance.",
    setup="The left and the right half of 1,000 digits, with normal noise of 0.5 and of 2 (pixels from -1 to 1); each through "
    "an MLP 32-32-32, one linear head on both; 40 epochs of SGD with momentum 0.9, batches of 50. Joint training, with the "
    "cross-entropies of the single halves, those with ARL's coefficients (temperature 8, floor 0.3, after 5 epochs), and "
    "joint training that holds the half back which is ahead (OGM-GE without noise, alpha 0.5, after 5 epochs). Accuracy on "
    "797 digits; departure is the distance of the logarithms of the ratio of dependences and of inverse variances.",
    tuning="the rate of each arm, half a decade apart from 0.0003 to 0.3, by the accuracy on a validation part with 3 other "
    "seeds; in a first run (contradicted) the grid began at 0.003, which two arms chose",
    arms={name: functools.partial(_arm, name=name) for name in ARMS},
    comparisons=(
        _better("joint", 0.005),
        _better("balanced", 0.005),
        _better("unimodal_losses", 0.0),
        Comparison(
            name="relied on closer to the inverse variance than jointly",
            arm="arl",
            baseline="joint",
            metric="departure",
            better="lower",
            margin=0.0,
        ),
        Comparison(
            name="the coefficients bring that about",
            arm="arl",
            baseline="unimodal_losses",
            metric="departure",
            better="lower",
            margin=0.0,
        ),
    ),
    seeds=12,
    smoke_seeds=2,
    claimed_by="arXiv 2507.10203: its theorem on dependence and its tables against gradient balancing",
)
