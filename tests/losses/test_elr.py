"""Early-learning regularization against the released classes, its closed-form gradient and limits."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import elr_loss, elr_plus_loss, elr_regularizer, elr_targets
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "elr.npz")
RNG = np.random.default_rng(0)
LOGITS, TARGETS, LABELS = 2 * RNG.standard_normal((6, 5)), RNG.dirichlet(np.ones(5), 6), np.arange(6) % 5


def test_equals_the_released_elr(x64):
    """Six epochs of two batches, some probabilities beyond the clip: losses, gradients and the last targets."""
    memory = elr_targets(10, 4, beta=0.7, dtype=jnp.float64)
    logits, labels = jnp.asarray(GOLDEN["logits"]), jnp.asarray(GOLDEN["labels"])

    def loss(z, state, index):
        now, state = memory.update(state, index, z)
        return elr_loss(z, labels[index], now, lam=3.0).mean(), state

    def step(state, step_of):
        index, epoch = step_of
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(logits[epoch, index], state, index)
        return state, (value, gradient)

    batches = jnp.asarray(GOLDEN["orders"]).reshape(12, 5), jnp.arange(12) // 2
    state, (losses, gradients) = jax.lax.scan(step, memory.init(), batches)
    # float64, and a logarithm of 1e-4 at worst
    np.testing.assert_allclose(losses, GOLDEN["elr_losses"], rtol=1e-11)
    np.testing.assert_allclose(gradients, GOLDEN["elr_gradients"], atol=1e-12)
    np.testing.assert_allclose(state.targets, GOLDEN["elr_targets"], rtol=1e-13)


def test_equals_the_released_elr_plus(x64):
    memory = elr_targets(10, 4, beta=0.7, clip=0.0, dtype=jnp.float64)
    logits, mixed = jnp.asarray(GOLDEN["logits"]), jnp.array([2, 0, 4, 1, 3])
    one_hot = jax.nn.one_hot(jnp.asarray(GOLDEN["labels"]), 4)

    def mix(x):
        return 0.6 * x + 0.4 * x[mixed]

    def step(state, step_of):
        index, number = step_of
        z = logits[number // 2, index]
        now, state = memory.update(state, index, z / 2)

        def loss(z):
            how = dict(step=number, rampup_steps=7)
            return elr_plus_loss(z, mix(one_hot[index]), mix(now), **how).mean()

        return state, jax.value_and_grad(loss)(z)

    batches = jnp.asarray(GOLDEN["orders"]).reshape(12, 5), jnp.arange(12)
    _, (losses, gradients) = jax.lax.scan(step, memory.init(), batches)
    # float64, as above
    np.testing.assert_allclose(losses, GOLDEN["plus_losses"], rtol=1e-11)
    np.testing.assert_allclose(gradients, GOLDEN["plus_gradients"], atol=1e-12)


def test_gradient_in_closed_form(x64):
    z, t = jnp.asarray(LOGITS), jnp.asarray(TARGETS)
    p = np.asarray(jax.nn.softmax(z))
    product = (p * TARGETS).sum(axis=1, keepdims=True)
    want = p - np.eye(5)[LABELS] - 3.0 * p * (TARGETS - product) / (1 - product)
    got = jax.grad(lambda z: elr_loss(z, jnp.asarray(LABELS), t, clip=1e-30).sum())(z)
    # float64; nothing is clipped
    np.testing.assert_allclose(got, want, atol=1e-13)
    np.testing.assert_array_equal(jax.grad(lambda t: elr_regularizer(z, t).sum())(t), 0.0)


def test_a_confident_target_cancels_a_wrong_label(x64):
    """With p = t nearly on class 0 and the label 1, the pull at lam = 1 takes the cross-entropy's push away."""
    p = np.array([[0.9, 0.1, 1e-12]])
    z, t = jnp.log(jnp.asarray(p)), jnp.asarray(p)
    push, both = (jax.grad(lambda z, lam=lam: elr_loss(z, jnp.array([1]), t, lam=lam).sum())(z) for lam in (0.0, 1.0))
    # -p_0 (t_0 - |p|²) / (1 - |p|²) = -0.9 · 0.08 / 0.18
    np.testing.assert_allclose(both - push, [[-0.4, 0.4, 0.0]], atol=1e-9)


def test_limits():
    z, y = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS)
    want = optax.losses.softmax_cross_entropy_with_integer_labels(z, y)
    # rounding of single precision
    np.testing.assert_allclose(elr_loss(z, y, jnp.asarray(TARGETS), lam=0.0), want, rtol=1e-5)
    np.testing.assert_allclose(elr_loss(z, y, jnp.zeros((6, 5))), want, rtol=1e-5)
    hard = functools.partial(elr_plus_loss, z, jax.nn.one_hot(y, 5), jnp.asarray(TARGETS), lam=2.0)
    for how in (dict(step=0, rampup_steps=0), dict(step=9, rampup_steps=9), dict(step=20, rampup_steps=9)):
        np.testing.assert_allclose(hard(**how), elr_loss(z, y, jnp.asarray(TARGETS), lam=2.0), rtol=1e-5)
    # all on one class: log of the clip, up to 1e-4's rounding in 1 - 1e-4
    sure = jnp.array([[1e4, 0.0, 0.0]])
    np.testing.assert_allclose(elr_regularizer(sure, jnp.array([[1.0, 0.0, 0.0]])), np.log(1e-4), rtol=2e-4)


def test_first_targets_and_only_the_batch_moves():
    memory = elr_targets(8, 5, beta=0.9)
    z = jnp.asarray(LOGITS[:2], jnp.float32)
    now, state = jax.jit(memory.update)(memory.init(), jnp.array([6, 1]), z)
    # a tenth of softmax, up to the clip of 1e-4
    np.testing.assert_allclose(now, 0.1 * jax.nn.softmax(z), atol=5e-5)
    np.testing.assert_array_equal(state.targets[jnp.array([6, 1])], now)
    np.testing.assert_array_equal(state.targets[jnp.array([0, 2, 3, 4, 5, 7])], 0.0)
    betas = jax.vmap(lambda b: elr_targets(8, 5, beta=b).update(memory.init(), jnp.array([6, 1]), z)[0])
    np.testing.assert_allclose(betas(jnp.array([0.9, 0.8]))[1], 2 * now, rtol=1e-6)
    half = elr_targets(8, 5, dtype=jnp.bfloat16)
    assert half.update(half.init(), jnp.array([0]), z[:1])[1].targets.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["regularizer", "loss", "plus"])
def test_contract(name):
    # the targets travel with the labels: some laws reorder or halve the batch
    both = np.concatenate([TARGETS, LABELS[:, None].astype(float)], axis=1)

    def loss(z, given):
        t, y = given[..., :-1], given[..., -1].astype(jnp.int32)
        if name == "plus":
            return elr_plus_loss(z, jax.nn.one_hot(y, 5), t, step=3, rampup_steps=5)
        return elr_loss(z, y, t) if name == "loss" else elr_regularizer(z, t)

    check_loss(
        loss, predictions=LOGITS, targets=both, laws=None if name == "loss" else ("dtype", "finite", "finite_gradient")
    )


def test_bad_input():
    z, y, t = jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.asarray(TARGETS)
    with pytest.raises(ValueError, match=r"logits \(6, 5\) and targets \(6, 4\) disagree"):
        elr_loss(z, y, t[:, :4])
    with pytest.raises(ValueError, match="clip must lie in"):
        elr_regularizer(z, t, clip=0.0)
    with pytest.raises(ValueError, match="lam must lie in"):
        elr_loss(z, y, t, lam=-1.0)
    with pytest.raises(ValueError, match="label_probs"):
        elr_plus_loss(z, t[:, :4], t, step=0, rampup_steps=1)
    with pytest.raises(ValueError, match="beta must lie in"):
        elr_targets(3, 5, beta=1.5)
    memory = elr_targets(3, 5)
    with pytest.raises(ValueError, match=r"need logits \(2, 5\), got \(6, 5\)"):
        memory.update(memory.init(), jnp.array([0, 1]), z)
    with pytest.raises(ValueError, match="index 3 is none of the 3 examples"):
        memory.update(memory.init(), jnp.array([0, 3]), z[:2])
