"""The laws of schedules, and of the transformation that records gradient norms."""

import jax.numpy as jnp
import pytest

from jaxtrain.schedules import (
    cosine_restarts,
    cyclical_lr,
    linear_decay_schedule,
    record_grad_norm,
    schedule_from_array,
    swa_constant_schedule,
)
from jaxtrain.testing import check_gradient_transformation, check_schedule

SCHEDULES = {
    "linear_decay": linear_decay_schedule(0.1, 100, warmup_steps=10),
    "from_array": schedule_from_array(jnp.linspace(1.0, 0.0, 50), peak=0.3),
    "from_array_stretched": schedule_from_array(jnp.linspace(1.0, 0.0, 50), peak=0.3, total_steps=90),
    "cosine_restarts": cosine_restarts(7, mult=1.5),
    "cyclical": cyclical_lr(0.5, 0.1, 7),
    "swa_constant": swa_constant_schedule(lr_init=0.1, lr_swa=0.05, swa_start=80),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_keeps_the_laws(name):
    check_schedule(SCHEDULES[name])


def test_recording_keeps_the_laws():
    check_gradient_transformation(record_grad_norm(10))
