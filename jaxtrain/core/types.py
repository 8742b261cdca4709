"""The few types in which the stages meet."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jax import Array
from jaxtyping import Float
from jaxtyping import Key as _Key

Params: TypeAlias = Any
"""Any pytree of floating arrays: what is trained."""

ModelState: TypeAlias = Any
"""Any pytree that the model changes itself, such as BatchNorm's running statistics. Empty: ``{}``."""

OptState: TypeAlias = Any
"""The state of an optimizer, as its ``init`` makes it."""

Batch: TypeAlias = Any
"""Any pytree of arrays whose leading axes agree: the examples."""

Key: TypeAlias = _Key[Array, ""]
"""One typed key, as ``jax.random.key`` makes it."""

Scalar: TypeAlias = Float[Array, ""]
"""One floating number: a loss."""

Number: TypeAlias = float | int | np.number | np.ndarray | Array
"""A numeric hyperparameter: it may be traced, so that a whole grid of them is one program."""

Metrics: TypeAlias = dict[str, Array]
"""What is reported of a step, by name."""


class Aux(NamedTuple):
    """What an objective returns besides its value."""

    model_state: ModelState
    metrics: Metrics


Objective: TypeAlias = Callable[[Params, ModelState, Batch, Key], tuple[Scalar, Aux]]
"""``(params, model_state, batch, key) -> (loss, Aux)``: what a user writes."""

PerExampleObjective: TypeAlias = Callable[[Params, ModelState, Batch, Key], tuple[Float[Array, " batch"], Aux]]
"""The same with the losses of the examples instead of their mean."""

GradFn: TypeAlias = Callable[[Params, ModelState, Batch, Key], tuple[tuple[Scalar, Aux], Params]]
"""``(params, model_state, batch, key) -> ((loss, Aux), gradients)``: an objective, differentiated."""
