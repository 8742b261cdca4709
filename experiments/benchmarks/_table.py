"""Every optimizer, how to make it from a learning rate, and optax's nearest: what the benchmarks run over."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

import jaxtrain.optimizers as ours


class Entry(NamedTuple):
    """An optimizer.

    Attributes:
      make: from a learning rate, or a schedule where ``scheduled``.
      nearest: the name of optax's nearest; its own where it is optax's.
      rate: about where its learning rates lie on small problems; grids go up and down from there.
      scheduled: whether ``make`` takes a schedule.
      asks: the extra arguments that an update needs.
      period: steps after which its work repeats.
    """

    make: Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]
    nearest: str
    rate: float = 0.01
    scheduled: bool = True
    asks: tuple[str, ...] = ()
    period: int = 1


def table() -> dict[str, Entry]:
    """optax's own, then ours."""
    return {
        "optax.sgd": Entry(optax.sgd, "optax.sgd", 0.1),
        "optax.sgd, momentum": Entry(lambda r: optax.sgd(r, momentum=0.9), "optax.sgd, momentum", 0.03),
        "optax.adamw": Entry(lambda r: optax.adamw(r, weight_decay=0.0), "optax.adamw"),
        "adahessian": Entry(ours.adahessian, "optax.adamw", 0.1, asks=("grad_fn", "key")),
        "soap": Entry(
            lambda r: ours.soap(r, weight_decay=0.0, precondition_frequency=10, max_precond_dim=2048),
            "optax.adamw",
            period=10,
        ),
    }


def extra_arguments(
    entry: Entry, loss: Callable[[optax.Params], jax.Array], params: optax.Params, key: jax.Array
) -> dict:
    """What an update of the optimizer asks for."""
    known = {
        "value": lambda: loss(params),
        "value_fn": lambda: loss,
        "grad_fn": lambda: jax.grad(loss),
        "key": lambda: key,
    }
    return {name: known[name]() for name in entry.asks}
