"""Few-shot episodes of digits: do losses of distances beside the cross-entropy separate classes never seen better?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import supervised as s
from experiments.data import mnist_5k
from experiments.harness import Claim, Comparison
from experiments.optimizers._arms import around
from jaxtrain.losses import icnn_loss, proto_triplet_loss, prototypes

WAY, SHOT, QUERY, TEST_EPISODES, STEPS = 4, 5, 10, 100, 300
SIZES = (196, 64, 32)
RATES = around(3e-4, 0.1)


@functools.cache
def _images():
    """``(10, 500, 196)``: MNIST in 14 by 14, by class."""
    x, y = mnist_5k()
    small = x.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196) * 2 - 1
    return np.stack([small[y == c] for c in range(10)])


def _embed(params, x):
    return s.logits(params, x)


def _episode(key, images):
    """``(WAY, SHOT, …)`` and ``(WAY, QUERY, …)`` of classes drawn from the leading axis."""
    who, what = jax.random.split(key)
    classes = jax.random.permutation(who, images.shape[0])[:WAY]

    def drawn(key, c):
        return images[c, jax.random.randint(key, (SHOT + QUERY,), 0, images.shape[1])]

    x = jax.vmap(drawn)(jax.random.split(what, WAY), classes)
    return x[:, :SHOT], x[:, SHOT:]


def _points(params, episode):
    """Embedded support and queries with their labels, and the prototypes."""
    support, queries = (_embed(params, part.reshape(-1, part.shape[-1])) for part in episode)
    labels = [jnp.repeat(jnp.arange(WAY), n) for n in (SHOT, QUERY)]
    return support, labels[0], queries, labels[1], prototypes(support, labels[0], WAY)


def _logits(queries, ends):
    return -jnp.sum(jnp.square(queries[:, None] - ends[None]), axis=-1)


def _terms(params, episode):
    support, support_y, queries, query_y, ends = _points(params, episode)
    everything, all_y = jnp.concatenate([support, queries]), jnp.concatenate([support_y, query_y])
    return (
        optax.losses.softmax_cross_entropy_with_integer_labels(_logits(queries, ends), query_y).mean(),
        proto_triplet_loss(queries, query_y, ends, jnp.arange(WAY)).mean(),
        icnn_loss(everything, all_y, items_per_class=SHOT + QUERY),
    )


def _run(key, values, *, validation, steps):
    """Training on digits of six classes, tested on four others that the seed draws; tuned within the six."""
    rate, *weights = values
    split, start, learn, test = jax.random.split(key, 4)
    images, order = jnp.asarray(_images()), jax.random.permutation(split, 10)
    seen, unseen = order[:6], order[6:]
    # while tuning, two of the six stay out, and come back with two others as the classes to test on
    known, asked = (seen[:4], seen[2:6]) if validation else (seen, unseen)
    tx = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def loss(params, key):
        terms = _terms(params, _episode(key, images[known]))
        return sum(w * term for w, term in zip(weights, terms, strict=True)) / sum(weights)

    params = s.descend(loss, tx, s.mlp(start, SIZES), jax.random.split(learn, steps))

    def tested(key):
        _, _, queries, y, ends = _points(params, _episode(key, images[asked]))
        right = jnp.mean((_logits(queries, ends).argmax(-1) == y).astype(jnp.float32))
        within = jnp.mean(jnp.linalg.norm(queries - ends[y], axis=-1))
        pairs = jnp.linalg.norm(ends[:, None] - ends[None], axis=-1)
        return right, within / (pairs.sum() / (WAY * (WAY - 1)))

    right, ratio = jax.lax.map(tested, jax.random.split(test, TEST_EPISODES), batch_size=20)
    return {"accuracy": right.mean(), "error": 1 - right.mean(), "distance_ratio": ratio.mean()}


# which of the three terms are used
ARMS = {
    "cross-entropy": (1.0, 0.0, 0.0),
    "with proto-triplet": (1.0, 1.0, 0.0),
    "with ICNN": (1.0, 0.0, 1.0),
    "with both": (1.0, 1.0, 1.0),
}


@functools.partial(jax.jit, static_argnames="steps")
def _measured(keys, values, *, steps):
    return jax.vmap(lambda key: _run(key, values, validation=False, steps=steps))(keys)


def _arm(keys, smoke, *, weights):
    steps = 5 if smoke else STEPS
    grid = [(rate, *weights) for rate in (RATES[2:4] if smoke else RATES)]
    chosen = s.best(lambda key, values: _run(key, values, validation=True, steps=steps)["error"], grid)
    found = _measured(keys, jnp.asarray(chosen), steps=steps)
    return found | {"rate": jnp.full(len(keys), chosen[0])}


CLAIM = Claim(
    paper="P337",
    slug="icnn_prototriplet_loss",
    says="Beside the cross-entropy of a prototypical network, the proto-triplet loss and the ICNN loss separate classes that "
    "were never seen better, which raises few-shot accuracy by one to two points.",
    setup="MNIST in 14 by 14 pixels (5,000 images), an MLP 196-64-32 trained on 300 episodes of 4 classes, 5 shots and 10 "
    "queries for each, from six classes drawn by the seed; tested on 100 episodes of the other four. Adam with a cosine. "
    "The loss is the mean of its terms, as in the release; ICNN over support and queries together, margin 0.5, k = 4.",
    tuning="Adam's rate half a decade apart from 0.0003 to 0.1 in every arm, by accuracy with 3 other seeds, trained on four "
    "of the six classes and tested on two of these and the two left out",
    arms={name: functools.partial(_arm, weights=weights) for name, weights in ARMS.items()},
    comparisons=tuple(
        Comparison(
            name=f"{arm}: {what}", arm=arm, baseline="cross-entropy", metric=metric, better=better, margin=margin
        )
        for arm in list(ARMS)[1:]
        for what, metric, better, margin in (
            ("half a point more", "accuracy", "higher", 0.005),
            ("classes are further apart", "distance_ratio", "lower", 0.0),
        )
    ),
    seeds=20,
    smoke_seeds=2,
    claimed_by="arXiv 2305.09062: its tables for miniImageNet and three other data sets",
)
