"""Comp-sum losses against optax, closed forms and searches written from the definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.losses import (
    comp_sum_conditional_minimum,
    comp_sum_h_consistency,
    comp_sum_loss,
    comp_sum_minimizability_gap,
    h_consistency_bound,
    smooth_adversarial_comp_sum_loss,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(3 * RNG.standard_normal((16, 5)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 5, 16))
TAUS = [0.0, 0.3, 1.0, 1.4, 2.0, 3.0]


def phi(u, tau):
    """The definition, in NumPy."""
    return np.log(1 + u) if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)


def by_definition(logits, labels, tau):
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    own = logits[np.arange(len(labels)), labels]
    return phi(np.exp(logits - own[:, None]).sum(axis=1) - 1, tau)


@pytest.mark.parametrize("tau", TAUS)
def test_equals_the_definition(tau):
    # single precision, of values that span five orders of magnitude for tau = 0
    np.testing.assert_allclose(comp_sum_loss(LOGITS, LABELS, tau=tau), by_definition(LOGITS, LABELS, tau), rtol=2e-5)


def test_equals_optax_and_the_mean_absolute_error():
    cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    # rounding of single precision; both subtract numbers of size 10
    np.testing.assert_allclose(comp_sum_loss(LOGITS, LABELS), cross_entropy, rtol=1e-5, atol=1e-6)
    p = jnp.take_along_axis(jax.nn.softmax(LOGITS), LABELS[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(comp_sum_loss(LOGITS, LABELS, tau=2.0), 1 - p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_contract(tau):
    # below 1 the loss grows like a power of 1/p: infinite at logits of 1e4
    check_loss(functools.partial(comp_sum_loss, tau=tau), may_be_infinite=tau < 1, class_symmetric=True)


def test_sure_predictions_keep_their_digits():
    logits = jnp.array([[30.0, 0.0, 0.0]])
    wanted = 2 * np.exp(-30.0)
    # all members agree where u is small, and log_softmax alone would give 0
    for tau in TAUS:
        np.testing.assert_allclose(comp_sum_loss(logits, jnp.array([0]), tau=tau)[0], wanted, rtol=1e-5)


def test_near_one_the_product_counts(x64):
    # at logits of 1e4 and tau = 1 ± 1e-4 the product is ∓ 1: a series in 1 - tau would be off by a quarter
    logits, labels = jnp.array([[0.0, 1e4]]), jnp.array([0])
    for tau in (1 - 1e-4, 1 + 1e-4, 1 + 1e-8):
        wanted = np.expm1((1 - tau) * 1e4) / (1 - tau)
        # 1 - tau itself has lost digits: 1e-16 of 1e-8
        np.testing.assert_allclose(comp_sum_loss(logits, labels, tau=tau)[0], wanted, rtol=1e-7)
    # and the limit is continuous across the guard
    values = [comp_sum_loss(LOGITS.astype(jnp.float64), LABELS, tau=1 + d) for d in (-1e-11, -1e-13, 0.0, 1e-13, 1e-11)]
    for value in values:
        np.testing.assert_allclose(value, values[2], rtol=1e-9)


def test_tau_may_be_traced():
    traces = []

    @jax.jit
    def loss(tau):
        traces.append(tau)
        return comp_sum_loss(LOGITS, LABELS, tau=tau)

    taus = jnp.asarray(TAUS)
    for tau in taus:
        np.testing.assert_allclose(loss(tau), by_definition(LOGITS, LABELS, float(tau)), rtol=2e-5)
    assert len(traces) == 1
    assert jax.vmap(loss)(taus).shape == (len(TAUS), 16)


def test_gradient_at_extreme_logits_points_the_right_way():
    # an overflowed loss must still push the label's score up and the wrong one down
    g = jax.grad(lambda h: comp_sum_loss(h, jnp.array([0]), tau=0.5)[0])(jnp.array([[0.0, 1e4, 0.0]]))[0]
    assert g[0] < 0 < g[1] and np.all(np.isfinite(g)), g


@pytest.mark.parametrize("tau", [0.0, 0.5, 0.9999, 1.0, 1.0001, 1.5, 2.0])
def test_t_is_the_least_regret_of_a_grid_search(tau, x64):
    d = np.linspace(-20, 20, 40_001)
    # constant in n = 2: theorem's n^(tau - 1) is then 2^(tau - 1), as in its other branch
    for b in (0.1, 0.5, 0.9):
        p, q = (1 + b) / 2, (1 - b) / 2
        cost = p * phi(np.exp(-d), tau) + q * phi(np.exp(d), tau)
        regret = phi(1.0, tau) - cost.min()
        # the grid's spacing of 1e-3, squared; the definition's cancellation at |1 - tau| = 1e-4
        np.testing.assert_allclose(comp_sum_h_consistency(b, tau=tau, num_classes=2), regret, atol=2e-6)


def test_t_by_hand(x64):
    b = jnp.array([0.0, 0.3, 1.0])
    np.testing.assert_allclose(
        comp_sum_h_consistency(b, tau=0.0, num_classes=7), 1 - np.sqrt(1 - np.asarray(b) ** 2), atol=1e-15
    )
    np.testing.assert_allclose(comp_sum_h_consistency(1.0, tau=1.0, num_classes=3), np.log(2), rtol=1e-12)
    np.testing.assert_allclose(comp_sum_h_consistency(0.5, tau=3.0, num_classes=10), 0.5 / (2 * 100), rtol=1e-12)


def test_above_two_it_is_a_lower_bound():
    d = np.linspace(-20, 20, 40_001)
    for b in (0.2, 0.7):
        p, q = (1 + b) / 2, (1 - b) / 2
        regret = phi(1.0, 3.0) - (p * phi(np.exp(-d), 3.0) + q * phi(np.exp(d), 3.0)).min()
        assert 0 < float(comp_sum_h_consistency(b, tau=3.0, num_classes=2)) < regret


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0, 1.3, 2.5])
def test_the_bound_inverts_t_and_keeps_the_simple_bound(tau, x64):
    n, b = 4, jnp.linspace(0.0, 1.0, 21)
    regret = comp_sum_h_consistency(b, tau=tau, num_classes=n)
    # near 0 and at 1 T is flat or steep: the square root of rounding
    np.testing.assert_allclose(h_consistency_bound(regret, tau=tau, num_classes=n), b, atol=1e-7)
    simple = np.sqrt(2**tau * (2 - tau) * regret) if tau < 1 else np.sqrt(2 * n ** (tau - 1) * regret)
    simple = (tau - 1) * n ** (tau - 1) * regret if tau >= 2 else simple
    assert np.all(np.asarray(b) <= simple + 1e-7)
    assert float(h_consistency_bound(1e6, tau=tau, num_classes=n)) == 1.0


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0, 1.00001, 1.5, 2.0, 2.5])
def test_conditional_minimum_is_that_of_a_search(tau, x64):
    p = np.array([0.5, 0.3, 0.2])
    grid = np.linspace(1e-4, 1, 401)
    s1, s2 = np.meshgrid(grid, grid)
    s = np.stack([s1, s2, 1 - s1 - s2])[:, (s1 + s2) < 1 - 1e-9]
    # the corner in which a loss above 2 has its minimum is not on the grid
    s = np.concatenate([s, np.array([[1 - 2e-9], [1e-9], [1e-9]])], axis=1)
    searched = (p[:, None] * phi(1 / s - 1, tau)).sum(axis=0).min()
    # spacing 2.5e-3 squared, times a curvature of some units
    np.testing.assert_allclose(comp_sum_conditional_minimum(jnp.asarray(p), tau=tau), searched, atol=5e-5)


def test_gap_is_zero_for_a_rich_class_and_not_for_constants(x64):
    probs = jnp.asarray(RNG.dirichlet(np.ones(3), 50))
    best = comp_sum_conditional_minimum(probs, tau=1.5).mean()
    assert abs(float(comp_sum_minimizability_gap(best, probs, tau=1.5))) < 1e-12
    # of constant scores the best are those of the mean probabilities
    constant = comp_sum_conditional_minimum(probs.mean(axis=0), tau=1.5)
    assert float(comp_sum_minimizability_gap(constant, probs, tau=1.5)) > 0.05


def test_smooth_adversarial_by_definition():
    adv = jnp.asarray(RNG.standard_normal((16, 5)), jnp.float32)
    clean, h, y = np.asarray(LOGITS, np.float64), np.asarray(adv, np.float64), np.asarray(LABELS)
    rows, others = np.arange(16), np.stack([[k for k in range(5) if k != label] for label in y])
    margins = [a[rows, y][:, None] - np.take_along_axis(a, others, 1) for a in (clean, h)]
    for tau, rho, nu in ((1.0, 1.0, 1.0), (1.6, 0.5, 2.0), (0.4, 3.0, 0.0)):
        wanted = phi(np.exp(-margins[0] / rho).sum(1), tau) + nu * np.linalg.norm(margins[1] - margins[0], axis=1)
        got = smooth_adversarial_comp_sum_loss(LOGITS, adv, LABELS, tau=tau, rho=rho, nu=nu)
        np.testing.assert_allclose(got, wanted, rtol=2e-5)
    same = smooth_adversarial_comp_sum_loss(LOGITS, LOGITS, LABELS, tau=1.5)
    np.testing.assert_allclose(same, comp_sum_loss(LOGITS, LABELS, tau=1.5), rtol=1e-6)
    g = jax.grad(lambda a: smooth_adversarial_comp_sum_loss(LOGITS, a, LABELS).sum())(LOGITS)
    np.testing.assert_array_equal(g, 0)  # at the clean point, where a norm has no gradient


def test_adversarial_contract():
    fn = functools.partial(smooth_adversarial_comp_sum_loss, tau=1.5)
    check_loss(lambda h, y: fn(h, 0.5 * h[..., ::-1], y))


def test_bad_input():
    with pytest.raises(ValueError, match=r"label 5 is none of the 5 classes"):
        comp_sum_loss(LOGITS, LABELS.at[3].set(5))
    with pytest.raises(ValueError, match=r"labels of shape \(15,\)"):
        comp_sum_loss(LOGITS, LABELS[:15])
    with pytest.raises(ValueError, match="at least 2 are needed"):
        comp_sum_loss(LOGITS[:, :1], LABELS)
    with pytest.raises(ValueError, match="tau must lie in"):
        comp_sum_loss(LOGITS, LABELS, tau=-0.5)
    with pytest.raises(ValueError, match="rho must lie in"):
        smooth_adversarial_comp_sum_loss(LOGITS, LOGITS, LABELS, rho=0.0)
    with pytest.raises(ValueError, match="disagree"):
        smooth_adversarial_comp_sum_loss(LOGITS, LOGITS[:, :4], LABELS)
    with pytest.raises(ValueError, match="num_classes"):
        comp_sum_h_consistency(0.5, tau=1.0, num_classes=1)
