"""GEDI: the theorem on its minimum, likelihood gradients by exact sums, and Langevin chains against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxtrain.losses import (
    embedding_collapse_metrics,
    gedi_generative_loss,
    gedi_invariance_loss,
    gedi_loss,
    gedi_prior_loss,
    jem_log_density,
    sgld_replay_sample,
    sgld_sample,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
A = jnp.asarray  # inside the tests: in float64 where they enable it


def test_equals_the_formulas_in_probabilities(x64):
    f, g, negative = 2 * RNG.normal(size=(3, 6, 4))
    prior, tau = np.array([0.1, 0.2, 0.3, 0.4]), 0.7
    p, q = special.softmax(f / tau, 1), special.softmax(g / tau, 1)
    inv, balance = -(p * np.log(q)).sum(1), -(prior * np.log(p.mean(0))).sum()
    generative = np.log(np.exp(negative / tau).sum(1)).mean() - np.log(np.exp(f / tau).sum(1))
    np.testing.assert_allclose(gedi_invariance_loss(A(f), A(g), temperature=tau), inv, rtol=1e-12)  # float64
    np.testing.assert_allclose(gedi_prior_loss(A(f), prior=A(prior), temperature=tau), balance, rtol=1e-12)
    np.testing.assert_allclose(gedi_generative_loss(A(f), A(negative), temperature=tau), generative, rtol=1e-11)
    total = gedi_loss(A(f), A(g), A(negative), weights=(0.5, 2.0, 3.0), prior=A(prior), temperature=tau)
    np.testing.assert_allclose(total, 0.5 * generative + 2 * inv + 3 * balance, rtol=1e-11)


def test_the_minimum_is_balanced_one_hot_and_consistent():
    # the theorem: at least the entropy of the prior; descent on free logits gets there, and there it looks as said
    def both(logits):
        return jnp.mean(gedi_invariance_loss(*logits)) + gedi_prior_loss(logits[0])

    anywhere = 5 * jax.random.normal(jax.random.key(0), (500, 2, 12, 3))
    assert float(jax.vmap(both)(anywhere).min()) > np.log(3)
    starts = 0.1 * jax.random.normal(jax.random.key(1), (8, 2, 12, 3))
    slope = jax.vmap(jax.grad(both))
    found, _ = jax.lax.scan(lambda x, _: (x - 10.0 * slope(x), None), starts, None, length=2000)
    values, sizes = jax.vmap(both)(found), []
    for x, value in zip(np.asarray(found), values, strict=True):
        where = x.argmax(-1)
        np.testing.assert_array_equal(where[0], where[1])
        sizes.append(np.bincount(where[0], minlength=3))
        # logits grow like a logarithm of the steps, so that a rest is left
        assert 0 < value + np.mean(np.log(sizes[-1] / 12)) < 2e-3
    # descent can also stop at uneven sizes, with a higher value; the least is log 3 and even
    np.testing.assert_array_equal(sizes[np.argmin(values)], [4, 4, 4])
    np.testing.assert_allclose(values.min(), np.log(3), atol=2e-3)


def test_each_collapse_is_seen_by_one_term():
    n, big = 6, 1e4
    one = jnp.zeros((n, 3)).at[:, 0].set(big)
    assert float(gedi_invariance_loss(one, one).max()) == 0
    np.testing.assert_allclose(gedi_prior_loss(one), 2 / 3 * big, rtol=1e-6)  # two empty clusters, 1e4 away
    sizes = jax.nn.one_hot(jnp.arange(n) % 3, 3) * big
    np.testing.assert_allclose(gedi_prior_loss(sizes), np.log(3), rtol=1e-6)
    np.testing.assert_allclose(gedi_invariance_loss(sizes, jnp.roll(sizes, 1, 0)), big, rtol=1e-6)
    same = jnp.zeros((n, 3))
    np.testing.assert_allclose(gedi_invariance_loss(same, same), np.log(3), rtol=1e-6)
    seen = [embedding_collapse_metrics(z, jax.nn.softmax(z)) for z in (one, sizes)]
    np.testing.assert_allclose(seen[0], [0, 0, 0], atol=1e-6)
    # three directions at right angles: their mean has the squared length 1/3
    np.testing.assert_allclose(seen[1], [1, 2 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(embedding_collapse_metrics(same, jax.nn.softmax(same)), [1, 1, 1], atol=1e-6)


def test_slope_of_the_density_is_the_mean_slope_of_the_logits(x64):
    w, x = A(RNG.normal(size=(3, 2))), A(RNG.normal(size=2))
    f = lambda x: jnp.tanh(w @ x)  # noqa: E731
    got = jax.jit(jax.grad(lambda x: jem_log_density(f(x), temperature=0.5)))(x)
    p = special.softmax(np.asarray(f(x)) / 0.5)
    np.testing.assert_allclose(got, p @ ((1 - np.tanh(w @ x) ** 2)[:, None] * np.asarray(w)) / 0.5, rtol=1e-12)


def test_with_samples_of_the_model_it_is_the_likelihoods_gradient(x64):
    # three points of density 1/2, 1/4, 1/4, sampled exactly by four negatives
    table = A(np.log([[1.5, 0.5], [0.7, 0.3], [0.2, 0.8]]))
    data, negatives = jnp.array([0, 2, 2, 1, 2]), jnp.array([0, 0, 1, 2])

    def likelihood(table):
        density = jem_log_density(table)
        return jnp.mean(jax.nn.logsumexp(density) - density[data])

    divergence = lambda t: jnp.mean(gedi_generative_loss(t[data], t[negatives]))  # noqa: E731
    got, wanted = jax.jit(lambda t: (jax.grad(divergence)(t), jax.grad(likelihood)(t)))(table)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-15)


def test_prior_over_the_global_batch():
    logits = jnp.asarray(100 * RNG.normal(size=(4, 3, 5)), jnp.float32)

    def spread(x):
        return jax.vmap(lambda x: gedi_prior_loss(x, axis_name="data"), axis_name="data")(x)[0]

    whole = lambda x: gedi_prior_loss(x.reshape(12, 5))  # noqa: E731
    both = jax.jit(lambda x: [jax.value_and_grad(fn)(x) for fn in (spread, whole)])
    (value, slope), (wanted, wanted_slope) = both(logits)
    alone = {"weights": (0.0, 0.0, 1.0), "axis_name": "data"}
    total = jax.vmap(lambda x: gedi_loss(x, x, x, **alone), axis_name="data")(logits)
    np.testing.assert_allclose(total, np.full((4, 3), wanted), rtol=1e-6)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)  # single precision
    np.testing.assert_allclose(slope, wanted_slope, rtol=1e-4, atol=1e-7)


def test_chains_settle_where_the_closed_form_says():
    s, c, variance, n = 0.1, 0.5, 0.5, 20_000
    energy = lambda x: 0.5 * x**2 / variance  # noqa: E731
    x = sgld_sample(jax.random.key(0), energy, jnp.zeros(n), steps=60, step_size=s, noise=c)
    wanted = c**2 / (1 - (1 - s / variance) ** 2)
    np.testing.assert_allclose(jnp.var(x), wanted, rtol=5 * np.sqrt(2 / n))  # five standard errors
    assert abs(x.mean()) < 5 * np.sqrt(wanted / n)
    # after 60 steps what is left of the start is 0.8^120; without noise it is gradient descent
    still = sgld_sample(jax.random.key(0), energy, jnp.ones(1), steps=7, step_size=s, noise=0.0)
    np.testing.assert_allclose(still, (1 - s / variance) ** 7, rtol=1e-5)


def test_replay():
    buffer = jnp.arange(10.0)[:, None] * jnp.ones(2) + 1
    run = functools.partial(sgld_replay_sample, energy_fn=lambda x: 0.5 * (x**2).sum(1), replay=buffer)
    run = functools.partial(run, x_init=jnp.full((4, 2), 100.0), steps=1, step_size=0.5, noise=0.0)
    x, after = run(jax.random.key(0), reinit=0.0)
    moved = np.flatnonzero((np.asarray(after) != np.asarray(buffer)).all(1))
    assert len(moved) == 4
    np.testing.assert_array_equal(after[moved], buffer[moved] / 2)
    np.testing.assert_array_equal(np.sort(x, 0), np.sort(after[moved], 0))
    x, after = run(jax.random.key(0), reinit=1.0)
    np.testing.assert_array_equal(x, 50.0)
    np.testing.assert_array_equal((after == 50.0).all(1), np.isin(np.arange(10), moved))
    # each by itself starts anew
    new = np.asarray([(run(jax.random.key(k), reinit=0.5)[0] == 50.0).all(1).sum() for k in range(8)])
    assert 0 < new.mean() < 4 and ((new > 0) & (new < 4)).any()


def test_no_gradient_flows_through_samples():
    def through(scale):
        return sgld_sample(jax.random.key(0), lambda x: scale * x**2, jnp.ones(3) * scale, step_size=0.1).sum()

    assert float(jax.grad(through)(1.0)) == 0


def test_contract():
    f, g = RNG.normal(size=(2, 6, 4))
    check_loss(gedi_invariance_loss, predictions=f, targets=g, rtol=2e-5)
    check_loss(
        lambda f, g: gedi_generative_loss(f, jnp.ones((3, 4), f.dtype)),
        predictions=f,
        targets=g,
        laws=("finite", "finite_gradient"),
    )


def test_bad_input():
    f = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"logits \(2, 3\) and logits_b \(2, 2\) disagree"):
        gedi_invariance_loss(f, f[:, :2])
    with pytest.raises(ValueError, match="temperature must lie in"):
        jem_log_density(f, temperature=0.0)
    with pytest.raises(ValueError, match="w_inv must lie in"):
        gedi_loss(f, f, f, weights=(1.0, -1.0, 1.0))
    with pytest.raises(ValueError, match=r"prior \(2,\)"):
        gedi_prior_loss(f, prior=jnp.ones(2))
    with pytest.raises(ValueError, match="2 clusters at least"):
        embedding_collapse_metrics(f, f[:, :1])
    with pytest.raises(ValueError, match="steps must be at least 0"):
        sgld_sample(jax.random.key(0), jnp.sin, f, steps=-1)
    with pytest.raises(ValueError, match="a buffer of at least as many"):
        sgld_replay_sample(jax.random.key(0), jnp.sin, f, f[:1])


def test_masked_clusters_do_not_count():
    f = jnp.array([[0.3, -0.2, -jnp.inf], [1.0, 2.0, -jnp.inf]])
    prior = jnp.array([0.25, 0.75, 0.0])

    def both(f, tau, prior):
        return gedi_invariance_loss(f, f[::-1], temperature=tau).sum() + gedi_prior_loss(
            f, prior=prior, temperature=tau
        )

    (value, slopes) = jax.value_and_grad(both, (0, 1))(f, 0.7, prior)
    wanted, without = jax.value_and_grad(both, (0, 1))(f[:, :2], 0.7, prior[:2])
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(slopes[0], np.pad(without[0], ((0, 0), (0, 1))), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(slopes[1], without[1], rtol=1e-5)


def test_spread_of_directions_has_a_slope_where_a_feature_is_zero():
    z = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    slope = jax.grad(lambda z: embedding_collapse_metrics(z, jnp.eye(2)).representation)(z)
    assert np.isfinite(slope).all()
    with pytest.raises(ValueError, match="1 example and 2 clusters at least"):
        embedding_collapse_metrics(z[:0], jnp.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"logits \(2, 2\) and neg_logits \(0, 2\)"):
        gedi_generative_loss(z, z[:0])
