"""What the claims "optimizer X against a baseline, each at its best rate" share."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import supervised as s

HALF_DECADES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)


def around(low: float, high: float) -> tuple[float, ...]:
    """The rates half a decade apart from ``low`` to ``high``.

    >>> around(1e-3, 0.1)
    (0.001, 0.003, 0.01, 0.03, 0.1)
    """
    return tuple(rate for rate in HALF_DECADES if 0.99 * low < rate < 1.01 * high)


def mlp_on_digits(
    key: jax.Array,
    make: Callable[[int], optax.GradientTransformation],
    *,
    epochs: int,
    batch_size: int = 50,
    examples: int = 1000,
    sizes: Sequence[int] = (64, 32, 32, 10),
    validation: bool = False,
    record: Callable[[Any], Any] = lambda params: (),
) -> dict[str, Any]:
    """A run of an MLP on digits with ``make(steps)``: last loss on the training part, loss and error held out.

    ``record(params)`` after every epoch comes back as ``curve``. With ``validation`` nothing of the test part is seen.
    """
    data = s.digits(examples, validation=validation)
    batch_size = min(batch_size, len(data.x))
    state, curve = s.train(
        key,
        make(epochs * (len(data.x) // batch_size)),
        data,
        init=functools.partial(s.mlp, sizes=sizes),
        epochs=epochs,
        batch_size=batch_size,
        record=lambda state: record(state.params),
    )
    return {
        "loss": s.cross_entropy(state.params, data.x, data.y),
        "held_loss": s.cross_entropy(state.params, data.held_x, data.held_y),
        "held_error": 1 - s.accuracy(state.params, data.held_x, data.held_y),
        "curve": curve,
    }


def at_its_best(
    keys: jax.Array,
    run: Callable[..., Mapping[str, jax.Array]],
    values: Sequence[Any],
    *,
    by: str,
    smoke: bool,
    tune: Callable[..., Mapping[str, jax.Array]] | None = None,
) -> dict[str, jax.Array]:
    """``run(key, value)`` for all keys at the value with the lowest mean ``by`` over three other seeds.

    Values are numbers or tuples of numbers; ``tune`` is the run that chooses, where it is another one. What was chosen
    comes along as ``rate`` (the first number of a tuple).
    """
    middle = len(values) // 2
    values = values[middle : middle + 2] if smoke else values
    value = s.best(lambda key, value: (tune or run)(key, value)[by], values)
    found = jax.jit(jax.vmap(lambda key: run(key, jnp.asarray(value))))(keys)
    return {**found, "rate": jnp.full(len(keys), value.ravel()[0])}


def prefixed(label: str, found: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Some of the metrics, named after their problem."""
    return {f"{label}_{name}": found[name] for name in (*names, "rate")}


def least_squares(
    key: jax.Array,
    make: Callable[[int], optax.GradientTransformation],
    *,
    steps: int,
    batch_size: int = 32,
    dim: int = 50,
    condition: float = 1e3,
    examples: int = 1024,
) -> dict[str, Any]:
    """A minibatch run on a least squares problem whose covariance is rotated and has a condition number.

    ``excess`` is the last loss on all data over that of the solution; labels have noise of 0.1.
    """
    turn, truth, inputs, noise, batches = jax.random.split(key, 5)
    scales = jnp.logspace(0.0, -0.5 * jnp.log10(condition), dim)
    basis = jnp.linalg.qr(jax.random.normal(turn, (dim, dim)))[0]
    x = (jax.random.normal(inputs, (examples, dim)) * scales) @ basis.T
    y = x @ jax.random.normal(truth, (dim,)) + 0.1 * jax.random.normal(noise, (examples,))
    solution = jnp.linalg.lstsq(x, y)[0]
    tx = make(steps)

    def step(carry, key):
        w, state = carry
        i = jax.random.randint(key, (batch_size,), 0, examples)
        g = x[i].T @ (x[i] @ w - y[i]) / batch_size
        updates, state = tx.update(g, state, w)
        return (optax.apply_updates(w, updates), state), None

    w = jnp.zeros(dim)
    (w, _), _ = jax.lax.scan(step, (w, tx.init(w)), jax.random.split(batches, steps))
    return {"excess": 0.5 * jnp.mean((x @ (w - solution)) ** 2)}


def matrix_regression(
    key: jax.Array,
    make: Callable[[int], optax.GradientTransformation],
    *,
    steps: int,
    side: int = 16,
    batch_size: int = 64,
) -> jax.Array:
    """Final loss on all data of a minibatch run on a matrix regression; rotated Kronecker Hessian of condition 1e4."""
    left, right, target, inputs, noise, run = jax.random.split(key, 6)
    spectrum = jnp.logspace(0, -1, side)
    a = jnp.linalg.qr(jax.random.normal(left, (side, side)))[0] * spectrum
    b = jnp.linalg.qr(jax.random.normal(right, (side, side)))[0] * spectrum
    wanted = jax.random.normal(target, (side, side))
    x = jax.random.normal(inputs, (1024, side)) @ a.T
    y = x @ wanted @ b + 0.01 * jax.random.normal(noise, (1024, side))
    tx = make(steps)

    def loss(w, x, y):
        return jnp.mean(jnp.sum((x @ w @ b - y) ** 2, axis=1))

    def step(carry, key):
        w, state = carry
        chosen = jax.random.randint(key, (batch_size,), 0, len(x))
        updates, state = tx.update(jax.grad(loss)(w, x[chosen], y[chosen]), state, w)
        return (optax.apply_updates(w, updates), state), None

    start = jnp.zeros((side, side))
    (w, _), _ = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(run, steps))
    return loss(w, x, y)


def warm_cosine(rate: jax.Array, steps: int) -> optax.Schedule:
    """A tenth of linear warm-up, then a cosine to zero."""
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, max(1, steps // 10), steps)
    return lambda count: rate * shape(count)
