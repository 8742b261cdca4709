"""Training steps of SAM and ImbSAM against the authors' PyTorch file."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import imbsam, sam, value_and_grad

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "imbsam.npz")


def losses(params, state, batch, key):
    z = batch["x"] @ params["w"].T + params["b"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(z, batch["y"]), Aux(state, {})


def mean(*args):
    values, aux = losses(*args)
    return values.mean(), aux


@pytest.mark.parametrize("name", ["sam", "imbsam"])
def test_equals_the_official_code(name, x64):
    rho = float(GOLDEN["rho"])
    grad_fn = {
        "sam": sam(value_and_grad(mean), rho=rho),
        "imbsam": imbsam(losses, lambda batch: batch["y"] == 2, rho=rho, tail_weight=2.0),
    }[name]
    tx = optax.sgd(0.3, momentum=0.9)
    params = {"w": jnp.asarray(GOLDEN["w"]), "b": jnp.asarray(GOLDEN["b"])}

    def step(carry, batch):
        params, state = carry
        _, grads = grad_fn(params, {}, batch, jax.random.key(0))
        updates, state = tx.update(grads, state)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.concatenate([params["w"].ravel(), params["b"]])

    batches = {"x": jnp.asarray(GOLDEN["x"]), "y": jnp.asarray(GOLDEN["y"])}
    _, iterates = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), batches))(params)
    # five float64 steps; the third batch has no rare example
    np.testing.assert_allclose(iterates, GOLDEN[f"{name}_iterates"], rtol=0, atol=1e-13)
