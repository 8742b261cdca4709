"""The contrastive loss against pytorch-metric-learning; the tricks against SciPy's assignment and geometry."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

from jaxtrain.losses import (
    assign_prototypes,
    cosine_ncm_logits,
    incremental_subnet_mask,
    pseudo_class_expand,
    simplex_etf_prototypes,
    supcon_loss,
)
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "supcon.npz")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("temperature", GOLDEN["temperatures"].tolist())
def test_equals_pytorch_metric_learning(temperature, x64):
    z, labels = jnp.asarray(GOLDEN["embeddings"]), jnp.asarray(GOLDEN["labels"])
    loss = supcon_loss(z, labels, temperature=temperature)
    np.testing.assert_allclose(loss, GOLDEN[f"losses_{temperature}"], rtol=1e-12, atol=1e-14)  # float64
    pull = jax.grad(lambda z: supcon_loss(z, labels, temperature=temperature).sum())(z)
    np.testing.assert_allclose(pull, GOLDEN[f"gradient_{temperature}"], rtol=1e-10, atol=1e-13)


def test_rows_that_are_not_there_change_nothing(x64):
    z, labels = jnp.asarray(GOLDEN["embeddings"]), jnp.asarray(GOLDEN["labels"])
    there = jnp.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
    masked = supcon_loss(z, labels, where=there)
    np.testing.assert_allclose(masked[there], supcon_loss(z[there], labels[there]), rtol=1e-12)
    np.testing.assert_array_equal(masked[~there], 0.0)


def test_padding_may_hold_anything(x64):
    z, labels = jnp.asarray(GOLDEN["embeddings"]), jnp.asarray(GOLDEN["labels"])
    there = jnp.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
    total = lambda z: supcon_loss(z, labels, where=there).sum()  # noqa: E731
    value, pull = jax.value_and_grad(total)(z.at[2].set(jnp.nan).at[6].set(jnp.inf))
    wanted, slope = jax.value_and_grad(total)(z)
    np.testing.assert_array_equal(value, wanted)
    np.testing.assert_array_equal(pull, slope)
    assert not np.any(pull[~there])


def test_lengths_do_not_matter_up_to_overflow():
    z = jnp.asarray(GOLDEN["embeddings"], jnp.float32)
    labels, lengths = jnp.asarray(GOLDEN["labels"]), jnp.array([1e30, 1e-30] * 4)[:, None]
    np.testing.assert_allclose(supcon_loss(z * lengths, labels), supcon_loss(z, labels), rtol=1e-4)  # float32 over T
    cosines = cosine_ncm_logits(z * lengths, z * lengths, scale=1.0)
    np.testing.assert_allclose(cosines, cosine_ncm_logits(z, z, scale=1.0), atol=1e-6)


def test_two_views_without_labels_are_a_classification_of_pairs(x64):
    """With one positive each it is SimCLR's loss: optax's ntxent, which averages over the anchors."""
    z = jnp.asarray(RNG.normal(size=(8, 5)))
    labels = jnp.tile(jnp.arange(4), 2)
    wanted = optax.losses.ntxent(z, labels, temperature=0.5)
    np.testing.assert_allclose(
        supcon_loss(z, labels, temperature=0.5).mean(), wanted, rtol=1e-6
    )  # its length has an epsilon


def test_contract():
    # the kit moves all examples at once, which coupled ones do not bear: the gradient is held against the peer's above;
    # labels are names here, any integer is one
    names = np.array([0, 1, 0, 2, 1, 0])
    check_loss(
        jax.jit(supcon_loss),
        predictions=RNG.normal(size=(6, 5)),
        targets=names,
        except_=["batch", "gradient", "labels"],
    )


@pytest.mark.parametrize("num, dim", [(2, 1), (5, 4), (5, 9)])
def test_prototypes_are_a_simplex(num, dim):
    w = np.asarray(simplex_etf_prototypes(jax.random.key(num), num, dim), np.float64)
    gram = np.where(np.eye(num, dtype=bool), 1.0, -1 / (num - 1))
    np.testing.assert_allclose(w @ w.T, gram, atol=1e-6)  # float32
    np.testing.assert_allclose(w.sum(0), 0, atol=1e-6)
    assert w.shape == (num, dim)


def test_prototypes_are_turned_evenly():
    w = jax.vmap(lambda key: simplex_etf_prototypes(key, 3, 4))(jax.random.split(jax.random.key(0), 2000))
    # no direction is preferred: means 0 and covariance I/4, within five standard errors of entries of size below 1
    np.testing.assert_allclose(w.mean(0), 0, atol=5 * 0.5 / np.sqrt(2000))
    np.testing.assert_allclose(
        jnp.einsum("ni,nj->ij", w[:, 0], w[:, 0]) / 2000, np.eye(4) / 4, atol=5 * 0.35 / np.sqrt(2000)
    )


def test_assignment_is_scipys(x64):
    for classes, k in ((4, 4), (5, 9)):
        means, prototypes = RNG.normal(size=(classes, 6)), RNG.normal(size=(k, 6))
        cosines = means @ prototypes.T / np.outer(np.linalg.norm(means, axis=1), np.linalg.norm(prototypes, axis=1))
        found = assign_prototypes(jnp.asarray(means), jnp.asarray(prototypes))
        np.testing.assert_array_equal(found, linear_sum_assignment(-cosines)[1])


def test_pseudo_classes():
    x, labels = jnp.arange(18.0).reshape(2, 3, 3), jnp.array([1, 0])
    turns = [lambda x, k=k: jnp.rot90(x, k, axes=(1, 2)) for k in (1, 2, 3)]
    big, names = pseudo_class_expand(x, labels, turns, num_classes=5)
    np.testing.assert_array_equal(big, np.concatenate([np.rot90(x, k, axes=(1, 2)) for k in range(4)]))
    assert names.tolist() == [1, 0, 6, 5, 11, 10, 16, 15]


def test_labels_of_one_byte_have_room_for_copies():
    _, names = pseudo_class_expand(jnp.zeros((1, 2)), jnp.array([49], jnp.int8), [lambda x: x] * 2, num_classes=50)
    assert names.tolist() == [49, 99, 149]


def test_only_the_chosen_weights_move():
    params = {"w": jnp.asarray(RNG.normal(size=(8, 5)), jnp.float32), "b": jnp.ones(7), "c": jnp.ones(9)}
    mask = incremental_subnet_mask(jax.random.key(0), params, fraction=0.25)
    assert int(mask["w"].sum()) == 10 and int(mask["b"].sum()) == 2 == int(mask["c"].sum())  # 1.75 and 2.25 rounded
    keep = optax.stateless(lambda u, _: jax.tree.map(lambda x, m: jnp.where(m, x, 0), u, mask))
    tx = optax.chain(optax.adamw(0.1, weight_decay=0.1), keep)
    state, now = tx.init(params), params
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.cos, now), state, now)
        now = optax.apply_updates(now, updates)
    for name in params:
        moved = np.asarray(now[name] != params[name])
        np.testing.assert_array_equal(moved, mask[name])  # bit for bit
    count = jax.vmap(lambda f: incremental_subnet_mask(jax.random.key(1), params, fraction=f)["w"].sum())
    assert count(jnp.array([0.0, 0.5, 1.0])).tolist() == [0, 20, 40]


def test_cosine_logits(x64):
    z, c = RNG.normal(size=(2, 4, 6)), RNG.normal(size=(3, 6))
    wanted = 16 * np.einsum("abd,kd->abk", z, c) / np.linalg.norm(z, axis=-1)[..., None] / np.linalg.norm(c, axis=-1)
    np.testing.assert_allclose(cosine_ncm_logits(jnp.asarray(z), jnp.asarray(c)), wanted, rtol=1e-12)
    zeros, pull = jax.value_and_grad(lambda z: cosine_ncm_logits(z, jnp.asarray(c)).sum())(jnp.zeros(6))
    assert zeros == 0 and np.all(np.asarray(pull) == 0)


def test_bad_input():
    key, x = jax.random.key(0), jnp.ones((3, 2))
    with pytest.raises(ValueError, match=r"labels of shape \(2,\) for embeddings"):
        supcon_loss(x, jnp.zeros(2, int))
    with pytest.raises(ValueError, match=r"where of shape \(2,\)"):
        supcon_loss(x, jnp.zeros(3, int), where=jnp.ones(2, bool))
    with pytest.raises(ValueError, match="temperature must lie in"):
        supcon_loss(x, jnp.zeros(3, int), temperature=0.0)
    with pytest.raises(ValueError, match="5 prototypes need 4 dimensions at least, got 3"):
        simplex_etf_prototypes(key, 5, 3)
    with pytest.raises(ValueError, match="num must be at least 2"):
        simplex_etf_prototypes(key, 1, 3)
    with pytest.raises(ValueError, match="3 classes for 2 prototypes"):
        assign_prototypes(x, x[:2])
    with pytest.raises(ValueError, match="disagree"):
        assign_prototypes(x, x[:, :1])
    with pytest.raises(ValueError, match=r"transform 1 turned \(3, 2\) into \(2, 3\)"):
        pseudo_class_expand(x, jnp.zeros(3, int), [jnp.transpose], num_classes=2)
    with pytest.raises(ValueError, match="pseudo_class_expand: label 2 is none of the 2 classes"):
        pseudo_class_expand(x, jnp.array([0, 2, 1]), [], num_classes=2)
    with pytest.raises(ValueError, match=r"labels of shape \(2,\) for inputs"):
        pseudo_class_expand(x, jnp.zeros(2, int), [], num_classes=2)
    with pytest.raises(ValueError, match="fraction must lie in"):
        incremental_subnet_mask(key, x, fraction=1.5)
    with pytest.raises(ValueError, match="disagree"):
        cosine_ncm_logits(x, jnp.ones((3, 4)))
    with pytest.raises(ValueError, match="scale must lie in"):
        cosine_ncm_logits(x, x, scale=0.0)
