"""What the claims on small supervised problems share: data, an MLP, a scanned training run, tuning on other seeds."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _ends
from jaxtrain.core import Aux
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import TrainState, create_state, make_step


class Data(NamedTuple):
    """A training part and a part to measure on."""

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray


@functools.cache
def digits(train: int, *, validation: bool) -> Data:
    """scikit-learn's digits, pixels in [-1, 1]: ``train`` images to train on, the rest of the 1,797 held out.

    With ``validation`` a quarter of the training images is held out instead, so that tuning never sees the test part.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    x, y = (bunch.data / 8 - 1).astype(np.float32), bunch.target.astype(np.int32)
    parts = train_test_split(x, y, train_size=train, stratify=y, random_state=0)
    if validation:
        parts = train_test_split(parts[0], parts[2], train_size=0.75, stratify=parts[2], random_state=1)
    return Data(parts[0], parts[2], parts[1], parts[3])


@functools.cache
def breast_cancer() -> Data:
    """scikit-learn's breast cancer data, standardised, all 569 examples in both parts."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x, y = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32), y.astype(np.int32)
    return Data(x, y, x, y)


def mlp(key: jax.Array, sizes: Sequence[int]) -> list[dict[str, jax.Array]]:
    """He-initialised weights and zero biases."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(k, (m, n)) * jnp.sqrt(2 / m), "b": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def patches(x: jax.Array, size: int, stride: int = 1) -> jax.Array:
    """Every pixel of ``(batch, height, width)`` with its surroundings, the edge repeated: ``(batch, height, width, size²)``."""
    r, (_, h, w) = stride * (size // 2), x.shape
    rows, columns = (np.arange(n)[:, None] + stride * np.arange(size) for n in (h, w))
    padded = jnp.pad(x, ((0, 0), (r, r), (r, r)), mode="edge")
    return padded[:, rows[:, None, :, None], columns[None, :, None, :]].reshape(*x.shape, size**2)


def logits(params: Any, x: jax.Array) -> jax.Array:
    """The MLP with rectifiers."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def cross_entropy(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


def accuracy(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Fraction of right answers."""
    return jnp.mean((logits(params, x).argmax(-1) == y).astype(jnp.float32))


def descend(
    loss: Callable[[Any, Any], jax.Array],
    tx: optax.GradientTransformation,
    params: Any,
    given: Any = None,
    length: int | None = None,
) -> Any:
    """The parameters after steps down ``loss(params, x)``, one for each x of ``given``, keys or batches, as in ``lax.scan``."""

    def step(carry, x):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), given, length)[0][0]


def order(key: jax.Array, number: jax.Array, examples: int, batch_size: int) -> jax.Array:
    """The batches of an epoch as ``(steps, batch_size)`` indices, in an order of its own; what fills no batch is left out."""
    shuffled = jax.random.permutation(jax.random.fold_in(key, number), examples)
    steps = examples // batch_size
    return shuffled[: steps * batch_size].reshape(steps, batch_size)


def orders(key: jax.Array, epochs: int, examples: int, batch_size: int) -> jax.Array:
    """Those of several epochs, one after the other: ``(epochs · steps, batch_size)``."""
    each = jax.vmap(lambda number: order(key, number, examples, batch_size))(jnp.arange(epochs))
    return each.reshape(-1, batch_size)


def train(
    key: jax.Array,
    tx: optax.GradientTransformation,
    data: Data,
    *,
    init: Callable[[jax.Array], Any],
    epochs: int,
    batch_size: int,
    loss: Callable[..., jax.Array] = cross_entropy,
    record: Callable[[TrainState], Any] = lambda state: (),
) -> tuple[TrainState, Any]:
    """A run of whole epochs in orders of its own; ``record`` is called after each. The key decides start and orders."""

    def objective(params, model_state, batch, key):
        return loss(params, *batch), Aux(model_state, {})

    step = make_step(value_and_grad(objective), tx)
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    start, batches, run = jax.random.split(key, 3)

    def epoch(state, number):
        chosen = order(batches, number, len(x), batch_size)
        state, _ = jax.lax.scan(lambda s, i: (step(s, (x[i], y[i]))[0], None), state, chosen)
        return state, record(state)

    return jax.lax.scan(epoch, create_state(init(start), tx, run), jnp.arange(epochs))


def best(
    run: Callable[[jax.Array, jax.Array], jax.Array], values: Sequence[Any], *, seeds: int = 3, one_by_one: bool = False
) -> np.ndarray:
    """The value with the lowest mean of ``run(key, value)`` over seeds that no claim is measured on.

    The values are numbers, or tuples of numbers of one length; they run together, or ``one_by_one``.
    """
    keys = jax.random.split(jax.random.key(20_000), seeds)
    grid = jnp.asarray(values, jnp.float32)
    if one_by_one:
        scores = jax.jit(lambda: jax.lax.map(lambda v: jnp.mean(jax.lax.map(lambda k: run(k, v), keys)), grid))()
    else:
        scores = jax.jit(jax.vmap(lambda v: jnp.mean(jax.vmap(lambda k: run(k, v))(keys))))(grid)
    return np.asarray(grid[_ends.lowest(scores, values)])


def first_below(curve: jax.Array, target: jax.Array) -> jax.Array:
    """The number of the first point of a curve at or below a target, counted from 1; one past the end if none is."""
    reached = curve <= target
    return jnp.where(reached.any(), jnp.argmax(reached) + 1, len(curve) + 1).astype(jnp.float32)
