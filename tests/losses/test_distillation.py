"""The distillation loss against torch and in its limits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.losses import kd_loss
from jaxtrain.testing import check_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "kd_loss.npz")


def test_torch_agrees(x64):
    """T² F.kl_div: see tests/golden/make_kd_loss.py."""
    student, teacher = jnp.asarray(GOLDEN["student"]), jnp.asarray(GOLDEN["teacher"])
    for t in GOLDEN["temperatures"]:
        np.testing.assert_allclose(kd_loss(student, teacher, temperature=t), GOLDEN[f"loss_{t}"], rtol=1e-12)
        mean, grad = jax.value_and_grad(lambda z, t=t: kd_loss(z, teacher, temperature=t).mean())(student)
        np.testing.assert_allclose(mean, GOLDEN[f"mean_{t}"], rtol=1e-12)
        np.testing.assert_allclose(grad, GOLDEN[f"grad_{t}"], rtol=1e-11, atol=1e-14)


def test_high_temperature_matches_centred_logits(x64):
    student, teacher = jnp.asarray(GOLDEN["student"]), jnp.asarray(GOLDEN["teacher"])
    student, teacher = (z - z.mean(-1, keepdims=True) for z in (student, teacher))
    grad = jax.grad(lambda z: kd_loss(z, teacher, temperature=1e4).sum())(student)
    # the next term is 1/T times logits of size 10
    np.testing.assert_allclose(grad, (student - teacher) / 5, rtol=0, atol=1e-2)


def test_contract():
    teacher = jax.random.normal(jax.random.key(0), (6, 5))
    check_loss(kd_loss, targets=teacher)


def test_masked_classes_count_for_nothing():
    z, t = jnp.array([[1.0, 2.0, -jnp.inf]]), jnp.array([[0.5, -1.0, -jnp.inf]])
    value, grad = jax.value_and_grad(lambda z: kd_loss(z, t).sum())(z)
    known, wanted = jax.value_and_grad(lambda z: kd_loss(z, t[:, :2]).sum())(z[:, :2])
    np.testing.assert_allclose(value, known, rtol=1e-6)  # single precision
    np.testing.assert_allclose(grad, jnp.append(wanted, 0.0)[None], rtol=1e-6)
    # a class that the student alone masks out, and one that the teacher alone does
    assert kd_loss(z, t.at[0, 2].set(0.0))[0] == jnp.inf
    assert jnp.isfinite(kd_loss(z.at[0, 2].set(0.0), t)[0])


def test_no_gradient_to_the_teacher_and_clear_errors():
    grad = jax.grad(lambda z: kd_loss(jnp.ones((2, 3)), z).sum())(jnp.eye(2, 3))
    np.testing.assert_array_equal(grad, 0)
    with pytest.raises(ValueError, match="predictions of the same examples"):
        kd_loss(jnp.ones((2, 3)), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="temperature must lie"):
        kd_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), temperature=0.0)
