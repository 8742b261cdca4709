"""DPO against PyTorch's formula as numbers, its gradient in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.losses import dpo_loss
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
W, L, REF_W, REF_L = -RNG.gamma(2.0, 5.0, (4, 20))
A = jnp.asarray  # inside the tests: in float64 where they enable it


@pytest.mark.parametrize("beta, smoothing", [(0.1, 0.0), (0.5, 0.2), (2.0, 0.5)])
def test_equals_the_definition(beta, smoothing, x64):
    # as a preference of a Bradley-Terry model: exp of implied rewards
    win, lose = (np.exp(W) / np.exp(REF_W)) ** beta, (np.exp(L) / np.exp(REF_L)) ** beta
    wanted = -(1 - smoothing) * np.log(win / (win + lose)) - smoothing * np.log(lose / (win + lose))
    got = dpo_loss(A(W), A(L), A(REF_W), A(REF_L), beta=beta, label_smoothing=smoothing)
    np.testing.assert_allclose(got, wanted, rtol=1e-11)  # float64 of exponents up to 80
    slopes = jax.grad(lambda *x: dpo_loss(*x, beta=beta, label_smoothing=smoothing).sum(), argnums=(0, 1, 2, 3))(
        A(W), A(L), A(REF_W), A(REF_L)
    )
    pull = beta * ((1 - smoothing) * lose / (win + lose) - smoothing * win / (win + lose))
    np.testing.assert_allclose(slopes[0], -pull, rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(slopes[1], -slopes[0])
    assert not np.any(slopes[2]) and not np.any(slopes[3])


def test_starts_at_log_2_with_half_the_pull():
    w, lose = A(W, jnp.float32), A(L, jnp.float32)
    np.testing.assert_allclose(dpo_loss(w, lose, w, lose), np.log(2), rtol=1e-6)  # single precision
    slope = jax.grad(lambda x: dpo_loss(x, lose, w, lose, beta=0.5).sum())(w)
    np.testing.assert_allclose(slope, -0.25, rtol=1e-6)


def test_contract():
    half = functools.partial(dpo_loss, beta=0.5, label_smoothing=0.1)
    check_loss(lambda w, lose: half(w, lose, w * 0 - 3, lose * 0 - 4), predictions=W[:6], targets=L[:6])


def test_bad_input():
    logp = jnp.zeros(3)
    with pytest.raises(ValueError, match="label_smoothing must lie in"):
        dpo_loss(logp, logp, logp, logp, label_smoothing=1.5)
    with pytest.raises(ValueError, match=r"logp_w \(3,\) and logp_l \(2,\) disagree"):
        dpo_loss(logp, logp[:2], logp, logp)
