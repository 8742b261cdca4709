"""Grams against the authors' file, its order among Adam and cautious Adam, and the wrappers over other methods."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.optimizers import cautious, grams, scale_by_cautious, scale_by_grad_sign, scale_by_grams
from tests.optimizers.golden_runs import assert_equal_to_golden, golden, part, rate, run


@pytest.mark.parametrize(
    ("case", "options"),
    [("plain", {}), ("options", {"b1": 0.8, "b2": 0.95, "eps": 1e-2, "weight_decay": 0.1})],
)
def test_equals_the_official_code(x64, case, options):
    # 40 float64 steps of order 0.03 (measured: 2e-15)
    assert_equal_to_golden(grams(rate, **options), "grams", case, rtol=0, atol=1e-13)


def by_hand(rule):
    """The golden problem's iterates with ``rule(gradient, Adam's direction with ε = 0.1)`` in NumPy, leaf by leaf."""
    arrays = golden("grams")
    for leaf, grads in part(arrays, "grads").items():
        w, m, v, iterates = np.array(part(arrays, "first")[leaf]), 0.0, 0.0, []
        for t, g in enumerate(np.asarray(grads), 1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w - float(rate(t - 1)) * rule(g, m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 0.1))
            iterates.append(w)
        yield leaf, np.array(iterates)


def over_adam(wrapper):
    arrays, adam = golden("grams"), optax.scale_by_adam(eps=0.1)
    tx = optax.chain(wrapper(adam), optax.scale_by_learning_rate(rate))
    return run(tx, part(arrays, "first"), part(arrays, "grads"))[0]


def test_over_adam_it_is_the_papers_rule(x64):
    """sign(g) |m̂| / (√v̂ + ε), in NumPy; and with ε = 0 both placements are one."""
    found = over_adam(scale_by_grad_sign)
    for leaf, expected in by_hand(lambda g, u: np.sign(g) * abs(u)):
        # 40 float64 steps of order 0.03
        np.testing.assert_allclose(found[leaf], expected, rtol=0, atol=1e-14, err_msg=leaf)
    grads = jnp.asarray(np.random.default_rng(0).normal(size=(12, 6)))
    ours, _ = run(scale_by_grams(eps=0.0), jnp.zeros(6), grads)
    paper, _ = run(scale_by_grad_sign(optax.scale_by_adam(eps=0.0)), jnp.zeros(6), grads)
    np.testing.assert_allclose(ours, paper, rtol=0, atol=1e-13)  # the same operations in another order


def test_equals_adam_while_gradients_keep_their_sign(x64):
    grads = jnp.asarray(np.random.default_rng(1).uniform(0.1, 2.0, size=(15, 4))) * jnp.array([1, -1, 1, -1])
    adam, _ = run(optax.scale_by_adam(eps=0.0), jnp.zeros(4), grads)
    ours, _ = run(scale_by_grams(eps=0.0), jnp.zeros(4), grads)
    np.testing.assert_allclose(ours, adam, rtol=1e-13)  # float64, 15 steps
    careful, _ = run(scale_by_cautious(optax.scale_by_adam(eps=0.0)), jnp.zeros(4), grads)
    np.testing.assert_allclose(careful, adam, rtol=1e-15)  # nothing opposes: a mask of ones, in another program


def test_descends_more_than_cautious_adam_and_adam(x64):
    """⟨u, g⟩ along one trajectory: Adam ≤ masked Adam ≤ Grams (the mask without its rescaling, which is no order)."""
    arrays = golden("grams")
    grads = part(arrays, "grads")["matrix"]

    def along(tx):
        sums, _ = run(tx, jnp.zeros((4, 3)), grads)
        updates = jnp.diff(sums, axis=0, prepend=0.0)
        return np.asarray(jnp.sum(updates * grads, axis=(1, 2))), updates

    adam, u = along(optax.scale_by_adam())
    ours, w = along(scale_by_grad_sign(optax.scale_by_adam()))
    masked = np.asarray(jnp.sum(jnp.where(u * grads > 0, u, 0.0) * grads, axis=(1, 2)))
    # updates are found as differences of sums, hence a rounding of 1e-14
    assert np.all(adam <= masked + 1e-13) and np.all(masked <= ours + 1e-13)
    assert np.sum(adam < masked - 0.1) > 20  # and that is not empty: most steps have coordinates that oppose
    moving = grads != 0
    np.testing.assert_allclose(jnp.abs(w)[moving], jnp.abs(u)[moving], rtol=0, atol=1e-13)


def test_cautious_masks_and_rescales(x64):
    """The rule written out in NumPy, over Adam and over momentum; per tensor, with the floor of 1e-3 under the mean."""
    careful = over_adam(scale_by_cautious)
    for leaf, wanted in by_hand(lambda g, u: u * (u * g > 0) / max(np.mean(u * g > 0), 1e-3)):
        # 40 float64 steps of order 0.03
        np.testing.assert_allclose(careful[leaf], wanted, rtol=0, atol=1e-14, err_msg=leaf)
    grads = np.random.default_rng(2).normal(size=(10, 3, 4))
    m, expected = np.zeros((3, 4)), []
    for g in grads:
        m = 0.9 * m + g
        phi = (m * g > 0).astype(float)
        expected.append(m * phi / max(phi.mean(), 1e-3))
    found, _ = run(scale_by_cautious(optax.trace(0.9)), jnp.zeros((3, 4)), jnp.asarray(grads))
    np.testing.assert_allclose(found, np.cumsum(expected, axis=0), rtol=0, atol=1e-12)  # sums of order 30
    whole, _ = run(cautious(optax.sgd(0.1, momentum=0.9)), jnp.zeros((3, 4)), jnp.asarray(grads))
    np.testing.assert_allclose(whole, -0.1 * np.cumsum(expected, axis=0), rtol=0, atol=1e-13)
    # one of 5000 coordinates agrees: 1/1e-3 and not 5000
    g = jnp.full(5000, -1.0).at[0].set(1.0)
    keep = scale_by_cautious(optax.stateless(lambda u, p: jnp.ones_like(u)))
    update, _ = keep.update(g, keep.init(g))
    assert update[0] == pytest.approx(1000.0) and not update[1:].any()


def test_wrappers_hand_extra_arguments_on_and_take_masks():
    inner = optax.GradientTransformationExtraArgs(
        lambda p: optax.EmptyState(), lambda u, s, p=None, *, value, **_: (jax.tree.map(lambda x: value * x, u), s)
    )
    g = {"a": jnp.array([2.0, -1.0]), "b": jnp.array([3.0])}
    for wrapper in (scale_by_grad_sign, scale_by_cautious):
        tx = optax.masked(wrapper(inner), {"a": True, "b": False})
        updates, _ = tx.update(g, tx.init(g), g, value=4.0)
        assert updates["a"].tolist() == [8.0, -4.0] and updates["b"].tolist() == [3.0]


def test_half_precision():
    g = jnp.array([1.0, -2.0, 0.0], jnp.bfloat16)
    tx = grams(0.1)
    updates, state = tx.update(g, tx.init(g), g)
    assert updates.dtype == jnp.bfloat16 and state[0].mu.dtype == jnp.float32
    # the first step of Adam is the sign: eps / |g| is at most 1e-6, bfloat16 has 8 bits
    np.testing.assert_allclose(updates.astype(jnp.float32), [-0.1, 0.1, 0.0], rtol=2**-8)
    tiny = jnp.full(4, 1e-30)  # products of such numbers underflow, signs do not
    tx = scale_by_cautious(optax.identity())
    np.testing.assert_array_equal(tx.update(tiny, tx.init(tiny))[0], tiny)


def test_clear_errors():
    with pytest.raises(ValueError, match=r"b1 must lie in \[0.0, 0.99.*\], got -0.1"):
        grams(b1=-0.1)
    with pytest.raises(ValueError, match=r"b2 must lie in \[0.0, 0.99.*\], got 1.0"):
        grams(b2=1.0)
    with pytest.raises(ValueError, match=r"weight_decay must lie in \[0.0, inf\], got -1.0"):
        grams(weight_decay=-1.0)
    with pytest.raises(ValueError, match=r"eps must lie in \[0.0, inf\], got nan"):
        scale_by_grams(eps=float("nan"))


def test_a_step_with_a_gradient_that_is_not_a_number_is_none():
    tx = cautious(optax.sgd(1.0))
    w, g = {"a": jnp.ones((2, 3)), "b": jnp.ones(())}, {"a": jnp.ones((2, 3)).at[0, 1].set(jnp.nan), "b": jnp.ones(())}
    u, _ = tx.update(g, tx.init(w), w)
    assert np.isnan(u["a"]).all() and u["b"] == -1  # of its array; the others go on
