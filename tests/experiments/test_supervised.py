"""What claims share: descent against its closed form, epochs that leave nothing out twice, surroundings by slices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import supervised as s


def test_descent_is_that_of_the_optimizer():
    # x ← x - r (x - a): what is left of the distance to a shrinks by 1 - r at each step
    found = s.descend(lambda x, a: 0.5 * jnp.sum((x - a) ** 2), optax.sgd(0.1), jnp.zeros(3), jnp.ones((20, 3)))
    np.testing.assert_allclose(found, 1 - 0.9**20, rtol=1e-6)  # single precision
    found = s.descend(lambda x, _: 0.5 * x**2, optax.sgd(0.1, momentum=0.5), jnp.float32(1.0), length=2)
    np.testing.assert_allclose(found, 0.9 - (0.5 * 0.1 + 0.1 * 0.9), rtol=1e-6)


def test_every_epoch_has_an_order_of_its_own():
    key = jax.random.key(0)
    first = s.order(key, 0, 23, 5)
    assert first.shape == (4, 5) and len(set(first.ravel().tolist())) == 20
    both = s.orders(key, 2, 23, 5)
    np.testing.assert_array_equal(both[:4], first)
    np.testing.assert_array_equal(both[4:], s.order(key, 1, 23, 5))
    assert not np.array_equal(both[:4], both[4:])


def test_patches_are_the_surroundings_of_every_pixel():
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    for size, stride in ((3, 1), (3, 2), (5, 1)):
        r = stride * (size // 2)
        padded = np.pad(x, ((0, 0), (r, r), (r, r)), mode="edge")
        found = np.asarray(s.patches(jnp.asarray(x), size, stride)).reshape(2, 5, 6, size, size)
        for i in range(5):
            for j in range(6):
                wanted = padded[:, i : i + 2 * r + 1 : stride, j : j + 2 * r + 1 : stride]
                np.testing.assert_array_equal(found[:, i, j], wanted)
