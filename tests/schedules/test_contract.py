"""The laws of schedules, and of the transformation that records gradient norms."""

import jax.numpy as jnp
import pytest

from jaxtrain.schedules import (
    cooldown_from_step,
    cosine_restarts,
    cyclical_lr,
    linear_decay_schedule,
    record_grad_norm,
    schedule_from_array,
    step_decay_schedule,
    swa_constant_schedule,
    wsd_schedule,
)
from jaxtrain.testing import check_gradient_transformation, check_schedule

SCHEDULES = {
    "linear_decay": linear_decay_schedule(0.1, 100, warmup_steps=10),
    "from_array": schedule_from_array(jnp.linspace(1.0, 0.0, 50), peak=0.3),
    "from_array_stretched": schedule_from_array(jnp.linspace(1.0, 0.0, 50), peak=0.3, total_steps=90),
    "cosine_restarts": cosine_restarts(7, mult=1.5),
    "cyclical": cyclical_lr(0.5, 0.1, 7),
    "swa_constant": swa_constant_schedule(lr_init=0.1, lr_swa=0.05, swa_start=80),
    "step_decay": step_decay_schedule(0.1, 100),
    "wsd": wsd_schedule(0.1, 100, warmup_steps=10),
    "cooldown_exp": cooldown_from_step(0.1, 70, 20, shape="exp", final_factor=0.01),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_keeps_the_laws(name):
    check_schedule(SCHEDULES[name])


def test_recording_keeps_the_laws():
    check_gradient_transformation(record_grad_norm(10))
