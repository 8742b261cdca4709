"""ROAD and BROAD against a constrained optimiser, the release's formulas in NumPy, and their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxtrain.core import checked
from jaxtrain.losses import (
    broad_weights,
    local_disparate_impact,
    normalize_ratio,
    p_rule,
    road_predictor_loss,
    road_ratio_loss,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
LOSSES = RNG.gamma(1.0, 1.0, 40)
GROUPS = RNG.choice([-3, 0, 7], 40)
broad = jax.jit(broad_weights)


@pytest.mark.parametrize("tau", [0.3, 2.0])
def test_is_the_minimum_under_the_constraints(tau, x64):
    losses, groups = np.array([0.1, 1.2, 0.7, 0.4, 2.0]), np.array([0, 0, 0, 1, 1])
    means = [(groups == g) / (groups == g).sum() for g in (0, 1)]
    found = scipy.optimize.minimize(
        lambda r: np.mean(r * losses + tau * r * np.log(r)),
        np.ones(5),
        constraints=[{"type": "eq", "fun": lambda r, m=m: m @ r - 1} for m in means],
        bounds=[(1e-9, None)] * 5,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    got = broad_weights(jnp.asarray(losses), jnp.asarray(groups), temperature=tau)
    # SLSQP stops when the objective moves by 1e-15: flat to the square root of that in the arguments
    np.testing.assert_allclose(got, found.x, atol=1e-6)
    value = road_ratio_loss(got, jnp.asarray(losses), temperature=tau).mean()
    np.testing.assert_allclose(value, found.fun, rtol=1e-9)
    # the minimum is that of the dual: -tau log mean exp(-l / tau) in each group
    dual = sum(-tau * np.log(np.mean(np.exp(-losses[groups == g] / tau))) * np.mean(groups == g) for g in (0, 1))
    np.testing.assert_allclose(value, dual, rtol=1e-12)


def test_means_are_one_and_limits(x64):
    losses, groups = jnp.asarray(LOSSES), jnp.asarray(GROUPS)
    r = np.asarray(broad(losses, groups, temperature=0.5))
    for g in (-3, 0, 7):
        mine = g == GROUPS
        np.testing.assert_allclose(r[mine].mean(), 1.0, rtol=1e-14)  # float64
        wanted = np.exp(-LOSSES[mine] / 0.5)
        np.testing.assert_allclose(r[mine], wanted / wanted.mean(), rtol=1e-13)
    # 1 + O(loss / tau)
    np.testing.assert_allclose(broad(losses, groups, temperature=1e9), 1.0, atol=1e-8)
    cold = np.asarray(broad(losses, groups, temperature=1e-9))
    for g in (-3, 0, 7):
        mine = np.flatnonzero(g == GROUPS)
        np.testing.assert_allclose(cold[mine], len(mine) * (LOSSES[mine] == LOSSES[mine].min()))


def test_counting_groups_changes_nothing():
    losses, groups = jnp.asarray(LOSSES, jnp.float32), jnp.asarray(GROUPS % 4)
    a = jax.jit(broad_weights, static_argnames="num_groups")(losses, groups, temperature=0.5, num_groups=4)
    np.testing.assert_allclose(a, broad(losses, groups, temperature=0.5), rtol=1e-6)  # the order of a sum
    b = normalize_ratio(jnp.exp(-losses / 0.5), groups, num_groups=4)
    np.testing.assert_allclose(a, b, rtol=1e-5)  # single precision of an exponential
    np.testing.assert_allclose(normalize_ratio(jnp.exp(-losses / 0.5), groups), b, rtol=1e-6)


def test_large_losses_and_empty_weights_stay_finite():
    losses = jnp.array([1e4, 1e4 + 1, 0.0, 1e4], jnp.float32)
    r = broad_weights(losses, jnp.array([0, 0, 1, 1]), temperature=1.0)  # exp(-1e4) is 0
    np.testing.assert_allclose(r, [2 / (1 + np.exp(-1)), 2 / (1 + np.e), 2, 0], rtol=1e-6)

    def objective(z):
        ratio = normalize_ratio(jnp.exp(z), jnp.array([0, 0, 1, 1]))
        return road_ratio_loss(ratio, losses, temperature=1.0).mean()

    # exponentials that underflow: one in the first group, all in the second
    z = jnp.array([0.0, -1e3, -1e3, -1e3])
    np.testing.assert_array_equal(normalize_ratio(jnp.exp(z), jnp.array([0, 0, 1, 1])), [2.0, 0.0, 1.0, 1.0])
    assert np.all(np.isfinite(jax.grad(objective)(z)))


def test_no_network_does_better_than_the_closed_form(x64):
    losses, groups = jnp.asarray(LOSSES), jnp.asarray(GROUPS)

    @jax.jit
    @jax.value_and_grad
    def objective(z):
        return road_ratio_loss(normalize_ratio(jnp.exp(z), groups), losses, temperature=0.7).mean()

    least, slope = objective(-losses / 0.7)
    np.testing.assert_allclose(slope, 0.0, atol=1e-15)  # terms of size 1/40
    r = broad(losses, groups, temperature=0.7)
    np.testing.assert_allclose(least, road_ratio_loss(r, losses, temperature=0.7).mean(), rtol=1e-14)
    # one step of descent from anywhere goes down, never below
    for z in RNG.normal(size=(5, 40)):
        value, slope = objective(z)
        assert least < objective(z - 0.1 * slope)[0] < value


def test_the_gradient_goes_to_the_predictor_alone(x64):
    s, y = jnp.asarray(RNG.integers(0, 2, 12)), jnp.asarray(RNG.integers(0, 2, 12))
    f, slope = jnp.asarray(RNG.normal(size=12)), 1.3

    def loss(f, lam):
        adversary = jax.nn.softplus(-(2 * s - 1) * slope * f)
        task = jax.nn.softplus(-(2 * y - 1) * f)
        ratio = broad_weights(adversary, s, temperature=0.4)
        return road_predictor_loss(task, adversary, ratio, lam=lam).sum()

    # by hand: (sigmoid(f) - y) - lam r slope (sigmoid(slope f) - s), r a number
    def sigmoid(x):
        return 1 / (1 + np.exp(-np.asarray(x)))

    p = np.where(np.asarray(s) == 1, sigmoid(slope * f), 1 - sigmoid(slope * f))  # what the adversary gives the truth
    raw = p ** (1 / 0.4)
    r = raw / np.array([raw[np.asarray(s) == g].mean() for g in np.asarray(s)])
    for lam in (0.0, 2.0):
        wanted = sigmoid(f) - np.asarray(y) - lam * r * slope * (sigmoid(slope * f) - np.asarray(s))
        np.testing.assert_allclose(jax.grad(loss)(f, lam), wanted, rtol=1e-10)
    # each of the two holds the weights by itself, so that neither relies on the other
    held = jax.grad(lambda x: jnp.sum(f * broad_weights(x, s, temperature=0.4)))(f**2)
    np.testing.assert_array_equal(held, 0.0)
    np.testing.assert_array_equal(jax.grad(lambda r: road_predictor_loss(f, f, r, lam=2.0).sum())(f**2), 0.0)
    # the ratio's loss holds the adversary's losses
    to_losses = jax.grad(lambda x: road_ratio_loss(f**2, x, temperature=1.0).sum())(f)
    np.testing.assert_array_equal(to_losses, 0.0)


def test_fairness_by_counting():
    scores, groups, regions = RNG.random(300), RNG.integers(0, 2, 300), RNG.integers(0, 9, 300) * 5
    groups[regions == 10] = 1  # a region without one group says nothing
    yes = scores > 0.5
    rates = [[yes[(regions == k) & (groups == g)].mean() for g in (0, 1)] for k in np.unique(regions) if k != 10]
    differences = [abs(a - b) for a, b in rates]
    args = [jnp.asarray(x) for x in (scores, groups, regions)]
    disparity = jax.jit(local_disparate_impact, static_argnames=("num_regions", "min_count"))
    found = disparity(*args)
    np.testing.assert_allclose([found.max, found.mean], [max(differences), np.mean(differences)], rtol=1e-6)
    same = disparity(args[0], args[1], args[2] // 5, num_regions=12)
    np.testing.assert_allclose([same.max, same.mean], [found.max, found.mean], rtol=1e-6)
    sizes = np.array([(regions == k).sum() for k in np.unique(regions) if k != 10])
    least = int(np.sort(sizes)[len(sizes) // 2])  # one that a region has: it is kept
    larger = disparity(args[0], args[1], args[2] // 5, num_regions=12, min_count=least)
    np.testing.assert_allclose(larger.mean, np.mean(np.array(differences)[sizes >= least]), rtol=1e-6)
    a, b = yes[groups == 0].mean(), yes[groups == 1].mean()
    rule = jax.jit(p_rule)
    np.testing.assert_allclose(rule(args[0], args[1]), min(a / b, b / a), rtol=1e-6)
    assert float(rule(0 * args[0], args[1])) == 1.0  # nobody
    assert float(rule(args[1] * 1.0, args[1])) == 0.0  # one group alone
    assert np.isnan(disparity(args[0], 0 * args[1], args[2]).max)  # nothing to compare


def test_groups_without_members_and_empty_batches():
    x, none = jnp.ones(3), jnp.zeros(0)
    assert np.isnan(p_rule(x, jnp.zeros(3, int))) and np.isnan(p_rule(none, jnp.zeros(0, int)))
    assert broad_weights(none, jnp.zeros(0, int), temperature=1.0).shape == (0,)
    assert normalize_ratio(none, jnp.zeros(0, int), num_groups=2).shape == (0,)
    for count in (None, 3):
        found = local_disparate_impact(none, jnp.zeros(0, int), jnp.zeros(0, int), num_regions=count)
        assert np.isnan(found.max) and np.isnan(found.mean)


def test_traced_ids_out_of_range_stay_in_their_region_and_are_found():
    args = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0]), jnp.array([0, 1, 3, 0, 1]), jnp.array([0, 0, 0, 1, 1])
    fn = functools.partial(local_disparate_impact, num_regions=2)
    found = jax.jit(fn)(*args)  # group 3 counts as 1: of region 0, not of the next one
    np.testing.assert_allclose([found.max, found.mean], [1.0, 0.75])
    r = jax.jit(functools.partial(broad_weights, temperature=1.0, num_groups=2))(x := jnp.arange(3.0), args[1][:3])
    np.testing.assert_allclose(r, broad_weights(x, jnp.array([0, 1, 1]), temperature=1.0), rtol=1e-6)
    with pytest.raises(ValueError, match="groups has 3, which is none of 0 … 1"):
        checked(fn)(*args)


def test_contract():
    ratio = RNG.gamma(2.0, 0.5, 6)
    check_loss(functools.partial(road_ratio_loss, temperature=0.5), predictions=ratio, targets=LOSSES[:6])
    loss = lambda x, r: road_predictor_loss(jax.nn.softplus(x), jax.nn.softplus(-x), r, lam=0.7)  # noqa: E731
    check_loss(loss, predictions=RNG.normal(size=6), targets=ratio)


def test_bad_input():
    x, g = jnp.ones(3), jnp.zeros(3, int)
    with pytest.raises(ValueError, match="temperature must lie in"):
        broad_weights(x, g, temperature=0.0)
    with pytest.raises(ValueError, match=r"groups of shape \(2,\) for values of shape \(3,\)"):
        broad_weights(x, g[:2], temperature=1.0)
    with pytest.raises(TypeError, match="groups must be integers|Int"):
        normalize_ratio(x, x)
    with pytest.raises(ValueError, match="groups has 5, which is none of 0 … 1"):
        p_rule(x, jnp.array([0, 5, 1]))
    with pytest.raises(ValueError, match="regions has -1, which is none of 0 … 3"):
        local_disparate_impact(x, g, jnp.array([0, -1, 1]), num_regions=4)
    with pytest.raises(ValueError, match=r"ratio \(3,\) and adversary_losses \(2,\) disagree"):
        road_ratio_loss(x, x[:2], temperature=1.0)
    with pytest.raises(ValueError, match="temperature must lie in"):
        road_ratio_loss(x, x, temperature=-1.0)
    with pytest.raises(ValueError, match=r"task_losses \(3,\) and ratio \(2,\) disagree"):
        road_predictor_loss(x, x, x[:2], lam=1.0)
    with pytest.raises(ValueError, match="lam must lie in"):
        road_predictor_loss(x, x, x, lam=-1.0)
