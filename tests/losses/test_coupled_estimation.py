"""Coupled estimation: unbiased by enumeration of pools, plain softmax in the limits, and both factors are found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from jaxtrain.losses import (
    coupled_ranking_losses,
    inverse_propensity_softmax_loss,
    simulate_pooling_bias,
    softmax_ratio_weights,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
G, H = RNG.normal(size=(2, 4, 5))
Y = (RNG.random((4, 5)) < 0.5).astype(float)


def test_equals_the_formula_in_probabilities(x64):
    p, q = special.softmax(G, 1), special.softmax(H, 1)
    for ref in (0, 3):
        w_sel, w_rel = np.minimum(q[:, [ref]] / q, 2.5), np.minimum(p[:, [ref]] / p, 2.5)
        rel, sel = coupled_ranking_losses(*map(jnp.asarray, (G, H, Y)), ref_index=ref, clip=2.5)
        np.testing.assert_allclose(rel, -np.einsum("bi,bi,bi->b", Y, w_sel, np.log(p)), rtol=1e-12)  # float64
        np.testing.assert_allclose(sel, -np.einsum("bi,bi,bi->b", Y, w_rel, np.log(q)), rtol=1e-12)
    per_list = softmax_ratio_weights(jnp.asarray(H), jnp.array([0, 1, 2, 3]), clip=np.inf)
    np.testing.assert_allclose(per_list, q[np.arange(4), np.arange(4)][:, None] / q, rtol=1e-12)


def test_known_propensities_make_it_unbiased(x64):
    # every subset of judged items, each with its probability: the mean over pools exactly
    items, propensity, scores = 5, np.array([0.9, 0.5, 0.3, 0.7, 0.1]), G[0]
    relevant = np.array([1, 0, 1, 1, 1])
    subsets = (np.arange(2**items)[:, None] >> np.arange(items)) & 1
    probability = np.where(subsets, propensity, 1 - propensity).prod(1)
    labels = jnp.asarray(subsets * relevant)
    weights = softmax_ratio_weights(jnp.log(propensity)[None], 2, clip=np.inf)
    lists = jnp.broadcast_to(scores, labels.shape)
    loss = inverse_propensity_softmax_loss(lists, labels, jnp.broadcast_to(weights, labels.shape))
    complete = -(relevant * np.log(special.softmax(scores))).sum()
    np.testing.assert_allclose(probability @ loss, propensity[2] * complete, rtol=1e-12)  # float64
    naive = inverse_propensity_softmax_loss(lists, labels)
    biased = -(relevant * propensity * np.log(special.softmax(scores))).sum()
    np.testing.assert_allclose(probability @ naive, biased, rtol=1e-12)


def test_a_constant_selection_gives_plain_cross_entropy(x64):
    rel, _ = coupled_ranking_losses(jnp.asarray(G), jnp.full((4, 5), 3.0), jnp.asarray(Y))
    np.testing.assert_allclose(rel, optax.losses.softmax_cross_entropy(jnp.asarray(G), jnp.asarray(Y)), rtol=1e-12)
    # one positive that is its own reference: no weight is left
    at = jnp.array([1, 0, 4, 2])
    one = jax.nn.one_hot(at, 5)
    for loss, s in zip(coupled_ranking_losses(jnp.asarray(G), jnp.asarray(H), one, ref_index=at), (G, H), strict=True):
        plain = optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(s), at)
        np.testing.assert_allclose(loss, plain, rtol=1e-12)


def test_gradients_do_not_cross_the_models(x64):
    def losses(g, h):
        return jnp.stack([x.sum() for x in coupled_ranking_losses(g, h, jnp.asarray(Y), clip=3.0)])

    by_g, by_h = jax.jacobian(losses, argnums=(0, 1))(jnp.asarray(G), jnp.asarray(H))
    np.testing.assert_array_equal(by_g[1], 0.0)
    np.testing.assert_array_equal(by_h[0], 0.0)
    # each of the two parts by itself too
    through = jax.grad(lambda h: softmax_ratio_weights(h, 2).sum())(jnp.asarray(H))
    np.testing.assert_array_equal(through, 0.0)
    through = jax.grad(lambda w: inverse_propensity_softmax_loss(jnp.asarray(G), jnp.asarray(Y), w).sum())
    np.testing.assert_array_equal(through(jnp.exp(H)), 0.0)
    # sum of the weights times the softmax, less the weights where positive
    w = Y * np.minimum(special.softmax(H, 1)[:, :1] / special.softmax(H, 1), 3.0)
    np.testing.assert_allclose(by_g[0], w.sum(1, keepdims=True) * special.softmax(G, 1) - w, rtol=1e-11, atol=1e-14)


def test_descent_on_both_finds_both_factors(x64):
    # a list of all pairs of a content and a rank, unevenly frequent; labels are the expected ones, r of the content times
    # s of the rank. Each model sees one of the two. Their fixed point is that of Sinkhorn's scaling, hence unique.
    r, s = np.array([0.8, 0.3, 0.1]), np.array([0.9, 0.5, 0.2, 0.05])
    often = RNG.dirichlet(np.ones(12)).reshape(3, 4)
    often /= often.sum()
    labels = jnp.asarray(often * np.outer(r, s)).reshape(1, 12)

    def objective(params):
        # an item that is often there competes often
        g, h = (jnp.broadcast_to(x, (3, 4)).reshape(1, 12) for x in (params[0][:, None], params[1][None]))
        log_often = jnp.log(often).reshape(1, 12)
        rel = inverse_propensity_softmax_loss(g + log_often, labels, softmax_ratio_weights(h, clip=1e3))
        sel = inverse_propensity_softmax_loss(h + log_often, labels, softmax_ratio_weights(g, clip=1e3))
        return rel[0] + sel[0]

    def step(params, _):
        grads = jax.grad(objective)(params)
        return [p - 2.0 * g for p, g in zip(params, grads, strict=True)], None

    (g, h), _ = jax.lax.scan(step, [jnp.zeros(3), jnp.zeros(4)], None, length=2000)
    np.testing.assert_allclose(jax.nn.softmax(g), r / r.sum(), rtol=1e-6)  # 2000 steps; the rest is far below
    np.testing.assert_allclose(jax.nn.softmax(h), s / s.sum(), rtol=1e-6)


def test_what_is_not_there_does_not_count(x64):
    there = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]], bool)
    broken = np.where(there, G, np.nan)

    def loss(g):
        return inverse_propensity_softmax_loss(g, jnp.asarray(Y), jnp.asarray(1 + H**2), where=jnp.asarray(there))

    got, gradient = loss(jnp.asarray(broken)), jax.grad(lambda g: loss(g).sum())(jnp.asarray(broken))
    for i in range(3):
        k = there[i]
        wanted = -(Y[i] * (1 + H[i] ** 2))[k] @ np.log(special.softmax(G[i][k]))
        np.testing.assert_allclose(got[i], wanted, rtol=1e-12)
    assert got[3] == 0
    np.testing.assert_array_equal(np.asarray(gradient)[~there], 0.0)
    assert np.isfinite(gradient).all()


def test_pools():
    scores, relevance = jnp.asarray(H, jnp.float32), jnp.ones((4, 5), bool)
    top = simulate_pooling_bias(jax.random.key(0), relevance, scores, depth=2)
    np.testing.assert_array_equal(top, np.argsort(np.argsort(-H, 1), 1) < 2)
    keys = jax.random.split(jax.random.key(1), 4000)
    # one item by softmax(s / T), and each as often among equal scores: five standard errors
    drawn = jax.vmap(lambda k: simulate_pooling_bias(k, relevance, scores, depth=1, temperature=2.0))(keys).mean(0)
    p = special.softmax(H / 2, 1)
    np.testing.assert_array_less(np.abs(drawn - p), 5 * np.sqrt(p * (1 - p) / 4000))
    ties = jax.vmap(lambda k: simulate_pooling_bias(k, relevance, jnp.zeros((4, 5)), depth=2))(keys).mean(0)
    np.testing.assert_allclose(ties, 0.4, atol=5 * np.sqrt(0.24 / 4000))


def test_contract():
    predictions, targets = RNG.normal(size=(2, 6, 5))
    check_loss(
        lambda g, y: inverse_propensity_softmax_loss(g, y > 0, 1 + y**2), predictions=predictions, targets=targets
    )
    check_loss(
        lambda g, h: coupled_ranking_losses(g, h, h > 0)[0],
        predictions=predictions,
        targets=targets,
        laws=("finite", "finite_gradient"),
    )


def test_bad_input():
    x = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"scores of shape \(3,\)"):
        softmax_ratio_weights(x[0])
    with pytest.raises(ValueError, match="ref_index 3 is none of the 3 items"):
        softmax_ratio_weights(x, 3)
    with pytest.raises(ValueError, match="clip must lie in"):
        softmax_ratio_weights(x, clip=0.0)
    with pytest.raises(ValueError, match=r"scores \(2, 3\) and labels \(2, 2\) disagree"):
        coupled_ranking_losses(x, x, x[:, :2])
    with pytest.raises(ValueError, match="depth must be at least 1"):
        simulate_pooling_bias(jax.random.key(0), x, x, depth=0)
    with pytest.raises(ValueError, match="temperature must lie in"):
        simulate_pooling_bias(jax.random.key(0), x, x, depth=1, temperature=-1.0)


def test_weights_of_what_does_not_count_do_not_matter():
    # masked out by -inf in both models, or by where with nothing behind it; without a clip the weights are infinite
    g, h = jnp.array([[1.0, 2.0, -jnp.inf]]), jnp.array([[0.5, 0.0, -jnp.inf]])
    labels, there = jnp.array([[0, 1, 0]]), jnp.array([[True, True, False]])
    wanted = [jnp.exp(0.5) * np.log1p(np.exp(-1.0)), jnp.exp(-1.0) * np.log1p(np.exp(0.5))]
    for fill in (-jnp.inf, jnp.nan, 0.0):
        args = g.at[0, 2].set(fill), h.at[0, 2].set(fill), labels
        got = coupled_ranking_losses(*args, clip=np.inf, where=there)
        np.testing.assert_allclose([x[0] for x in got], wanted, rtol=1e-6)
    got = coupled_ranking_losses(g, h, labels, clip=np.inf)
    np.testing.assert_allclose([x[0] for x in got], wanted, rtol=1e-6)
