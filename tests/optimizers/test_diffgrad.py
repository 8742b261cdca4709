"""diffGrad against the authors' files, with the bug of the first of them where it is asked for, and its limits."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import diffgrad, scale_by_diffgrad
from tests.optimizers.golden_runs import assert_equal_to_golden, golden, part, rate, run


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("plain", {}),
        ("options", {"b1": 0.8, "b2": 0.95, "eps": 1e-2, "weight_decay": 0.1}),
    ],
)
def test_equals_the_official_code(x64, case, options):
    # 40 float64 steps of order 0.03 (measured: 2e-16)
    assert_equal_to_golden(diffgrad(rate, **options), "diffgrad", case, rtol=0, atol=1e-14)


def test_equals_the_first_release_after_its_first_step(x64):
    """That one kept the gradient's own buffer as the previous gradient: ξ is σ(|g|) at first and 1/2 for ever after."""
    arrays = golden("diffgrad")
    iterates, _ = run(diffgrad(rate, use_previous=False), part(arrays, "first"), part(arrays, "grads"))
    for leaf, expected in part(arrays, "first_release").items():
        np.testing.assert_allclose(
            jnp.diff(iterates[leaf], axis=0), jnp.diff(expected, axis=0), rtol=0, atol=1e-13, err_msg=leaf
        )


def test_without_the_previous_gradient_it_is_half_of_adam(x64):
    grads = jnp.asarray(np.random.default_rng(0).normal(size=(20, 4)))
    ours, state = run(scale_by_diffgrad(eps=0.0, use_previous=False), jnp.zeros(4), grads)
    adam, _ = run(optax.scale_by_adam(eps=0.0), jnp.zeros(4), grads)
    np.testing.assert_allclose(ours, adam / 2, rtol=0, atol=1e-14)  # float64 sums of 20 updates of order one
    assert state.previous is None


def test_friction_of_constant_and_of_large_changes(x64):
    """With a constant gradient Adam's update is its sign, so ours is the friction: σ(|g|), then exactly 1/2."""
    g = jnp.array([2.0, -1e-3, 40.0])
    found, _ = run(scale_by_diffgrad(eps=0.0), jnp.zeros(3), jnp.stack([g] * 4))
    friction = jnp.diff(found, axis=0, prepend=0.0) * jnp.sign(g)
    np.testing.assert_allclose(friction[0], 1 / (1 + np.exp(-np.abs(g))), rtol=1e-14)  # float64
    np.testing.assert_allclose(friction[1:], 0.5, rtol=1e-14)
    # and against alternating gradients, which change by 80, no friction is left: σ(80) = 1 - 2e-35
    swing = 40.0 * jnp.array([1.0, -1.0, 1.0, -1.0])[:, None]
    ours, _ = run(scale_by_diffgrad(eps=0.0), jnp.zeros(1), swing)
    adam, _ = run(optax.scale_by_adam(eps=0.0), jnp.zeros(1), swing)
    np.testing.assert_allclose(ours, adam, rtol=0, atol=1e-14)


def test_half_precision_and_huge_gradients():
    g = jnp.array([3e38, -3e38, 1.0], jnp.bfloat16)
    tx = diffgrad(0.1, use_previous=True)
    updates, state = tx.update(g, tx.init(g), g)
    assert updates.dtype == jnp.bfloat16 and state[1].previous.dtype == jnp.float32
    # the square of 3e38 overflows: as in Adam the update is then zero, and not NaN
    np.testing.assert_array_equal(updates[:2].astype(jnp.float32), [0.0, 0.0])


def test_clear_errors():
    with pytest.raises(ValueError, match=r"b2 must lie in \[0.0, 0.99.*\], got 1.0"):
        diffgrad(b2=1.0)
    with pytest.raises(ValueError, match=r"weight_decay must lie in \[0.0, inf\], got -1.0"):
        diffgrad(weight_decay=-1.0)
    with pytest.raises(ValueError, match=r"eps must lie in \[0.0, inf\], got -1e-08"):
        scale_by_diffgrad(eps=-1e-8)
    with pytest.raises(ValueError, match="params"):
        diffgrad(weight_decay=0.1).update(jnp.ones(2), diffgrad().init(jnp.ones(2)))
