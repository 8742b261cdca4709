"""The laws of gradient transformations, for averages at the end of a chain."""

import optax
import pytest

from jaxtrain.averaging import lawa, params_ema, power_function_ema, swa, swad, switch_ema, window_average
from jaxtrain.testing import check_gradient_transformation


def chain_with_swa(learning_rate, start_step, period):
    return optax.chain(optax.sgd(learning_rate, momentum=0.9), swa(start_step, period))


def chain_with_switch_ema(learning_rate, decay, switch_every):
    return optax.chain(optax.sgd(learning_rate, momentum=0.9), switch_ema(decay, switch_every))


def chain_with_ema(learning_rate, decay):
    return optax.chain(optax.sgd(learning_rate), params_ema(decay))


def chain_with_power_ema(learning_rate, std):
    return optax.chain(optax.sgd(learning_rate), power_function_ema(std))


def chain_with_windows(learning_rate, period):
    return optax.chain(optax.sgd(learning_rate), lawa(2, period), swad(2), window_average(2 * period, period))


CASES = {
    "swa": (chain_with_swa, {"learning_rate": 0.1, "start_step": 1, "period": 2}),
    "ema": (chain_with_ema, {"learning_rate": 0.1, "decay": 0.5}),
    "power_ema": (chain_with_power_ema, {"learning_rate": 0.1, "std": 0.1}),
    "windows": (chain_with_windows, {"learning_rate": 0.1, "period": 2}),
    "switch_ema": (chain_with_switch_ema, {"learning_rate": 0.1, "decay": 0.5, "switch_every": 2}),
}


@pytest.mark.parametrize("name", CASES)
def test_keeps_the_laws(name):
    factory, hyperparams = CASES[name]
    check_gradient_transformation(factory=factory, hyperparams=hyperparams)
