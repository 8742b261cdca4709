"""The spiked Wigner model against drawn matrices, and rates against quadratics that just diverge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.schedules import batch_spike, hessian_noise_variance, max_learning_rate


def wigner(rng, n):
    """Symmetric, variance 1 off the diagonal and 2 on it."""
    a = rng.normal(size=(n, n))
    return (a + a.T) / np.sqrt(2)


@pytest.mark.parametrize("lam", [60.0, 35.0, 10.0])
def test_spike_and_edge_of_drawn_matrices(lam):
    n = 400
    a = wigner(np.random.default_rng(0), n)
    a[0, 0] += lam
    predicted = batch_spike(lam, noise_var=1.0, num_params=n, batch_size=1)
    # of order 1: the spike fluctuates by √2 √(1 - n/λ²), the edge by n^(-1/6) and lies some n^(-1/6) too low
    np.testing.assert_allclose(np.linalg.eigvalsh(a)[-1], predicted, atol=3.0)
    assert (float(predicted) == pytest.approx(40.0)) == (lam < 20)


def test_noise_of_batches_is_found(x64):
    """Hessians of batches of 5 from 50 examples without replacement: variance σ² (1/5 - 1/50)."""
    rng = np.random.default_rng(1)
    n, sigma2 = 40, 4.0
    examples = np.stack([np.sqrt(sigma2) * wigner(rng, n) for _ in range(50)])
    batches = jnp.asarray(np.stack([examples[rng.permutation(50)[:5]].mean(0) for _ in range(200)]))
    like = {"a": jnp.zeros(25), "b": jnp.zeros((3, 5))}

    def matvec(batch, v):
        image = batch @ jnp.concatenate([v["a"], v["b"].ravel()])
        return {"a": image[:25], "b": image[25:].reshape(3, 5)}

    found = jax.jit(
        lambda b: hessian_noise_variance(jax.random.key(0), matvec, b, like, batch_size=5, num_data=50, num_probes=4)
    )(batches)
    # a variance of 200 draws of 40 entries, 4 vectors, and of 50 examples: some √(2/(50·40)) + √(2/8000) = 5 %
    np.testing.assert_allclose(found, sigma2, rtol=0.1)


def test_rates_scale_with_the_batch_as_derived():
    options = {"lam_full": 10.0, "noise_var": 4.0, "num_params": 1000.0, "num_data": 1e6}
    b = jnp.array([1.0, 4.0, 39.9, 160.0, 640.0, 64_000.0])
    top = batch_spike(10.0, noise_var=4.0, num_params=1000.0, batch_size=b, num_data=1e6)
    power = 4000.0 * (1 / np.asarray(b) - 1e-6)
    by_hand = np.where(power < 100, 10 + power / 10, 2 * np.sqrt(power))
    np.testing.assert_allclose(top, by_hand, rtol=1e-5)
    sgd = max_learning_rate(b, **options, momentum=0.5)
    np.testing.assert_allclose(sgd, 3 / by_hand, rtol=1e-5)
    adaptive = max_learning_rate(b, **options, kind="adaptive", grad_std=2.0)
    np.testing.assert_allclose(adaptive, 4 / by_hand / np.sqrt(b), rtol=1e-5)
    # many examples: the noise is gone
    np.testing.assert_allclose(sgd[-1], 3 / 10, rtol=1e-2)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_quadratics_diverge_just_above(x64, momentum):
    limit = max_learning_rate(1.0, lam_full=4.0, noise_var=0.0, num_params=1.0, momentum=momentum)

    def final(rate):
        def step(carry, _):
            w, v = carry
            v = momentum * v + 4.0 * w
            return (w - rate * v, v), None

        return jnp.abs(jax.lax.scan(step, (jnp.ones(()), jnp.zeros(())), length=3000)[0][0])

    below, above = jax.jit(jax.vmap(final))(limit * jnp.array([0.99, 1.01]))
    assert below < 1e-3 and above > 1e3


def test_clear_errors():
    with pytest.raises(ValueError, match="kind must be 'sgd' or 'adaptive', got 'adam'"):
        max_learning_rate(1, lam_full=1.0, noise_var=1.0, num_params=1, kind="adam")
    with pytest.raises(ValueError, match="noise_var must lie in"):
        batch_spike(1.0, noise_var=-1.0, num_params=1, batch_size=1)
    with pytest.raises(ValueError, match="batch_size must be at most num_data, got 8 of 4"):
        batch_spike(1.0, noise_var=1.0, num_params=1, batch_size=8, num_data=4)
    with pytest.raises(ValueError, match="batch_size must be below num_data, got 4 of 4"):
        hessian_noise_variance(
            jax.random.key(0), lambda b, v: v, jnp.ones((2, 3)), jnp.ones(3), batch_size=4, num_data=4
        )
    with pytest.raises(ValueError, match="lam must lie in"):
        batch_spike(-1.0, noise_var=1.0, num_params=1, batch_size=1)
    with pytest.raises(ValueError, match="grad_std must lie in"):
        max_learning_rate(1, lam_full=1.0, noise_var=1.0, num_params=1, kind="adaptive", grad_std=-1.0)
    with pytest.raises(ValueError, match="at least 2 batches, got 1"):
        hessian_noise_variance(jax.random.key(0), lambda b, v: v, jnp.ones((1, 3)), jnp.ones(3), batch_size=1)
