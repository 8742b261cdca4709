"""Weight decay after the step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number


class DecayState(NamedTuple):
    count: Int[Array, ""]


def decay_after_step(
    where: str, learning_rate: optax.ScalarOrSchedule, weight_decay: Number, *, skip_first: bool = False
) -> optax.GradientTransformation:
    """``θ ← (1 - ηλ)(θ + u)``; with ``skip_first`` not at the first call. ``where`` is who asks for the parameters."""

    def init(params):
        del params
        return DecayState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(
                f"{where} decays the parameters: call tx.update(updates, state, params) with the parameters"
            )
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        shrink = rate * weight_decay
        if skip_first:
            shrink = jnp.where(state.count == 0, 0.0, shrink)

        def decay(u, p):
            return (u - shrink * (p + u)).astype(u.dtype)

        return jax.tree.map(decay, updates, params), DecayState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
