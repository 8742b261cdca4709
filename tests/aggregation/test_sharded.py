"""Gradients on eight devices are aggregated to what they give on one, with few collectives and little memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import aggregation as a
from jaxtrain.training import count_collectives
from tests.aggregation.objectives import RULES


def stack(m=16):
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "b": jax.random.normal(keys[0], (m, 3)) - 0.3,
        "scalar": jax.random.normal(keys[1], (m,)),
        "w": jax.random.normal(keys[2], (m, 4, 5)) - 0.3,
    }


def median(stacked):
    return jax.tree.map(lambda x: jnp.median(x, axis=0), stacked)


def nearest_to_the_mean(stacked):
    """A rule of distances that knows nothing of meshes: the gradient that is nearest to the mean."""
    distances = sum(jnp.sum((x - x.mean(0)).reshape(len(x), -1) ** 2, axis=1) for x in jax.tree.leaves(stacked))
    return jax.tree.map(lambda x: x[jnp.argmin(distances)], stacked)


def over_devices(aggregate, **options):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    local = a.sharded(aggregate, "data", **options)
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P()))


def test_every_rule_gives_the_value_of_one_device():
    everything = {
        **{name: (rule.aggregate, {}) for name, rule in RULES.items()},
        "median": (median, {"coordinatewise": True}),
        "nearest_to_the_mean": (nearest_to_the_mean, {}),
        "graddrop": (lambda s: a.graddrop(jax.random.key(1), s), {}),
    }
    x = stack()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def local(s):
        return {name: a.sharded(rule, "data", **options)(s) for name, (rule, options) in everything.items()}

    got = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P()))(x)
    want = jax.jit(lambda s: {name: rule(s) for name, (rule, _) in everything.items()})(x)
    for name in everything:
        # sums in another order, single precision; the regularised systems have a condition of up to 1e4
        tolerance = 1e-3 if name in RULES else 0.0
        for leaf, right in zip(jax.tree.leaves(got[name]), jax.tree.leaves(want[name]), strict=True):
            np.testing.assert_allclose(leaf, right, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    "aggregate, options, counts",
    [
        # all gradients of a part of the coordinates; the largest entries and the inner products; the parts of the result
        (a.mgda, {}, {"all-to-all": 1, "all-reduce": 2, "all-gather": 1}),
        (a.upgrad, {}, {"all-to-all": 1, "all-reduce": 2, "all-gather": 1}),
        (median, {"coordinatewise": True}, {"all-to-all": 1, "all-gather": 1}),
    ],
)
def test_collectives_do_not_grow_with_the_leaves(aggregate, options, counts):
    text = over_devices(aggregate, **options).lower(stack()).compile().as_text()
    assert count_collectives(text) == counts


def test_without_help_the_stack_is_gathered():
    counts = count_collectives(over_devices(nearest_to_the_mean).lower(stack()).compile().as_text())
    assert set(counts) == {"all-gather"}


def test_arguments_dtypes_and_mistakes():
    x = stack()
    x["w"] = x["w"].astype(jnp.bfloat16)
    got = over_devices(median, coordinatewise=True)(x)
    assert got["w"].dtype == jnp.bfloat16 and got["w"].shape == (4, 5) and got["scalar"].shape == ()
    np.testing.assert_array_equal(got["w"], median(x)["w"])
    np.testing.assert_array_equal(got["b"], median(x)["b"])
    with pytest.raises(ValueError, match="an aggregator with an argument axis_name is not coordinatewise"):
        a.sharded(a.mgda, "data", coordinatewise=True)
    assert over_devices(functools.partial(a.cagrad, c=0.0))(stack())["b"].shape == (3,)


def test_inner_products_need_no_copy_of_the_gradients():
    """Eight leaves of 16 × 8,192: the scratch memory is that of m × m numbers, neither a concatenated nor any other copy."""
    leaf = jax.ShapeDtypeStruct((16, 8192), jnp.float32)
    compiled = jax.jit(a.gramian).lower({str(i): leaf for i in range(8)}).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.05 * 16 * 8192 * 4
