"""PCME++ against sampled distances, the formulas in probabilities, quadrature, and SigLIP's loss for points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from jaxtrain.losses import (
    closed_form_sampled_distance,
    echo_distillation_loss,
    gaussian_vib,
    pcmepp_matching_loss,
    pseudo_positive_targets,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
M1, V1 = RNG.normal(size=(2, 4, 3))
M2, V2 = RNG.normal(size=(2, 5, 3))
MATCHED = RNG.random((4, 5))
A = jnp.asarray  # inside the tests: in float64 where they enable it


def test_is_the_expected_distance_of_samples(x64):
    n = 200_000
    z1 = M1 + np.exp(V1 / 2) * RNG.normal(size=(n, 4, 3))
    z2 = M2 + np.exp(V2 / 2) * RNG.normal(size=(n, 5, 3))
    got = closed_form_sampled_distance(*map(A, (M1, V1, M2, V2)))
    for i, j in ((0, 0), (1, 4), (3, 2)):
        d = ((z1[:, i] - z2[:, j]) ** 2).sum(1)
        assert abs(got[i, j] - d.mean()) < 5 * d.std() / np.sqrt(n)  # five standard errors
    exact = ((M1[:, None] - M2[None]) ** 2).sum(-1) + np.exp(V1).sum(1)[:, None] + np.exp(V2).sum(1)
    np.testing.assert_allclose(got, exact, rtol=1e-13)
    # far from the origin nothing is lost in single precision but what rounding 1000 + x loses
    far = [jnp.asarray(x, jnp.float32) for x in (M1 + 1000, V1, M2 + 1000, V2)]
    np.testing.assert_allclose(closed_form_sampled_distance(*far), exact, rtol=2e-4)
    to_none = jax.grad(lambda m: closed_form_sampled_distance(m, A(V1), jnp.zeros((0, 3)), jnp.zeros((0, 3))).sum())
    np.testing.assert_array_equal(to_none(A(M1)), 0.0)


def test_equals_the_likelihood_of_matches(x64):
    d = np.asarray(closed_form_sampled_distance(*map(A, (M1, V1, M2, V2))))
    p = special.expit(-0.3 * d + 2.0)
    wanted = -(MATCHED * np.log(p) + (1 - MATCHED) * np.log(1 - p))
    got = pcmepp_matching_loss(*map(A, (M1, V1, M2, V2, MATCHED)), scale=0.3, shift=2.0)
    np.testing.assert_allclose(got, wanted, rtol=1e-11)  # float64, 1 - p down to 0.1
    # slope in the log-variances by hand: -a sigma^2 sum_j (p - m)
    grad = jax.grad(lambda v: pcmepp_matching_loss(A(M1), v, *map(A, (M2, V2, MATCHED)), scale=0.3, shift=2.0).sum())
    by_hand = -0.3 * np.exp(V1) * (p - MATCHED).sum(1, keepdims=True)
    np.testing.assert_allclose(grad(A(V1)), by_hand, rtol=1e-11)


def test_points_of_length_one_give_siglips_loss(x64):
    x, y = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (M1, M2[:4]))
    point, sign = jnp.full((4, 3), -jnp.inf), 2 * np.eye(4) - 1
    siglip = np.logaddexp(0, -sign * (2 * 3.0 * x @ y.T + (5.0 - 2 * 3.0)))
    got = pcmepp_matching_loss(A(x), point, A(y), point, jnp.eye(4), scale=3.0, shift=5.0)
    np.testing.assert_allclose(got, siglip, rtol=1e-12)
    taught = echo_distillation_loss(A(x), point, A(y), scale=3.0, shift=5.0)
    np.testing.assert_allclose(taught, siglip.mean(1), rtol=1e-12)


def test_divergence_by_quadrature(x64):
    got = gaussian_vib(A(M1[:1, :2]), A(V1[:1, :2]))
    total = 0.0
    for m, v in zip(M1[0, :2], V1[0, :2], strict=True):
        normal = stats.norm(m, np.exp(v / 2))
        difference = lambda z, n=normal: n.pdf(z) * (n.logpdf(z) - stats.norm.logpdf(z))  # noqa: E731
        total += integrate.quad(difference, m - 10 * normal.std(), m + 10 * normal.std())[0]
    np.testing.assert_allclose(got[0], total / 2, rtol=1e-9)  # the rule's own accuracy
    assert gaussian_vib(jnp.zeros((1, 3)), jnp.zeros((1, 3)))[0] == 0


def test_pseudo_positives_by_hand():
    logits = jnp.array([[1.0, 2.0, 0.5], [3.0, 3.0, 4.0], [0.0, 0.1, 0.2]])
    matched = jnp.array([[1.0, 0.0, 0.0], [0.2, 0.7, 0.0], [0.0, 0.0, 1.0]])
    wanted = [[1.0, 1.0, 0.0], [0.7, 0.7, 0.7], [0.0, 0.0, 1.0]]
    np.testing.assert_array_equal(pseudo_positive_targets(logits, matched), np.float32(wanted))
    np.testing.assert_array_equal(pseudo_positive_targets(logits, jnp.zeros((3, 3))), 0.0)
    # what is as near as its match is pulled as hard
    np.testing.assert_array_equal(jax.grad(lambda z: pseudo_positive_targets(z, matched).sum())(logits), 0.0)


def test_distillation(x64):
    t = RNG.normal(size=(4, 3))
    mse = echo_distillation_loss(A(M1), A(V1), A(t), kind="mse")
    np.testing.assert_allclose(mse, ((M1 - t) ** 2 + np.exp(V1)).mean(1), rtol=1e-13)
    # the mean squared error is the diagonal of the distances to points
    d = closed_form_sampled_distance(A(M1), A(V1), A(t), jnp.full((4, 3), -jnp.inf))
    np.testing.assert_allclose(mse, jnp.diag(d) / 3, rtol=1e-13)
    for kind in ("mse", "contrastive"):
        to_teacher = jax.grad(lambda t, kind=kind: echo_distillation_loss(A(M1), A(V1), t, kind=kind).sum())(A(t))
        np.testing.assert_array_equal(to_teacher, 0.0)


@pytest.mark.parametrize("part", ["mu", "logvar"])
def test_contract(part):
    mu2, logvar2, matched = jnp.ones((5, 3)), jnp.zeros((5, 3)), jnp.eye(5)[:1]

    def loss(x, y):
        # every example against the same five items
        m, v = (x, y) if part == "mu" else (y, x)
        pairs = pcmepp_matching_loss(
            m, v, mu2.astype(x.dtype), logvar2.astype(x.dtype), jnp.repeat(matched, len(x), 0), scale=0.1
        )
        return (pairs.mean(1) + gaussian_vib(m, v).astype(m.dtype)).astype(x.dtype)

    laws = None if part == "mu" else ("finite", "finite_gradient", "gradient")
    check_loss(loss, predictions=RNG.normal(size=(6, 3)), targets=RNG.normal(size=(6, 3)), laws=laws)


def test_bad_input():
    x = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"mu1 \(2, 3\) and logvar1 \(2, 2\)"):
        closed_form_sampled_distance(x, x[:, :2], x, x)
    with pytest.raises(ValueError, match="3 and 2 features cannot be compared"):
        closed_form_sampled_distance(x, x, x[:, :2], x[:, :2])
    with pytest.raises(ValueError, match=r"matched of shape \(2, 3\); give \(2, 2\)"):
        pcmepp_matching_loss(x, x, x, x, x)
    with pytest.raises(ValueError, match="scale must lie in"):
        pcmepp_matching_loss(x, x, x, x, jnp.eye(2), scale=0.0)
    with pytest.raises(ValueError, match="logits"):
        pseudo_positive_targets(x, x[:1])
    with pytest.raises(ValueError, match="kind must be"):
        echo_distillation_loss(x, x, x, kind="cosine")
    with pytest.raises(ValueError, match="teacher"):
        echo_distillation_loss(x, x, x[:1])
