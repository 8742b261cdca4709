"""The schedules of stochastic weight averaging by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.schedules import cyclical_lr, swa_constant_schedule


def test_cycle_by_hand():
    # the paper counts from i = 1: t = (mod(i - 1, c) + 1) / c = 1/4, 2/4, 3/4, 1, …
    rates = jax.vmap(cyclical_lr(0.5, 0.1, 4))(jnp.arange(9))
    np.testing.assert_allclose(rates, [0.4, 0.3, 0.2, 0.1, 0.4, 0.3, 0.2, 0.1, 0.4], rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(cyclical_lr(0.5, 0.1, 1))(jnp.arange(3)), 0.1, rtol=1e-6)


def test_constant_variant_by_hand():
    # the released schedule with lr 0.1, swa_lr 0.05, swa_start 20 epochs: t = epoch / 20
    def released(epoch):
        t = epoch / 20
        factor = 1.0 if t <= 0.5 else 1.0 - 0.5 * (t - 0.5) / 0.4 if t <= 0.9 else 0.5
        return 0.1 * factor

    schedule = swa_constant_schedule(lr_init=0.1, lr_swa=0.05, swa_start=20)
    np.testing.assert_allclose(
        jax.vmap(schedule)(jnp.arange(40)), [released(k) for k in range(40)], rtol=1e-6
    )  # float32


def test_clear_errors():
    with pytest.raises(ValueError, match=r"alpha_2 must lie in \[0.0, 0.1\], got 0.2"):
        cyclical_lr(0.1, 0.2, 4)
    with pytest.raises(ValueError, match="cycle_length must lie in"):
        cyclical_lr(0.1, 0.01, 0)
    with pytest.raises(ValueError, match="swa_start must lie in"):
        swa_constant_schedule(lr_init=0.1, lr_swa=0.05, swa_start=0)
