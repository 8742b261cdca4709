"""CoLiDE against the release's fits, the determinants it stands for, and the noise that a search finds best."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from jaxtrain.losses import (
    colide_ev_score,
    colide_ev_sigma,
    colide_fit,
    colide_nv_score,
    colide_nv_sigma,
    logdet_acyclicity,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "colide.npz")
RNG = np.random.default_rng(0)
W = 0.4 * RNG.normal(size=(4, 4))
X = RNG.normal(size=(30, 4)) * [0.5, 1.0, 2.0, 3.0]
COV = X.T @ X / 30
CASES = {
    "calm": (0.01, (1.0, 0.9, 0.8), 100),
    "wild": (0.5, (1.0, 1.0, 0.7), 100),
    "border": (0.5, (0.9, 0.9, 0.9), 100),
    "narrow": (0.2, (0.3, 0.2, 0.2), 10),
}


@functools.cache
def fits(equal_variance):
    """All cases in one program."""
    with jax.enable_x64(True):
        x = jnp.asarray(GOLDEN["x"])

        def fit(lr, s, check_every):
            return colide_fit(
                x, equal_variance=equal_variance, num_stages=3, s=s, lr=lr, warm_iters=300, last_iters=500, threshold=0.0,
                check_every=check_every,
            )  # fmt: skip

        return {name: jax.jit(fit, static_argnums=2)(*case) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("variances", ["ev", "nv"])
def test_equals_the_release(variances, name):
    got = fits(variances == "ev")[name]
    # 1,100 steps of Adam in float64, sums in another order; large steps over weights whose sign matters enlarge rounding
    tolerance = 1e-9 if name == "calm" else 1e-4
    np.testing.assert_allclose(got.weights, GOLDEN[f"{variances}_{name}_w"], atol=tolerance)
    np.testing.assert_allclose(got.sigma, GOLDEN[f"{variances}_{name}_sigma"], rtol=tolerance)


def test_acyclicity_is_the_determinant_and_finds_cycles(x64):
    h = jax.jit(jax.value_and_grad(logdet_acyclicity))
    small = 0.3 * np.abs(W)
    value, slope = h(jnp.asarray(small), s=0.8)
    m = 0.8 * np.eye(4) - small**2
    np.testing.assert_allclose(value, 4 * np.log(0.8) - np.log(np.linalg.det(m)), rtol=1e-12)
    np.testing.assert_allclose(slope, 2 * small * np.linalg.inv(m).T, rtol=1e-12)
    # 0 exactly without cycles, however the nodes are named and however large the weights
    order = RNG.permutation(4)
    acyclic = (9 * np.triu(W, 1))[order][:, order]
    np.testing.assert_allclose(h(jnp.asarray(acyclic), s=1.0)[0], 0.0, atol=1e-14)
    # one edge back makes it positive, as it does the trace of NOTEARS
    cyclic = acyclic / 9 + 0.1 * (acyclic.T != 0)
    assert h(jnp.asarray(cyclic), s=1.0)[0] > 1e-6 and np.trace(scipy.linalg.expm(cyclic**2)) - 4 > 1e-6


def test_noise_is_the_best(x64):
    w, cov = jnp.asarray(W), jnp.asarray(COV)
    rest = X - X @ W
    # scores from the data, not from the covariance
    ev = colide_ev_score(w, cov, 0.7)
    np.testing.assert_allclose(ev, np.mean(np.sum(rest**2, axis=1)) / (2 * 0.7) + 4 * 0.7 / 2, rtol=1e-13)
    sigmas = np.array([0.3, 1.0, 2.0, 0.5])
    nv = colide_nv_score(w, cov, jnp.asarray(sigmas))
    np.testing.assert_allclose(nv, 0.5 * np.sum(np.mean(rest**2, axis=0) / sigmas + sigmas), rtol=1e-13)
    # a search finds a minimum to the square root of the precision
    ev_score = jax.jit(lambda t: colide_ev_score(w, cov, t))
    found = scipy.optimize.minimize_scalar(lambda t: float(ev_score(t)), bracket=(0.1, 3.0))
    np.testing.assert_allclose(colide_ev_sigma(w, cov), found.x, rtol=1e-7)
    np.testing.assert_allclose(found.fun, 4 * np.sqrt(np.sum(np.mean(rest**2, axis=0)) / 4), rtol=1e-13)
    best = colide_nv_sigma(w, cov)
    np.testing.assert_allclose(best, np.sqrt(np.mean(rest**2, axis=0)), rtol=1e-13)
    np.testing.assert_allclose(jax.grad(colide_nv_score, argnums=2)(w, cov, best), 0.0, atol=1e-14)
    np.testing.assert_allclose(colide_nv_score(w, cov, best), np.sum(best), rtol=1e-13)


def test_slopes_and_convexity(x64):
    w, cov, sigma = jnp.asarray(W), jnp.asarray(COV), jnp.asarray([0.3, 1.0, 2.0, 0.5])
    np.testing.assert_allclose(jax.grad(colide_ev_score)(w, cov, 0.7), -COV @ (np.eye(4) - W) / 0.7, rtol=1e-12)
    slope = jax.grad(colide_nv_score)(w, cov, sigma)
    np.testing.assert_allclose(slope, -COV @ (np.eye(4) - W) / np.asarray(sigma), rtol=1e-12)

    def both(z):
        return colide_nv_score(z[:16].reshape(4, 4), cov, z[16:])

    hessian = jax.hessian(both)(jnp.concatenate([w.ravel(), sigma]))
    assert np.linalg.eigvalsh(hessian).min() > -1e-12  # convex in both together
    # data twice as large, with noise twice as large: twice the score
    np.testing.assert_allclose(colide_nv_score(w, 4 * cov, 2 * sigma), 2 * colide_nv_score(w, cov, sigma), rtol=1e-13)


def test_finds_a_graph_and_scales(x64):
    x = jnp.asarray(GOLDEN["x"])

    @functools.partial(jax.jit, static_argnames="equal_variance")
    def fit(x, lambda1, mu, equal_variance):
        return colide_fit(
            x, lambda1=lambda1, mu_init=mu, equal_variance=equal_variance, num_stages=2, lr=0.01, warm_iters=300,
            last_iters=300,
        )  # fmt: skip

    a, b = fit(x, 0.05, 1.0, False), fit(3 * x, 3 * 0.05, 1 / 3, False)
    # the same path up to Adam's 1e-8
    np.testing.assert_allclose(b.weights, a.weights, atol=1e-5)
    np.testing.assert_allclose(b.sigma, 3 * a.sigma, rtol=1e-5)
    assert np.all((a.weights == 0) | (np.abs(a.weights) >= 0.3)) and np.any(a.weights == 0)
    a, b = fit(x, 0.05, 1.0, None), fit(3 * x, 9 * 0.05, 1 / 9, None)
    np.testing.assert_allclose(b.weights, a.weights, atol=1e-5)
    np.testing.assert_array_equal(a.sigma, 1.0)


def test_nothing_unexplained_and_nothing_known():
    # x1 = 2 x0 exactly: no noise is left, or a little less than none by rounding
    w, cov = jnp.zeros((2, 2)).at[0, 1].set(2.0), jnp.array([[1.0, 2.0], [2.0, 4.0]])
    less = cov.at[1, 1].set(4 - 1e-6)
    for c in (cov, less):
        np.testing.assert_array_equal(colide_nv_sigma(w, c), [1.0, 0.0])
        assert np.all(np.isfinite(jax.grad(lambda w, c=c: colide_nv_sigma(w, c).sum())(w)))
    value, slope = jax.value_and_grad(colide_ev_sigma)(w, 0 * cov)
    assert float(value) == 0.0 and not np.any(slope)
    assert np.isnan(colide_ev_sigma(w, jnp.nan * cov))


def test_ends_when_numbers_are_lost():
    """Traced data with NaN began every stage anew for ever."""
    fit = jax.jit(lambda x: colide_fit(x, num_stages=2, warm_iters=5, last_iters=5))
    found = fit(jnp.asarray(X, jnp.float32).at[0, 0].set(jnp.nan))
    assert np.all(np.isnan(found.weights[0, 1:])) and np.isnan(found.sigma)


def test_bad_input():
    w, x = jnp.zeros((3, 3)), jnp.arange(12.0).reshape(4, 3) ** 2
    with pytest.raises(ValueError, match=r"weights of shape \(3, 2\); give \(nodes, nodes\)"):
        logdet_acyclicity(w[:, :2])
    with pytest.raises(ValueError, match="s must lie in"):
        logdet_acyclicity(w, s=0.0)
    with pytest.raises(ValueError, match=r"weights \(3, 3\) and cov \(2, 2\) disagree"):
        colide_ev_sigma(w, w[:2, :2])
    with pytest.raises(ValueError, match="sigma must lie in"):
        colide_ev_score(w, w, 0.0)
    with pytest.raises(ValueError, match=r"sigma_vec of shape \(2,\); give \(3,\)"):
        colide_nv_score(w, w, jnp.ones(2))
    with pytest.raises(ValueError, match="column 1 is constant"):
        colide_fit(x.at[:, 1].set(2.0))
    with pytest.raises(ValueError, match="column 2 has values that are not finite"):
        colide_fit(x.at[1, 2].set(jnp.nan))
    with pytest.raises(ValueError, match=r"data of shape \(1, 3\); give \(examples, nodes\)"):
        colide_fit(x[:1])
    with pytest.raises(ValueError, match="lambda1 must lie in"):
        colide_fit(x, lambda1=-1.0)
    with pytest.raises(ValueError, match="s is empty"):
        colide_fit(x, s=())
    with pytest.raises(ValueError, match="num_stages must be at least 1"):
        colide_fit(x, num_stages=0)
