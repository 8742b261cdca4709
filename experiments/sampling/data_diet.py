"""Half of the digits, chosen by EL2N, against all, a random half, and wrong labels."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s
from experiments.data import with_wrong_labels
from experiments.harness import Claim, Comparison
from jaxtrain import sampling

SIZES = (64, 128, 10)
TRAIN, BATCH, RATE, SCORERS, SCORE_EPOCHS, EPOCHS = 1000, 25, 0.1, 5, 10, 40
WRONG, OFFSET = 0.1, 0.12


def _run(key, x, y, *, epochs):
    data = s.digits(TRAIN, validation=False)._replace(x=x, y=y)
    steps = epochs * (len(x) // BATCH)
    tx = optax.sgd(optax.cosine_decay_schedule(RATE, steps), momentum=0.9)
    init = functools.partial(s.mlp, sizes=SIZES)
    return s.train(key, tx, data, init=init, epochs=epochs, batch_size=BATCH)[0].params


def _scores(key, x, y, smoke):
    def score(k):
        return sampling.el2n_score(s.logits(_run(k, x, y, epochs=2 if smoke else SCORE_EPOCHS), x), y)

    return sampling.average_scores(jax.lax.map(score, jax.random.split(key, 2 if smoke else SCORERS)))


def _arm(keys, smoke, *, which):
    data = s.digits(TRAIN, validation=False)
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    epochs = 2 if smoke else EPOCHS

    def test(key, x, y):
        # the same number of steps for every size of the training part
        params = _run(key, x, y, epochs=epochs * len(data.x) // len(x))
        return s.accuracy(params, jnp.asarray(data.held_x), jnp.asarray(data.held_y))

    def choose(key, labels, offset):
        if which == "random":
            return jax.random.permutation(jax.random.fold_in(key, 2), len(x))[: len(x) // 2]
        return sampling.keep_top_fraction(
            _scores(jax.random.fold_in(key, 1), x, labels, smoke), fraction=0.5, offset=offset
        )

    def one(key):
        labels, wrong = with_wrong_labels(jax.random.fold_in(key, 3), y, fraction=WRONG, num_classes=10)
        if which == "all":
            return {"accuracy": test(key, x, y), "accuracy_wrong_labels": test(key, x, labels)}
        kept = choose(key, y, 0.0)
        found = {"accuracy": test(key, x[kept], y[kept])}
        if which == "random":
            kept = choose(key, labels, 0.0)
            return found | {"accuracy_wrong_labels": test(key, x[kept], labels[kept])}
        scores = _scores(jax.random.fold_in(key, 1), x, labels, smoke)
        top = sampling.keep_top_fraction(scores, fraction=WRONG)
        for name, offset in (("accuracy_wrong_labels", OFFSET), ("accuracy_wrong_labels_no_offset", 0.0)):
            kept = sampling.keep_top_fraction(scores, fraction=0.5, offset=offset)
            found[name] = test(key, x[kept], labels[kept])
        return found | {"precision": jnp.mean(wrong[top].astype(jnp.float32))}

    return jax.jit(lambda keys: jax.lax.map(one, keys))(keys)


CLAIM = Claim(
    paper="P394",
    slug="data_diet",
    says="Training on the half with the highest EL2N loses at most a point against all data and beats a random half; wrong "
    "labels collect at the top of the scores, and leaving the top out restores training.",
    setup="scikit-learn's digits, 1,000 to train and 797 to test, MLP 64-128-10, SGD with momentum 0.9 and cosine decay, "
    "batch 25, 1,600 steps in every arm. EL2N: mean of 5 runs of 10 epochs on all training data. Wrong labels: 10 % moved to "
    "another class; the EL2N arm then keeps the half after the top 12 %.",
    tuning="none: one rate, 0.1, for every arm; the offset is the share of wrong labels and a fifth more, fixed before",
    arms={name: functools.partial(_arm, which=name) for name in ("all", "random", "el2n")},
    comparisons=(
        Comparison("half by EL2N loses less than a point against all", "el2n", "all", "accuracy", "higher", -0.01),
        Comparison("half by EL2N beats a random half", "el2n", "random", "accuracy", "higher", 0.0),
        Comparison("70 % of the top tenth have wrong labels", "el2n", None, "precision", "higher", 0.7),
        Comparison(
            "with wrong labels an offset half beats a random half",
            "el2n",
            "random",
            "accuracy_wrong_labels",
            "higher",
            0.0,
        ),
        Comparison(
            "with wrong labels an offset half is no worse than all, to half a point",
            "el2n",
            "all",
            "accuracy_wrong_labels",
            "higher",
            -0.005,
        ),
    ),
    seeds=8,
    claimed_by="arXiv 2107.07075: figures 1 and 4",
)
