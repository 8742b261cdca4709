"""MoNNA against byzfl's averages over rounds, and its mixing against the reduction it promises."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.aggregation import (
    mixing_reduction,
    monna_step,
    nearest_neighbor_average,
    nearest_neighbor_mixing,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "robust.npz")


def test_rounds_equal_byzfls(x64):
    """Six nodes with quadratics of their own, one Byzantine node that sends the negative of their mean."""
    targets = jnp.asarray(GOLDEN["monna_targets"])

    def attack(half):
        return -jnp.mean(half, axis=0, keepdims=True)

    def step(carry, noise):
        params, momenta = carry
        grads = params - targets + noise
        carry = monna_step(params, momenta, grads, learning_rate=0.5, beta=0.9, num_byzantine=1, byzantine=attack)
        return carry, carry[0]

    start = jnp.zeros((6, 3)), jnp.zeros((6, 3))
    _, path = jax.jit(lambda x: jax.lax.scan(step, start, x))(jnp.asarray(GOLDEN["monna_noise"]))
    np.testing.assert_allclose(path, GOLDEN["monna_path"], rtol=0, atol=1e-13)  # float64


def test_without_byzantine_nodes_all_agree_on_the_mean(x64):
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 3)))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    mixed, momenta = monna_step(params, zeros, params, learning_rate=1.0, beta=0.5, num_byzantine=0)
    np.testing.assert_allclose(mixed["w"], np.tile(np.asarray(params["w"]).mean(0) / 2, (5, 1, 1)), atol=1e-15)
    np.testing.assert_allclose(momenta["w"], params["w"] / 2)


def test_by_hand_and_the_number_kept():
    vectors = jnp.array([[0.0], [1.0], [4.0], [-9.0], [jnp.nan]])
    assert nearest_neighbor_average(vectors[0], vectors, num_byzantine=1).tolist() == [-1.0]
    # a node that may wait for n − f messages only keeps n − 2 f of them
    assert nearest_neighbor_average(vectors[0], vectors, num_byzantine=1, num_kept=3).tolist() == [pytest.approx(5 / 3)]
    same = jnp.concatenate([jnp.full((4, 2), 7.0), jnp.full((2, 2), 1e30)])
    assert nearest_neighbor_average(same[0], same, num_byzantine=2).tolist() == [7.0, 7.0]


@pytest.mark.parametrize("n, f", [(12, 1), (23, 2)])
def test_no_attack_breaks_the_reduction_of_the_paper(n, f, x64):
    """For n ≥ 11 f the paper's lemma: α ≤ 9.88 f / (n − f), λ ≤ 9 f / (n − f), whatever is sent.

    Attacks: the same to all, on a ray from the honest mean, at every radius; honest nodes in one and in two clusters.
    """
    rng = np.random.default_rng(f)
    h = n - f
    mix = jax.jit(lambda x: nearest_neighbor_mixing(x, num_byzantine=f))
    reduction = jax.jit(mixing_reduction)
    worst = [0.0, 0.0]
    for trial in range(12):
        good = rng.normal(size=(h, 3))
        if trial % 3 == 1:
            good[: h // 2] += 4
        if trial % 3 == 2:
            good[:f] += 6
        centre, direction = good.mean(0), rng.normal(size=3)
        if trial % 2:
            direction = good[np.argmax(np.linalg.norm(good - centre, axis=1))] - centre
        direction *= np.linalg.norm(good - centre) / h**0.5 / np.linalg.norm(direction)
        for radius in (0.3, 1.0, 2.0, 4.0, -1.0):
            sent = np.concatenate([good, np.tile(centre + radius * direction, (f, 1))])
            after = np.asarray(mix(jnp.asarray(sent)))[:h]
            found = reduction(jnp.asarray(good), jnp.asarray(after))
            # against the definition
            spread = ((good - centre) ** 2).sum()
            np.testing.assert_allclose(found[0], ((after - after.mean(0)) ** 2).sum() / spread, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(
                found[1], h * ((after.mean(0) - centre) ** 2).sum() / spread, rtol=1e-10, atol=1e-12
            )
            worst = [max(w, float(v)) for w, v in zip(worst, found, strict=True)]
    assert worst[0] <= 9.88 * f / (n - f) and worst[1] <= 9 * f / (n - f), worst
    assert worst[0] > 0.005 and worst[1] > 0.005, "the attacks did nothing"


def test_clear_errors():
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match="num_kept must lie in"):
        nearest_neighbor_average(x[0], x, num_byzantine=1, num_kept=5)
    with pytest.raises(ValueError, match="nearest_neighbor_average: the trees differ"):
        nearest_neighbor_average(jnp.ones(3), x, num_byzantine=1)
    with pytest.raises(ValueError, match="monna_step: params and grads: the trees differ"):
        monna_step(x, x, x[:3], learning_rate=0.1, num_byzantine=1)
    with pytest.raises(ValueError, match=r"beta must lie in \[0.0, 1.0\], got 2"):
        monna_step(x, x, x, learning_rate=0.1, beta=2.0, num_byzantine=1)
    with pytest.raises(ValueError, match="n ≥ 2 f"):
        monna_step(x, x, x, learning_rate=0.1, num_byzantine=2)
