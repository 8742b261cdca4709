"""Load balancing against loops over tokens, the peers' formula, and itself over eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.losses import (
    accumulate_frequency,
    expert_frequency,
    expert_specialization,
    frequency_buffer,
    load_balance_loss,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
TOKENS, EXPERTS, K = 32, 5, 2
LOGITS = RNG.standard_normal((TOKENS, EXPERTS))
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
CHOSEN = np.argsort(-PROBS, axis=1)[:, :K]
MASK = np.zeros((TOKENS, EXPERTS))
np.put_along_axis(MASK, CHOSEN, 1.0, axis=1)
VALID = np.arange(TOKENS) % 7 != 3


def by_loops(probs, chosen, tokens):
    """N_E sum f_i p_i over some tokens, counting one by one."""
    f, p = [0.0] * EXPERTS, [0.0] * EXPERTS
    for t in tokens:
        for i in chosen[t]:
            f[i] += 1 / (len(tokens) * len(chosen[t]))
        for i in range(EXPERTS):
            p[i] += probs[t][i] / len(tokens)
    return EXPERTS * sum(a * b for a, b in zip(f, p, strict=True))


def loss(probs, mask=MASK, **how):
    return load_balance_loss(jnp.asarray(probs), jnp.asarray(mask), **how)


def test_equals_counting(x64):
    np.testing.assert_allclose(loss(PROBS).mean(), by_loops(PROBS, CHOSEN, range(TOKENS)), rtol=1e-13)
    groups = [by_loops(PROBS, CHOSEN, range(8 * g, 8 * g + 8)) for g in range(4)]
    np.testing.assert_allclose(loss(PROBS, num_groups=4).mean(), np.mean(groups), rtol=1e-13)
    np.testing.assert_allclose(loss(PROBS, num_groups=4).reshape(4, 8).mean(axis=1), groups, rtol=1e-13)
    valid = [t for t in range(TOKENS) if VALID[t]]
    got = loss(PROBS, where=jnp.asarray(VALID))
    np.testing.assert_allclose(got.sum() / VALID.sum(), by_loops(PROBS, CHOSEN, valid), rtol=1e-13)
    assert np.all(np.asarray(got)[~VALID] == 0)


def test_the_usual_code_is_k_times_it(x64):
    """Switch and Mixtral code does not divide by k: frequencies that sum to k."""
    usual = EXPERTS * np.sum(np.eye(EXPERTS)[CHOSEN].mean(axis=0) * PROBS.mean(axis=0)[None])
    np.testing.assert_allclose(K * loss(PROBS).mean(), usual, rtol=1e-13)


def test_even_routing_is_one_and_a_single_expert_the_most():
    even = np.full((10, EXPERTS), 1 / EXPERTS)
    mask = np.eye(EXPERTS)[np.arange(10) % EXPERTS]
    np.testing.assert_allclose(loss(even, mask), 1, rtol=1e-6)
    one = np.eye(EXPERTS)[np.zeros(10, int)]
    np.testing.assert_allclose(loss(one, one), EXPERTS, rtol=1e-6)
    # specialised groups: perfect globally, worst possible within
    own = np.eye(EXPERTS)[np.repeat(np.arange(EXPERTS), 2)]
    np.testing.assert_allclose(loss(own, own).mean(), 1, rtol=1e-6)
    np.testing.assert_allclose(loss(own, own, num_groups=EXPERTS).mean(), EXPERTS, rtol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_over_eight_devices_it_is_the_unsharded_loss(padded, x64):
    """Value and gradient; devices hold unequal numbers of valid tokens where some are padding."""
    valid = jnp.asarray(VALID if padded else np.ones(TOKENS, bool))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def whole(logits):
        probs = jax.nn.softmax(logits)
        return load_balance_loss(probs, jnp.asarray(MASK), where=valid).sum() / valid.sum()

    def local(logits, mask, valid):
        def share(logits):
            terms = load_balance_loss(jax.nn.softmax(logits), mask, axis_name="data", where=valid)
            return terms.sum() / jax.lax.psum(valid.sum(), "data")

        value, gradient = jax.value_and_grad(share)(logits)
        return jax.lax.psum(value, "data"), gradient, expert_frequency(mask, where=valid, axis_name="data")

    specs = jax.P("data"), jax.P("data"), jax.P("data")
    spread = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(jax.P(), jax.P("data"), jax.P()))
    value, gradient, f = jax.jit(spread)(jnp.asarray(LOGITS), jnp.asarray(MASK), valid)
    wanted, wanted_gradient = jax.jit(jax.value_and_grad(whole))(jnp.asarray(LOGITS))
    # counts are whole numbers: equal to the last bit
    np.testing.assert_array_equal(f, expert_frequency(jnp.asarray(MASK), where=valid))
    np.testing.assert_allclose(value, wanted, rtol=1e-14)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-12, atol=1e-17)


def test_sharded_inputs_need_no_axis_name():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, m = (jax.device_put(jnp.asarray(a, jnp.float32), jax.NamedSharding(mesh, jax.P("data"))) for a in (PROBS, MASK))
    got = jax.jit(load_balance_loss)(x, m)
    # sums in another order, single precision
    np.testing.assert_allclose(got.mean(), by_loops(PROBS, CHOSEN, range(TOKENS)), rtol=1e-6)


def test_accumulated_frequencies_are_those_of_all_tokens(x64):
    buffer, f = frequency_buffer(EXPERTS), jnp.zeros(EXPERTS)
    for part in (slice(0, 4), slice(4, 20), slice(20, 32)):
        f = expert_frequency(jnp.asarray(MASK[part]))
        buffer = accumulate_frequency(buffer, f, part.stop - part.start)
    np.testing.assert_allclose(buffer.frequency, expert_frequency(jnp.asarray(MASK)), rtol=1e-7)  # buffer in float32
    np.testing.assert_allclose(loss(PROBS, frequency=buffer.frequency), loss(PROBS), rtol=1e-6)
    # a single micro-step is the plain loss
    first = accumulate_frequency(frequency_buffer(EXPERTS), f, 12)
    np.testing.assert_array_equal(first.frequency, f)


def test_frequencies_have_no_gradient(x64):
    p = jnp.asarray(PROBS)
    # d/dp of the mean is N_E f / T, whatever made the mask
    gradient = jax.grad(lambda p: load_balance_loss(p, jnp.asarray(MASK) * p / p).mean())(p)
    wanted = EXPERTS * np.asarray(expert_frequency(jnp.asarray(MASK))) / TOKENS
    np.testing.assert_allclose(gradient, np.broadcast_to(wanted, p.shape), rtol=1e-12)


def test_counts_survive_half_precision():
    mask = jnp.zeros((4096, 2), jnp.bfloat16).at[:, 0].set(1).at[:1, 0].set(0).at[:1, 1].set(1)
    np.testing.assert_allclose(expert_frequency(mask), [4095 / 4096, 1 / 4096], rtol=1e-6)


def test_specialization_is_the_mutual_information(x64):
    f, w = RNG.dirichlet(np.ones(4), 3), np.array([0.5, 0.2, 0.3])
    joint = w[:, None] * f
    wanted = np.sum(joint * np.log(joint / joint.sum(0) / joint.sum(1, keepdims=True)))
    np.testing.assert_allclose(expert_specialization(jnp.asarray(f), weights=jnp.asarray(w)), wanted, rtol=1e-12)
    assert abs(float(expert_specialization(jnp.asarray(f[[0, 0]])))) < 1e-15
    np.testing.assert_allclose(expert_specialization(jnp.eye(3)), np.log(3), rtol=1e-12)


def test_contract():
    mask = np.eye(5)[np.array([0, 0, 1, 2, 3, 4])]
    check_loss(lambda h, m: load_balance_loss(jax.nn.softmax(h), m), targets=mask, except_=["batch"])


def test_bad_input():
    with pytest.raises(ValueError, match=r"must be \(tokens, experts\), got \(2, 3, 4\)"):
        loss(np.ones((2, 3, 4)), np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="disagree"):
        loss(PROBS[:, :4])
    with pytest.raises(ValueError, match="32 tokens do not divide into num_groups=5"):
        loss(PROBS, num_groups=5)
    with pytest.raises(ValueError, match="exclude each other"):
        loss(PROBS, num_groups=2, axis_name="data")
    with pytest.raises(ValueError, match=r"frequency \(4,\) for 5 experts"):
        loss(PROBS, frequency=jnp.ones(4) / 4)
    with pytest.raises(ValueError, match="does not name the tokens"):
        loss(PROBS, where=jnp.ones(3, bool))
    with pytest.raises(ValueError, match="buffer of 5 experts"):
        accumulate_frequency(frequency_buffer(5), jnp.ones(4))
    with pytest.raises(ValueError, match="count must lie in"):
        accumulate_frequency(frequency_buffer(5), jnp.ones(5), 0.0)
    with pytest.raises(ValueError, match="num_experts"):
        frequency_buffer(0)
    with pytest.raises(ValueError, match="3 domains"):
        expert_specialization(jnp.eye(3), weights=jnp.ones(2))
