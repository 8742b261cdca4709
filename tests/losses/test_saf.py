"""SAF and MESA against the authors' statements, limits of the trajectory loss, and a ring that keeps its epochs."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import logits_memory, mesa_loss, saf_loss, saf_trajectory_loss
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "saf.npz")
RNG = np.random.default_rng(0)
PAST = 3 * RNG.standard_normal((6, 5))


@pytest.mark.parametrize("name", ["saf", "mesa"])
def test_equals_the_official_statements(name, x64):
    """Eight epochs of two batches: every loss and every gradient; epochs before, inside and after the trajectory loss."""
    memory = logits_memory(10, 4, window=int(GOLDEN["window"]), dtype=jnp.float64)
    how = dict(lam=0.3, start_epoch=3, end_epoch=7, temperature=5.0)

    def loss(logits, state, index, epoch):
        labels, ema = jnp.asarray(GOLDEN["labels"])[index], jnp.asarray(GOLDEN["ema_logits"])[epoch, index]
        past, state = memory.update(state, index, logits, epoch=epoch)
        if name == "saf":
            return saf_loss(logits, labels, past, epoch=epoch, **how).mean(), state
        return mesa_loss(logits, ema, labels, epoch=epoch, **how).mean(), state

    @jax.jit
    def step(state, step_of):
        index, epoch = step_of
        logits = jnp.asarray(GOLDEN["logits"])[epoch, index]
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(logits, state, index, epoch)
        return state, (value, gradient)

    batches = jnp.asarray(GOLDEN["orders"]).reshape(16, 5), jnp.arange(16) // 2
    _, (losses, gradients) = jax.lax.scan(step, memory.init(), batches)
    # float64; theirs takes the logarithm of a softmax
    np.testing.assert_allclose(losses, GOLDEN[f"{name}_losses"], rtol=1e-12)
    np.testing.assert_allclose(gradients, GOLDEN[f"{name}_gradients"], atol=1e-14)


def test_no_move_no_loss_and_no_gradient():
    z = jnp.asarray(PAST, jnp.float32)
    np.testing.assert_array_equal(saf_trajectory_loss(z, z), 0.0)
    gradient = jax.grad(lambda z: saf_trajectory_loss(z, jnp.asarray(PAST, jnp.float32)).sum())(z)
    # T (q sum(p) - p), and the sum of p is 1 up to single precision
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    # and none reaches the past
    to_past = jax.grad(lambda p: saf_trajectory_loss(z, p).sum())(z + 1.0)
    np.testing.assert_array_equal(to_past, 0.0)


def test_is_the_divergence_of_softened_predictions(x64):
    now = RNG.standard_normal((6, 5))
    for t in (1.0, 5.0):
        p, q = jax.nn.softmax(jnp.asarray(PAST) / t), jax.nn.softmax(jnp.asarray(now) / t)
        want = t**2 * np.sum(np.asarray(p) * np.log(np.asarray(p) / np.asarray(q)), axis=1)
        got = saf_trajectory_loss(jnp.asarray(now), jnp.asarray(PAST), temperature=t)
        np.testing.assert_allclose(got, want, rtol=1e-12)
        np.testing.assert_allclose(got, t**2 * optax.losses.kl_divergence(jnp.log(q), p), rtol=1e-12)


def test_at_high_temperature_it_is_the_variance_of_the_move(x64):
    now = jnp.asarray(PAST + RNG.standard_normal((6, 5)))
    want = np.var(np.asarray(now) - PAST, axis=1) / 2
    # the next term is of relative size |z| / T
    np.testing.assert_allclose(saf_trajectory_loss(now, jnp.asarray(PAST), temperature=1e4), want, rtol=5e-3)


def test_contract():
    rows = dict(predictions=PAST + 1.5 * RNG.standard_normal((6, 5)))
    # the law of batches feeds half of the examples, the one of permutation others: the past travels in the targets
    both = np.concatenate([PAST, np.arange(6.0)[:, None] % 5], axis=1)

    def loss(z, targets, fn):
        return fn(z, targets[..., -1].astype(jnp.int32), targets[..., :-1])

    check_loss(functools.partial(loss, fn=lambda z, y, p: saf_trajectory_loss(z, p)), targets=both, **rows)
    fn = functools.partial(loss, fn=lambda z, y, p: saf_loss(z, y, p, epoch=6))
    check_loss(fn, targets=both, laws=("shape", "dtype", "finite", "finite_gradient", "bfloat16"), **rows)


def test_a_past_that_is_not_there_yet_is_not_read():
    z, y = jnp.asarray(PAST, jnp.float32), jnp.arange(6) % 5
    nothing = jnp.full((6, 5), jnp.nan)
    value, gradient = jax.value_and_grad(lambda z: saf_loss(z, y, nothing, epoch=5).sum())(z)
    want = optax.losses.softmax_cross_entropy_with_integer_labels(z, y)
    np.testing.assert_allclose(value, want.sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, jax.nn.softmax(z) - jax.nn.one_hot(y, 5), atol=1e-6)
    assert np.all(np.isnan(saf_loss(z, y, nothing, epoch=6)))


@pytest.mark.parametrize("window", [1, 3])
def test_the_ring_returns_what_is_exactly_a_window_old(window):
    memory = logits_memory(4, 2, window=window)
    state, update = memory.init(), jax.jit(memory.update)
    said = RNG.standard_normal((9, 4, 2)).astype(np.float32)
    for epoch in range(9):
        for half in (jnp.array([2, 0]), jnp.array([1, 3])):
            past, state = update(state, half, said[epoch][half], epoch=epoch)
            want = said[epoch - window][half] if epoch >= window else np.zeros((2, 2))
            np.testing.assert_array_equal(past, want)
    half_precision = logits_memory(4, 2, dtype=jnp.bfloat16)
    past, state = half_precision.update(half_precision.init(), jnp.array([0]), jnp.ones((1, 2)), epoch=0)
    assert past.dtype == jnp.float32 and state.logits.dtype == jnp.bfloat16


def test_epochs_and_weights_may_be_traced():
    z, y, p = jnp.asarray(PAST, jnp.float32), jnp.arange(6) % 5, jnp.asarray(PAST[::-1], jnp.float32)
    fn = jax.jit(lambda epoch, lam: saf_loss(z, y, p, epoch=epoch, lam=lam, end_epoch=8))
    extra = np.asarray(fn(6, 0.5) - fn(5, 0.5))
    np.testing.assert_allclose(extra, 0.5 * saf_trajectory_loss(z, p), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(fn(8, 0.5), fn(0, 0.5))
    assert jax.vmap(fn)(jnp.arange(3), jnp.ones(3)).shape == (3, 6)


def test_bad_input():
    z, y = jnp.zeros((3, 4)), jnp.zeros(3, int)
    with pytest.raises(ValueError, match=r"logits \(3, 4\) and past_logits \(3, 5\) disagree"):
        saf_trajectory_loss(z, jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match="temperature must lie in"):
        saf_trajectory_loss(z, z, temperature=0.0)
    with pytest.raises(ValueError, match="label 4 is none of the 4 classes"):
        saf_loss(z, y + 4, z, epoch=1)
    with pytest.raises(ValueError, match="lam must lie in"):
        mesa_loss(z, z, y, epoch=1, lam=-1.0)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        logits_memory(3, 4, window=0)
    memory = logits_memory(3, 4)
    with pytest.raises(ValueError, match="index 3 is none of the 3 examples"):
        memory.update(memory.init(), jnp.array([3]), z[:1], epoch=0)
    with pytest.raises(ValueError, match=r"indices of shape \(2,\) need logits \(2, 4\), got \(3, 4\)"):
        memory.update(memory.init(), jnp.array([0, 1]), z, epoch=0)
