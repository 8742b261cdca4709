"""Width scaling of AdamW: the algebra of the rule, a steady state in closed form, singular values of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.schedules import (
    label_params_matrix_vector,
    layerwise_adamw,
    mup_wd_scaling,
    predict_top_sv,
    singular_spectrum,
    sublayer_gain,
    top_singular_value,
)
from jaxtrain.testing import check_gradient_transformation

PARAMS = {
    "embed": jnp.ones((5, 4)),
    "block": {"kernel": jnp.full((4, 4), 0.5), "bias": jnp.ones(4), "norm": jnp.ones(4)},
    "lm_head": jnp.ones((4, 3)),
}


def test_the_rule_keeps_the_predicted_singular_value():
    for width in (64, 128, 512, 4096):
        scaled = mup_wd_scaling(0.02, 0.3, width=width, base_width=64)
        rate, decay = scaled["matrix"]
        # Python floats, a power of 3/4
        np.testing.assert_allclose(predict_top_sv(rate, decay, width), predict_top_sv(0.02, 0.3, 64), rtol=1e-6)
        # and what the two others would do: d^(1/4) and d^(-1/4)
        drift = (width / 64) ** 0.25
        for decay, expected in ((0.3, drift), (0.3 * width / 64, 1 / drift)):
            ratio = predict_top_sv(rate, decay, width) / predict_top_sv(0.02, 0.3, 64)
            np.testing.assert_allclose(ratio, expected, rtol=1e-6)
        assert scaled["vector"] == (0.02, 0.0)
        np.testing.assert_allclose(rate * scaled["matrix"][1], 0.02 * 0.3 * (64 / width) ** 0.5, rtol=1e-12)


def test_every_leaf_gets_its_own_adamw():
    grads = jax.tree.map(
        lambda p: jnp.asarray(np.random.default_rng(p.size).normal(size=(9, *p.shape)), jnp.float32), PARAMS
    )

    def run(tx):
        def step(carry, g):
            params, state = carry
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), grads)[1]

    schedule = optax.piecewise_constant_schedule(0.1, {5: 0.5})
    ours = run(layerwise_adamw(schedule, 0.2, width_mult=4.0, b2=0.99))
    vector = run(optax.adam(schedule, b2=0.99))
    matrix = run(optax.adamw(lambda t: schedule(t) / 4, b2=0.99, weight_decay=0.4))
    for wanted, leaf in (
        (vector, ("embed",)),
        (vector, ("block", "bias")),
        (vector, ("lm_head",)),
        (matrix, ("block", "kernel")),
    ):
        a, b = ours, wanted
        for key in leaf:
            a, b = a[key], b[key]
        np.testing.assert_allclose(a, b, rtol=1e-6)  # the same operations, perhaps fused differently


def test_stacked_layers_are_labelled_by_what_they_stack():
    stacked = {"kernel": jnp.ones((3, 4, 4)), "bias": jnp.ones((3, 4))}
    assert label_params_matrix_vector(stacked, stacked_axes=1) == {"kernel": "matrix", "bias": "vector"}
    assert label_params_matrix_vector(stacked) == {"kernel": "matrix", "bias": "matrix"}


def test_steady_state_of_random_signs():
    """Adam of independent signs without memory moves by ±η: variance η²/(1 - (1 - ηλ)²), largest singular value 2√d·rms."""
    rate, decay, d = 0.05, 2.0, 48
    tx = layerwise_adamw(rate, decay, width_mult=1.0, b1=0.0, b2=0.0, eps=0.0)

    def step(carry, key):
        w, state = carry
        updates, state = tx.update(jax.random.rademacher(key, (d, d), jnp.float32), state, w)
        return (w + updates, state), None

    def final(key):
        w = jnp.zeros((d, d))
        return jax.lax.scan(step, (w, tx.init(w)), jax.random.split(key, 120))[0][0]

    w = jax.jit(final)(jax.random.key(0))  # 120 steps are six times the memory of 1/(ηλ) = 10, squared
    rms = rate / np.sqrt(1 - (1 - rate * decay) ** 2)
    # 2,304 independent entries: 1/√(2·2304) = 1.5 % standard error
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(w**2)), rms, rtol=0.06)
    top = top_singular_value(w, jax.random.key(1), iters=200)
    # 2√d to leading order; fluctuations and the finite-size shift go like d^(-2/3) = 8 %
    np.testing.assert_allclose(top, 2 * np.sqrt(d) * rms, rtol=0.15)


def test_singular_values_equal_those_of_numpy():
    W = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    wanted = np.linalg.svd(W.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(singular_spectrum(jnp.asarray(W)), wanted, rtol=1e-5)  # float32
    # 100 iterations at a gap of some 0.8: 0.8^400 is nothing; the rest is float32
    found = top_singular_value(jnp.asarray(W), jax.random.key(0), iters=100)
    np.testing.assert_allclose(found, wanted[:, 0], rtol=1e-5)
    assert float(top_singular_value(jnp.zeros((2, 2)), jax.random.key(0))) == 0.0
    for size in (1e-30, 1e30):  # squares of float32 vanish and overflow
        np.testing.assert_allclose(
            top_singular_value(jnp.asarray(W[0]) * size, jax.random.key(0), iters=100), wanted[0, 0] * size, rtol=1e-5
        )


def test_gain_by_definition():
    rng = np.random.default_rng(1)
    W, x = rng.normal(size=(6, 5)), rng.normal(size=(10, 6))
    wanted = np.sqrt(np.mean((x @ W) ** 2) / np.mean(x**2))
    np.testing.assert_allclose(
        sublayer_gain(jnp.asarray(W, jnp.float32), jnp.asarray(x, jnp.float32)), wanted, rtol=1e-5
    )
    # a square orthogonal matrix changes no length
    q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    np.testing.assert_allclose(sublayer_gain(jnp.asarray(q, jnp.float32), jnp.asarray(x, jnp.float32)), 1.0, rtol=1e-5)


def test_keeps_the_laws():
    check_gradient_transformation(
        factory=layerwise_adamw,
        hyperparams={"base_lr": 0.1, "base_wd": 0.1, "width_mult": 4.0},
        static_args=("param_labels",),
    )


def test_clear_errors():
    with pytest.raises(ValueError, match="base_width must lie in"):
        mup_wd_scaling(0.1, 0.1, width=64, base_width=0)
    with pytest.raises(ValueError, match="width_mult must lie in"):
        layerwise_adamw(0.1, 0.1, width_mult=-1.0)
    with pytest.raises(ValueError, match="b1 must lie in"):
        layerwise_adamw(0.1, 0.1, width_mult=1.0, b1=1.0)
    with pytest.raises(ValueError, match=r"top_singular_value needs a matrix, got shape \(3,\)"):
        top_singular_value(jnp.ones(3), jax.random.key(0))
    with pytest.raises(TypeError, match="top_singular_value needs a typed key"):
        top_singular_value(jnp.ones((3, 3)), 0)
    with pytest.raises(ValueError, match="iters must be at least 1"):
        top_singular_value(jnp.ones((3, 3)), jax.random.key(0), iters=0)
