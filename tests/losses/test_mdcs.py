"""MDCS against the released class, the balanced softmax and its identities."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import consistency_self_distillation, diversity_softmax_loss, mdcs_loss
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "mdcs.npz")
RNG = np.random.default_rng(0)
COUNTS = jnp.array([500, 120, 40, 9, 2])
Z, LABELS = RNG.normal(size=(6, 5)), jnp.array([0, 1, 2, 3, 4, 0])


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def released(weak, strong, ramp):
    return mdcs_loss(weak, strong, jnp.asarray(GOLDEN["labels"]), jnp.asarray(GOLDEN["counts"]), ramp=ramp).mean()


@pytest.mark.parametrize("case", range(4))
def test_equals_the_released_class(case, x64):
    weak, strong = map(jnp.asarray, GOLDEN[f"views_{case}"])
    value, grads = released(weak, strong, min(float(GOLDEN[f"epoch_{case}"]) / 20, 1.0))
    # the release adds 1e-9 to n^lam, 2e-8 of the smallest, 500^-0.5
    np.testing.assert_allclose(value, GOLDEN[f"loss_{case}"], rtol=5e-8)
    np.testing.assert_allclose(jnp.stack(grads), GOLDEN[f"grad_{case}"], atol=5e-8)


def test_is_the_balanced_softmax_at_one_and_cross_entropy_without_counts(x64):
    z = jnp.asarray(Z)
    weighted = np.asarray(COUNTS) * np.exp(Z)
    wanted = -np.log(weighted[np.arange(6), LABELS] / weighted.sum(1))
    np.testing.assert_allclose(diversity_softmax_loss(z, LABELS, COUNTS, lam=1.0), wanted, rtol=1e-13)  # float64
    plain = optax.losses.softmax_cross_entropy_with_integer_labels(z, LABELS)
    for counts, lam in ((COUNTS, 0.0), (jnp.full(5, 7), -3.0)):
        np.testing.assert_allclose(diversity_softmax_loss(z, LABELS, counts, lam=lam), plain, rtol=1e-13)


def test_shares_give_what_counts_give(x64):
    for lam in (-0.5, 2.5):
        of_counts, of_shares = (
            diversity_softmax_loss(jnp.asarray(Z), LABELS, c, lam=lam) for c in (COUNTS, COUNTS / COUNTS.sum())
        )
        np.testing.assert_allclose(of_counts, of_shares, rtol=1e-13)


def test_the_best_logits_are_posteriors_over_a_power_of_the_prior(x64):
    """Minimised over a constant input, softmax(z + lam log n) is the class share: z = (1 - lam) log n up to a constant."""
    labels = jnp.repeat(jnp.arange(5), COUNTS, total_repeat_length=671)
    for lam in (-0.5, 2.5):
        z = (1 - lam) * jnp.log(jnp.asarray(COUNTS, jnp.float64))

        def risk(z, lam=lam):
            return diversity_softmax_loss(jnp.tile(z, (671, 1)), labels, COUNTS, lam=lam).mean()

        np.testing.assert_allclose(jax.grad(risk)(z), 0.0, atol=1e-14)  # float64


def test_selection_by_hand():
    weak = jnp.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    strong = jnp.array([[0.0, 1.0, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    loss, selected = consistency_self_distillation(weak, strong, jnp.array([0, 1, 2]))
    assert selected.tolist() == [True, False, True]
    assert loss[0] > 0 and loss[1] == 0 and loss[2] == 0  # right, wrong, equal views
    to_weak, to_strong = jax.grad(
        lambda w, s: consistency_self_distillation(w, s, jnp.array([0, 1, 2]))[0].sum(), argnums=(0, 1)
    )(weak, strong)
    np.testing.assert_array_equal(to_weak, 0.0)
    np.testing.assert_allclose(to_strong[0], jax.nn.softmax(strong[0]) - jax.nn.softmax(weak[0]), atol=1e-6)
    np.testing.assert_array_equal(to_strong[1], 0.0)


def test_temperature(x64):
    weak, strong = RNG.normal(size=(2, 6, 5))
    p, q = (np.exp(z / 3) / np.exp(z / 3).sum(1, keepdims=True) for z in (weak, strong))
    loss, selected = consistency_self_distillation(
        *map(jnp.asarray, (weak, strong)), jnp.asarray(weak.argmax(1)), temperature=3.0
    )
    assert selected.all()
    np.testing.assert_allclose(loss, 9 * (p * np.log(p / q)).sum(1), rtol=1e-12)  # float64


def test_nothing_selected_leaves_the_diversity_alone():
    weak = jnp.zeros((2, 1, 3)).at[:, 0, 0].set(9.0)
    got = mdcs_loss(weak, 0 * weak, jnp.array([1, 2]), jnp.full(3, 4), lams=(1.0,))
    both = [diversity_softmax_loss(z[:, 0], jnp.array([1, 2]), jnp.full(3, 4), lam=1.0) for z in (weak, 0 * weak)]
    np.testing.assert_allclose(got, sum(both) / 2, rtol=1e-6)  # float32


def test_a_class_that_is_masked_out_is_not_there(x64):
    weak, strong = jnp.asarray(RNG.normal(size=(2, 4, 3, 5)))
    masked = [z.at[..., 2].set(-jnp.inf) for z in (weak, strong)]
    labels, fewer = jnp.array([0, 1, 3, 4]), jnp.array([0, 1, 2, 3])

    def total(strong, weak, labels, counts):
        return mdcs_loss(weak, strong, labels, counts).sum()

    value, pull = jax.value_and_grad(total)(masked[1], masked[0], labels, COUNTS)
    there = jnp.array([0, 1, 3, 4])
    wanted, slope = jax.value_and_grad(total)(strong[..., there], weak[..., there], fewer, COUNTS[there])
    np.testing.assert_allclose(value, wanted, rtol=1e-12)  # float64
    np.testing.assert_allclose(pull[..., there], slope, rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(pull[..., 2], 0.0)


def test_contract_of_diversity():
    check_loss(jax.jit(lambda z, y: diversity_softmax_loss(z, y, COUNTS, lam=2.5)))


def test_contract_of_mdcs():
    @jax.jit
    def loss(strong, labels):
        # the teacher is a constant of the same batch, moved by its own labels: some are right
        weak = jax.lax.stop_gradient(strong) + 2 * jax.nn.one_hot(labels, 5, dtype=strong.dtype)[:, None]
        return mdcs_loss(weak, strong, labels, COUNTS, ramp=0.5)

    # an example depends on how many of its batch are selected; differences move the teacher too, gradients do not
    check_loss(loss, predictions=RNG.normal(size=(6, 3, 5)), targets=LABELS, except_=["batch", "gradient"])


def test_bad_input():
    z, labels, counts = jnp.zeros((2, 3)), jnp.array([0, 1]), jnp.ones(3)
    with pytest.raises(ValueError, match=r"class_counts of shape \(2,\) for 3 classes"):
        diversity_softmax_loss(z, labels, counts[:2], lam=1.0)
    with pytest.raises(ValueError, match="class_counts must lie in"):
        diversity_softmax_loss(z, labels, jnp.array([1, 0, 2]), lam=1.0)
    with pytest.raises(ValueError, match="lam must lie in"):
        diversity_softmax_loss(z, labels, counts, lam=np.nan)
    with pytest.raises(ValueError, match="label 3 is none of the 3 classes"):
        consistency_self_distillation(z, z, jnp.array([0, 3]))
    with pytest.raises(ValueError, match="temperature must lie in"):
        consistency_self_distillation(z, z, labels, temperature=0.0)
    with pytest.raises(ValueError, match="one lam for each expert"):
        mdcs_loss(jnp.zeros((2, 2, 3)), jnp.zeros((2, 2, 3)), labels, counts)
    with pytest.raises(ValueError, match="disagree"):
        mdcs_loss(jnp.zeros((2, 3, 3)), jnp.zeros((2, 3, 4)), labels, counts)
    with pytest.raises(ValueError, match=r"mdcs_loss: class_counts of shape \(2,\)"):
        mdcs_loss(jnp.zeros((2, 3, 3)), jnp.zeros((2, 3, 3)), labels, counts[:2])
    with pytest.raises(ValueError, match="lams must lie in"):
        mdcs_loss(jnp.zeros((2, 3, 3)), jnp.zeros((2, 3, 3)), labels, counts, lams=(1.0, np.nan, 1.0))
    with pytest.raises(ValueError, match="ramp must lie in"):
        mdcs_loss(jnp.zeros((2, 3, 3)), jnp.zeros((2, 3, 3)), labels, counts, ramp=2.0)
