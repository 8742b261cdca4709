"""AdaMerging: coefficients learnt from unlabelled test images, against fixed ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.stats import rankdata

from experiments import supervised as s
from experiments.averaging import _merging as m
from experiments.harness import Claim, Comparison
from jaxtrain.averaging import adamerging_fit, adamerging_loss, merge_task_vectors, task_vectors, ties

TASKS, SIZES, BEFORE, RATE = 4, (64, 128, 128, 10), 3, 1e-3


def _tasks(x):
    """Four views of the images: as they are, a quarter turn, inverted, halves swapped."""
    images = np.asarray(x).reshape(-1, 8, 8)
    turned = np.rot90(images, axes=(1, 2))
    swapped = np.roll(images, 4, axis=2)
    return np.stack([z.reshape(-1, 64) for z in (images, turned, -images, swapped)]).astype(np.float32)


def _with_head(head):
    return lambda body, x: s.logits([*body, head], x)


def _pretrain(key, epochs):
    """On MNIST in all four views, so that the base knows something of every task."""
    data = m.mnist_8x8()
    x, y = _tasks(data.x).reshape(-1, 64), np.tile(data.y, TASKS)
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, epochs * (len(y) // 100)))
    both = s.Data(x, y, x, y)
    return s.train(key, tx, both, init=functools.partial(s.mlp, sizes=SIZES), epochs=epochs, batch_size=100)[0].params


def _models(key, data, epochs, before):
    """The body and the head of a pretrained network, and the body fine-tuned for every task."""
    common, runs = jax.random.split(key)
    *base, head = _pretrain(common, before)

    def loss(body, x, y):
        return s.cross_entropy([*body, head], x, y)

    def train(key, x):
        return m.finetune(key, base, m.adam(epochs, RATE), x, jnp.asarray(data.y), epochs=epochs, loss=loss).params

    return base, head, jax.vmap(train)(jax.random.split(runs, TASKS), jnp.asarray(_tasks(data.x)))


def _accuracies(body, head, data):
    return jax.vmap(lambda x: s.accuracy([*body, head], x, data.held_y))(jnp.asarray(_tasks(data.held_x)))


@m.once
def _all(keys, smoke):
    epochs, before, steps = (2, 1, 20) if smoke else (m.EPOCHS, BEFORE, 500)
    data = s.digits(m.TRAIN, validation=False)
    tests = [jnp.asarray(x) for x in _tasks(data.held_x)]

    def measure(key):
        train, fit, draw = jax.random.split(key, 3)
        base, head, models = _models(train, data, epochs, before)
        vectors, apply = task_vectors(models, base), _with_head(head)

        def learnt(granularity):
            coeffs, losses = adamerging_fit(fit, vectors, base, apply, tests, granularity=granularity, steps=steps)
            return merge_task_vectors(vectors, base, coeffs), losses

        some = [x[:300] for x in tests]

        def both(coeffs):
            """Entropy, which needs no labels, and cross-entropy, for coefficients drawn at random."""
            body = merge_task_vectors(vectors, base, coeffs)
            entropy = adamerging_loss(coeffs, vectors, base, apply, some)
            return entropy, sum(s.cross_entropy([*body, head], x, data.held_y[:300]) for x in some)

        entropy, cross_entropy = jax.lax.map(both, jax.random.uniform(draw, (16, TASKS)))
        rank = jnp.corrcoef(rankdata(entropy), rankdata(cross_entropy))[0, 1]
        layer, layer_losses = learnt("layer")
        task, _ = learnt("task")
        merged = {
            "pretrained": base,
            "task_arithmetic": merge_task_vectors(vectors, base, 0.3),
            "ties": ties(models, base, keep=0.2, scale=0.3, mode="sum"),
            "task_wise": task,
            "layer_wise": layer,
        }
        found = {}
        for name, body in merged.items():
            each = _accuracies(body, head, data)
            found[name] = {"mean_accuracy": jnp.mean(each), "worst_task_accuracy": jnp.min(each)}
        own = jnp.stack([s.accuracy([*m.at(models, i), head], x, data.held_y) for i, x in enumerate(tests)])
        found["own_models"] = {
            "mean_accuracy": jnp.mean(own),
            "worst_task_accuracy": jnp.min(own),
        }
        found["layer_wise"] |= {"rank_correlation": rank, "last_entropy": layer_losses[-1]}
        return found

    return jax.jit(jax.vmap(measure))(keys)


def _arm(keys, smoke, *, name):
    return _all(keys, smoke)[name]


ARMS = ("pretrained", "own_models", "task_arithmetic", "ties", "task_wise", "layer_wise")
CLAIM = Claim(
    paper="P265",
    slug="adamerging",
    says="Merging coefficients learnt for each layer by the entropy on unlabelled test images give a more accurate model "
    "of several tasks than one learnt for each task, which gives a more accurate one than task arithmetic with 0.3; "
    "entropy and loss go together.",
    setup="MLP 64-128-128-10 pretrained on 5,000 MNIST digits at 8 × 8 pixels (Adam, 3 epochs) in four views: as they are, a "
    "quarter turn, inverted, halves swapped; fine-tuned for each view on 500 of scikit-learn's digits (10 epochs of batches "
    "of 32, Adam 0.001 with cosine decay), the head held. Mean accuracy over the four views of 1,297 test images. AdaMerging as in the paper: start 0.3, Adam "
    "0.001, 500 steps of 16 test images of each task; TIES: 20 % kept, sum, 0.3. Rank correlation of entropy and "
    "cross-entropy over 16 uniform draws of coefficients, on 300 test images.",
    tuning="none: the rate of fine-tuning is fixed, all arms use the same models; the rest as in the paper",
    arms={name: functools.partial(_arm, name=name) for name in ARMS},
    comparisons=(
        Comparison("layers above tasks", "layer_wise", "task_wise", "mean_accuracy", "higher"),
        Comparison("tasks above a fixed 0.3", "task_wise", "task_arithmetic", "mean_accuracy", "higher"),
        Comparison("layers above a fixed 0.3", "layer_wise", "task_arithmetic", "mean_accuracy", "higher"),
        # fixed before the run
        Comparison("entropy ranks as the loss does", "layer_wise", None, "rank_correlation", "higher", 0.7),
    ),
    claimed_by="arXiv 2310.02575: section 3.2, tables 1 and 2",
)
