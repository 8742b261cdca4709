"""The spectrum of a class's Hessian against the dense one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxtrain.core.lanczos import SpectralDensity
from jaxtrain.losses import class_hessian_spectrum, saddle_score

RNG = np.random.default_rng(0)
X, LABELS = RNG.standard_normal((20, 3)), np.repeat([0, 1, 2], [13, 6, 1])
PARAMS = {"v": RNG.standard_normal((3, 4)), "w": RNG.standard_normal((4, 3)), "b": RNG.standard_normal(3)}


def losses(params, batch):
    x, y = batch
    z = jnp.tanh(x @ params["v"]) @ params["w"] + params["b"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(z, y)


def test_ends_are_those_of_the_dense_hessian(x64):
    params, batch = jax.tree.map(jnp.asarray, PARAMS), (jnp.asarray(X), jnp.asarray(LABELS))
    flat, unravel = ravel_pytree(params)

    def of_class(label):
        return class_hessian_spectrum(
            jax.random.key(label), losses, params, batch, batch[1], label, num_steps=flat.size
        )

    found = jax.lax.map(of_class, jnp.arange(3))
    each = jax.jit(jax.hessian(lambda v: losses(unravel(v), batch)))(flat)  # of every example
    for c in range(3):
        of_one = np.asarray(each)[c == LABELS]
        values = np.linalg.eigvalsh(of_one.mean(axis=0))
        spectrum = jax.tree.map(lambda leaf, c=c: leaf[c], found)
        # as many steps as dimensions: the whole Krylov space, in float64
        np.testing.assert_allclose(spectrum.nodes.min(), values[0], rtol=1e-8)
        np.testing.assert_allclose(spectrum.nodes.max(), values[-1], rtol=1e-8)
        np.testing.assert_allclose(spectrum.weights.sum(), 1.0, rtol=1e-12)
        np.testing.assert_allclose(saddle_score(spectrum), -values[0] / values[-1], rtol=1e-7)
        assert values[0] < 0  # weights that nobody trained are at no minimum


def test_few_steps_stay_inside_and_no_examples_give_zeros(x64):
    params, batch = jax.tree.map(jnp.asarray, PARAMS), (jnp.asarray(X), jnp.asarray(LABELS))
    few = class_hessian_spectrum(jax.random.key(0), losses, params, batch, batch[1], 0, num_steps=4)
    many = class_hessian_spectrum(jax.random.key(0), losses, params, batch, batch[1], 0, num_steps=12)
    assert many.nodes.min() <= few.nodes.min() and few.nodes.max() <= many.nodes.max()
    none = class_hessian_spectrum(jax.random.key(0), losses, params, batch, batch[1], 7, num_steps=4)
    np.testing.assert_array_equal(none.nodes, 0.0)
    assert saddle_score(none) == 0


@pytest.mark.parametrize(
    ("nodes", "score"),
    [
        ([-1.0, 0.5, 4.0], 0.25),
        ([0.5, 4.0], 0.0),
        ([0.0, 4.0], 0.0),
        ([-4.0, -1.0], np.inf),
        ([-2.0, 0.0], np.inf),
        ([np.nan, 1.0], np.nan),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_score_does_not_change_with_scale(nodes, score, scale):
    spectrum = SpectralDensity(scale * jnp.array([nodes]), jnp.full((1, len(nodes)), 1 / len(nodes)))
    np.testing.assert_allclose(saddle_score(spectrum), score, rtol=1e-6)  # single precision


def test_bad_input():
    batch = jnp.asarray(X), jnp.asarray(LABELS)
    with pytest.raises(ValueError, match=r"losses of shape \(\) for labels \(20,\); it must give one for each example"):
        class_hessian_spectrum(
            jax.random.key(0), lambda p, b: losses(p, b).mean(), jax.tree.map(jnp.asarray, PARAMS), batch, batch[1], 0
        )
