"""Decompositions of many matrices: the values of a batch, one after the other on CPUs, in programs and ensembles."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtrain.core.numerics import in_place_of, over_matrices, zero_after

A = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 4)), jnp.float32)
A = A + jnp.swapaxes(A, -1, -2)


def test_one_after_the_other_equals_a_batch():
    values = over_matrices(lambda a, s: s * jnp.linalg.eigvalsh(a), batch_axes=2)
    scales = jnp.arange(6.0).reshape(2, 3)
    wanted = np.asarray(scales)[..., None] * np.linalg.eigvalsh(np.asarray(A, np.float64))
    np.testing.assert_allclose(jax.jit(values)(A, scales), wanted, rtol=0, atol=1e-4)  # float32, values up to 30
    members = jax.jit(jax.vmap(values))(jnp.stack([A, 2 * A]), jnp.stack([scales, scales]))
    np.testing.assert_allclose(members, np.stack([wanted, 2 * wanted]), rtol=0, atol=2e-4)
    # without batch axes it is the function itself
    assert over_matrices(jnp.trace, batch_axes=0)(jnp.eye(3)) == 3.0


def test_on_a_cpu_no_decomposition_sees_a_batch():
    text = jax.jit(over_matrices(jnp.linalg.eigvalsh, batch_axes=2)).lower(A).as_text()
    calls = [line for line in text.splitlines() if "lapack" in line]
    assert calls and all("tensor<4x4xf32>" in line and "x4x4xf32" not in line for line in calls)


def test_waiting_adds_nothing():
    basis = jnp.linalg.qr(A[0, 0])[0]
    assert float(zero_after(basis)) == 0.0 and zero_after(basis[None]).shape == ()


def test_waiting_for_others_changes_nothing():
    """Also in a batch, in a derivative, and in meshes of both kinds, where the others may be sharded."""
    x, other = jnp.arange(16.0).reshape(8, 2), jnp.full((8, 2), jnp.nan)
    count = jnp.zeros((), jnp.int32)
    wait = lambda x: in_place_of(other, x, count, other, jnp.zeros(0))  # noqa: E731
    np.testing.assert_array_equal(jax.jit(jax.vmap(wait))(jnp.stack([x, -x])), jnp.stack([x, -x]))
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.vdot(x, wait(x)))(x), 2 * x)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            place = NamedSharding(mesh, PartitionSpec("data"))
            old, new = jax.device_put(other, place), jax.device_put(x, place)
            got = jax.jit(in_place_of)(old, new, count, old)
            np.testing.assert_array_equal(got, x)
            assert got.sharding.is_equivalent_to(place, 2)
