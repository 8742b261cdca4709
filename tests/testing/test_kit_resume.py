"""States restored in a fresh process go on bit for bit; a planted fault does not."""

import os

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxtrain.averaging import swa, switch_ema
from jaxtrain.optimizers import adahessian, soap
from jaxtrain.testing import ContractError, check_resume


def averaged(rate):
    return optax.chain(optax.adamw(rate), switch_ema(decay=0.9, switch_every=2), swa(start_step=1, period=1))


def of_this_process(rate):
    """What it does depends on the process, and no state says so."""
    pid = os.getpid()

    def update(updates, state, params=None):
        return jax.tree.map(lambda g: -rate * g * jnp.float32(1 + pid * 1e-6), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def test_ours_and_a_planted_fault():
    fine = [
        (optax.adam, {"learning_rate": 0.1}),
        (soap, {"learning_rate": 0.1, "precondition_frequency": 2}),
        (adahessian, {"learning_rate": 0.1}),
        (averaged, {"rate": 0.1}),
    ]
    with pytest.raises(ContractError, match="of_this_process: the step after restoring has other bits") as caught:
        check_resume([*fine, (of_this_process, {"rate": 0.1})])
    # one process for all, and the others are not blamed
    assert len(caught.value.violations) == 1
