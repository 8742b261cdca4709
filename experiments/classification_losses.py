"""Fifteen classification losses under wrong labels and long tails, equally tuned: accuracy on digits.

    python -m experiments.classification_losses

writes ``results/classification_losses.json``, the page ``docs/classification_losses.md`` and its figure
``results/classification_losses.png``; ``--smoke`` tries it and writes nothing. Scikit-learn's digits, 750 images to train
on, a quarter of them held out for tuning, 1,047 to test on; an MLP 64-128-10, Adam with a cosine to zero, 1,500 steps with
batches of 50 drawn evenly from what there is. Wrong labels are drawn anew for every seed: "symmetric" ones fall on any
other class, "pair" ones on the next (beyond half of them the wrong class is the more frequent one). Long tails keep all of
class 0 and one in 10 … 100 of what class 9 had, geometrically between, other classes in that place for every seed; the
losses that ask for class counts get those of the training labels, spoilt as they are. Every loss has fifteen settings for
every problem, chosen by the accuracy on the held-out quarter, whose labels are right and whose classes are equal, of three
seeds that are not shown: learning rates from 1e-4 to 3e-2, fifteen for a loss without a number of its own and five times
three values for one with it. Shown are means over sixteen seeds.
"""

import argparse
import functools
import json
import platform
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import supervised as s
from experiments._classification_losses_page import draw, page
from experiments.data import with_wrong_labels
from jaxtrain import losses as ls

ROOT = Path(__file__).parent
RESULT, FIGURE = ROOT / "results" / "classification_losses.json", ROOT / "results" / "classification_losses.png"
PAGE = ROOT.parent / "docs" / "classification_losses.md"
CLASSES, EXAMPLES, STEPS, BATCH, SEEDS, TUNING_SEEDS = 10, 750, 1500, 50, 16, 3
PROBLEMS: dict[str, tuple[str, float]] = {
    "clean": ("symmetric", 0.0),
    **{f"symmetric {round(100 * f)} %": ("symmetric", f) for f in (0.2, 0.4, 0.6)},
    **{f"pair {round(100 * f)} %": ("pair", f) for f in (0.2, 0.4, 0.6)},
    **{f"tail 1:{r}": ("tail", float(r)) for r in (10, 50, 100)},
}


class Loss(NamedTuple):
    """A loss of the study.

    Attributes:
      fn: ``(logits, labels, number, counts, memory) -> (losses, memory)`` for a batch and what is kept of its examples.
      numbers: three values of its own number, or none.
      says: what the number is.
      kept: what is kept of an example at first, from the loss's own number.
      cosine: whether the logits are cosines of features and class weights.
    """

    fn: Callable[..., tuple[jax.Array, jax.Array]]
    numbers: tuple[float, ...] = ()
    says: str = ""
    kept: Callable[[jax.Array], jax.Array] = lambda v: jnp.zeros(0)
    cosine: bool = False


def _plain(fn: Callable[..., jax.Array], *numbers: float, says: str = "", cosine: bool = False) -> Loss:
    """Of ``fn(logits, labels)``, or with a number."""
    with_number = (lambda z, y, v: fn(z, y, v)) if numbers else (lambda z, y, v: fn(z, y))
    return Loss(lambda z, y, v, n, m: (with_number(z, y, v), m), numbers, says, cosine=cosine)


def _counted(fn: Callable[..., jax.Array], *numbers: float, says: str, cosine: bool = False) -> Loss:
    return Loss(lambda z, y, v, n, m: (fn(z, y, n, v), m), numbers, says, cosine=cosine)


def _smoothed(z: jax.Array, y: jax.Array, v: jax.Array) -> jax.Array:
    return optax.losses.softmax_cross_entropy(z, optax.smooth_labels(jax.nn.one_hot(y, CLASSES), v))


def _elr(z, y, v, n, memory):
    # the targets' own momentum is the released 0.7
    memory = 0.7 * memory + 0.3 * jax.lax.stop_gradient(jax.nn.softmax(z))
    return ls.elr_loss(z, y, memory, lam=v), memory


def _aldr(z, y, v, n, memory):
    loss, lam = ls.aldr_kl_loss(ls.l1_normalize_logits(z), y, memory[:, 0], lam0=v, margin=0.1)
    return loss, lam[:, None]


_ce = optax.losses.softmax_cross_entropy_with_integer_labels
LOSSES: dict[str, Loss] = {
    "cross-entropy": _plain(_ce),
    "label smoothing": _plain(_smoothed, 0.05, 0.2, 0.5, says="smoothing"),
    "squared error": _plain(lambda z, y: jnp.mean((z - jax.nn.one_hot(y, CLASSES)) ** 2, axis=-1)),
    "multiclass hinge": _plain(optax.losses.multiclass_hinge_loss),
    "sparsemax": _plain(optax.losses.multiclass_sparsemax_loss),
    "comp-sum, below 1": _plain(lambda z, y, v: ls.comp_sum_loss(z, y, tau=v), 0.4, 0.6, 0.8, says="tau"),
    "mean absolute error": _plain(lambda z, y: ls.comp_sum_loss(z, y, tau=2.0)),
    "generalized CE": _plain(
        lambda z, y, v: ls.generalized_cross_entropy_loss(z, y, q=v), 0.3, 0.5, 0.7, says="q"
    ),
    "symmetric CE": _plain(
        lambda z, y, v: ls.symmetric_cross_entropy_loss(z, y, alpha=v, beta=1.0), 0.03, 0.1, 1.0, says="alpha"
    ),
    "LDR-KL": _plain(lambda z, y, v: ls.ldr_kl_loss(ls.l1_normalize_logits(z), y, lam=v, margin=0.1), 0.1, 0.3, 1.0, says="lambda"),
    "ALDR-KL": Loss(_aldr, (0.1, 0.3, 1.0), "lambda 0", kept=lambda v: v[None]),
    "StableMax": _plain(ls.stablemax_cross_entropy),
    "ELR": Loss(_elr, (1.0, 3.0, 7.0), "lambda", kept=lambda v: jnp.zeros(CLASSES)),
    "logit adjustment": _counted(lambda z, y, n, v: ls.logit_adjusted_loss(z, y, n, tau=v), 0.5, 1.0, 1.5, says="tau"),
    "LDAM": _counted(
        lambda z, y, n, v: ls.ldam_loss(z, y, n, max_margin=v, scale=10.0), 0.1, 0.3, 0.5, says="largest margin", cosine=True
    ),
}  # fmt: skip
assert len(LOSSES) == 15


def settings(loss: Loss) -> np.ndarray:
    """Fifteen pairs of learning rate and number."""
    if not loss.numbers:
        return np.stack([np.geomspace(1e-4, 3e-2, 15), np.zeros(15)], axis=1)
    rates = np.geomspace(1e-4, 3e-2, 5)
    return np.array([(rate, number) for number in loss.numbers for rate in rates])


def spoilt(key: jax.Array, labels: jax.Array, kind: str, amount: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Labels, and the probability with which each example is drawn; ``amount`` is a Python number."""
    even = jnp.full(len(labels), 1 / len(labels))
    if kind != "tail":
        return with_wrong_labels(key, labels, fraction=amount, num_classes=CLASSES, kind=kind)[0], even
    who, which = jax.random.split(key)
    order = jax.random.permutation(which, CLASSES)[labels]  # the place of an example's class in the tail
    size = np.bincount(labels).min()
    keep = jnp.round(size * amount ** (-order / (CLASSES - 1)))
    draw = jax.random.uniform(who, labels.shape)
    rank = jnp.sum((labels[:, None] == labels[None]) & (draw[None] < draw[:, None]), axis=1)
    kept = rank < jnp.maximum(keep, 1)
    return labels, kept / kept.sum()


def _logits(params: Any, x: jax.Array, cosine: bool) -> jax.Array:
    if not cosine:
        return s.logits(params, x)
    h = jax.nn.relu(x @ params[0]["w"] + params[0]["b"])
    w = params[1]["w"]
    return (h / (jnp.linalg.norm(h, axis=1, keepdims=True) + 1e-6)) @ (w / (jnp.linalg.norm(w, axis=0) + 1e-6))


def fit(key: jax.Array, setting: jax.Array, problem: tuple[jax.Array, jax.Array], x: jax.Array, loss: Loss, steps: int):
    """Parameters after a run; the problem is labels and how likely each example is drawn."""
    labels, chances = problem
    start, orders = jax.random.split(key)
    rate, number = setting
    tx = optax.adam(optax.cosine_decay_schedule(1.0, steps))
    params = s.mlp(start, (x.shape[1], 128, CLASSES))
    counts = jnp.maximum(jnp.zeros(CLASSES).at[labels].add(chances > 0), 1.0)
    memory = jnp.tile(loss.kept(number), (len(labels), 1))
    edges = jnp.cumsum(chances)

    def step(carry, key):
        params, state, memory = carry
        # inverse of the distribution function: an example without a chance is never drawn
        i = jnp.searchsorted(edges, edges[-1] * jax.random.uniform(key, (BATCH,)), side="right")

        def objective(params):
            values, kept = loss.fn(_logits(params, x[i], loss.cosine), labels[i], number, counts, memory[i])
            return jnp.mean(values), kept

        grads, kept = jax.grad(objective, has_aux=True)(params)
        updates, state = tx.update(grads, state)
        params = optax.apply_updates(params, jax.tree.map(lambda u: rate * u, updates))
        return (params, state, memory.at[i].set(kept)), None

    (params, *_), _ = jax.lax.scan(step, (params, tx.init(params), memory), jax.random.split(orders, steps))
    return params


def _accuracy(params: Any, x: jax.Array, y: jax.Array, cosine: bool) -> jax.Array:
    """Mean over classes of the share of right answers."""
    right = (_logits(params, x, cosine).argmax(-1) == y).astype(jnp.float32)
    of_class = jax.nn.one_hot(y, CLASSES)
    return jnp.mean(right @ of_class / of_class.sum(axis=0))


def _problems(keys: jax.Array, labels: jax.Array, problems: Sequence[str]) -> tuple[jax.Array, jax.Array]:
    """Leading axes: problems, seeds."""
    found = [jax.vmap(lambda k, p=p: spoilt(k, labels, *PROBLEMS[p]))(keys) for p in problems]
    return tuple(jnp.stack(part) for part in zip(*found, strict=True))


def measure(
    name: str, problems: Sequence[str], *, seeds: int = SEEDS, tuning_seeds: int = TUNING_SEEDS, steps: int = STEPS
) -> dict[str, Any]:
    """Balanced test accuracies ``(problems, seeds)``, the settings and which of them each problem chose."""
    loss, grid = LOSSES[name], jnp.asarray(settings(LOSSES[name]), jnp.float32)
    tuned, whole = s.digits(EXAMPLES, validation=True), s.digits(EXAMPLES, validation=False)
    run = functools.partial(fit, loss=loss, steps=steps)
    accuracy = functools.partial(_accuracy, cosine=loss.cosine)

    @jax.jit
    def tune(keys, problem):
        x = jnp.asarray(tuned.x)
        score = lambda k, v, p: accuracy(run(k, v, p, x), tuned.held_x, tuned.held_y)  # noqa: E731
        over_seeds = jax.vmap(score, in_axes=(0, None, 0))
        over_settings = jax.vmap(over_seeds, in_axes=(None, 0, None))
        return jax.lax.map(lambda p: over_settings(keys, grid, p).mean(axis=1), problem)

    @jax.jit
    def test(keys, chosen, problem):
        x = jnp.asarray(whole.x)
        score = lambda k, v, p: accuracy(run(k, v, p, x), whole.held_x, whole.held_y)  # noqa: E731
        return jax.lax.map(lambda a: jax.vmap(score, in_axes=(0, None, 0))(keys, *a), (chosen, problem))

    others = jax.random.split(jax.random.key(20_000), tuning_seeds)
    scores = tune(others, _problems(others, jnp.asarray(tuned.y), problems))
    chosen = jnp.argmax(jnp.where(jnp.isfinite(scores), scores, -1), axis=1)
    keys = jax.random.split(jax.random.key(0), seeds)
    found = test(keys, grid[chosen], _problems(keys, jnp.asarray(whole.y), problems))
    return {
        "accuracy": np.round(np.asarray(found), 5).tolist(),
        "settings": np.round(np.asarray(grid[chosen]), 6).tolist(),
        "at_the_edge": [bool(np.isin(grid[c, 0], (grid[:, 0].min(), grid[:, 0].max())).all()) for c in np.asarray(chosen)],
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Measures everything and writes the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="two losses, a few steps; nothing is written")
    parser.add_argument("--draw", action="store_true", help="page and figure again from the result that is there")
    arguments = parser.parse_args(argv)
    if arguments.draw:
        result = json.loads(RESULT.read_text(encoding="utf-8"))
    elif arguments.smoke:
        for name in ("cross-entropy", "ELR"):
            measure(name, ("clean", "tail 1:10"), seeds=2, tuning_seeds=2, steps=5)
        return 0
    else:
        began, found = time.perf_counter(), {}
        for number, name in enumerate(LOSSES, start=1):
            start = time.perf_counter()
            found[name] = measure(name, tuple(PROBLEMS))
            means = " ".join(f"{100 * np.mean(a):.1f}" for a in found[name]["accuracy"])
            print(f"{number:2d}/{len(LOSSES)} {name:<20} {means} ({time.perf_counter() - start:.0f} s)", flush=True)
        result = {
            "command": "python -m experiments.classification_losses",
            "says": (__doc__ or "").partition("writes nothing. ")[2].strip(),
            "problems": list(PROBLEMS),
            "numbers": {name: loss.says for name, loss in LOSSES.items()},
            "seconds": round(time.perf_counter() - began, 1),
            "found": found,
            "versions": {p: metadata.version(p) for p in ("jax", "jaxlib", "numpy", "optax", "scikit-learn")},
            "python": platform.python_version(),
        }
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(result))
    draw(result, FIGURE)
    print("written: experiments/results/classification_losses.json, .png and docs/classification_losses.md")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
