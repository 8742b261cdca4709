"""The optimizers that a workload can be run with by name."""

import difflib

import jax
import optax

from jaxtrain import optimizers
from jaxtrain.config import ConfigError
from jaxtrain.core import Number, Params

OPTIMIZERS = ("adamw", "sgd", "lion", "soap", "shampoo")


def _matrices(params: Params) -> Params:
    return jax.tree.map(lambda p: p.ndim > 1, params)


def optimizer(
    name: str, learning_rate: optax.Schedule | Number, *, weight_decay: Number, b2: Number = 0.999
) -> optax.GradientTransformation:
    """An optimizer with decoupled weight decay on matrices and kernels.

    Raises:
      ConfigError: an unknown name.
    """
    if name == "adamw":
        return optax.adamw(learning_rate, b2=b2, weight_decay=weight_decay, mask=_matrices)
    if name == "lion":
        return optax.lion(learning_rate, weight_decay=weight_decay, mask=_matrices)
    decay = optax.add_decayed_weights(weight_decay, mask=_matrices)
    if name == "sgd":
        return optax.chain(optax.trace(0.9, nesterov=True), decay, optax.scale_by_learning_rate(learning_rate))
    if name == "soap":
        return optax.chain(optimizers.scale_by_soap(), decay, optax.scale_by_learning_rate(learning_rate))
    if name == "shampoo":
        shampoo = optimizers.scale_by_distributed_shampoo(b2=b2, precondition_frequency=10)
        return optax.chain(shampoo, decay, optax.scale_by_learning_rate(learning_rate))
    near = difflib.get_close_matches(name, OPTIMIZERS, n=2, cutoff=0.4) or OPTIMIZERS
    raise ConfigError(f"there is no optimizer '{name}'; did you mean {' or '.join(near)}?")
