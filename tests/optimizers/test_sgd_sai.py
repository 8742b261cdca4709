"""SGD-SaI against the authors' file, the ratio itself, and tensors whose first gradient says nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import gradient_snr, scale_by_gsnr_at_init, sgd_sai
from tests.optimizers.golden_runs import assert_equal_to_golden, run


def rate(count):
    return jnp.where(count < 20, 1e-2, 1e-3)


@pytest.mark.parametrize(
    ("case", "options"),
    [("plain", {"weight_decay": 0.0}), ("options", {"momentum": 0.6, "eps": 0.1, "weight_decay": 0.3})],
)
def test_equals_the_official_code(x64, case, options):
    # 40 float64 steps that lead up to 5 far (measured: 3e-15)
    assert_equal_to_golden(sgd_sai(rate, **options), "sgd_sai", case, rtol=0, atol=1e-13)


def test_the_ratio(x64):
    g = np.random.default_rng(0).normal(size=(3, 5)) + 0.3
    expected = np.linalg.norm(g) / (g.std(ddof=1) + 1e-3)
    assert float(gradient_snr(jnp.asarray(g), eps=1e-3)) == pytest.approx(expected, rel=1e-14)
    # zero mean: exactly √(n - 1); equal entries: the length over eps; one entry, no entry, zero entries
    assert float(gradient_snr(jnp.array([1.0, -1.0, 2.0, -2.0]), eps=0.0)) == pytest.approx(np.sqrt(3), rel=1e-14)
    assert float(gradient_snr(jnp.full(4, 0.5), eps=1e-8)) == pytest.approx(1e8, rel=1e-14)
    assert [float(gradient_snr(jnp.asarray(x))) for x in (-3.0, 0.0, [], [0.0, 0.0])] == [1.0, 0.0, 0.0, 0.0]


def test_the_ratio_keeps_to_the_range_of_float32():
    g = jnp.array([3.0, -1.0, 1.0, -3.0])
    for size in (1e-30, 1e30):  # squares of such numbers do not
        # rounding of float32
        assert float(gradient_snr(size * g, eps=0.0)) == pytest.approx(np.sqrt(3), rel=1e-6)


def test_scaled_gradients_give_scaled_updates(x64):
    """The ratio has no unit, so the step has that of the gradient, as in SGD and unlike Adam."""
    grads = jnp.asarray(np.random.default_rng(1).normal(size=(8, 5)))
    one, state = run(scale_by_gsnr_at_init(eps=0.0), jnp.zeros(5), grads)
    many, _ = run(scale_by_gsnr_at_init(eps=0.0), jnp.zeros(5), 1000 * grads)
    np.testing.assert_allclose(many, 1000 * one, rtol=1e-13)
    # after the first step it is optax's average of gradients, times a number
    average, _ = run(optax.ema(0.9, debias=False), jnp.zeros(5), jnp.concatenate([10 * grads[:1], grads[1:]]))
    np.testing.assert_allclose(one, state.gsnr * average, rtol=1e-12)
    assert float(state.gsnr) == pytest.approx(float(gradient_snr(grads[0], eps=0.0)), rel=1e-14)


def test_waits_for_a_gradient_and_clips():
    """Each tensor is measured at its first gradient that is finite and not zero; the others keep their ratios."""
    grads = {
        "late": jnp.array([[0.0, 0.0], [1.0, -1.0], [5.0, 1.0]]),
        "ill": jnp.array([[jnp.nan, 1.0], [3.0, -3.0], [5.0, 1.0]]),
        "equal": jnp.array([[1.0, 1.0], [1.0, -1.0], [0.0, 0.0]]),
        "one": jnp.array([2.0, 4.0, 8.0]),
    }
    tx = scale_by_gsnr_at_init(momentum=0.5, max_gsnr=100.0)
    state, found = tx.init(jax.tree.map(lambda g: g[0], grads)), []
    for t in range(3):
        updates, state = tx.update(jax.tree.map(lambda g, t=t: g[t], grads), state)
        found.append(updates)
    assert {k: float(v) for k, v in state.gsnr.items()} == pytest.approx(
        {"late": 1.0, "ill": 1.0, "equal": 100.0, "one": 1.0}
    )
    assert found[0]["late"].tolist() == [0.0, 0.0] and found[1]["late"].tolist() == pytest.approx([1.0, -1.0])
    assert found[1]["ill"].tolist() == pytest.approx([3.0, -3.0])  # the NaN before is forgotten
    assert [float(u["one"]) for u in found] == [2.0, 3.0, 5.5]  # the bare momentum: 2, (2 + 4)/2, (3 + 8)/2


def test_the_mask_of_the_decay_and_an_empty_tensor():
    params = {"a": jnp.array([1.0, -1.0]), "b": jnp.array([1.0, -1.0]), "empty": jnp.zeros((0, 3))}
    tx = sgd_sai(0.5, weight_decay=0.5, mask={"a": True, "b": False, "empty": True})
    updates, state = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], [-0.75, 0.75], rtol=1e-6)  # float32
    np.testing.assert_allclose(updates["b"], [-0.5, 0.5], rtol=1e-6)
    assert float(state[0].gsnr["empty"]) == 1.0  # nothing to wait for: the loop that measures runs no more


def test_members_of_an_ensemble_measure_for_themselves():
    grads = jnp.array([[[0.0, 0.0], [1.0, -1.0]], [[2.0, -2.0], [1.0, 3.0]]])
    tx = scale_by_gsnr_at_init()
    together = jax.vmap(lambda g: run(scale_by_gsnr_at_init(), jnp.zeros(2), g))(grads)
    apart = [run(tx, jnp.zeros(2), g) for g in grads]
    jax.tree.map(
        lambda a, *b: np.testing.assert_allclose(a, np.stack(b), rtol=1e-6),  # float32
        together,
        *apart,
    )


def test_clear_errors():
    with pytest.raises(ValueError, match=r"momentum must lie in \[0.0, 0.99.*\], got 1"):
        sgd_sai(momentum=1.0)
    with pytest.raises(ValueError, match=r"weight_decay must lie in \[0.0, inf\], got -1"):
        sgd_sai(weight_decay=-1.0)
    with pytest.raises(ValueError, match="max_gsnr must be greater than 0, got 0"):
        scale_by_gsnr_at_init(max_gsnr=0)
